"""The rows of every CSV table that is written or read: one document per row.

a row of a table <-> Document

`csv_tables` reads and writes them.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from medmllm.documents import Document, FileKey, PatientKey, Probability, SeriesKey, Sha256, StudyKey
from medmllm.records import Plane, QualityFinding, Refusal, Severity, Stage
from medmllm.search_documents import SearchRow

Part = Literal["train", "tune", "test"]
Shared = Literal["pixels", "recording", "note"]


class StudyRow(Document):
    """studies.csv: one row per study found."""

    study_key: StudyKey
    patient_key: PatientKey
    layout: Literal["dicom", "folder", "bids", "nnunet", "list"]
    series: int = Field(ge=0, description="image series found")
    refused_series: int = Field(ge=0, description="of these, series that cannot become a volume")
    notes: int = Field(ge=0)
    recordings: int = Field(ge=0)
    in_table: bool = Field(description="a row of the label table was joined")


class SeriesRow(Document):
    """series.csv: one row per image series found."""

    series_key: SeriesKey
    study_key: StudyKey
    kind: Literal["dicom", "nifti"]
    modality: str | None = Field(description="DICOM Modality (0008,0060); empty when unknown")
    files: PositiveInt
    size_x: PositiveInt | None
    size_y: PositiveInt | None
    size_z: PositiveInt | None
    spacing_x_mm: PositiveFloat | None
    spacing_y_mm: PositiveFloat | None
    spacing_z_mm: PositiveFloat | None
    status: Literal["readable", "refused"]
    code: str | None = Field(description="why it was refused, as a word")
    reason: str | None
    plane: Plane | None = Field(description="of its slices; empty when it cannot be told")
    kernel: str | None = Field(description="Convolution Kernel (0018,1210)")
    contrast: Literal["yes", "no"] | None = Field(description="whether an agent is recorded; empty: not told")
    thickness_mm: PositiveFloat | None = Field(description="Slice Thickness (0018,0050)")
    time_order: PositiveInt | None = Field(description="by acquisition time among the study's series, from 1")
    manufacturer: str | None = Field(
        description="by Manufacturer (0008,0070): a known maker, or OTHER, as it may name anybody"
    )
    model: str | None = Field(description="Manufacturer's Model Name (0008,1090), in capitals")
    field_strength_t: PositiveFloat | None = Field(description="Magnetic Field Strength (0018,0087)")
    apart: str | None = Field(
        description="numbers that tell it from other parts of its series, as DiffusionBValue=1000; empty: not split"
    )


class SelectionRow(Document):
    """selection.csv: what became of one series for one channel of a model, or that a channel has none."""

    study_key: StudyKey
    channel: str
    series_key: SeriesKey | None = Field(description="empty when no series of the study fits the channel")
    outcome: Literal["used", "lost", "refused", "missing"] = Field(
        description="used; lost to the rules or to another series; refused: it fits, but cannot be read or is not the "
        "only one; missing: the channel has no series"
    )
    why: str = Field(description="in words; for the series used, what decided where something had to")


class FileRow(Document):
    """files.csv: one row per file under the folder, in order of their paths, and what became of it."""

    file_key: FileKey
    kind: Literal["dicom", "nifti", "nifti_voxels", "note", "recording", "table", "other"]
    bytes: int = Field(ge=0)
    status: Literal["used", "ignored", "warning", "refused"]
    code: str | None = Field(description="why it is not used, as a word")
    reason: str | None
    retryable: bool
    study_key: StudyKey | None
    series_key: SeriesKey | None = Field(description="the series it is part of; the first, where it holds several")
    series: int = Field(ge=0, description="how many series it is part of")


class ProblemRow(Document):
    """problems.csv: one row per file, series or table row that could not be used, with the reason."""

    where_key: str = Field(
        pattern=r"^(fi|se|st|pt)-[0-9a-f]{16}$", description="key of the file, series, study or patient"
    )
    study_key: StudyKey | None
    severity: Literal["ignored", "warning", "refused"]
    code: str
    reason: str
    retryable: bool


class LinkageRow(Document):
    """linkage.csv, written on request only: a key and the original it stands for. Guard it like the originals."""

    key: str
    kind: Literal["patient", "study", "series", "file"]
    original: str = Field(description="PatientID, StudyInstanceUID, SeriesInstanceUID or relative path")
    description: str = Field(description="Series Description or file stem; of a patient the Patient Name; else empty")


class PredictionRow(Document):
    """predictions.csv: one row per scored study."""

    study_key: StudyKey
    patient_key: PatientKey
    predicted: str = Field(
        description="class at the model's operating point; of several targets the positive classes that reach theirs, "
        "joined by '; '"
    )
    probability: Probability = Field(
        description="of the positive class when binary, else of `predicted`; of several targets the highest of those "
        "that reach their operating points, or of all"
    )
    probabilities: dict[str, Probability] = Field(description="in CSV one column per class: probabilities[CLASS]")
    interval_low: Probability = Field(description="lowest `probability` over the fold models")
    interval_high: Probability
    conformal_set: dict[str, bool] = Field(
        description="whether the class cannot be ruled out, one column per class; empty: a model without thresholds"
    )
    abstained: bool | None = Field(
        description="the conformal set is not a single class; empty: no thresholds, or several targets"
    )
    predictions: dict[str, str] = Field(
        default={}, description="several targets: class at the operating point, one column per target"
    )
    undecided: dict[str, bool] = Field(
        default={}, description="several targets: the target's conformal set is not a single class"
    )
    event_free: dict[str, Probability] = Field(
        default={},
        description="of a target among several that is a time to an event: probability of no event until each horizon",
    )
    median_time: dict[str, float] = Field(
        default={}, description="of that target: by which the event is as likely as not; empty: after the last horizon"
    )
    modalities_used: str = Field(description="joined by +")
    training_patient: bool = Field(description="the patient was in the training cohort: not a test result")
    weights_digest: Sha256


class LedgerRow(Document):
    """ledger.csv: one row per study that was not scored."""

    study_key: StudyKey
    patient_key: PatientKey
    stage: Stage
    code: str
    reason: str
    retryable: bool

    @classmethod
    def of(cls, study_key: str, patient_key: str, refusal: Refusal) -> "LedgerRow":
        """Return the row for a refused study."""
        return cls(
            study_key=study_key, patient_key=patient_key, stage=refusal.stage, code=refusal.code,
            reason=refusal.reason, retryable=refusal.retryable,
        )  # fmt: skip


class QualityRow(Document):
    """quality.csv: one row per finding of the quality checks."""

    study_key: StudyKey
    series_key: SeriesKey | None = Field(description="empty: the note, or a recording")
    code: str
    decision: Severity = Field(description="what the policy makes of it; refuse: the study is not used")
    value: float | None = Field(description="what was measured; empty when the series could not be read")
    bound: float | None
    reason: str

    @classmethod
    def of(cls, study_key: str, finding: QualityFinding) -> "QualityRow":
        """Return the row for a finding that the policy has judged."""
        return cls(
            study_key=study_key, series_key=None if finding.where == study_key else finding.where, code=finding.code,
            decision=finding.severity or "warn", value=finding.value, bound=finding.bound, reason=finding.reason,
        )  # fmt: skip


class OutOfFoldKeys(Document):
    """What every row of out_of_fold.csv begins with."""

    study_key: StudyKey
    patient_key: PatientKey
    arm: str = Field(description="image, text or fused")
    repeat: int = Field(ge=0, description="draw of the folds; the packaged networks are of 0")
    fold: int = Field(ge=0)


class ToldSurvival(Document):
    """What a model says of one study's time to an event, where that is the only target."""

    predicted: Literal["lower risk", "higher risk"] = Field(
        description="against the median risk of tuning parts: of the study's fold, when scoring of all"
    )
    probability: Probability = Field(description="of the event by the largest horizon")
    event_free: dict[str, Probability] = Field(
        description="probability of no event until each horizon; in CSV one column each: event_free[365 days]"
    )
    median_time: NonNegativeFloat | None = Field(
        description="by which the event is as likely as not; empty: after the largest horizon"
    )
    log_hazard: float = Field(description="log of the cumulative hazard until the largest horizon: what is explained")


