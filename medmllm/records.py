"""The nouns: what flows from a folder of studies to a prediction and its explanation.

    Study -> Volume, Note, Recording -> QualityFinding
                                     -> Sample -> Batch -> Prediction or Refusal -> Explanation
                                                        -> CohortEvaluation

Frozen dataclasses; a missing thing is None and the type says so. Space is RAS+ in millimetres, arrays are (x, y, z),
tensors are (batch, channel, x, y, z). Patients and studies are known by pseudonymous keys alone: original identifiers
live in `medmllm.ingest`, and fields that may hold one (a path, a note's text, a table row) are left out of `repr`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from medmllm.errors import GeometryError, MedmllmError

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = npt.NDArray[np.floating]
Plane = Literal["axial", "coronal", "sagittal", "oblique"]


@dataclass(frozen=True, slots=True)
class Survival:
    """How long a study's patient was followed from then on, and whether the event ended it."""

    time: float  # in the task's unit, 0 or more
    event: bool  # False: censored, the event had not come by then


Target = int | tuple[int | Survival, ...] | Survival
"""What is known of one study: its class index or time to an event; for several targets one each, or UNKNOWN."""

UNKNOWN = -1  # a label that a study lacks

MODALITIES = ("image", "text", "recording", "table")  # the columns of Batch.present, in order

Stage = Literal["index", "read", "quality", "preprocess", "contract", "predict", "explain"]  # where a study was refused

Severity = Literal["accept", "warn", "refuse"]
"""What follows from a finding, by the policy: it is noted down, it is a warning, or the study is refused."""


# --- what a folder holds -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Technique:
    """How a series was acquired and reconstructed, as its headers tell; None where they do not."""

    kernel: str | None = None  # Convolution Kernel (0018,1210)
    plane: Plane | None = None  # of the slices, by their normal; see `geometry.plane_of`
    contrast: bool | None = None  # a contrast agent is recorded; None: not told, or not for all slices alike
    thickness_mm: float | None = None  # Slice Thickness (0018,0050): of a slice, not how far the next one lies
    slice_axis: int | None = None  # which axis of `shape` counts the slices; None when it cannot be told
    time_order: int | None = None  # by when it was acquired among its study's series, from 1; ties share a number
    manufacturer: str | None = None  # by Manufacturer (0008,0070), a known one or OTHER
    model: str | None = None  # Manufacturer's Model Name (0008,1090), in capitals
    field_strength_t: float | None = None  # Magnetic Field Strength (0018,0087)
    apart: str | None = None  # numbers that tell it from other parts of its series, e.g. DiffusionBValue=1000

    @property
    def contrast_word(self) -> Literal["yes", "no"] | None:
        """`contrast` as settings and tables write it."""
        return None if self.contrast is None else "yes" if self.contrast else "no"


@dataclass(frozen=True, slots=True)
class SeriesReference:
    """One image series of a study, known by its headers; its voxels are not read yet."""

    series_key: str
    kind: Literal["dicom", "nifti"]
    modality: str | None  # DICOM Modality (0008,0060); None when a NIfTI file does not say
    shape: tuple[int, int, int] | None  # (x, y, z) voxels; None when the headers do not tell
    spacing_mm: tuple[float, float, float] | None  # (x, y, z)
    description: str | None = field(repr=False)  # Series Description (0008,103E) or NIfTI file stem
    files: tuple[Path, ...] = field(repr=False)
    refusal: "Refusal | None" = None  # why it cannot become a Volume, when the headers show it
    frames: tuple[int, ...] = field(default=(), repr=False)  # of each file, the frame or volume; empty: all the first
    technique: Technique = Technique()
    damaged_beside: int = 0  # files of it, or in its folder, that cannot be read: it may lack slices at its ends


@dataclass(frozen=True, slots=True)
class NoteReference:
    """One note file of a study, not read yet."""

    file: Path = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecordingReference:
    """One sound file of a study, not decoded yet."""

    file: Path = field(repr=False)


