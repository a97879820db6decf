"""Pydantic documents of what runs write: evaluations, predictions, explanations, summaries.

    records of a finished run -> Document -> a JSON file that others read

The forms and rules are those of `medmllm.documents`.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from medmllm.documents import (
    RESEARCH_USE_ONLY,
    Document,
    PatientKey,
    Probability,
    SeriesKey,
    Sha256,
    StudyKey,
)
from medmllm.model_documents import ModelCard, Task, fold_name
from medmllm.records import Provenance
from medmllm.search_documents import SearchDocument
from medmllm.survival_documents import SurvivalArmDocument, SurvivalEstimateDocument
from medmllm.table_documents import TableCodes
from medmllm.trust_documents import (
    AurocDifferenceDocument,
    DecisionCurveDocument,
    LearningCurveDocument,
    ModalityUseDocument,
    RuleDocument,
    SubgroupDocument,
)


class MetricDocument(Document):
    """One estimate with its patient-clustered bootstrap interval."""

    name: str
    estimate: float | None = Field(description="mean over the repeats, where there are several")
    low: float | None
    high: float | None
    n: int = Field(ge=0)
    patients: int = Field(ge=0)
    group: str
    lowest: float | None = Field(default=None, description="of the repeats; null: one only, or not defined in all")
    highest: float | None = None


class ClassCoverageDocument(Document):
    """How often the conformal sets of a class's studies hold the class."""

    name: str
    n: int = Field(ge=0, description="studies of the class")
    covered: int = Field(ge=0)
    estimate: Probability | None
    low: Probability | None = Field(description="binomial interval, studies taken as independent")
    high: Probability | None


class ConformalDocument(Document):
    """One arm's conformal sets, out of fold."""

    asked: Probability = Field(description="coverage per class that the thresholds aim at")
    classes: tuple[ClassCoverageDocument, ...]
    set_sizes: tuple[int, ...] = Field(description="studies with a set of 0, 1, ... classes")
    abstained: Probability = Field(description="share of the studies whose set is not a single class")


class ArmDocument(Document):
    """One arm's out-of-fold metrics."""

    arm: str
    metrics: tuple[MetricDocument, ...]
    conformal: ConformalDocument | None = None


class FoldDocument(Document):
    """What one network of the split sees: how many studies and patients."""

    fold: int
    inner: int | None = Field(default=None, ge=0, description="inner fold; null where the fold has one network")
    training_studies: int
    tuning_studies: int
    test_studies: int
    training_patients: int
    tuning_patients: int
    test_patients: int

    @property
    def name(self) -> str:
        """The fold as people write it: 0, or 0.1 for an inner fold."""
        return fold_name(self.fold, self.inner)


class FoldStudies(Document):
    """Which studies one fold trains on, tunes on and tests on."""

    train: tuple[StudyKey, ...]
    tune: tuple[StudyKey, ...] = Field(
        description="for early stopping, temperature and threshold; empty where there are inner folds"
    )
    test: tuple[StudyKey, ...] = Field(min_length=1)
    inner: tuple[tuple[StudyKey, ...], ...] = Field(
        default=(),
        description="inner folds of `train`: each is the tuning part of a network that trains on the others; empty: "
        "one network, with `tune`",
    )

    @field_validator("inner")
    @classmethod
    def _parts_the_training_studies(
        cls, inner: tuple[tuple[str, ...], ...], info: ValidationInfo
    ) -> tuple[tuple[str, ...], ...]:
        train, tune = info.data.get("train"), info.data.get("tune")  # absent when they are themselves wrong
        if not inner or train is None or tune is None:
            return inner
        if len(inner) < 2 or tune or sorted(key for own in inner for key in own) != sorted(train):
            raise ValueError("two inner folds or more hold each study of train once, and tune is empty")
        return inner


class SplitDocument(Document):
    """RUN/splits.json: the folds of a run, by study key; `medmllm train --splits` takes it again."""

    digest: Sha256 = Field(
        description="sha256 over fold (with its inner fold and repeat), part and study key of every membership"
    )
    folds: tuple[FoldStudies, ...] = Field(min_length=2)
    repeats: tuple[tuple[FoldStudies, ...], ...] = Field(
        default=(), description="the folds of further draws, which test each study once more; empty: one draw"
    )