class OutOfFoldRow(OutOfFoldKeys):
    """out_of_fold.csv: one row per study, arm and repeat, predicted by the fold model that never saw the patient."""

    target: str = Field(description="true class")
    predicted: str = Field(description="at the operating point chosen on this fold's tuning part")
    probabilities: dict[str, Probability]
    logits: dict[str, float] = Field(description="calibrated; the positive class alone when binary")
    conformal_set: dict[str, bool] = Field(
        description="whether the class cannot be ruled out, by the thresholds of this fold's tuning part"
    )
    abstained: bool | None = Field(description="the conformal set is not a single class")


class TargetsOutOfFoldRow(OutOfFoldKeys):
    """out_of_fold.csv of several targets: one row per study, arm, repeat; a column per target or class of a field."""

    target: dict[str, str] = Field(description="true class by target; empty: not known, not evaluated")
    predicted: dict[str, str] = Field(description="by target, at the operating point of this fold's tuning part")
    probabilities: dict[str, Probability] = Field(description="by class; those of a target sum to 1")
    logits: dict[str, float] = Field(
        description="calibrated; of a binary target the positive class alone, of a time the log of its hazard"
    )
    conformal_set: dict[str, bool] = Field(description="by class: whether it cannot be ruled out")
    abstained: dict[str, bool] = Field(description="by target: the conformal set is not a single class")
    time: dict[str, float] = Field(default={}, description="of a target that is a time to an event; empty: not known")
    event: dict[str, bool] = Field(default={}, description="of that target: the event ended the time")
    event_free: dict[str, Probability] = Field(
        default={}, description="of that target: probability of no event until each horizon, one column each"
    )
    median_time: dict[str, float] = Field(
        default={}, description="of that target: by which the event is as likely as not; empty: after the last horizon"
    )


