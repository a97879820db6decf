"""Turn out-of-fold probabilities into the points of the curves that a training report draws.

    probabilities, true classes -> ROC points, reliability points; net benefit -> decision chart;
    AUROC by training patients -> learning chart

Numbers in the report's tables come from evaluation.json; the curves only show their shape.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from medmllm.evaluation.calibration import reliability_bins
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.ordinal import at_least
from medmllm.records import FloatArray
from medmllm.trust_documents import DecisionCurveDocument, LearningCurveDocument

APART = 0.1  # numbers closer than this part of an axis would touch
MACRO_GRID = 201  # false-positive rates at which one-versus-rest curves are averaged


@dataclass(frozen=True, slots=True)
class DecisionChart:
    """Decision curves in a unit square; what lies below its bottom is drawn on it."""

    arms: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]  # name, points
    treat_all: tuple[tuple[float, float], ...]
    treat_none: float  # height of net benefit 0
    ticks: tuple[tuple[float, float], ...]  # height, net benefit


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
    """A learning curve in a unit square: training patients from 0, AUROC up to 1."""

    marks: tuple[LearningMark, ...]
    chance: float  # height of AUROC 0.5
    levels: tuple[tuple[float, float], ...]  # height, AUROC
    places: tuple[tuple[float, float], ...]  # x, training patients; marks too close to be told apart have one


@dataclass(frozen=True, slots=True)
class ReliabilityPoint:
    """The studies of one bin: how probable the event was said to be, and how often it came."""

    predicted: float  # mean probability
    observed: float  # fraction
    low: float  # 95 % Wilson interval of `observed`
    high: float
    n: int  # studies


def roc_points(
    probabilities: FloatArray, targets: IntArray, *, ordered: bool = False
) -> tuple[tuple[float, float], ...]:
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
        false_rate = np.linspace(0, 1, MACRO_GRID)
        if ordered:
            cuts = zip(occurring[1:], at_least(probabilities)[:, occurring[1:] - 1].T, strict=True)
            curves = [roc_curve(targets >= one, chance) for one, chance in cuts]
        else:
            curves = [roc_curve(targets == one, probabilities[:, one]) for one in occurring]
        true_rate = np.mean([np.interp(false_rate, x, y) for x, y, _ in curves], axis=0)
        false_rate, true_rate = np.append(0.0, false_rate), np.append(0.0, true_rate)
    return tuple(zip(false_rate.tolist(), true_rate.tolist(), strict=True))


def decision_chart(curves: Sequence[DecisionCurveDocument]) -> DecisionChart | None:
    """Return the curves scaled to a unit square, from a little below 0 to the highest; None without a curve.

    Args:
        curves: Of the same studies, at the same thresholds.
    """
    values = [own.estimate for curve in curves for own in curve.net_benefit if own.estimate is not None]
    if not values:
        return None
    high = max(*values, *curves[0].treat_all, 0.01)
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
        ticks=tuple((height(value), value) for value in (low, 0.0, high / 2, high)),
    )


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
    return LearningChart(marks, height(0.5) or 0.0, levels, tuple(places))


def reliability_points(probabilities: FloatArray, targets: IntArray) -> tuple[ReliabilityPoint, ...]:
    """Return the bins of a reliability diagram that hold a study.

    With two classes the probability of the second against how often it is true; with more the
    probability of the likeliest class against how often that is right.

    Args:
        probabilities: Shape (studies, classes).
        targets: True class index; shape (studies,).
    """
    if probabilities.shape[1] == 2:
        chance, event = probabilities[:, 1], targets == 1
    else:
        chance, event = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    points = []
    for bar in reliability_bins(event, chance):
        if bar.mean_probability is None or bar.event_rate is None:
            continue
        interval = binomtest(round(bar.event_rate * bar.n), bar.n).proportion_ci(0.95, method="wilson")
        points.append(
            ReliabilityPoint(bar.mean_probability, bar.event_rate, float(interval.low), float(interval.high), bar.n)
        )
    return tuple(points)
