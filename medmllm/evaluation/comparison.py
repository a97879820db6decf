"""Compare the models of several runs on the same studies, all on the same resamples of patients.

    out-of-fold predictions of each run -> metrics, paired differences of every two, which run is best in what

A run is called best in a metric only where the interval of its difference to every other run excludes zero. Metrics
without a better direction of their own (sensitivity trades for specificity, slopes are best at 1) have no best run.
Intervals are not corrected for the number of comparisons: the remarks say how many there are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medmllm.errors import EvaluationError
from medmllm.evaluation.cohort import OutOfFold, measures_of
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.remarks import NAMES
from medmllm.evaluation.repeats import Repeat, resample_repeats
from medmllm.evaluation.resampling import Interval, Measure, level
from medmllm.records import ArmEvaluation

HIGHER_IS_BETTER = frozenset(
    {"auroc", "auroc_within_folds", "auprc", "balanced_accuracy", "accuracy", "quadratic_kappa"}
    | {"c_index", "c_index_within_folds", "c_index_uno"}
)
LOWER_IS_BETTER = frozenset({"brier", "ece", "log_loss", "mean_absolute_error", "ranked_probability_score"})


@dataclass(frozen=True, slots=True)
class Difference:
    """`first` minus `second` in one metric, paired by patient."""

    metric: str
    first: str  # names of runs
    second: str
    interval: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs on the same studies."""

    runs: tuple[ArmEvaluation, ...]  # `arm` holds the run's name
    differences: tuple[Difference, ...]  # of every two runs, in the order given, in every metric

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order of the report."""
        return tuple(metric.name for metric in self.runs[0].metrics)

    def best(self, metric: str) -> str | None:
        """Return the run that is better than every other one in a metric; None where none is."""
        here = [difference for difference in self.differences if difference.metric == metric]
        for run in self.runs:
            own = [difference for difference in here if run.arm in (difference.first, difference.second)]
            if all(better(difference) == run.arm for difference in own):
                return run.arm
        return None


def better(difference: Difference) -> str | None:
    """Return the better run of two, where the interval of their difference excludes zero; else None.

    >>> better(Difference("brier", "a", "b", Interval(-0.05, -0.08, -0.01, 0)))
    'a'
    """
    low, high = difference.interval.low, difference.interval.high
    if low is None or high is None or low <= 0 <= high:
        return None
    metric = _plain(difference.metric)
    if metric in HIGHER_IS_BETTER:
        return difference.first if low > 0 else difference.second
    if metric in LOWER_IS_BETTER:
        return difference.second if low > 0 else difference.first
    return None


def may_be_best(metric: str) -> bool:
    """Return whether a metric has a direction in which it is better.

    >>> may_be_best("brier[365 days]"), may_be_best("sensitivity")
    (True, False)
    """
    return _plain(metric) in HIGHER_IS_BETTER | LOWER_IS_BETTER


def _plain(metric: str) -> str:
    return metric.partition("[")[0]  # auroc[>=3] is an AUROC, brier[365 days] a Brier score


def compare_models(
    models: Sequence[OutOfFold],
    *,
    targets: IntArray,
    patients: Sequence[str],
    folds: IntArray,
    classes: Sequence[str],
    confidence: float,
    samples: int,
    seed: int,
    ordered: bool = False,
    more: Sequence[Repeat[OutOfFold]] = (),
) -> Comparison:
    """Return every run's metrics and the paired differences of every two, the mean over repeats where there are more.

    Args:
        models: Two or more; `arm` holds the run's name; the same studies in the same order.
        targets: Class index of each study; shape (studies,).
        patients: Patient of each study.
        folds: Fold that tested each study, the same in all runs; shape (studies,).
        classes: Class names; binary: negative first.
        confidence: Level of the intervals, e.g. 0.95.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
        ordered: The classes stand in an order, lowest first.
        more: What the same runs said in further repeats of the cross-validation.

    Raises:
        EvaluationError: Fewer than two runs, or two of the same name.
    """
    return compare_measured(
        [model.arm for model in models],
        [
            [measures_of(model, targets, repeat.folds, classes, ordered=ordered) for model in repeat.arms]
            for repeat in (Repeat(models, folds), *more)
        ],
        strata=targets,
        patients=patients,
        confidence=confidence,
        samples=samples,
        seed=seed,
    )


def compare_measured(
    names: Sequence[str],
    repeats: Sequence[Sequence[Mapping[str, Measure]]],
    *,
    strata: IntArray,
    patients: Sequence[str],
    confidence: float,
    samples: int,
    seed: int,
) -> Comparison:
    """Return the metrics of every run, and the paired differences of every two.

    Args:
        names: Of the runs, two or more.
        repeats: Of each repeat of the cross-validation, what is measured of each run, by name.
        strata: What every resample holds all of; shape (studies,).
        patients: Patient of each study.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.

    Raises:
        EvaluationError: Fewer than two runs, or two of the same name.
    """
    if len(names) < 2 or len(set(names)) != len(names):
        raise EvaluationError(f"{len(names)} runs named {', '.join(names)}: two or more with names of their own")
    each: dict[str, list[Measure]] = {}
    metrics = list(repeats[0][0])
    for repeat in repeats:
        for number, own in enumerate(repeat):
            for name, measure in own.items():
                each.setdefault(f"{number} {name}", []).append(measure)
    found = resample_repeats(each, strata=strata, patients=patients, confidence=confidence, samples=samples, seed=seed)
    return Comparison(
        runs=tuple(
            ArmEvaluation(run, tuple(found.metric(f"{k} {name}", name) for name in metrics))
            for k, run in enumerate(names)
        ),
        differences=tuple(
            Difference(name, names[i], names[j], found.drawn.difference(f"{i} {name}", f"{j} {name}", confidence))
            for name in metrics
            for i in range(len(names))
            for j in range(i + 1, len(names))
        ),
    )


def comparison_remarks(found: Comparison, *, confidence: float) -> tuple[str, ...]:
    """Return what the comparison shows and what it does not, in plain words.

    Args:
        found: The comparison.
        confidence: Level of its intervals.
    """
    return (*_on_the_best(found, compared_metric(found.metrics)), *_on_many_comparisons(found, confidence))


def compared_metric(metrics: Sequence[str]) -> str:
    """Return the metric that runs are compared by first: the AUROC, or the C-index of times to an event."""
    return next(name for name in NAMES if name in metrics)


def _on_the_best(found: Comparison, metric: str) -> Iterator[str]:
    best = found.best(metric)
    if best is not None:
        yield f"{best} has a higher {NAMES[metric]} than every other run: the interval of each difference excludes 0."
        return
    estimates = {run.arm: next(m.estimate for m in run.metrics if m.name == metric) for run in found.runs}
    defined = {run: value for run, value in estimates.items() if value is not None}
    if not defined:
        yield f"No run is best: {NAMES[metric]} is not defined on this cohort."
        return
    highest = max(defined, key=defined.__getitem__)
    others: dict[bool, list[str]] = {True: [], False: []}
    for one in found.differences:
        if one.metric == metric and highest in (one.first, one.second) and better(one) != highest:
            others[one.interval.low is not None].append(one.second if one.first == highest else one.first)
    why = [f"the interval of its difference to {', '.join(others[True])} does not exclude 0"] if others[True] else []
    why += [f"its difference to {', '.join(others[False])} has no interval"] if others[False] else []
    yield f"No run is best: {highest} has the highest {NAMES[metric]}, but {', and '.join(why)}."


def _on_many_comparisons(found: Comparison, confidence: float) -> Iterator[str]:
    count = len(found.differences)
    by_chance = count * (1 - confidence)
    yield (
        f"{count} differences are shown, each with its own {level(confidence)} interval and no correction for their "
        f"number: if no run differed from another, about {by_chance:.1f} of them would still exclude 0. Choose the "
        "metric before you look."
    )
    yield (
        "A run that is chosen because it did best here will do somewhat worse on new patients: its estimate is "
        "optimistic. Test the one you choose on studies that took no part in the choice."
    )
