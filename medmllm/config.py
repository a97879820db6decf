"""Settings: TOML beside each pipeline, a frozen model behind it, no unknown keys.

    packaged VERB.toml <- user's file <- --set key=value -> one validated, resolved model

Every default stands in the packaged TOML and nowhere else. `[image.channels]` of a user's file
replaces the packaged one whole; all other tables, and whatever --set names, are merged key by key.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, field_validator

from medmllm.documents import Document, ImageSettings, ModelSettings, TextSettings, first_fault
from medmllm.errors import ConfigError

Arm = Literal["image", "text", "fused"]
Settings = TypeVar("Settings", bound=Document)


class TrainingSettings(Document):
    """Cross-validation and the training loop."""

    folds: int = Field(ge=2, description="outer test folds, patient-grouped and stratified")
    tuning_fraction: float = Field(
        gt=0,
        lt=0.5,
        description="part of each training fold kept for early stopping, temperature and threshold",
    )
    arms: tuple[Arm, ...] = Field(min_length=1, description="trained on the same folds, compared out of fold")
    seed: NonNegativeInt
    epochs: PositiveInt = Field(description="at most")
    patience: PositiveInt = Field(description="epochs without a better tuning loss before stopping")
    batch_size: PositiveInt
    learning_rate: PositiveFloat = Field(description="image encoder, fusion and head")
    text_learning_rate: PositiveFloat
    weight_decay: float = Field(ge=0)
    warmup_epochs: float = Field(ge=0, description="linear warm-up, then cosine to zero")
    gradient_clip: PositiveFloat = Field(description="largest gradient norm")
    class_weights: Literal["none", "balanced"]
    flips: bool = Field(description="random mirror images while training; not where left and right matter")
    noise: float = Field(ge=0, description="standard deviation of Gaussian noise added while training, model units")
    shift_voxels: NonNegativeInt = Field(description="largest random shift while training, voxels")
    device: str = Field(description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(description="auto: bf16-mixed on CUDA, 32-true on CPU")
    channels_last: bool = Field(description="channels_last_3d memory layout for the image encoder")
    threads: NonNegativeInt = Field(description="CPU threads; 0: all")


class EvaluationSettings(Document):
    """Intervals."""

    bootstrap_samples: int = Field(ge=100)
    confidence: float = Field(gt=0, lt=1, description="level of the intervals, e.g. 0.95")


class TrackingSettings(Document):
    """MLflow."""

    enabled: bool
    experiment: str = Field(min_length=1)
    uri: str = Field(description="empty: MLFLOW_TRACKING_URI, else sqlite:///RUN/mlflow.db")


class TrainConfig(Document):
    """pipelines/train.toml."""

    intended_use: str = Field(
        min_length=1, description="what the model is for; written into it and shown in every report"
    )
    acceptance_margin: float = Field(
        ge=0,
        description="how far beyond the training cohort's range a study may lie, as a fraction of the range",
    )
    image: ImageSettings
    text: TextSettings
    model: ModelSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    tracking: TrackingSettings


class ExplainSettings(Document):
    """Integrated Gradients."""

    steps: PositiveInt = Field(description="gradients taken along the path at first, per fold model")
    max_steps: PositiveInt = Field(
        description="steps are added up to this, where the path bends, while completeness is not met"
    )
    completeness: PositiveFloat = Field(description="largest |convergence delta| as a fraction of the logit difference")


class ScoreConfig(Document):
    """pipelines/score.toml."""

    batch_size: PositiveInt
    workers: PositiveInt = Field(description="studies read and prepared ahead of the model, in parallel")
    device: str = Field(description="auto, cpu, cuda or cuda:N")
    explain: ExplainSettings


class CohortSettings(Document):
    """The synthetic cohort with planted causes."""

    training_patients: PositiveInt
    scoring_patients: PositiveInt
    seed: NonNegativeInt
    size: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(description="columns, rows, slices")
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class DemoConfig(Document):
    """pipelines/demo.toml."""

    cohort: CohortSettings
    train: TrainConfig
    score: ScoreConfig


class DicomRules(Document):
    """What of a DICOM header is kept; PS3.15 E.3 names the options."""

    dates: Literal["shift", "remove", "keep"] = Field(
        description="shift: by a number of days of each patient's own; times of day stay"
    )
    uids: Literal["replace", "keep"]
    patient_characteristics: bool = Field(description="keep age (90 at most), sex, size, weight, pregnancy, smoking")
    device_identity: bool = Field(description="keep station names, serial numbers and the like")
    descriptors: Literal["clean", "remove"] = Field(
        description="clean: keep of Series Description and the like the words that [descriptors] allows"
    )
    private_tags: tuple[str, ...] = Field(
        description="'gggg,CREATOR,ee' kept where the value is a number; text never is"
    )
    objects: tuple[str, ...] = Field(description="SOP Class UIDs that are taken; all others are refused")
    refused_modalities: tuple[str, ...] = Field(description="refused whatever their SOP class")
    take_anyway: tuple[Literal["burned_in", "screen", "colour", "overlay_bits"], ...] = Field(
        description="risks of text in the pixels that somebody has looked at and accepts"
    )

    @field_validator("private_tags")
    @classmethod
    def _name_group_creator_and_element(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        for tag in tags:
            if not re.fullmatch(r"[0-9A-Fa-f]{3}[13579BDFbdf],[^,]+,[0-9A-Fa-f]{2}", tag):
                raise ValueError(f"{tag!r} is not of the form '0019,SIEMENS MR HEADER,0C'")
        return tags


class DescriptorRules(Document):
    """Which words of a description or file name say how an image was made, and nothing of a person."""

    words: tuple[str, ...] = Field(description="case ignored")
    patterns: tuple[str, ...] = Field(description="regular expressions that a whole word may match, case ignored")

    @field_validator("patterns")
    @classmethod
    def _are_regular_expressions(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return patterns


class NoteRules(Document):
    """How notes are scrubbed."""

    dates: Literal["shift", "replace"] = Field(description="shift: where day, month and year are beyond doubt")
    names: tuple[str, ...] = Field(description="further names to replace, such as the department's radiologists")
    keep: tuple[str, ...] = Field(description="words that are never taken for a name")


class DeidentifyConfig(Document):
    """pipelines/deidentify.toml."""

    take_recordings: bool = Field(description="a voice identifies: copied without their tags only when true")
    table_columns: tuple[str, ...] = Field(description="columns of the label table that are kept beside the keys")
    sidecar_keys: tuple[str, ...] = Field(description="keys of BIDS JSON sidecars that are kept")
    dicom: DicomRules
    descriptors: DescriptorRules
    notes: NoteRules


CONFIGS: Mapping[str, type[Document]] = {
    "train": TrainConfig,
    "score": ScoreConfig,
    "demo": DemoConfig,
    "deidentify": DeidentifyConfig,
}
"""Verb -> model of its TOML file."""


def load_config(
    model: type[Settings], verb: str, *, file: Path | None = None, overrides: Sequence[str] = ()
) -> Settings:
    """Return the resolved settings of a verb.

    Args:
        model: The settings' document, e.g. `TrainConfig`.
        verb: Whose packaged TOML gives the defaults.
        file: A user's TOML; its keys win over the packaged ones.
        overrides: `key=value` with a dotted key and a TOML value (a bare word is a string); wins over both.

    Raises:
        ConfigError: Unknown key (with the nearest known one), wrong value, unreadable file.
    """
    tables = packaged_defaults(verb)
    name = f"{verb}.toml"
    if file is not None:
        name = file.name
        tables = merge(tables, _read_toml(file))
    for override in overrides:
        names_all_channels = override.partition("=")[0].strip().endswith("channels")
        tables = merge(tables, parse_override(override), replace_channels=names_all_channels)
    if overrides:
        name = f"{name} with --set"
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(f"{name}: {explain_fault(error, model)}") from None


def packaged_defaults(verb: str) -> dict[str, object]:
    """Return the packaged TOML of a verb; demo.toml's [train] and [score] are laid over theirs."""
    tables = tomllib.loads(files("medmllm.pipelines").joinpath(f"{verb}.toml").read_text(encoding="utf-8"))
    if verb == "demo":
        for part in ("train", "score"):
            tables[part] = merge(packaged_defaults(part), tables.get(part, {}))
    return tables


