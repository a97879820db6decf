"""Turn out-of-fold probabilities into the points of the two curves that a training report draws.

probabilities, true classes -> ROC points, reliability bins

Numbers in the report's tables come from evaluation.json; the curves only show their shape.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from medmllm.records import FloatArray

RELIABILITY_BINS = 10
MACRO_GRID = 201  # false-positive rates at which one-versus-rest curves are averaged


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """What one arm predicted for studies that its fold model never saw."""

    probabilities: FloatArray = field(repr=False)  # (studies, classes), calibrated
    targets: npt.NDArray[np.integer] = field(repr=False)  # (studies,), true class index


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Studies whose probability fell into one of ten equal bins."""

    predicted: float  # mean probability
    observed: float  # fraction that turned out so
    low: float  # 95 % Wilson interval of `observed`
    high: float
    n: int


def roc_points(result: OutOfFold) -> tuple[tuple[float, float], ...]:
    """Return (false-positive rate, true-positive rate) from (0, 0) to (1, 1).

    With two classes the curve of the second; with more the mean of the one-versus-rest curves of all
    classes that occur. Empty when only one class occurs.
    """
    if len(np.unique(result.targets)) < 2:
        return ()
    if result.probabilities.shape[1] == 2:
        false_rate, true_rate, _ = roc_curve(result.targets == 1, result.probabilities[:, 1])
    else:
        false_rate = np.linspace(0, 1, MACRO_GRID)
        curves = []
        for one in np.unique(result.targets):
            x, y, _ = roc_curve(result.targets == one, result.probabilities[:, one])
            curves.append(np.interp(false_rate, x, y))
        true_rate = np.mean(curves, axis=0)
        true_rate[0] = 0.0
    return tuple(zip(false_rate.tolist(), true_rate.tolist(), strict=True))


def reliability_bins(result: OutOfFold) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty ones of ten equal-width bins.

    With two classes the probability of the second against how often it is true; with more the
    probability of the likeliest class against how often that is right.
    """
    if result.probabilities.shape[1] == 2:
        predicted, outcome = result.probabilities[:, 1], result.targets == 1
    else:
        predicted = result.probabilities.max(axis=1)
        outcome = result.probabilities.argmax(axis=1) == result.targets
    which = np.minimum((predicted * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    bins = []
    for number in np.unique(which):
        inside = which == number
        n, hits = int(inside.sum()), int(outcome[inside].sum())
        interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
        bins.append(
            ReliabilityBin(float(predicted[inside].mean()), hits / n, float(interval.low), float(interval.high), n)
        )
    return tuple(bins)
