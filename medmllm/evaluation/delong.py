"""Compare two AUROCs on the same studies without resampling, by DeLong's variance.

    targets, scores of two models -> difference of AUROC, its standard error, interval and p-value

DeLong, DeLong and Clarke-Pearson, Biometrics 1988; by midranks as in Sun and Xu, IEEE Signal Process Lett 2014, so that
thousands of studies take no time. It takes studies as independent: with several of one patient it does not apply, and
the patient-clustered bootstrap stands alone. The models are taken as given, as in the bootstrap.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from medmllm.errors import EvaluationError
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.records import FloatArray


@dataclass(frozen=True, slots=True)
class AurocDifference:
    """AUROC of one model minus that of another."""

    estimate: float
    standard_error: float
    low: float | None  # None where the standard error is 0: the models rank alike, or nothing varies
    high: float | None
    p_value: float | None  # two-sided, of no difference


def compare_aurocs(targets: IntArray, first: FloatArray, second: FloatArray, *, confidence: float) -> AurocDifference:
    """Return the difference of the AUROCs of two models on the same independent studies.

    Args:
        targets: 0 or 1, at least two of each; shape (studies,).
        first: Scores that grow with the chance of class 1; shape (studies,).
        second: Those of the other model.
        confidence: Level of the interval.

    Raises:
        EvaluationError: Fewer than two studies of a class, or scores that do not fit.
    """
    positive = np.asarray(targets) == 1
    if min(positive.sum(), (~positive).sum()) < 2:
        raise EvaluationError(
            f"DeLong's variance needs two studies of each class, got {positive.sum()} and {(~positive).sum()}"
        )
    if not len(first) == len(second) == positive.size:
        raise EvaluationError(f"{len(first)} and {len(second)} scores do not fit {positive.size} targets")
    parts = [_placements(positive, np.asarray(scores, dtype=np.float64)) for scores in (first, second)]
    of_positives, of_negatives = (np.stack([part[side] for part in parts]) for side in (0, 1))
    areas = of_positives.mean(axis=1)
    covariance = np.cov(of_positives) / positive.sum() + np.cov(of_negatives) / (~positive).sum()
    contrast = np.array([1.0, -1.0])
    estimate, error = float(areas[0] - areas[1]), float(np.sqrt(max(contrast @ covariance @ contrast, 0.0)))
    if error < 1e-12:
        return AurocDifference(estimate, 0.0, None, None, None)
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    p_value = float(2 * norm.sf(abs(estimate) / error))
    return AurocDifference(estimate, error, estimate - reach, estimate + reach, p_value)


def _placements(positive: BoolArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return for each positive the share of negatives below it, and for each negative that of positives above it.

    A tie counts half. The mean of either is the AUROC.
    """
    ranks = rankdata(scores)
    cases, controls = scores[positive], scores[~positive]
    below = (ranks[positive] - rankdata(cases)) / controls.size
    above = 1 - (ranks[~positive] - rankdata(controls)) / cases.size
    return below, above