class TargetEvaluation(Document):
    """How one target did, on the studies where it is known; all arms on the same folds."""

    task: Task
    n: int
    patients: int
    class_counts: dict[str, int]
    arms: tuple[ArmDocument, ...]
    differences: tuple[MetricDocument, ...]
    delong: tuple[AurocDifferenceDocument, ...] = Field(
        default=(), description="the same differences by another way, where patients have one study each; binary alone"
    )
    decision_curves: tuple[DecisionCurveDocument, ...] = Field(default=(), description="binary alone")
    modality_use: tuple[ModalityUseDocument, ...] = Field(
        default=(), description="of arms that read more than one modality; empty: not tested"
    )
    subgroups: tuple[SubgroupDocument, ...] = Field(
        default=(), description="of the packaged arm; empty: none asked for"
    )
    survival: tuple[SurvivalArmDocument, ...] = Field(default=(), description="of a time to an event alone")
    learning_curve: LearningCurveDocument | None = Field(
        default=None, description="of the packaged arm; null: not asked for"
    )


class EvaluationDocument(TargetEvaluation):
    """RUN/evaluation.json: the cross-validated result; of several targets, the means over them and then each."""

    targets: tuple[TargetEvaluation, ...] = Field(
        default=(), description="of several, each on its own; metrics and differences above are then their means"
    )
    policy: tuple[RuleDocument, ...] = Field(default=(), description="rules of [policy]; empty: none")
    synthetic: bool
    excluded: int = Field(ge=0, description="studies left out; training_ledger.csv says why")
    confidence: Probability = Field(description="level of the intervals")
    bootstrap_samples: int
    folds: tuple[FoldDocument, ...] = Field(description="of the first repeat")
    repeats: PositiveInt = Field(
        default=1,
        description="draws of the folds: metrics, differences, groups, use of modalities, decision and learning curves "
        "are means over them, all else is of the first",
    )
    search: SearchDocument | None = Field(default=None, description="null: no settings were searched")
    split_digest: Sha256
    contract_fingerprint: Sha256
    remarks: tuple[str, ...] = Field(description="plain words on what the numbers do not support")
    provenance: Provenance

    @property
    def each(self) -> tuple[TargetEvaluation, ...]:
        """What is told of each target; of one target, the whole."""
        return self.targets or (self,)


class PredictionDocument(Document):
    """OUT/studies/<study_key>/prediction.json."""

    study_key: StudyKey
    patient_key: PatientKey
    task: Task
    predicted: str
    probability: Probability
    probability_of: str | None = Field(
        default=None, description="several targets: the class that leads, see predictions.csv"
    )
    predictions: dict[str, str] = Field(
        default={}, description="several targets: target -> class at its operating point"
    )
    probabilities: dict[str, Probability]
    logits: tuple[float, ...]
    interval: tuple[Probability, Probability]
    interval_meaning: Literal["lowest and highest over the fold models"] = "lowest and highest over the fold models"
    operating_point: Probability
    calibration: str
    conformal_set: tuple[str, ...] | None
    survival: SurvivalEstimateDocument | None = Field(
        default=None,
        description="of a time to an event; logits is then the log of the cumulative hazard until the largest horizon, "
        "and probability that of the event by then",
    )
    modalities_used: tuple[str, ...]
    unknown_categories: dict[str, PositiveInt] = Field(
        default={},
        description="column of the table -> networks that do not know the category in it, and read it as missing",
    )
    training_patient: bool
    synthetic: bool
    weights_digest: Sha256
    contract_fingerprint: Sha256
    research_use_only: str = RESEARCH_USE_ONLY
    provenance: Provenance


class WordDocument(Document):
    """One word's attribution; the text itself is not written."""

    start: int
    end: int
    section: str
    attribution: float


class CellDocument(Document):
    """The attribution of one cell of the label table; its value is not written."""

    column: str
    attribution: float


class ChannelFile(Document):
    """The attribution map of one channel."""

    channel: str
    series_key: SeriesKey
    file: str
    peak_voxel: tuple[int, int, int] = Field(description="(x, y, z) of the largest absolute attribution, source grid")
    peak_ras_mm: tuple[float, float, float]