class ScoredKeys(Document):
    """What every row of predictions.csv begins with."""

    study_key: StudyKey
    patient_key: PatientKey


class SurvivalPredictionRow(ToldSurvival, ScoredKeys):
    """predictions.csv of a time to an event: one row per scored study."""

    interval_low: Probability = Field(description="lowest `probability` over the fold models")
    interval_high: Probability
    modalities_used: str = Field(description="joined by +")
    training_patient: bool = Field(description="the patient was in the training cohort: not a test result")
    weights_digest: Sha256


class Watched(OutOfFoldKeys):
    """What is known of one study's time to an event."""

    time: NonNegativeFloat = Field(description="until the event, or until when the patient was followed without it")
    event: bool = Field(description="the event ended the time")


class SurvivalOutOfFoldRow(ToldSurvival, Watched):
    """out_of_fold.csv of a time to an event: one row per study, arm and repeat."""


class LeakRow(Document):
    """leaks.csv: one row per fold and pair of its parts that share something, with the first such study of each."""

    shared: Shared
    fold: str = Field(description="or inner fold, 0.1; with its repeat, but for the first")
    study_key: StudyKey
    patient_key: PatientKey
    part: Part
    other_study_key: StudyKey
    other_patient_key: PatientKey
    other_part: Part


ROWS: Mapping[str, type[Document]] = {
    "studies_row": StudyRow,
    "series_row": SeriesRow,
    "files_row": FileRow,
    "selection_row": SelectionRow,
    "problems_row": ProblemRow,
    "linkage_row": LinkageRow,
    "predictions_row": PredictionRow,
    "ledger_row": LedgerRow,
    "quality_row": QualityRow,
    "out_of_fold_row": OutOfFoldRow,
    "targets_out_of_fold_row": TargetsOutOfFoldRow,
    "survival_predictions_row": SurvivalPredictionRow,
    "survival_out_of_fold_row": SurvivalOutOfFoldRow,
    "leaks_row": LeakRow,
    "search_row": SearchRow,
}
"""Schema name -> document of one row."""
