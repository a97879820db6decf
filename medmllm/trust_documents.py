"""Pydantic documents of what a result can be trusted for; parts of `result_documents.EvaluationDocument`.

which modalities a model uses -> a part of evaluation.json
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
    permutations: PositiveInt
    auroc: EstimateDocument = Field(description="of these studies, as they are")
    permuted: EstimateDocument = Field(description="with another patient's; mean over the permutations")
    fall: EstimateDocument = Field(description="auroc minus permuted, paired by patient")
    fall_absent: EstimateDocument = Field(description="auroc minus that without the modality, paired by patient")
    bound: PositiveFloat = Field(description="ignored: the whole interval of fall lies below")
    verdict: Literal["used", "ignored", "unclear"]
