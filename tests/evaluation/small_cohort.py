"""90 studies of 30 patients in four folds, arms that tell their two classes more or less well, and their metrics."""

import numpy as np

from medmllm.evaluation.calibration import to_probabilities
from medmllm.evaluation.cohort import OutOfFold
from medmllm.records import CohortEvaluation, Metric

N = 90
TARGETS = np.array([0, 1, 0] * 30)
PATIENTS = [f"pt-{number // 3}" for number in range(N)]  # three studies each, of both classes
FOLDS = np.array([number // 3 % 4 for number in range(N)])


def arm(name: str, strength: float, seed: int) -> OutOfFold:
    """Return noise to which so much of the truth is added."""
    logits = np.random.default_rng(seed).normal(size=N) + strength * (TARGETS - 0.5)
    return OutOfFold(name, to_probabilities(logits), logits, (logits >= 0.2).astype(int))


def of(evaluation: CohortEvaluation, arm_name: str) -> dict[str, Metric]:
    found = next(one for one in evaluation.arms if one.arm == arm_name)
    return {metric.name: metric for metric in found.metrics}
