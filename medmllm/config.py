"""Settings: TOML beside each pipeline, a frozen model behind it, no unknown keys.

    packaged VERB.toml <- user's file <- --set key=value -> one validated, resolved model

Every default stands in the packaged TOML and nowhere else. `[image.channels]` of a user's file
replaces the packaged one whole, and so do channels that only --set names, but for those it names itself;
all other tables, and channels of a user's file that --set names, are merged key by key.
"""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pydantic_core import ErrorDetails

from medmllm.deidentify_config import DeidentifyConfig
from medmllm.documents import Document, ImageSettings, Probability, RecordingSettings, Triple, fault_in_words
from medmllm.errors import ConfigError
from medmllm.model_documents import ModelSettings
from medmllm.records import Severity
from medmllm.search_config import SEARCHED
from medmllm.table_documents import TableSettings
from medmllm.training_config import (
    EvaluationSettings,
    TaskSettings,
    TextEncoderSettings,
    TrackingSettings,
    TrainingSettings,
)
from medmllm.trust_config import PolicySettings

Language = Literal["de", "en", "es", "fr", "it", "nl", "pt"]
Settings = TypeVar("Settings", bound=Document)


class QualityDecisions(Document):
    """What follows from each finding of the quality checks, by its code."""

    nan_voxels: Severity
    constant: Severity
    few_values: Severity
    ct_double_rescale: Severity
    ct_not_rescaled: Severity
    ct_wrong_unit: Severity
    ct_impossible_values: Severity
    ct_air_level: Severity
    ct_inverted: Severity
    ct_slice_offset: Severity
    ct_only_air: Severity
    ct_without_tissue: Severity
    ct_without_air: Severity
    negative_values: Severity
    clipped: Severity
    mostly_background: Severity
    padding: Severity
    noisy: Severity
    blank_slices: Severity
    slice_jump: Severity
    spacing_implausible: Severity
    anisotropic: Severity
    extent_implausible: Severity
    sheared: Severity
    oblique: Severity
    few_slices: Severity
    short_coverage: Severity
    damaged_beside: Severity
    note_empty: Severity
    note_only_headings: Severity
    note_too_short: Severity
    note_language: Severity
    note_placeholders: Severity
    note_duplicate: Severity
    note_encoding: Severity
    recording_silent: Severity
    recording_clipped: Severity
    recording_sample_rate: Severity
    recording_too_short: Severity
    recording_dc_offset: Severity
    recording_channels_identical: Severity


class QualityBounds(Document):
    """From where on something is implausible. Set for gross errors, not for taste."""

    spacing_mm: tuple[PositiveFloat, PositiveFloat] = Field(description="smallest and largest distance of voxels")
    anisotropy: float = Field(ge=1, description="largest ratio of the coarsest to the finest spacing")
    extent_mm: Triple = Field(description="largest field of view along R-L, A-P, S-I")
    shear_deg: PositiveFloat = Field(description="largest angle between slice step and slice normal: gantry tilt")
    oblique_deg: PositiveFloat = Field(description="largest angle between the volume's axes and the patient's nearest")
    slices: PositiveInt = Field(description="fewest voxels along any axis")
    coverage_mm: float = Field(ge=0, description="least extent along S-I")
    body_mm: PositiveFloat = Field(description="a CT whose field of view reaches this in-plane holds air")
    below_air_share: Probability = Field(description="largest share of a CT at one level below air, no padding")
    bright_air_share: Probability = Field(description="largest share of a CT's voxels in a peak near +1000 HU")
    slice_offset_hu: float = Field(ge=200, description="largest constant by which a CT's slice may lie above the next")
    padding_share: Probability = Field(description="largest share of voxels outside the scanned circle")
    clipped_share: Probability = Field(description="largest share of voxels at exactly one end of the values")
    background_share: Probability = Field(description="largest share of voxels with one and the same value")
    negative_share: Probability = Field(description="largest share of negative voxels, other than CT and unknown")
    signal_to_noise: float = Field(ge=0, description="least ratio of the range of values to the noise; pure noise: 5")
    blank_slices: NonNegativeInt = Field(description="most constant slices between others")
    slice_jump: PositiveFloat = Field(description="largest step of a slice's mean against its neighbours, of the range")
    note_words: NonNegativeInt = Field(description="fewest words, headings not counted")
    note_languages: tuple[Language, ...] = Field(min_length=1, description="in which notes may be written")
    placeholder_share: Probability = Field(description="largest share of words like XXXX, ___ or [**Name**]")
    duplicate_words: PositiveInt = Field(description="notes of fewer words are not compared with others")
    duplicate_similarity: float = Field(ge=0.8, le=1, description="least share of four-word runs that two notes share")
    silence_dbfs: float = Field(lt=0, description="largest level that counts as silence, dB of full scale")
    clipped_samples_share: Probability = Field(description="largest share of samples at full scale")
    sample_rate_hz: PositiveFloat = Field(description="lowest")
    duration_s: PositiveFloat = Field(description="shortest")
    dc_offset: PositiveFloat = Field(description="largest mean of a channel, of full scale")


