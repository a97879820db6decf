"""Turn out-of-fold probabilities into the points of the curves that a training report draws.

    probabilities, true classes -> ROC points, reliability points; net benefit -> decision chart;
    AUROC by training patients -> learning chart

Numbers in the report's tables come from evaluation.json; the curves only show their shape. Of several repeats of the
cross-validation the mean is drawn, and each of them beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from sklearn.metrics import roc_curve

from medmllm.evaluation.calibration import bin_of, reliability_bins
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.ordinal import at_least
from medmllm.records import FloatArray
from medmllm.trust_documents import DecisionCurveDocument, LearningCurveDocument

APART = 0.1  # numbers closer than this part of an axis would touch
MEAN_GRID = 201  # false-positive rates at which curves are averaged

Points = tuple[tuple[float, float], ...]
"""x and y of each corner of a curve."""


@dataclass(frozen=True, slots=True)
class DecisionChart:
    """Decision curves in a unit square; what lies below its bottom is drawn on it."""

    arms: tuple[tuple[str, Points], ...]  # name, points
    treat_all: Points
    treat_none: float  # height of net benefit 0
    repeats: tuple[tuple[Points, ...], ...]  # of each arm, its points in each repeat
    ticks: tuple[tuple[float, str], ...]  # height, net benefit


@dataclass(frozen=True, slots=True)
class LearningMark:
    """One point of a learning curve in a unit square."""

    patients: float  # trained on, on average over the folds
    auroc: float
    x: float
    y: float
    low: float | None  # heights of the interval
    high: float | None


@dataclass(frozen=True, slots=True)
class LearningChart:
    """A learning curve in a unit square: training patients from 0, AUROC or C-index up to 1."""

    metric: str
    marks: tuple[LearningMark, ...]
    chance: float  # height of AUROC 0.5
    levels: tuple[tuple[float, float], ...]  # height, AUROC
    places: tuple[tuple[float, float], ...]  # x, training patients; marks too close to be told apart have one


@dataclass(frozen=True, slots=True)
class ReliabilityPoint:
    """The studies of one bin: how probable the event was said to be, and how often it came."""

    predicted: float  # mean probability
    observed: float  # fraction
    low: float  # Wilson interval of `observed`, of as many patients as a repeat has in the bin
    high: float
    n: int  # studies, of all repeats


def roc_points(probabilities: FloatArray, targets: IntArray, *, ordered: bool = False) -> Points:
    """Return (false-positive rate, true-positive rate) from (0, 0) to (1, 1).

    With two classes the curve of the second; with more the mean of the one-versus-rest curves of all
    classes that occur, or, where they are ordered, of "this class or higher". Empty when only one class occurs.

    Args:
        probabilities: Shape (studies, classes).
        targets: True class index; shape (studies,).
        ordered: The classes stand in an order, lowest first.

    >>> roc_points(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
    ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    """
    occurring = np.unique(targets)
    if len(occurring) < 2:
        return ()
    if probabilities.shape[1] == 2:
        false_rate, true_rate, _ = roc_curve(targets == 1, probabilities[:, 1])
    else:
        if ordered:
            cuts = zip(occurring[1:], at_least(probabilities)[:, occurring[1:] - 1].T, strict=True)
            curves = [roc_curve(targets >= one, chance) for one, chance in cuts]
        else:
            curves = [roc_curve(targets == one, probabilities[:, one]) for one in occurring]
        return mean_curve([tuple(zip(x, y, strict=True)) for x, y, _ in curves])
    return tuple(zip(false_rate.tolist(), true_rate.tolist(), strict=True))


def mean_curve(curves: Sequence[Points]) -> Points:
    """Return the mean true-positive rate of ROC curves at each false-positive rate; the area is the mean area.

    Args:
        curves: Each from (0, 0) to (1, 1); none is empty, or all are.

    >>> mean_curve([((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)), ((0.0, 0.0), (1.0, 1.0))])[:2]
    ((0.0, 0.0), (0.0, 0.5))
    """
    if not all(curves):
        return ()
    false_rate = np.linspace(0, 1, MEAN_GRID)
    true_rate = np.mean([np.interp(false_rate, *np.transpose(own)) for own in curves], axis=0)
    return ((0.0, 0.0), *zip(false_rate.tolist(), true_rate.tolist(), strict=True))


def decision_chart(curves: Sequence[DecisionCurveDocument]) -> DecisionChart | None:
    """Return the curves scaled to a unit square, from a little below 0 to the highest; None without a curve.

    Args:
        curves: Of the same studies, at the same thresholds.
    """
    values = [own.estimate for curve in curves for own in curve.net_benefit if own.estimate is not None]
    if not values:
        return None
    each = [value for curve in curves for own in curve.repeats for value in own]
    high = max(*values, *each, *curves[0].treat_all, 0.01)
    low = -high / 4  # room for a model that does harm; what treating all costs at high thresholds has no end

    def height(value: float) -> float:
        return min(max((value - low) / (high - low), 0.0), 1.0)

    return DecisionChart(
        arms=tuple(
            (
                curve.arm,
                tuple(
                    (threshold, height(own.estimate))
                    for threshold, own in zip(curve.thresholds, curve.net_benefit, strict=True)
                    if own.estimate is not None
                ),
            )
            for curve in curves
        ),
        treat_all=tuple((t, height(value)) for t, value in zip(curves[0].thresholds, curves[0].treat_all, strict=True)),
        treat_none=height(0.0),
        repeats=tuple(
            tuple(
                tuple((t, height(value)) for t, value in zip(curve.thresholds, own, strict=True))
                for own in curve.repeats
            )
            for curve in curves
        ),
        ticks=tuple((height(value), f"{value:g}".replace("-", "−")) for value in _round_values(low, high)),
    )


def _round_values(low: float, high: float) -> list[float]:
    """Return round numbers between two, 0 among them, two to five of them above it.

    >>> _round_values(-0.09, 0.36)
    [0.0, 0.1, 0.2, 0.3]
    >>> _round_values(-0.0125, 0.05)
    [0.0, 0.02, 0.04]
    """
    # Treating all of a cohort with 29 of 200 positives is worth 0.1 less a bit, whose logarithm is that of 0.1.
    low, high = (float(f"{value:.9g}") for value in (low, high))
    power = 10.0 ** math.floor(math.log10(high))
    step = next(own for own in (2 * power, power, power / 2) if high / own >= 2)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def learning_chart(curve: LearningCurveDocument | None) -> LearningChart | None:
    """Return a learning curve scaled to a unit square; None without one, or where no AUROC is defined.

    Args:
        curve: Of evaluation.json.
    """
    points = [point for point in ([] if curve is None else curve.points) if point.auroc.estimate is not None]
    if not points:
        return None
    told = [value for p in points for value in (p.auroc.estimate, p.auroc.low) if value is not None]
    bottom = math.floor(10 * min(0.5, *told)) / 10
    most = max(point.mean_patients for point in points)

    def height(value: float | None) -> float | None:
        return None if value is None else (value - bottom) / (1 - bottom)

    marks = tuple(
        LearningMark(
            patients=p.mean_patients,
            auroc=p.auroc.estimate or 0.0,
            x=p.mean_patients / most,
            y=height(p.auroc.estimate) or 0.0,
            low=height(p.auroc.low),
            high=height(p.auroc.high),
        )
        for p in points
    )
    places: list[tuple[float, float]] = []
    for mark in reversed(marks):  # the whole training part is always named
        if not places or places[-1][0] - mark.x >= APART:
            places.append((mark.x, mark.patients))
    levels = tuple((k / (10 - 10 * bottom), bottom + k / 10) for k in range(round(10 - 10 * bottom) + 1))
    metric = "AUROC" if curve is None else curve.metric
    return LearningChart(metric, marks, height(0.5) or 0.0, levels, tuple(places))


def reliability_points(
    repeats: Sequence[FloatArray], targets: IntArray, patients: Sequence[str], *, confidence: float
) -> tuple[ReliabilityPoint, ...]:
    """Return the bins of a reliability diagram that hold a study.

    With two classes the probability of the second against how often it is true; with more the
    probability of the likeliest class against how often that is right. Of several repeats a bin is the mean over the
    studies that it holds in each. Its interval is by Wilson, of the patients that a repeat has in it on average: of a
    few that all had the event resampling would say that nothing is open.

    Args:
        repeats: Probabilities in each repeat of the cross-validation; shape (studies, classes).
        targets: True class index; shape (studies,).
        patients: Patient of each study.
        confidence: Level of the intervals.
    """
    chance, event = (np.concatenate(own) for own in zip(*(_judged(own, targets) for own in repeats), strict=True))
    owner = np.array([f"{number} {one}" for number in range(len(repeats)) for one in patients])
    points = []
    for number, bar in enumerate(reliability_bins(event, chance)):
        if bar.mean_probability is None or bar.event_rate is None:
            continue
        inside = bin_of(chance) == number
        low, high = _wilson(bar.event_rate, np.unique(owner[inside]).size / len(repeats), confidence)
        points.append(ReliabilityPoint(bar.mean_probability, bar.event_rate, low, high, bar.n))
    return tuple(points)


def _judged(probabilities: FloatArray, targets: IntArray) -> tuple[FloatArray, BoolArray]:
    """Return the probability that is judged of each study, and whether it came true."""
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], targets == 1
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == targets


def _wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """Return the interval of a share of n, which need not be a whole number (Wilson, J Am Stat Assoc 1927)."""
    z2 = float(norm.ppf((1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * share * (1 - share) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)