class ExplanationDocument(Document):
    """OUT/studies/<study_key>/explanation.json."""

    study_key: StudyKey
    explained_class: str
    method: str
    baseline: str
    steps: PositiveInt
    logit: float
    baseline_logit: float
    convergence_delta: float
    completeness_error: float = Field(ge=0, description="|convergence_delta| / |logit - baseline_logit|")
    modality_shares: dict[str, Probability]
    modality_sums: dict[str, float]
    channels: tuple[ChannelFile, ...]
    words: tuple[WordDocument, ...]
    section_sums: dict[str, float]
    cells: tuple[CellDocument, ...] = Field(default=(), description="of the columns that the study has a value in")
    faithfulness: float | None
    grade: str | None
    research_use_only: str = RESEARCH_USE_ONLY
    provenance: Provenance


class ScoringSummary(Document):
    """OUT/summary.json: how the folder went as a whole."""

    scored: int = Field(ge=0)
    refused: int = Field(ge=0)
    refused_by_code: dict[str, int]
    explained: int = Field(ge=0)
    ignored_files: int = Field(ge=0, description="files that are no part of any study; problems.csv says why")
    synthetic: bool
    provenance: Provenance


class QualitySummary(Document):
    """OUT/summary.json of `medmllm quality`: what the checks found in a folder."""

    studies: int = Field(ge=0)
    series: int = Field(ge=0, description="read; those that cannot be are findings")
    notes: int = Field(ge=0, description="studies with a note")
    recordings: int = Field(ge=0)
    refused_studies: int = Field(ge=0, description="of which something is refused by the policy, or cannot be read")
    findings: dict[str, dict[str, int]] = Field(description="code -> decision -> how many")
    provenance: Provenance


class MismatchDocument(Document):
    """A tensor that was not loaded, as its shape differs."""

    name: str
    in_file: tuple[int, ...]
    in_network: tuple[int, ...]


class ImageWeightsDocument(Document):
    """RUN/image_weights.json: what became of every key of the pretrained weights; names without `module.`."""

    file: str = Field(description="name, without its folder")
    sha256: Sha256
    image_encoder: str
    loaded: tuple[str, ...] = Field(description="equal to the file's when training started")
    adapted: tuple[str, ...] = Field(description="first convolution, averaged over the file's channels and scaled")
    missing: tuple[str, ...] = Field(description="not in the file: started at random")
    unused: tuple[str, ...] = Field(description="in the file only")
    mismatched: tuple[MismatchDocument, ...] = Field(description="not loaded: started at random")
    provenance: Provenance


class DeidentificationDocument(Document):
    """OUT/deidentification.json: what was done to a folder, and what was left out."""

    dry_run: bool = Field(description="nothing was written but this report and the ledger")
    profile: Literal["DICOM PS3.15 Annex E Basic Application Level Confidentiality Profile"] = (
        "DICOM PS3.15 Annex E Basic Application Level Confidentiality Profile"
    )
    method_codes: dict[str, str] = Field(description="code of PS3.16 CID 7050 -> meaning, as written into each file")
    options: dict[str, str] = Field(description="setting -> value; names given in the settings are not repeated")
    studies: int = Field(ge=0, description="of which anything was written")
    written: dict[str, int] = Field(description="kind of file -> how many")
    refused: int = Field(ge=0, description="files that should have been written and were not; ledger.csv says why")
    refused_by_code: dict[str, int]
    ignored: int = Field(ge=0, description="files of no study, not written either; ledger.csv says why")
    actions: dict[str, dict[str, int]] = Field(description="what was done -> DICOM attribute -> how often; no values")
    placeholders: dict[str, int] = Field(description="kind of placeholder -> how many, in notes")
    limits: tuple[str, ...] = Field(description="plain words on what this does not do")
    provenance: Provenance


FILES: Mapping[str, type[Document]] = {
    "model": ModelCard,
    "table_codes": TableCodes,
    "evaluation": EvaluationDocument,
    "splits": SplitDocument,
    "prediction": PredictionDocument,
    "explanation": ExplanationDocument,
    "summary": ScoringSummary,
    "deidentification": DeidentificationDocument,
    "quality_summary": QualitySummary,
    "image_weights": ImageWeightsDocument,
}
"""Schema name -> document, for every JSON file read or written (tables: `table_rows`, settings: `config`)."""
