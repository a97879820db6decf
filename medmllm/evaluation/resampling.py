"""Intervals by resampling patients: percentile or basic bootstrap, clustered, paired between arms.

    measures of weighted studies, patients -> the same resamples for all -> intervals and paired differences

Studies of one patient resemble each other, so patients are drawn, each with all its studies (Field & Welsh,
J R Stat Soc B 2007); drawing studies would make the intervals too narrow. Percentile interval: Efron & Tibshirani
1993, ch. 13. A resample without one of the classes measures nothing; it is left out and counted.

A measure that noise makes larger, such as a mean of absolute differences, is larger still on a resample, which is
noisier than the cohort: its percentiles lie too high, often all above the estimate, and by BCa too. The basic interval
(Davison & Hinkley 1997, 5.2.1) takes off what resampling added, as Kumar et al., NeurIPS 2019 do for calibration
errors. The estimate itself leans upwards as well, and may lie above such an interval.

The models are not trained again: the intervals tell how far this set of patients leaves the numbers open, not
how much another training run would differ.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medmllm.errors import EvaluationError
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.records import FloatArray

Measure = Callable[[FloatArray], FloatArray]
"""Weights (draws, studies) -> value of each draw (draws,), NaN where it is not defined."""

LEAST_DEFINED = 0.5
"""A measure must be defined in this share of all resamples to have an interval."""

_ROUNDING = 1e-12
_CELLS_AT_ONCE = 4_000_000  # weights held in memory: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its interval; None where not defined."""

    estimate: float | None  # on the whole cohort
    low: float | None
    high: float | None
    skipped: int  # resamples on which it was not defined


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """Every measure on the cohort and on the same resamples of its patients."""

    estimates: Mapping[str, float]  # NaN where not defined
    draws: Mapping[str, FloatArray] = field(repr=False)  # (samples,) each; NaN where skipped
    lacking_a_class: int  # resamples skipped for all measures

    def interval(self, name: str, confidence: float, *, leans_upwards: bool = False) -> Interval:
        """Return the percentile interval of a measure, or the basic one.

        Args:
            name: The measure.
            confidence: Level of the interval, between 0 and 1, e.g. 0.95.
            leans_upwards: Noise makes the measure larger, and it is never below 0: take the basic interval.
        """
        found = percentile_interval(self.estimates[name], self.draws[name], confidence)
        return basic_interval(found) if leans_upwards else found

    def varies(self, name: str) -> bool:
        """Return whether any two resamples differ in a measure, by more than rounding."""
        defined = self.draws[name][~np.isnan(self.draws[name])]
        return bool(defined.size) and float(np.ptp(defined)) > _ROUNDING

    def difference(self, first: str, second: str, confidence: float) -> Interval:
        """Return the interval of `first` minus `second`, paired: both on the same patients in every resample.

        Args:
            first: A measure.
            second: The measure taken from it.
            confidence: Level of the interval.
        """
        estimate = self.estimates[first] - self.estimates[second]
        return percentile_interval(estimate, self.draws[first] - self.draws[second], confidence)


def resample(
    measures: Mapping[str, Measure], *, targets: IntArray, patients: Sequence[str], samples: int, seed: int
) -> Resamples:
    """Return all measures on the cohort and on `samples` resamples of its patients.

    Args:
        measures: Name -> measure of weighted studies.
        targets: Class index of each study; shape (studies,).
        patients: Patient of each study, in the same order.
        samples: Number of resamples.
        seed: The same seed gives the same resamples.

    Raises:
        EvaluationError: No studies, or as many targets as patients are not given.
    """
    target = np.asarray(targets)
    if not target.size or len(patients) != target.size:
        raise EvaluationError(f"{target.size} targets and {len(patients)} patients: one each per study, at least one")
    everyone = np.ones((1, target.size))
    estimates = {name: float(measure(everyone)[0]) for name, measure in measures.items()}
    parts: dict[str, list[FloatArray]] = {name: [] for name in measures}
    members = np.eye(int(target.max()) + 1)[target]
    members = members[:, members.any(axis=0)]  # classes that the cohort itself holds
    lacking = 0
    for weights in draw_weights(patients, samples=samples, seed=seed):
        complete = ((weights @ members) > 0).all(axis=1)
        lacking += int((~complete).sum())
        for name, measure in measures.items():
            values = np.full(len(weights), np.nan)
            if complete.any():
                values[complete] = measure(weights[complete])
            parts[name].append(values)
    draws = {name: np.concatenate([np.empty(0), *values]) for name, values in parts.items()}
    return Resamples(estimates=estimates, draws=draws, lacking_a_class=lacking)