@dataclass(frozen=True, slots=True)
class Study:
    """One study of one patient: references only, nothing decoded."""

    study_key: str
    patient_key: str
    layout: Literal["dicom", "folder", "bids", "nnunet", "list"]
    series: tuple[SeriesReference, ...] = ()
    notes: tuple[NoteReference, ...] = ()
    recordings: tuple[RecordingReference, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict, repr=False)  # its row of the label table


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One regular grid of voxels, placed in the patient."""

    voxels: FloatArray = field(repr=False)  # (x, y, z), float32; HU for CT, else scanner units
    affine: FloatArray  # (4, 4), float64; voxel index -> RAS+ position in mm
    frame_of_reference_uid: str | None = field(repr=False)  # overlay only where these agree
    modality: str | None  # DICOM Modality (0008,0060); None when the source does not say
    padding: tuple[float, float] | None = None  # lowest and highest value of voxels outside the image, where named
    damaged_beside: int = 0  # files of its series, or beside, that cannot be read: slices may be missing at its ends

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3:
            raise GeometryError(f"a volume has 3 axes, got shape {self.voxels.shape}")
        if self.affine.shape != (4, 4):
            raise GeometryError(f"an affine is (4, 4), got shape {self.affine.shape}")
        if not np.isfinite(self.affine).all() or abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise GeometryError("the affine is singular or not finite: voxels have no place in the patient")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (x, y, z), in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True, slots=True)
class Section:
    """A named part of a note, as a span of its text."""

    name: str  # lower case: history, indication, findings, impression ...; "" before any heading
    start: int  # first character
    end: int  # one past the last character


@dataclass(frozen=True, slots=True)
class Note:
    """A clinical note; its text never shows in a repr."""

    text: str = field(repr=False)
    sections: tuple[Section, ...]
    document_type: str | None = None
    authored: str | None = field(default=None, repr=False)  # time, ISO 8601; None when the source has none
    guessed_encoding: str | None = None  # its bytes are no Unicode text, and were read as this


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A sound: dictation, heart or lung sounds."""

    waveform: FloatArray = field(repr=False)  # (channels, samples), float32, full scale is +-1
    sample_rate_hz: float


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """Something implausible about one series, note or recording. Told, never mended."""

    code: str  # snake_case; a field of config.QualityDecisions, or the code of the error that stopped the reading
    where: str  # series_key; study_key for notes and recordings
    value: float | None  # what was measured; None when it could not be
    bound: float | None  # what it was held against
    reason: str  # in words, with unit; no identifiers but study keys
    severity: Severity | None = None  # None until the policy has been asked


Values = Mapping[str, float | str | None]
"""Column -> its cell, read as a number or a category; None: the cell is empty."""


# --- what the model sees -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a note and the word pieces it became."""

    start: int  # span in Note.text
    end: int
    section: str
    pieces: tuple[int, ...]  # positions in Sample.token_ids


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A prepared image that lies in a file until a batch needs it."""

    file: Path = field(repr=False)
    voxels: str  # sha256


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What one study gives the model. A missing modality is None, never zeros."""

    study_key: str
    patient_key: str
    image: "Tensor | StoredImage | None"  # MetaTensor (channels, x, y, z), float32, on the contract's grid
    channel_present: tuple[bool, ...]  # one per channel of the contract
    token_ids: "Tensor | None"  # (tokens,), int64
    words: tuple[Word, ...]  # empty when there is no note
    target: Target | None = None  # None when unknown
    note_features: "Tensor | None" = None  # (width,), float32: what a frozen encoder made of the note; None: read it
    recording: "tuple[Tensor, ...] | None" = None  # log-mel spectrograms, each (mels, frames), float32
    table: "Tensor | None" = None  # (columns,), float32: standardised number, or index of the category
    cell_present: tuple[bool, ...] = ()  # one per column of the contract


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples side by side, with presence masks for what is missing."""

    study_keys: tuple[str, ...]  # none where its one row only stands in, as for a process without a study
    image: "Tensor"  # (batch, channels, x, y, z), float32; anything where not present
    channel_present: "Tensor"  # (batch, channels), bool
    token_ids: "Tensor"  # (batch, tokens), int64
    token_mask: "Tensor"  # (batch, tokens), bool; False is padding
    present: "Tensor"  # (batch, modalities), bool; columns as in MODALITIES
    target: "Tensor | None"  # (batch,), int64; of several targets (batch, targets)
    note_features: "Tensor | None" = None  # (batch, width), float32; None: the notes are read
    recording: "Tensor | None" = None  # (batch, recordings, mels, frames), float32; None: no sound is read
    recording_mask: "Tensor | None" = None  # (batch, recordings, frames), bool; False is padding
    table: "Tensor | None" = None  # (batch, columns), float32; anything where not present; None: no table is read
    cell_present: "Tensor | None" = None  # (batch, columns), bool


# --- what comes back -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a study, a series or a file was left out. A value, not an exception."""

    stage: Stage
    code: str  # snake_case, as MedmllmError.code
    reason: str  # names value, bound and way out; no identifiers
    retryable: bool = False

    @classmethod
    def of(cls, error: MedmllmError, stage: Stage) -> "Refusal":
        """Return the refusal that a caught error stands for."""
        return cls(stage=stage, code=error.code, reason=error.reason, retryable=error.retryable)