class QualityPolicy(Document):
    """The quality gate: quality.toml has the defaults, [quality] of train.toml and score.toml is laid over them."""

    decisions: QualityDecisions
    bounds: QualityBounds

    @property
    def digest(self) -> str:
        """sha256 of the policy's canonical JSON."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


class QualityConfig(Document):
    """pipelines/quality.toml."""

    nifti_modality: str = Field(description="DICOM Modality of NIfTI files that do not say theirs; empty: unknown")
    quality: QualityPolicy


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
    text: TextEncoderSettings
    recording: RecordingSettings
    table: TableSettings
    quality: QualityPolicy
    model: ModelSettings
    task: TaskSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    policy: PolicySettings
    tracking: TrackingSettings


class ExplainSettings(Document):
    """Integrated Gradients."""

    steps: PositiveInt = Field(description="gradients taken along the path at first, per fold model")
    max_steps: PositiveInt = Field(
        description="steps are added up to this, where the path bends, while completeness is not met"
    )
    completeness: PositiveFloat = Field(description="largest |convergence delta| as a fraction of the logit difference")
    target: str = Field(description="of several targets, the one whose logit is explained; empty: the one that leads")


class ScoreConfig(Document):
    """pipelines/score.toml."""

    batch_size: PositiveInt
    workers: PositiveInt = Field(description="studies read and prepared ahead of the model, in parallel")
    device: str = Field(description="auto, cpu, cuda or cuda:N")
    mask_notes: bool = Field(description="case pages show recognised names, dates and numbers of a note as X")
    quality: QualityPolicy
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


CONFIGS: Mapping[str, type[Document]] = {
    "train": TrainConfig,
    "score": ScoreConfig,
    "demo": DemoConfig,
    "quality": QualityConfig,
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
    tables, asked = packaged_defaults(verb), dict[str, object]()
    name, own = (f"{verb}.toml", dict[str, object]()) if file is None else (file.name, _read_toml(file))
    tables = merge(tables, own)
    for override in overrides:
        asked = merge(asked, parse_override(override), replace_channels=False)
    tables = without_packaged_channels(tables, own, asked)
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
    """Return the packaged TOML of a verb.

    demo.toml's [train] and [score] are laid over theirs, and [quality] of train.toml and score.toml over quality.toml.
    """
    tables = tomllib.loads(files("medmllm.pipelines").joinpath(f"{verb}.toml").read_text(encoding="utf-8"))
    if verb in ("train", "score"):
        tables = merge({"quality": packaged_defaults("quality")["quality"]}, tables)
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


def without_packaged_channels(
    tables: Mapping[str, object], own: Mapping[str, object], asked: Mapping[str, object]
) -> dict[str, object]:
    """Return settings without the packaged channels, where --set names channels of its own and the file names none.

    Else the packaged channel, which takes any series, would want the same ones. `tables` are the packaged settings
    under the file's `own`, `asked` is all that --set names.

    >>> without_packaged_channels({"channels": {"image": {}}}, {}, {"channels": {"flair": {"modality": "MR"}}})
    {'channels': {}}
    """
    left = dict(tables)
    for key, value in asked.items():
        below, given = left.get(key), own.get(key)
        if not isinstance(below, Mapping) or not isinstance(value, Mapping):
            continue
        if key != "channels":
            left[key] = without_packaged_channels(below, given if isinstance(given, Mapping) else {}, value)
        elif given is None:
            left[key] = {name: rule for name, rule in below.items() if name in value}
    return left


def flatten(tables: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested tables as dotted keys.

    >>> flatten({"training": {"folds": 5}, "name": "x"})
    {'training.folds': 5, 'name': 'x'}
    """
    flat: dict[str, object] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_override(text: str) -> dict[str, object]:
    """Return nested tables for one `--set key=value`.

    >>> parse_override("training.folds=3")
    {'training': {'folds': 3}}
    >>> parse_override("image.window=[-1000, 400]")
    {'image': {'window': [-1000, 400]}}
    >>> parse_override("model.image_encoder=densenet121")
    {'model': {'image_encoder': 'densenet121'}}
    >>> parse_override('policy.least."auroc[grade>=3]"=0.8')
    {'policy': {'least': {'auroc[grade>=3]': 0.8}}}
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes key=value, e.g. training.folds=3; got {text!r}")
    if '"' in key or "'" in key:
        try:
            return tomllib.loads(text)  # quoted keys hold dots, and equals signs
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"--set {text!r} is no line of TOML, which a quoted key wants: {error}") from None
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
    fault, *others = error.errors(include_url=False)
    *tables, key = [str(part) for part in fault["loc"]] or ["settings"]
    place = f"[{'.'.join(tables)}] " if tables else ""
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _keys_at(model, tables), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(_keys_at(model, tables))}"
        return f"{place}has no key {key!r}{hint}"
    if "[key]" in tables:
        return _wrong_name(tables, fault)
    if fault["type"] == "missing" and isinstance(fault["input"], (list, tuple)):
        short = 1 + sum(other["type"] == "missing" and other["loc"][:-1] == fault["loc"][:-1] for other in others)
        return f"[{'.'.join(tables[:-1])}] {tables[-1]}: {len(fault['input']) + short} values, got {fault['input']!r}"
    if fault["type"] == "missing":
        return f"{place}lacks the key {key!r}"
    given = fault["input"]
    got = "" if isinstance(given, Mapping) else f", got {given!r}"  # a whole table would bury what is said of it
    several = isinstance(given, list) and tables in (["training"], ["model"]) and key in SEARCHED
    hint = f"; several to choose from go into [training.search], as {key} = {given}" if several else ""
    return f"{place}{key}: {fault_in_words(fault)}{got}{hint}"


def _wrong_name(loc: list[str], fault: ErrorDetails) -> str:
    """Say that a table of free names, as [policy.least] of metrics, does not take one, and which name is nearest."""
    *tables, name = loc[: loc.index("[key]")]
    near = difflib.get_close_matches(name, re.findall(r"'([^']+)'", fault["msg"]), n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else f": {fault_in_words(fault)}"
    return f"[{'.'.join(tables)}] takes no key {name!r}{hint}"


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
