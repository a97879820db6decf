"""What a training's encoders start from: random values, or files of pretrained weights.

    [model] image_weights, [text] encoder -> tried before a study is read
    image_weights -> each fold's network; RUN/image_weights.json

Only training reads these files: a model package holds all weights itself.
"""

import logging
from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.errors import ConfigError
from medmllm.model_documents import ModelSettings
from medmllm.models.classifier import StudyClassifier
from medmllm.models.fine_tuning import check_extra
from medmllm.models.fusion import FUSIONS
from medmllm.models.image_encoder import ImageEncoder, check_encoder, check_grid
from medmllm.models.image_weights import WeightsReport, load_image_weights
from medmllm.models.package import new_text_network
from medmllm.preprocessing.audio import mel_bank
from medmllm.preprocessing.text import TINY, load_tokenizer
from medmllm.provenance import file_digest, text_digest
from medmllm.records import Provenance
from medmllm.result_documents import ImageWeightsDocument, MismatchDocument
from medmllm.training.candidates import all_candidates
from medmllm.training.machine import Machine

REPORT = "image_weights.json"

logger = logging.getLogger(__name__)


def check_start(config: TrainConfig) -> None:
    """Refuse a device, network or weights that cannot be used, or an absent extra, before a study is read.

    Raises:
        ConfigError: No such device or network, or not of this width; a grid too small for it; the file cannot be read,
            or nothing of it fits; LoRA without peft; no text encoder where it should be, or one that cannot take the
            notes' windows.
    """
    Machine.of(config.training.device)
    if config.recording.enabled:
        mel_bank(config.recording)
    check_extra(config.text)
    if config.model.fusion not in FUSIONS:
        raise ConfigError(f"[model] fusion = {config.model.fusion!r} is none of {', '.join(FUSIONS)}")
    if {"image", "fused"} & set(config.training.arms):
        check_encoder(config.model)
        check_grid(config.model, config.image.size)
    if config.model.image_weights:
        _try(config.model, len(config.image.channels))
    if config.text.encoder != TINY and {"text", "fused"} & set(config.training.arms):
        tokenizer = load_tokenizer(config.text.encoder, local_files_only=config.text.local_files_only)
        new_text_network(config.text, config.model, tokenizer)


def check_starts(config: TrainConfig) -> None:
    """Refuse what `check_start` refuses of any candidate of the search, and other networks for one file of weights.

    Raises:
        ConfigError: As `check_start`.
    """
    shapes = sorted(name for name in config.training.search if name.startswith("image_"))
    if config.model.image_weights and shapes:
        raise ConfigError(
            f"[training.search] {shapes[0]}: [model] image_weights are of one network: search nothing of its shape, or "
            "leave the weights out."
        )
    each = {one.model.model_dump_json(): one for one in all_candidates(config)}
    for one in each.values():
        check_start(one)


def weights_input(config: TrainConfig) -> dict[str, str]:
    """Return role and sha256 of the weights that training starts from, for the provenance.

    A random start has none, and of a text encoder by hub name only the name is known, which the settings hold.
    """
    found = {}
    if config.model.image_weights:
        found["image_weights"] = file_digest(Path(config.model.image_weights))
    folder = Path(config.text.encoder)
    if config.text.encoder != TINY and folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        found["text_encoder"] = text_digest([f"{path.name} {file_digest(path)}" for path in files])
    return found


def start_from_weights(network: StudyClassifier, settings: ModelSettings) -> None:
    """Load the file, if one is named, into a fresh network that reads images."""
    if settings.image_weights and network.image_encoder is not None:
        load_image_weights(network.image_encoder.network, Path(settings.image_weights))


def report_weights(config: TrainConfig, out: Path, provenance: Provenance, *, reads_images: bool) -> None:
    """Write OUT/image_weights.json and a line to the log: once, as all folds and arms start from the same.

    Args:
        config: Settings of the run.
        out: RUN; without images, or without a file of weights, no report is left in it.
        provenance: Of the run.
        reads_images: Whether the cohort has any.
    """
    (out / REPORT).unlink(missing_ok=True)  # of a run that is overwritten
    if not config.model.image_weights or not reads_images:
        return
    found = _try(config.model, len(config.image.channels))
    logger.info(found.line)
    document = ImageWeightsDocument(
        file=Path(config.model.image_weights).name,
        sha256=file_digest(Path(config.model.image_weights)),
        image_encoder=config.model.image_encoder,
        loaded=found.loaded,
        adapted=found.adapted,
        missing=found.missing,
        unused=found.unused,
        mismatched=tuple(
            MismatchDocument(name=m.name, in_file=m.in_file, in_network=m.in_network) for m in found.mismatched
        ),
        provenance=provenance,
    )
    document.write(out / REPORT)


def _try(settings: ModelSettings, channels: int) -> WeightsReport:
    return load_image_weights(ImageEncoder(settings, channels).network, Path(settings.image_weights))