@dataclass(frozen=True, slots=True)
class SurvivalEstimate:
    """What the model says of one study's time to an event."""

    event_free: tuple[float, ...]  # probability of no event until each horizon of the task
    median_time: float | None  # by which the event is as likely as not; None: after the largest horizon


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one study."""

    study_key: str
    patient_key: str
    probabilities: tuple[float, ...]  # one per class, calibrated, sums to 1
    logits: tuple[float, ...]  # calibrated; one for a binary task, else one per class
    interval: tuple[float, float]  # lowest and highest over the fold models; positive class, or predicted class
    modalities_used: tuple[str, ...]  # of MODALITIES
    weights_digest: str
    conformal_set: tuple[int, ...] | None = None
    training_patient: bool = False  # the patient was in the training cohort: not a test result
    survival: SurvivalEstimate | None = None  # of a time to an event; then `logits` is one log cumulative hazard
    unknown_categories: Mapping[str, int] = field(default_factory=dict)  # column -> networks that lack its category


@dataclass(frozen=True, slots=True, eq=False)
class ChannelAttribution:
    """Attribution over the voxels of one channel, on that series' own grid."""

    channel: str
    series_key: str
    source: Volume  # the series as read
    attribution: FloatArray = field(repr=False)  # (x, y, z), float32, on the source grid; logit units per voxel


@dataclass(frozen=True, slots=True)
class WordAttribution:
    """Attribution of one word, summed over its word pieces."""

    start: int  # span in Note.text
    end: int
    section: str
    attribution: float  # logit units


@dataclass(frozen=True, slots=True)
class CellAttribution:
    """Attribution of one cell of the label table."""

    column: str
    attribution: float  # logit units


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """How the logit of one study came about.

    The attributions over volume, words and cells add up to `logit - baseline_logit`, but for
    `convergence_delta` (completeness; Sundararajan et al., ICML 2017).
    """

    study_key: str
    explained_class: int  # the output whose logit is explained
    channels: tuple[ChannelAttribution, ...]
    words: tuple[WordAttribution, ...]
    modality_shares: Mapping[str, float]  # share of the summed absolute attribution; sums to 1
    modality_sums: Mapping[str, float]  # signed sums, logit units
    method: str
    baseline: str  # what the attribution starts from, in words
    steps: int
    logit: float
    baseline_logit: float
    convergence_delta: float  # sum of attributions - (logit - baseline_logit)
    faithfulness: float | None = None
    grade: str | None = None
    cells: tuple[CellAttribution, ...] = ()  # of the columns that the study has a value in

    @property
    def completeness_error(self) -> float:
        """|convergence_delta| as a fraction of the logit difference; 0 when both are 0."""
        if self.convergence_delta == 0:
            return 0.0
        difference = abs(self.logit - self.baseline_logit)
        return abs(self.convergence_delta) / difference if difference > 0 else float("inf")


@dataclass(frozen=True, slots=True)
class Metric:
    """One estimate with its interval."""

    name: str  # auroc, auprc, brier, ece, calibration_slope ...
    estimate: float | None  # None when it is not defined, e.g. one class only
    low: float | None
    high: float | None
    n: int  # studies
    patients: int
    group: str = "all"
    lowest: float | None = None  # of several repeats of the cross-validation; `estimate` is then their mean
    highest: float | None = None


@dataclass(frozen=True, slots=True)
class ArmEvaluation:
    """How one arm (fused, or one modality alone) did out of fold."""

    arm: str
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class CohortEvaluation:
    """All arms on the same patients and folds, and the paired differences between them."""

    classes: tuple[str, ...]
    n: int
    patients: int
    class_counts: tuple[int, ...]
    arms: tuple[ArmEvaluation, ...]
    differences: tuple[Metric, ...]  # auroc of the fused arm minus that of `group`
    class_patients: tuple[int, ...] = ()  # patients with a study of each class
    resamples_lacking_a_class: int = 0  # bootstrap resamples left out


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result came from; stamped on every file written."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid"}

    medmllm_version: str
    commit: str | None  # git commit; None outside a checkout
    dirty: bool | None  # uncommitted changes; None outside a checkout
    python: str
    platform: str
    packages: Mapping[str, str]  # name -> version of the libraries that shape the numbers
    command: str  # verb and settings; paths are replaced by their role, as they may name patients
    seed: int | None
    inputs: Mapping[str, str]  # role -> sha256
    created_utc: str  # ISO 8601
