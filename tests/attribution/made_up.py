"""Small packages to explain: linear ones, whose attributions are arithmetic, and real ones with random weights."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from medmllm.attribution.gradients import explain_study
from medmllm.config import ExplainSettings, TrainConfig, load_config
from medmllm.documents import Channel, PreprocessingContract
from medmllm.model_documents import Task
from medmllm.models.package import FoldNetwork, ModelPackage, build_network, new_text_network
from medmllm.preprocessing.text import learn_tiny_tokenizer, tokenize_note
from medmllm.records import Batch, Explanation, Note, Sample, Section, SeriesReference, Volume
from tests.reporting import made_up

STUDY, PATIENT, SERIES = "st-00000000000000a1", "pt-00000000000000b2", "se-00000000000000c3"
SIZE = (7, 6, 5)
AFFINE = np.array([[2.0, 0, 0, -9], [0, 3.0, 0, 4], [0, 0, 2.5, 31], [0, 0, 0, 1]])  # of the made-up grid, RAS+ mm
OVERRIDES = (
    "model.image_width=4",
    "model.image_stem_kernel=3",
    "model.image_stem_stride=1",
    "model.image_stem_pool=false",
    "model.fusion_width=8",
    "model.tiny_width=16",
    "text.tiny_vocabulary=60",
)
TEXT = "HISTORY: Made-up cough, unremarkable.\nFINDINGS: Small nodule, no effusion."
NOTE = Note(
    TEXT,
    (
        Section("history", TEXT.index("Made"), TEXT.index("FINDINGS")),
        Section("findings", TEXT.index("Small"), len(TEXT)),
    ),
)


def settings(steps: int = 4, *, max_steps: int = 512, completeness: float = 0.01) -> ExplainSettings:
    return ExplainSettings(steps=steps, max_steps=max_steps, completeness=completeness, target="")


def a_contract(*, channels: Sequence[str] = ("ct",), image: bool = True, text: bool = True) -> PreprocessingContract:
    config = load_config(TrainConfig, "train", overrides=OVERRIDES)
    changes = {"size": SIZE, "spacing_mm": (2.0, 3.0, 2.5), "channels": {name: Channel() for name in channels}}
    return PreprocessingContract(
        version=1,
        orientation="RAS",
        image=config.image.model_copy(update=changes) if image else None,
        accepted={},
        text=config.text if text else None,
    )


def a_tokenizer(*texts: str) -> PreTrainedTokenizerFast:
    """Learnt from `texts`: their repeated words are whole, all others fall into pieces."""
    return learn_tiny_tokenizer([*texts, *texts], a_contract().text)


def a_sample(
    contract: PreprocessingContract,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    image: bool = True,
    channel_present: tuple[bool, ...] | None = None,
    seed: int = 3,
) -> Sample:
    """One study on the made-up grid; the note is there when a tokenizer is given."""
    channels = () if contract.image is None else tuple(contract.image.channels)
    values = torch.randn(len(channels), *SIZE, generator=torch.Generator().manual_seed(seed))
    tokens = None if tokenizer is None else tokenize_note(NOTE, contract.text, tokenizer)
    here = image and contract.image is not None
    return Sample(
        study_key=STUDY,
        patient_key=PATIENT,
        image=MetaTensor(values, affine=torch.from_numpy(AFFINE)) if here else None,
        channel_present=channel_present or tuple(here for _ in channels),
        token_ids=None if tokens is None else tokens[0],
        words=() if tokens is None else tokens[1],
    )


def sources(contract: PreprocessingContract) -> dict[str, dict[str, object]]:
    """`volumes` and `series` of `explain_study`: each channel's series lies on the model's grid."""
    channels = () if contract.image is None else tuple(contract.image.channels)
    volume = Volume(np.zeros(SIZE, np.float32), AFFINE, None, "CT")
    reference = SeriesReference(SERIES, "nifti", "CT", SIZE, (2.0, 3.0, 2.5), None, ())
    return {"volumes": dict.fromkeys(channels, volume), "series": dict.fromkeys(channels, reference)}


class Linear(nn.Module):
    """Stands in for StudyClassifier: logits are weights times voxels and embeddings, then `shape` of the sum."""

    def __init__(self, contract: PreprocessingContract, *, words: int = 0, outputs: int = 1, seed: int = 1) -> None:
        super().__init__()
        here = torch.Generator().manual_seed(seed)
        self.modalities = tuple(n for n, has in (("image", contract.image), ("text", contract.text)) if has)
        channels = 0 if contract.image is None else len(contract.image.channels)
        self.voxel_weights = nn.Parameter(torch.randn(outputs, channels, *SIZE, generator=here))
        self.word_weights = nn.Parameter(torch.randn(outputs, 3, generator=here))
        self.table = nn.Parameter(torch.randn(max(1, words), 3, generator=here))
        self.bias = nn.Parameter(torch.randn(outputs, generator=here))
        self.text_encoder = self if contract.text is not None else None  # all that is asked of it is `embed`

    def __setattr__(self, name: str, value: object) -> None:
        if name == "text_encoder":
            object.__setattr__(self, name, value)  # not a submodule of itself
        else:
            super().__setattr__(name, value)

    def embed(self, token_ids: Tensor) -> Tensor:
        return self.table[token_ids]

    def shape(self, total: Tensor) -> Tensor:
        return total

    def forward_embedded(self, batch: Batch, image: Tensor, embedded: Tensor | None, **others: Tensor | None) -> Tensor:
        total = self.bias.expand(len(image), -1)
        if "image" in self.modalities:
            seen = image * batch.channel_present[:, :, None, None, None]
            total = total + torch.einsum("bcxyz,ocxyz->bo", seen, self.voxel_weights)
        if embedded is not None:
            total = total + torch.einsum("btw,ow,bt->bo", embedded, self.word_weights, batch.token_mask.float())
        return self.shape(total)


def a_package(
    contract: PreprocessingContract,
    networks: Sequence[nn.Module],
    tokenizers: Sequence[PreTrainedTokenizerFast | None] = (None,),
    *,
    classes: tuple[str, ...] = ("no", "yes"),
    temperatures: Sequence[float] = (1.0,),
    background: Tensor | None = None,
) -> ModelPackage:
    """A package of these fold networks; its mean training image is 0.25 everywhere unless told."""
    card = made_up.card()
    card = card.model_copy(
        update={
            "task": Task(target="effusion", kind="binary" if len(classes) == 2 else "multiclass", classes=classes),
            "contract": contract,
            "folds": tuple(
                card.folds[0].model_copy(update={"fold": fold, "temperature": temperature})
                for fold, temperature in enumerate(temperatures)
            ),
        }
    )
    channels = 0 if contract.image is None else len(contract.image.channels)
    mean = torch.full((channels, *SIZE), 0.25) if background is None else background
    members = tuple(FoldNetwork(n, t) for n, t in zip(networks, tokenizers, strict=True))
    return ModelPackage(card, members, None if contract.image is None else mean)


def a_network(
    contract: PreprocessingContract,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    classes: tuple[str, ...] = ("no", "yes"),
    seed: int = 5,
    fusion: str = "concat",
) -> nn.Module:
    """A real classifier with random weights, made strong enough that the study matters."""
    parts = load_config(TrainConfig, "train", overrides=(*OVERRIDES, f"model.fusion={fusion}")).model
    torch.manual_seed(seed)
    text = None if tokenizer is None else new_text_network(contract.text, parts, tokenizer)
    network = build_network(contract, parts, Task.of("effusion", classes), text).eval()
    with torch.no_grad():
        network.fusion.out.weight *= 10
        if network.text_encoder is not None:
            network.text_encoder.network.get_input_embeddings().weight *= 10  # from 0.02 to 0.2, as after training
    return network


def explain(
    package: ModelPackage, samples: list[Sample], *, explained_class: int = 1, **changes: object
) -> Explanation:
    """Explain a study by a package, with small settings and `changes` to them."""
    return explain_study(
        package,
        samples,
        **sources(package.card.contract),
        explained_class=explained_class,
        settings=settings(**changes),
    )


def in_text(explanation: Explanation) -> dict[str, float]:
    """Return the attribution of each word of `TEXT`."""
    return {TEXT[word.start : word.end]: word.attribution for word in explanation.words}