def level(confidence: float) -> str:
    """Return the level of an interval as people write it.

    >>> level(0.95), level(0.975)
    ('95 %', '97.5 %')
    """
    return f"{100 * confidence:g} %"


def within(inside: BoolArray | IntArray, measure: Measure) -> Measure:
    """Return a measure of some studies as one of the weights of all; NaN where none of them was drawn.

    Args:
        inside: Which of all studies, shape (all,), or their places, shape (some,).
        measure: Of their weights alone.
    """

    def measure_some(weights: FloatArray) -> FloatArray:
        own = weights[:, inside]
        drawn = own.sum(axis=1) > 0
        values = np.full(len(weights), np.nan)
        if drawn.any():
            values[drawn] = measure(own[drawn])
        return values

    return measure_some


def draw_weights(patients: Sequence[str], *, samples: int, seed: int) -> Iterator[FloatArray]:
    """Draw as many patients as there are, with replacement, and yield how often each study is in, block by block.

    The draws depend on the order of the patients and the seed, not on how patients are named.

    Args:
        patients: Patient of each study.
        samples: Number of resamples.
        seed: Of the generator.

    Yields:
        Whole numbers as floats; shape (resamples in this block, studies).
    """
    numbers: dict[str, int] = {}
    owner = np.array([numbers.setdefault(patient, len(numbers)) for patient in patients])
    generator = np.random.default_rng(seed)
    chances = np.full(len(numbers), 1 / len(numbers))
    block = max(1, _CELLS_AT_ONCE // owner.size)
    for start in range(0, samples, block):
        counts = generator.multinomial(len(numbers), chances, size=min(block, samples - start))
        yield counts[:, owner].astype(np.float64)


def percentile_interval(estimate: float, draws: FloatArray, confidence: float) -> Interval:
    """Return the interval between the outer quantiles of the draws that are defined.

    Args:
        estimate: On the whole cohort; NaN where not defined.
        draws: One value per resample; NaN where it is not defined; shape (samples,).
        confidence: Level of the interval, between 0 and 1.
    """
    defined = draws[~np.isnan(draws)]
    skipped = draws.size - defined.size
    if np.isnan(estimate):
        return Interval(None, None, None, skipped)
    if not defined.size or defined.size < LEAST_DEFINED * draws.size:
        return Interval(float(estimate), None, None, skipped)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(estimate), float(low), float(high), skipped)


def joint_reach(draws: FloatArray, confidence: float) -> float:
    """Return how many standard deviations intervals of several measures reach that hold all at once.

    What counts of a resample is the measure that lies furthest from its mean, in its own standard deviations (max-t;
    Westfall & Young 1993; Romano & Wolf, J Am Stat Assoc 2005). Percentiles that hold all at once (Beran, J Am Stat
    Assoc 1988) lie so far out that few resamples tell them: of 28 differences, 300 resamples left one cohort in six
    with a gap beyond chance instead of one in twenty.

    Args:
        draws: Shape (measures, samples); NaN where a measure is not defined.
        confidence: That all of them hold, between 0 and 1.

    Returns:
        NaN where no measure varies.
    """
    counted = draws[np.fmax.reduce(draws, axis=1) - np.fmin.reduce(draws, axis=1) > _ROUNDING]  # not those all NaN
    centred = np.abs(counted - np.nanmean(counted, axis=1, keepdims=True))
    scaled = centred / np.nanstd(counted, axis=1, ddof=1, keepdims=True)
    furthest = np.fmax.reduce(scaled, axis=0, initial=np.nan)
    defined = furthest[~np.isnan(furthest)]
    return float(np.quantile(defined, confidence)) if defined.size else float("nan")


def basic_interval(percentiles: Interval) -> Interval:
    """Return the basic interval that goes with a percentile interval: mirrored at the estimate, never below 0.

    >>> basic_interval(Interval(estimate=0.25, low=0.125, high=0.75, skipped=0))
    Interval(estimate=0.25, low=0.0, high=0.375, skipped=0)
    """
    estimate, low, high = percentiles.estimate, percentiles.low, percentiles.high
    if estimate is None or low is None or high is None:
        return percentiles
    return replace(percentiles, low=max(0.0, 2 * estimate - high), high=max(0.0, 2 * estimate - low))
