"""Ask of a finished cross-validation what it can be trusted for, and write the answers as documents.

Trained -> which modalities the arms use -> documents for evaluation.json, remarks in plain words
"""

from dataclasses import dataclass

import numpy as np

from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.modality_use import ModalityUse, evaluate_use, use_remarks
from medmllm.evaluation.resampling import Interval
from medmllm.training.cross_validation import ArmResult
from medmllm.training_config import EvaluationSettings
from medmllm.trust_documents import EstimateDocument, ModalityUseDocument


@dataclass(frozen=True, slots=True)
class Trust:
    """What evaluation.json says beside the metrics."""

    modality_use: tuple[ModalityUseDocument, ...]
    remarks: tuple[str, ...]


def assess(
    arms: tuple[ArmResult, ...], *, targets: list[int], patients: list[str], settings: EvaluationSettings, seed: int
) -> Trust:
    """Return what the arms can be trusted for.

    Args:
        arms: Cross-validated.
        targets: Class index of each study of the cohort.
        patients: Patient of each study.
        settings: Bounds and intervals.
        seed: Of the resamples.
    """
    uses = tuple(
        use
        for arm in arms
        if isinstance(arm.out_of_fold, OutOfFold)
        for use in evaluate_use(
            arm.out_of_fold,
            arm.deprived,
            targets=np.array(targets),
            patients=patients,
            bound=settings.ignored_below,
            confidence=settings.confidence,
            samples=settings.bootstrap_samples,
            seed=seed,
        )
    )
    return Trust(tuple(map(_use, uses)), tuple(use_remarks(uses, confidence=settings.confidence)))


def _use(found: ModalityUse) -> ModalityUseDocument:
    return ModalityUseDocument(
        arm=found.arm,
        modality=found.modality,
        n=found.n,
        patients=found.patients,
        permutations=found.permutations,
        auroc=_estimate(found.auroc),
        permuted=_estimate(found.permuted),
        fall=_estimate(found.fall),
        fall_absent=_estimate(found.fall_absent),
        bound=found.bound,
        verdict=found.verdict,
    )


def _estimate(found: Interval) -> EstimateDocument:
    return EstimateDocument(estimate=found.estimate, low=found.low, high=found.high)
