"""The model package: one folder with everything that scoring needs, and no pickle.

    fold models + tokenizers + card -> folder -> the same models, checked

    model.json                 the card (model_documents.ModelCard): task, contract, calibration, digests
    fold_K.safetensors         weights of fold K; fold_K_I of its inner fold I, as below
    tokenizer/fold_K/          tokenizer and text-encoder configuration of fold K
    table/fold_K.json          how fold K codes the columns of the label table
    background.safetensors     the attribution baseline: the mean training image
    reference.parquet          what the training cohort was like (no keys): what drift is measured against

Every file's sha256 stands in the card; a file that was changed is refused.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from medmllm.documents import PreprocessingContract, TextSettings
from medmllm.errors import ConfigError, PackageError
from medmllm.model_documents import FoldModel, ModelCard, ModelSettings, Task
from medmllm.models.audio_encoder import AudioEncoder
from medmllm.models.classifier import StudyClassifier
from medmllm.models.image_encoder import ImageEncoder, check_grid
from medmllm.models.note_windows import Windows
from medmllm.models.table_encoder import TableEncoder
from medmllm.models.text_encoder import (
    TextEncoder,
    before_words,
    from_config,
    load_pretrained,
    longest_window,
    read_config,
    tiny_config,
)
from medmllm.preprocessing.text import TINY, load_tokenizer
from medmllm.provenance import file_digest, text_digest
from medmllm.table_documents import TableCodes
from medmllm.tuning_documents import FoldSurvival

CARD = "model.json"
BACKGROUND = "background.safetensors"
TABLE = "table"


@dataclass(frozen=True, slots=True, eq=False)
class FoldNetwork:
    """One network of a fold, and the tokenizer it was trained with."""

    network: StudyClassifier
    tokenizer: PreTrainedTokenizerBase | None  # None where no note is read
    codes: TableCodes | None = None  # None where no table is read

    @property
    def pad_token_id(self) -> int:
        """What fills notes in a batch; 0 without a tokenizer."""
        return 0 if self.tokenizer is None else int(self.tokenizer.pad_token_id or 0)


@dataclass(frozen=True, slots=True, eq=False)
class ModelPackage:
    """A loaded package, ready to score."""

    card: ModelCard
    folds: tuple[FoldNetwork, ...]  # as in the card
    background: Tensor | None  # (channels, x, y, z); None without an image encoder

    @property
    def weights_digest(self) -> str:
        """sha256 over the digests of all folds' weights."""
        return text_digest([fold.weights_sha256 for fold in self.card.folds])


def build_network(
    contract: PreprocessingContract,
    settings: ModelSettings,
    task: Task,
    text_network: nn.Module | None,
    codes: TableCodes | None = None,
    *,
    survival: FoldSurvival | None = None,
) -> StudyClassifier:
    """Return a classifier for a contract; all but `text_network` has fresh weights.

    Args:
        contract: Says which modalities the model reads, and through which channels.
        settings: The parts by name.
        task: Says how many logits there are, and whether they come from one score.
        text_network: The Hugging Face encoder; None when the contract reads no text.
        codes: Of the fold; None when the contract reads no table.
        survival: Of the fold; None when no target is a time to an event.

    Raises:
        ConfigError: An unknown part, or a grid too small for the network.
    """
    if contract.image is not None:
        check_grid(settings, contract.image.size)
    windows = None if contract.text is None else Windows(contract.text.window, contract.text.overlap)
    return StudyClassifier(
        settings,
        image_encoder=None if contract.image is None else ImageEncoder(settings, len(contract.image.channels)),
        text_encoder=None
        if text_network is None
        else TextEncoder(text_network, batch_norm=settings.text_batch_norm, windows=windows),
        audio_encoder=None if contract.recording is None else AudioEncoder(settings, contract.recording.mels),
        table_encoder=None if codes is None else TableEncoder(settings, codes),
        task=task,
        intervals=0 if survival is None else len(survival.bounds),
    )


