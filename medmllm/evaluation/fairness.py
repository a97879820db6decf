"""Tell whether a model does alike for all groups of patients, such as sexes, ages, sites or scanners.

    one arm out of fold, each study's group -> metrics per group -> the largest gap of each, with its interval

Groups share the resamples of patients, so a gap is paired where a patient is in two groups. Binary: auroc, sensitivity
and specificity at the fold's operating point, ece, calibration_excess (events minus what the probabilities add up to,
per study). More classes, ordered or not: auroc, accuracy, ece, calibration_excess (of the likeliest class). Times to an
event: see `survival_fairness`. Of several repeats of the cross-validation each is the mean over them, and so is a gap.

A gap is the difference between the two groups that lie furthest apart on the cohort: with more than two groups they
are chosen after the fact, so the interval is one of those that hold for all pairs at once. Groups with few patients are
named, not shown; nor is a group's AUROC, sensitivity or specificity where few of its patients are of a class that it is
told of: of one patient every resample says the same, and the interval would leave out how much hangs on that one.
Equal opportunity (true-positive rates): Hardt et al., NeurIPS 2016. Calibration in the large by group: Van Calster et
al., J Clin Epidemiol 2016.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import LEANS_UPWARDS, weighted_ece
from medmllm.evaluation.cohort import OutOfFold, auroc_measure
from medmllm.evaluation.discrimination import (
    BoolArray,
    IntArray,
    weighted_accuracy,
    weighted_recall,
)
from medmllm.evaluation.remarks import NAMES
from medmllm.evaluation.repeats import mean_measure
from medmllm.evaluation.resampling import Interval, Measure, Resamples, joint_confidence, level, resample
from medmllm.records import FloatArray

GAPS = {
    "auroc_gap": "auroc",
    "true_positive_rate_gap": "sensitivity",
    "true_negative_rate_gap": "specificity",
    "accuracy_gap": "accuracy",
    "calibration_gap": "calibration_excess",
}
"""Gap -> the metric whose largest difference between groups it is."""


def rests_on(metric: str, classes: int, *, ordered: bool) -> tuple[int, ...]:
    """Return the classes that a group must have enough patients of for a metric to be measured in it.

    The AUROC of ordered classes is of cuts, whose sides lack patients only where the lowest or the highest class does.

    >>> rests_on("sensitivity", 2, ordered=False), rests_on("auroc", 3, ordered=False)
    ((1,), (0, 1, 2))
    """
    if metric == "auroc":
        return (0, classes - 1) if ordered else tuple(range(classes))
    return {"sensitivity": (1,), "specificity": (0,)}.get(metric, ())


@dataclass(frozen=True, slots=True)
class Group:
    """How an arm does on the studies of one group."""

    name: str
    n: int  # studies
    patients: int
    class_counts: tuple[int, ...]
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Gap:
    """The two groups that lie furthest apart in one metric."""

    name: str  # of GAPS
    metric: str
    highest: str  # name of a group
    lowest: str
    difference: Interval  # highest minus lowest, on the same resamples


@dataclass(frozen=True, slots=True)
class Subgroups:
    """One column's groups."""

    column: str
    groups: tuple[Group, ...]
    gaps: tuple[Gap, ...]  # of metrics that two groups have at least
    too_small: Mapping[str, int]  # group -> its patients
    too_few: Mapping[str, tuple[str, ...]]  # metric -> groups shown without it
    unknown: int  # studies without a group


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What is measured in one group."""

    measures: Mapping[str, Measure]  # of the weights of all studies, in the order of the report
    lacking: Collection[str]  # of these, what its patients are too few for
    class_counts: tuple[int, ...]


def evaluate_groups(
    arm: OutOfFold,
    groups: Sequence[str | None],
    *,
    column: str,
    names: Sequence[str] | None = None,
    targets: IntArray,
    patients: Sequence[str],
    fewest_patients: int,
    confidence: float,
    samples: int,
    seed: int,
    ordered: bool = False,
    more: Sequence[OutOfFold] = (),
) -> Subgroups:
    """Return how an arm does per group, and the largest gaps.

    Args:
        arm: Its out-of-fold predictions.
        groups: Group of each study; None where it is not known.
        column: What the groups are of.
        names: All groups in the order of the report; None: those of the studies, by their names.
        targets: Class index of each study; shape (studies,).
        patients: Patient of each study.
        fewest_patients: A group with fewer is named, not measured; nor is a metric in a group with fewer of a class
            that it `rests_on`.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
        ordered: The classes stand in an order, lowest first.
        more: What the same arm said in further repeats of the cross-validation.

    Raises:
        EvaluationError: Not one group per study.
    """
    owner, classes = np.array(patients), arm.probabilities.shape[1]

    def measured_in(inside: BoolArray) -> Measured:
        measures = _mean_over((arm, *more), targets, inside, ordered=ordered)
        few = {k for k in range(classes) if len(set(owner[inside & (targets == k)])) < fewest_patients}
        lacking = [metric for metric in measures if few & set(rests_on(metric, classes, ordered=ordered))]
        return Measured(measures, lacking, tuple(np.bincount(targets[inside], minlength=classes).tolist()))

    return compare_groups(
        groups,
        measured_in,
        GAPS,
        column=column,
        names=names,
        strata=targets,
        patients=patients,
        fewest_patients=fewest_patients,
        confidence=confidence,
        samples=samples,
        seed=seed,
    )


def compare_groups(
    groups: Sequence[str | None],
    measured_in: Callable[[BoolArray], Measured],
    gaps: Mapping[str, str],
    *,
    column: str,
    names: Sequence[str] | None,
    strata: IntArray,
    patients: Sequence[str],
    fewest_patients: int,
    confidence: float,
    samples: int,
    seed: int,
) -> Subgroups:
    """Return what is measured per group, and the largest gaps.

    Args:
        groups: Group of each study; None where it is not known.
        measured_in: Which studies are of a group, shape (studies,) -> what is measured in it.
        gaps: Gap -> its metric.
        column: What the groups are of.
        names: All groups in the order of the report; None: those of the studies, by their names.
        strata: What every resample holds all of; shape (studies,).
        patients: Patient of each study.
        fewest_patients: Of a group that is shown.
        confidence: Level of the intervals.
        samples: Number of resamples.
        seed: Of these.

    Raises:
        EvaluationError: Not one group per study.
    """
    if len(groups) != len(patients):
        raise EvaluationError(f"{len(groups)} groups for {len(patients)} studies: one each, None where not known")
    owners = Counter(group for group, _ in set(zip(groups, patients, strict=True)) if group is not None)
    shown = [name for name in names or sorted(owners) if owners[name] >= fewest_patients]
    inside = {name: np.array([group == name for group in groups]) for name in shown}
    found = {name: measured_in(inside[name]) for name in shown}
    metrics = list(found[shown[0]].measures) if shown else []
    measured = {
        f"{metric} {name}": _undefined if metric in own.lacking else measure
        for name, own in found.items()
        for metric, measure in own.measures.items()
    }
    drawn = resample(measured, targets=strata, patients=patients, samples=samples, seed=seed)
    too_few = {metric: tuple(name for name in shown if metric in found[name].lacking) for metric in metrics}
    return Subgroups(
        column=column,
        groups=tuple(
            Group(
                name=name,
                n=int(inside[name].sum()),
                patients=owners[name],
                class_counts=found[name].class_counts,
                metrics={
                    metric: drawn.interval(f"{metric} {name}", confidence, leans_upwards=metric in LEANS_UPWARDS)
                    for metric in metrics
                },
            )
            for name in shown
        ),
        gaps=tuple(_gaps(drawn, gaps, metrics, shown, confidence)),
        too_small={name: owners[name] for name in sorted(owners) if owners[name] < fewest_patients},
        too_few={metric: lacking for metric, lacking in too_few.items() if lacking},
        unknown=sum(group is None for group in groups),
    )


def _mean_over(
    repeats: Sequence[OutOfFold], targets: IntArray, inside: BoolArray, *, ordered: bool
) -> Mapping[str, Measure]:
    """Return name -> mean over the repeats of the measure of one group."""
    each = [group_measures(own, targets, inside, ordered=ordered) for own in repeats]
    return {name: mean_measure([own[name] for own in each]) for name in each[0]}


def group_measures(arm: OutOfFold, targets: IntArray, inside: BoolArray, *, ordered: bool) -> Mapping[str, Measure]:
    """Return name -> measure of the weighted studies of one group, in the order of the report.

    Args:
        arm: One arm.
        targets: Class index of all studies; shape (studies,).
        inside: Which of them are of the group; shape (studies,).
        ordered: The classes stand in an order, lowest first.
    """
    target, chances, predicted = targets[inside], arm.probabilities[inside], arm.predicted[inside]
    binary = chances.shape[1] == 2
    event = target == 1 if binary else chances.argmax(axis=1) == target
    chance = chances[:, 1] if binary else chances.max(axis=1)
    excess = event - chance
    calibration: dict[str, Measure] = {
        "ece": lambda weights: weighted_ece(event, chance, weights),
        "calibration_excess": lambda weights: weights @ excess / weights.sum(axis=1),
    }
    auroc = auroc_measure(target, chances, ordered=ordered)
    found: dict[str, Measure]
    if binary:
        found = {
            "auroc": auroc,
            "sensitivity": lambda weights: weighted_recall(target, predicted, 1, weights),
            "specificity": lambda weights: weighted_recall(target, predicted, 0, weights),
        }
    else:
        found = {
            "auroc": auroc,
            "accuracy": lambda weights: weighted_accuracy(target, predicted, weights),
        }
    return {name: of_group(inside, measure) for name, measure in (found | calibration).items()}


def of_group(inside: BoolArray, measure: Measure) -> Measure:
    """Return a measure of all studies that looks at a group alone; NaN where none of its patients was drawn."""

    def measure_group(weights: FloatArray) -> FloatArray:
        own = weights[:, inside]
        drawn = own.sum(axis=1) > 0
        values = np.full(len(weights), np.nan)
        if drawn.any():
            values[drawn] = measure(own[drawn])
        return values

    return measure_group


def _undefined(weights: FloatArray) -> FloatArray:
    return np.full(len(weights), np.nan)


def _gaps(
    drawn: Resamples, gaps: Mapping[str, str], metrics: Sequence[str], shown: Sequence[str], confidence: float
) -> Iterator[Gap]:
    for gap, metric in gaps.items():
        values = {name: drawn.estimates.get(f"{metric} {name}", np.nan) for name in shown if metric in metrics}
        defined = {name: value for name, value in values.items() if not np.isnan(value)}
        if len(defined) < 2:
            continue
        highest, lowest = max(defined, key=defined.__getitem__), min(defined, key=defined.__getitem__)
        if highest == lowest:  # all alike
            highest, lowest = list(defined)[:2]
        joint = joint_confidence(_pairs(drawn, metric, list(defined)), confidence)
        difference = drawn.difference(f"{metric} {highest}", f"{metric} {lowest}", joint)
        yield Gap(gap, metric, highest, lowest, difference)


def _pairs(drawn: Resamples, metric: str, groups: Sequence[str]) -> FloatArray:
    """Return the draws of the differences of every two groups, shape (pairs, samples)."""
    return np.stack(
        [drawn.draws[f"{metric} {one}"] - drawn.draws[f"{metric} {other}"] for one, other in combinations(groups, 2)]
    )


def gap_remarks(found: Subgroups, *, arm: str, confidence: float, few: str = "patients of a class") -> Iterator[str]:
    """Yield in plain words where groups differ beyond chance, and which have too few patients to tell.

    Args:
        found: One column's groups.
        arm: Whose.
        confidence: Level of the intervals.
        few: What a group has too few of where a metric is not measured in it.
    """
    for gap in found.gaps:
        low, high = gap.difference.low, gap.difference.high
        if low is None or high is None or low <= 0:
            continue
        metric = NAMES.get(gap.metric, gap.metric.replace("_", " "))
        yield (
            f"The {arm} model does not do alike for all groups of {found.column}: {metric} of {gap.highest} lies "
            f"{gap.difference.estimate:.3f} above that of {gap.lowest} ({level(confidence)} interval {low:.3f} to "
            f"{high:.3f})."
        )
    if found.too_small:
        yield f"Groups of {found.column} with too few patients to be shown: {', '.join(found.too_small)}."
    for metric, names in found.too_few.items():
        yield f"Groups of {found.column} with too few {few} to measure {NAMES.get(metric, metric)}: {', '.join(names)}."
