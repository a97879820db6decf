"""Pydantic documents of what a result can be trusted for; parts of `result_documents.EvaluationDocument`.

use of modalities, groups and their gaps, rules of the policy, decision curves -> parts of evaluation.json
"""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medmllm.documents import Document


class EstimateDocument(Document):
    """A number with its patient-clustered bootstrap interval; null where it is not defined."""

    estimate: float | None
    low: float | None
    high: float | None


class ModalityUseDocument(Document):
    """What one arm takes from one modality: how far its AUROC falls without it, out of fold, on the same networks."""

    arm: str
    modality: str
    n: int = Field(ge=0, description="studies that have it and were given another patient's")
    patients: int = Field(ge=0)
    permutations: PositiveInt = Field(description="of each test part, in each repeat")
    metric: Literal["AUROC", "C-index"] = Field(default="AUROC", description="what `auroc` and `permuted` are of")
    auroc: EstimateDocument = Field(description="of these studies, as they are; or their C-index")
    permuted: EstimateDocument = Field(description="with another patient's; mean over the permutations, and repeats")
    fall: EstimateDocument = Field(description="auroc minus permuted, paired by patient")
    fall_absent: EstimateDocument = Field(description="auroc minus that without the modality, paired by patient")
    bound: PositiveFloat = Field(description="ignored: the whole interval of fall lies below")
    verdict: Literal["used", "ignored", "unclear"]


class GroupDocument(Document):
    """How the packaged arm does on the studies of one group, out of fold."""

    name: str = Field(description="value of the column, or band")
    n: int = Field(ge=0, description="studies")
    patients: int = Field(ge=0)
    class_counts: dict[str, int] = Field(description="studies by class; of a time, with the event and censored")
    metrics: dict[str, EstimateDocument]


class GapDocument(Document):
    """The two groups of a column that lie furthest apart in one metric."""

    name: str
    highest: str
    lowest: str
    difference: EstimateDocument = Field(description="highest minus lowest, on the same resamples of patients")


class SubgroupDocument(Document):
    """The groups of one column of the label table."""

    column: str
    arm: str
    groups: tuple[GroupDocument, ...]
    gaps: tuple[GapDocument, ...]
    too_small: dict[str, int] = Field(description="groups that are not shown -> their patients")
    too_few: dict[str, tuple[str, ...]] = Field(
        default={},
        description="metric -> groups shown without it, for too few patients of a class it is told of; of a time, "
        "with the event or followed so long",
    )
    unknown: int = Field(ge=0, description="studies whose cell is empty")


class RuleDocument(Document):
    """One rule of [policy] and whether the run meets it."""

    rule: str
    value: float | None = Field(description="what was measured; null where it is not defined")
    bound: float | None
    met: bool
    said: str = Field(description="in plain words")


class AurocDifferenceDocument(Document):
    """AUROC of one arm minus that of another by DeLong's variance, which takes studies as independent."""

    first: str
    second: str
    estimate: float
    standard_error: float = Field(ge=0)
    low: float | None
    high: float | None
    p_value: float | None = Field(ge=0, le=1, description="two-sided, of no difference; not corrected for others")


class LearningPointDocument(Document):
    """How well an arm does that learns from a part of each fold's training patients, out of fold."""

    fraction: float = Field(gt=0, le=1, description="of the training patients of each class; 1: the ordinary training")
    training_patients: tuple[PositiveInt, ...] = Field(
        min_length=2, description="of each fold, in each repeat; with inner folds of all networks of a fold together"
    )
    training_studies: tuple[PositiveInt, ...] = Field(min_length=2, description="of the same")
    auroc: EstimateDocument
    behind: EstimateDocument | None = Field(
        description="of the ordinary training minus this one, paired by patient; null for itself"
    )

    @property
    def mean_patients(self) -> float:
        """Training patients of a fold, on average."""
        return sum(self.training_patients) / len(self.training_patients)


class LearningCurveDocument(Document):
    """AUROC of one arm against the number of patients it learns from; tuning and test parts are always the same."""

    arm: str
    metric: Literal["AUROC", "C-index"] = Field(default="AUROC", description="what `auroc` of each point is")
    points: tuple[LearningPointDocument, ...] = Field(min_length=2, description="smallest first, last the ordinary one")


class DecisionCurveDocument(Document):
    """Net benefit of acting on one arm's probabilities, per study, out of fold."""

    arm: str
    thresholds: tuple[float, ...] = Field(description="of the probability, from which on is treated")
    net_benefit: tuple[EstimateDocument, ...] = Field(description="one per threshold")
    treat_all: tuple[float, ...] = Field(description="net benefit of treating everyone; of treating no one it is 0")
    repeats: tuple[tuple[float, ...], ...] = Field(
        default=(), description="net benefit in each repeat, whose mean `net_benefit` is; empty where there is one"
    )
