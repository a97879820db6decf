"""Compare groups of patients, such as sexes, ages, sites or scanners, whatever is measured in each.

    each study's group, what is measured in a group -> metrics per group -> the largest gap of each, with its interval

Groups share the resamples of patients, so a gap is paired where a patient is in two groups. It is the difference
between the two groups that lie furthest apart on the cohort: with more than two groups they are chosen after the fact,
so the interval is one of those that hold for all pairs at once: it reaches as many standard deviations to both sides as
all of them do, as far as a difference can be. That of two groups is a percentile interval.

Groups with few patients are named, not shown, and so is a metric for which they have too few. A number that no resample
of a group changes, such as a sensitivity of 0 where none of its few positives was found, has no interval, and nor has
its gap: they would leave out how much hangs on these few.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import LEANS_UPWARDS
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.remarks import called
from medmllm.evaluation.resampling import Interval, Measure, Resamples, joint_reach, level, resample
from medmllm.records import FloatArray
from medmllm.trust_config import RANGES


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
    every = [name for name in names or sorted(owners) if owners[name]]
    shown = [name for name in every if owners[name] >= fewest_patients]
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
                metrics={metric: _interval(drawn, metric, name, confidence) for metric in metrics},
            )
            for name in shown
        ),
        gaps=tuple(_gaps(drawn, gaps, metrics, shown, confidence)),
        too_small={name: owners[name] for name in every if owners[name] < fewest_patients},
        too_few={metric: lacking for metric, lacking in too_few.items() if lacking},
        unknown=sum(group is None for group in groups),
    )


def _undefined(weights: FloatArray) -> FloatArray:
    return np.full(len(weights), np.nan)


def _interval(drawn: Resamples, metric: str, group: str, confidence: float) -> Interval:
    key = f"{metric} {group}"
    found = drawn.interval(key, confidence, leans_upwards=metric in LEANS_UPWARDS)
    return found if drawn.varies(key) else replace(found, low=None, high=None)


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
        difference = drawn.difference(f"{metric} {highest}", f"{metric} {lowest}", confidence)
        if not all(drawn.varies(f"{metric} {name}") for name in (highest, lowest)):
            difference = replace(difference, low=None, high=None)
        elif len(defined) > 2 and difference.low is not None:
            own = drawn.draws[f"{metric} {highest}"] - drawn.draws[f"{metric} {lowest}"]
            reach = joint_reach(_pairs(drawn, metric, list(defined)), confidence) * float(np.nanstd(own, ddof=1))
            difference = _reaching(difference, reach, RANGES[gap][1])
        yield Gap(gap, metric, highest, lowest, difference)


def _reaching(difference: Interval, reach: float, largest: float) -> Interval:
    """Return the interval that reaches so far to both sides, as far as a difference can be."""
    assert difference.estimate is not None
    low, high = difference.estimate - reach, difference.estimate + reach
    return replace(difference, low=max(low, -largest), high=min(high, largest))


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
        yield (
            f"The {arm} model does not do alike for all groups of {found.column}: {called(gap.metric)} of "
            f"{gap.highest} lies {gap.difference.estimate:.3f} above that of {gap.lowest} ({level(confidence)} "
            f"interval {low:.3f} to {high:.3f})."
        )
    if found.too_small:
        yield f"Groups of {found.column} with too few patients to be shown: {', '.join(found.too_small)}."
    for metric, names in found.too_few.items():
        yield f"Groups of {found.column} with too few {few} to measure {called(metric)}: {', '.join(names)}."