def new_text_network(text: TextSettings, settings: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """Return the text encoder that training starts from: a fresh `tiny`, or a pretrained one.

    Raises:
        ConfigError: The pretrained network is not there, or cannot take a `window` or this tokenizer's words.
    """
    if text.encoder == TINY:
        return from_config(tiny_config(len(tokenizer), settings, text))
    network = load_pretrained(text.encoder, local_files_only=text.local_files_only)
    longest, before = longest_window(network), before_words(settings)
    if longest is not None and before + min(text.max_tokens, text.window) > longest:
        also = f", {before} of them before the words (fusion = {settings.fusion!r})" if before else ""
        raise ConfigError(
            f"[text] window = {text.window}: {text.encoder!r} takes at most {longest} tokens at a time{also}. Set "
            f"window to {longest - before} or less: of longer notes, up to max_tokens = {text.max_tokens} are read in "
            "such windows."
        )
    config: PretrainedConfig = network.config
    known = config.vocab_size
    if len(tokenizer) > known:
        raise ConfigError(
            f"[text] encoder = {text.encoder!r}: its tokenizer has {len(tokenizer)} word pieces, its network {known}"
        )
    return network


def write_weights(folder: Path, fold: int, member: FoldNetwork, inner: int | None = None) -> None:
    """Write one network's weights, tokenizer and text-encoder configuration into a package folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in member.network.state_dict().items()}
    save_file(state, folder / weights_name(fold, inner))
    if member.tokenizer is not None and member.network.text_encoder is not None:
        target = folder / tokenizer_name(fold, inner)
        member.tokenizer.save_pretrained(str(target))
        member.network.text_encoder.config.save_pretrained(str(target))
    if member.codes is not None:
        (folder / TABLE).mkdir(exist_ok=True)
        member.codes.write(folder / codes_name(fold, inner))


def network_name(fold: int, inner: int | None = None) -> str:
    """Return what the files of a fold's network, or of an inner fold's, are called."""
    return f"fold_{fold}" if inner is None else f"fold_{fold}_{inner}"


def weights_name(fold: int, inner: int | None = None) -> str:
    """Return the file name of a network's weights."""
    return f"{network_name(fold, inner)}.safetensors"


def codes_name(fold: int, inner: int | None = None) -> str:
    """Return the relative file name of how a network codes the table."""
    return f"{TABLE}/{network_name(fold, inner)}.json"


def tokenizer_name(fold: int, inner: int | None = None) -> str:
    """Return the relative name of the folder with a network's tokenizer."""
    return f"tokenizer/{network_name(fold, inner)}"


def write_background(folder: Path, background: Tensor) -> None:
    """Write the attribution baseline, shape (channels, x, y, z)."""
    save_file({"background": background.detach().cpu().contiguous()}, folder / BACKGROUND)


def write_reference(folder: Path, reference: pd.DataFrame) -> None:
    """Write what the training cohort was like; rows carry no keys."""
    reference.to_parquet(folder / "reference.parquet", index=False)


def key_digest(key: str) -> str:
    """Return what a package remembers of a training patient or study: enough to recognise one, no more."""
    return hashlib.sha256(key.encode()).hexdigest()


def digest_files(folder: Path) -> dict[str, str]:
    """Return relative name -> sha256 of every file of a package but its card."""
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CARD
    }


def load_package(folder: Path, *, device: torch.device | str = "cpu") -> ModelPackage:
    """Return a model package, checked file by file.

    Args:
        folder: As written by `medmllm train`: RUN/model.
        device: Where the networks go.

    Raises:
        PackageError: A file is missing or changed, the card is not valid, or the contract's fingerprint does not
            match its contents.
    """
    if not (folder / CARD).is_file():
        raise PackageError(f"no {CARD} in the --model folder: give the folder RUN/model that `medmllm train` wrote.")
    card = ModelCard.read(folder / CARD)
    check_package(folder, card)
    members = tuple(_load_fold(folder, card, fold, device) for fold in card.folds)
    background = None
    if card.contract.image is not None:
        background = _read_tensors(folder / BACKGROUND)["background"].to(device)
    return ModelPackage(card, members, background)


def check_package(folder: Path, card: ModelCard) -> None:
    """Compare a package's files and contract with its card.

    Raises:
        PackageError: Names the file or fingerprint that differs.
    """
    if card.contract.fingerprint != card.contract_fingerprint:
        raise PackageError(
            f"{CARD}: the preprocessing contract was changed after training (its fingerprint does not match). "
            "Train again, or restore the package."
        )
    expected = dict(card.files) | {fold.weights: fold.weights_sha256 for fold in card.folds}
    if card.contract.image is not None and BACKGROUND not in expected:
        raise PackageError(f"{CARD} does not list {BACKGROUND}, which a model that reads images has.")
    lacking = [name for name in (codes_name(fold.fold, fold.inner) for fold in card.folds) if name not in expected]
    if card.contract.table is not None and lacking:
        raise PackageError(f"{CARD} does not list {lacking[0]}, which a model that reads a table has.")
    # A file more beside a tokenizer would be read with it: these folders hold what the card lists, and nothing else.
    for path in sorted((folder / "tokenizer").rglob("*")):
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in expected:
            raise PackageError(f"{name} of the model package is not in {CARD}: it was added after training. Remove it.")
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise PackageError(f"the model package lacks {name}: copy the whole folder again.")
        if file_digest(path) != digest:
            raise PackageError(f"{name} of the model package was changed: its sha256 differs from the card.")


def _load_fold(folder: Path, card: ModelCard, fold: FoldModel, device: torch.device | str) -> FoldNetwork:
    tokenizer, text_network = None, None
    if card.contract.text is not None:
        home = folder / tokenizer_name(fold.fold, fold.inner)
        tokenizer = load_tokenizer(home, local_files_only=True)
        text_network = from_config(read_config(home))
    codes = None if card.contract.table is None else TableCodes.read(folder / codes_name(fold.fold, fold.inner))
    network = build_network(card.contract, parts_of(card, fold), card.task, text_network, codes, survival=fold.timeline)
    try:
        network.load_state_dict(_read_tensors(folder / fold.weights))
    except RuntimeError as error:
        raise PackageError(f"{fold.weights} does not fit the network in {CARD}: {error}") from None
    return FoldNetwork(network.to(device).eval(), tokenizer, codes)


def parts_of(card: ModelCard, fold: FoldModel) -> ModelSettings:
    """Return the parts of a fold's networks: those of the card, but for what a search chose."""
    chosen = {name: value for name, value in fold.searched.items() if name in ModelSettings.model_fields}
    return ModelSettings.model_validate(card.model.model_dump() | chosen)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PackageError(f"{path.name} cannot be read as safetensors: {error}") from None
