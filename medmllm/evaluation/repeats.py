"""Average measures over repeats of a cross-validation, and tell how far the repeats lie apart.

    what an arm said in each repeat -> a measure that is the mean over them; lowest and highest estimate
    the measures of all arms in each repeat -> their means on the same resamples of patients -> Metric

Every repeat tests the same studies of the same patients on other folds. One weighting of the patients goes to all
repeats at once, so a resample is drawn once and the mean is taken within it: several repeats are never more patients.
Lowest and highest are of networks and folds, not of patients: they are no interval, and fall short of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from medmllm.evaluation.calibration import LEANS_UPWARDS
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.resampling import Interval, Measure, Resamples, resample
from medmllm.records import FloatArray, Metric

Said = TypeVar("Said")


@dataclass(frozen=True, slots=True, eq=False)
class Repeat(Generic[Said]):
    """What all arms said out of fold in one repeat."""

    arms: Sequence[Said]  # in the order of the first repeat
    folds: IntArray  # (studies,) that tested each study


@dataclass(frozen=True, slots=True, eq=False)
class RepeatedMeasures:
    """Measures, each the mean over the repeats, on the cohort and on the same resamples of its patients."""

    drawn: Resamples
    each: Mapping[str, FloatArray] = field(repr=False)  # (repeats,) of each measure, on the cohort
    confidence: float
    n: int  # studies
    patients: int

    def metric(self, measure: str, name: str, group: str = "all") -> Metric:
        """Return a measure as a metric of the report, with the lowest and highest of the repeats.

        Args:
            measure: Its name among the measures.
            name: Of the metric.
            group: Of the metric.
        """
        found = self.drawn.interval(measure, self.confidence, leans_upwards=name in LEANS_UPWARDS)
        return self._told(name, group, found, self.each[measure])

    def difference(self, first: str, second: str, name: str, group: str) -> Metric:
        """Return `first` minus `second`, paired by patient; arguments as of `metric`."""
        found = self.drawn.difference(first, second, self.confidence)
        return self._told(name, group, found, self.each[first] - self.each[second])

    def _told(self, name: str, group: str, found: Interval, each: FloatArray) -> Metric:
        return Metric(name, found.estimate, found.low, found.high, self.n, self.patients, group, *spread(each))


def resample_repeats(
    measures: Mapping[str, Sequence[Measure]],
    *,
    strata: IntArray,
    patients: Sequence[str],
    confidence: float,
    samples: int,
    seed: int,
) -> RepeatedMeasures:
    """Return the mean over the repeats of each measure, all on the same resamples of patients.

    Args:
        measures: Name -> the measure in each repeat.
        strata: What every resample holds all of; shape (studies,).
        patients: Patient of each study.
        confidence: Level of the intervals, e.g. 0.95.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
    """
    means = {name: mean_measure(own) for name, own in measures.items()}
    drawn = resample(means, targets=strata, patients=patients, samples=samples, seed=seed)
    each = {name: on_all(own, len(patients)) for name, own in measures.items()}
    return RepeatedMeasures(drawn, each, confidence, len(patients), len(set(patients)))


def mean_measure(each: Sequence[Measure]) -> Measure:
    """Return the mean of several measures, each of the same weights; NaN where one of them is."""
    return lambda weights: np.mean([measure(weights) for measure in each], axis=0)


def on_all(each: Sequence[Measure], n: int) -> FloatArray:
    """Return each measure on the whole cohort; shape (measures,).

    Args:
        each: Of one repeat each.
        n: Studies.
    """
    return np.array([float(measure(np.ones((1, n)))[0]) for measure in each])


def spread(estimates: FloatArray) -> tuple[float | None, float | None]:
    """Return the lowest and highest of several repeats; None of a single one, or where one is not defined.

    >>> spread(np.array([0.75, 0.5, 0.625]))
    (0.5, 0.75)
    >>> spread(np.array([0.75]))
    (None, None)
    """
    if len(estimates) < 2 or np.isnan(estimates).any():
        return None, None
    return float(estimates.min()), float(estimates.max())