def _read_toml(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file.name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file.name} is not valid TOML: {error}") from None


def merge(
    under: Mapping[str, object], over: Mapping[str, object], *, replace_channels: bool = True
) -> dict[str, object]:
    """Return `under` with the keys of `over` laid on it, table by table.

    Args:
        under: Tables below.
        over: Tables laid on them.
        replace_channels: Take a table `channels` of `over` whole, as the files do; else merge it like any other.
    """
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        whole = replace_channels and key == "channels"
        if isinstance(below, Mapping) and isinstance(value, Mapping) and not whole:
            merged[key] = merge(below, value, replace_channels=replace_channels)
        else:
            merged[key] = value
    return merged


def parse_override(text: str) -> dict[str, object]:
    """Return nested tables for one `--set key=value`.

    >>> parse_override("training.folds=3")
    {'training': {'folds': 3}}
    >>> parse_override("image.window=[-1000, 400]")
    {'image': {'window': [-1000, 400]}}
    >>> parse_override("model.image_encoder=densenet121")
    {'model': {'image_encoder': 'densenet121'}}
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes key=value, e.g. training.folds=3; got {text!r}")
    try:
        parsed: object = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    assert isinstance(parsed, dict)
    return parsed


def explain_fault(error: ValidationError, model: type[Document]) -> str:
    """Return one line on the first fault; an unknown key is answered with the nearest known one."""
    fault = error.errors(include_url=False)[0]
    *tables, key = [str(part) for part in fault["loc"]] or ["settings"]
    place = f"[{'.'.join(tables)}] " if tables else ""
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _keys_at(model, tables), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(_keys_at(model, tables))}"
        return f"{place}has no key {key!r}{hint}"
    if fault["type"] == "missing":
        return f"{place}lacks the key {key!r}"
    return f"{place}{key}: {fault['msg']}, got {fault['input']!r}" if tables or key else first_fault(error)


def _keys_at(model: type[Document], tables: Sequence[str]) -> list[str]:
    current: object = model
    for table in tables:
        if not (isinstance(current, type) and issubclass(current, Document)):
            return []
        field = current.model_fields.get(table)
        current = field.annotation if field else None
        arguments = getattr(current, "__args__", ())
        if arguments and isinstance(arguments[-1], type) and issubclass(arguments[-1], Document):
            return list(arguments[-1].model_fields)  # a table of tables, e.g. [image.channels.NAME]
    if isinstance(current, type) and issubclass(current, Document):
        return list(current.model_fields)
    return []
