"""The smallest networks, contracts and samples that tests of models and training work with."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from medmllm.documents import (
    Channel,
    Column,
    ImageSettings,
    PreprocessingContract,
    RecordingSettings,
    TableContract,
    TextSettings,
)
from medmllm.model_documents import FoldModel, ModelCard, ModelSettings, Task
from medmllm.models.fine_tuning import limit_training
from medmllm.models.package import FoldNetwork, build_network, new_text_network
from medmllm.models.prefix import PREFIX_TOKENS
from medmllm.preprocessing.sample import collate
from medmllm.preprocessing.text import learn_tiny_tokenizer
from medmllm.provenance import stamp
from medmllm.records import Batch, Sample, Target
from medmllm.table_documents import ColumnCode, TableCodes
from medmllm.training_config import Arm, TextEncoderSettings

SIZE = (9, 8, 10)
CLASSES = ("no", "yes")
NOTES = ("clear lungs and no cough", "marked cough and spiculated nodule", "clear", "no nodule")

IMAGE = ImageSettings(
    spacing_mm=(4.0, 4.0, 4.0),
    size=SIZE,
    intensity="zscore",
    regrid="never",
    window=(0.0, 1.0),
    channels={"ct": Channel(), "pet": Channel()},
)
TEXT = TextSettings(
    encoder="tiny",
    max_tokens=24,
    window=24,
    overlap=0,
    sections=(),
    required=False,
    tiny_vocabulary=60,
    local_files_only=True,
)
TABLE = TableContract(
    columns=(Column(name="age", kind="number", accepted=None), Column(name="sex", kind="category", accepted=None)),
    open_ended="refuse",
    required=False,
)
CODES = TableCodes(
    columns=(
        ColumnCode(name="age", mean=60.0, deviation=10.0, categories=()),
        ColumnCode(name="sex", mean=None, deviation=None, categories=("F", "M")),
    )
)
CONTRACT = PreprocessingContract(version=1, orientation="RAS", image=IMAGE, accepted={}, text=TEXT)
PARTS = ModelSettings(
    image_encoder="resnet10",
    image_width=4,
    image_stem_kernel=3,
    image_stem_stride=1,
    image_stem_pool=False,
    image_weights="",
    fusion="concat",
    fusion_width=8,
    dropout=0.0,
    modality_dropout=0.0,
    tiny_width=16,
    audio_width=2,
    table_width=6,
    text_batch_norm=False,
)
TOKENIZER = learn_tiny_tokenizer(NOTES * 2, TEXT)
BERT = {  # in the words that configurations of its relatives share
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}
# Two notes for it: of five pieces, and of three.
IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def contract_of(arm: str) -> PreprocessingContract:
    """Return the contract of one arm: image, text or fused."""
    left_out = {"image": {"text": None}, "text": {"image": None}, "fused": {}}[arm]
    return CONTRACT.model_copy(update=left_out)


RECORDING = RecordingSettings(
    enabled=True, sample_rate_hz=1000, duration_s=1.0, mels=5, window_s=0.064, hop_s=0.032, required=False
)
WHOLE = CONTRACT.model_copy(update={"recording": RECORDING, "table": TABLE})  # all that a model can read


def a_task(classes: tuple[str, ...] = CLASSES, *, ordered: bool = False) -> Task:
    """Return the task of telling classes apart."""
    return Task.of("outcome", classes, ordered=ordered)


def task_with(outputs: int) -> Task:
    """Return a task of so many logits."""
    return a_task(tuple(f"class {k}" for k in range(max(2, outputs))))


def a_card(
    folds: tuple[FoldModel, ...],
    contract: PreprocessingContract = CONTRACT,
    classes: tuple[str, ...] = CLASSES,
    *,
    arm: Arm = "fused",
    files: Mapping[str, str] | None = None,
) -> ModelCard:
    """Return the card of a package of such folds."""
    return ModelCard(
        task=a_task(classes),
        arm=arm,
        contract=contract,
        contract_fingerprint=contract.fingerprint,
        model=PARTS,
        folds=folds,
        files=dict(files or {}),
        operating_point=0.4,
        calibration="none",
        intended_use="tests",
        training_patients=(),
        training_studies=(),
        split_digest="0" * 64,
        synthetic=True,
        provenance=stamp("train"),
    )


def a_member(arm: str = "fused", *, classes: tuple[str, ...] = CLASSES, seed: int = 3, **parts: object) -> FoldNetwork:
    """Return a fresh network of one arm with its tokenizer, seeded; `parts` change the settings."""
    torch.manual_seed(seed)
    contract, settings = contract_of(arm), PARTS.model_copy(update=parts)
    if contract.text is None:
        return FoldNetwork(build_network(contract, settings, a_task(classes), None), None)
    text = new_text_network(contract.text, settings, TOKENIZER)
    return FoldNetwork(build_network(contract, settings, a_task(classes), text), TOKENIZER)


def a_whole_member(*, classes: tuple[str, ...] = CLASSES, seed: int = 3, **parts: object) -> FoldNetwork:
    """Return a fresh network that reads every modality."""
    torch.manual_seed(seed)
    settings = PARTS.model_copy(update=parts)
    text = new_text_network(TEXT, settings, TOKENIZER)
    return FoldNetwork(build_network(WHOLE, settings, a_task(classes), text, CODES), TOKENIZER, CODES)


def save_bert(folder: Path, *, dropout: float = 0.1) -> Path:
    """Write a small BERT with TOKENIZER's words and weights strong enough to matter, as a pretrained encoder."""
    torch.manual_seed(6)
    config = BertConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=TEXT.window + PREFIX_TOKENS,
        initializer_range=0.2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def encoder_settings(fine_tuning: str, folder: Path | None = None) -> TextEncoderSettings:
    """Return [text] as training has it, for TOKENIZER or a pretrained encoder."""
    encoder = TEXT.encoder if folder is None else str(folder)
    return TextEncoderSettings.model_validate(
        TEXT.model_dump()
        | {"encoder": encoder, "fine_tuning": fine_tuning, "lora_rank": 3, "lora_alpha": 12, "lora_dropout": 0.2}
    )


def a_limited_member(folder: Path, fine_tuning: str, arm: str = "fused", **parts: object) -> FoldNetwork:
    """Return a fresh network on the pretrained encoder of `save_bert`, of which a part learns."""
    text, settings = encoder_settings(fine_tuning, folder), PARTS.model_copy(update=parts)
    torch.manual_seed(3)
    contract = contract_of(arm).model_copy(update={"text": text.reading})
    network = build_network(contract, settings, a_task(), new_text_network(text, settings, TOKENIZER))
    limit_training(network, text)
    return FoldNetwork(network, TOKENIZER)


def a_sample(
    number: int,
    *,
    image: bool = True,
    note: str | None = NOTES[0],
    channels: tuple[bool, ...] = (True, True),
    recordings: tuple[int, ...] = (),
    cells: tuple[float | None, float | None] = (None, None),
    target: Target | None = None,
) -> Sample:
    """Return one seeded sample with noise for an image, and for recordings of so many frames."""
    generator = torch.Generator().manual_seed(number)
    voxels = torch.randn(2, *SIZE, generator=generator)
    spectra = tuple(torch.randn(RECORDING.mels, frames, generator=generator) for frames in recordings)
    return Sample(
        study_key=f"st-{number:016x}",
        patient_key=f"pt-{number:016x}",
        image=voxels if image else None,
        channel_present=channels if image else (False, False),
        token_ids=None if note is None else torch.tensor(TOKENIZER(note)["input_ids"]),
        words=(),
        target=target,
        recording=spectra or None,
        table=None if cells == (None, None) else torch.tensor([cell or 0.0 for cell in cells]),
        cell_present=tuple(cell is not None for cell in cells),
    )


def a_batch(contract: PreprocessingContract = CONTRACT) -> Batch:
    """Return four studies: complete, without the second channel, without a note, without an image."""
    samples = [
        a_sample(0, note=NOTES[1], target=1),
        a_sample(1, channels=(True, False), target=0),
        a_sample(2, note=None, target=1),
        a_sample(3, image=False, note=NOTES[2], target=0),
    ]
    return collate(samples, contract, pad_token_id=0)
