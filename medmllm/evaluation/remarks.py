"""Say in plain words what the numbers of a cohort do not support.

    CohortEvaluation -> sentences for the report: too few patients, no gain from fusion, a leak, poor calibration

Only sentences that a number triggers; none of them says that a model is good. Bounds: 100 events and 100
non-events (Collins et al., Stat Med 2016; Van Calster et al., J Clin Epidemiol 2016).
"""

from collections.abc import Iterator

from medmllm.evaluation.calibration import LEANS_UPWARDS
from medmllm.evaluation.resampling import level
from medmllm.records import CohortEvaluation, Metric

NAMES = {"auroc": "AUROC", "c_index": "C-index"}
"""The metric that arms are compared by, and how it is called."""

CALLED = NAMES | {
    "auroc_within_folds": "AUROC within folds",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "ece": "ECE",
    "c_index_within_folds": "C-index within folds",
    "c_index_uno": "C-index (Uno)",
    "integrated_brier": "integrated Brier score",
}
"""How metrics are called in a sentence whose names alone are no words."""

FEWEST_PATIENTS = 10
"""Per class: below this nothing can be concluded."""

PATIENTS_FOR_CALIBRATION = 100
"""Per class: below this calibration is rough."""

NEAR_PERFECT_AUROC = 0.98
LARGE_GAIN = 0.2
"""Leak-free notes are worth about +.05 to +.07 AUROC over images; this much is a leak until shown otherwise."""

NOTICEABLE_SKIPS = 0.01
"""Share of the resamples left out that is worth a sentence."""

_ROUNDING = 1e-9  # sums over resamples differ in their last bits where all studies count alike


def remarks(evaluation: CohortEvaluation, *, confidence: float, samples: int) -> tuple[str, ...]:
    """Return the sentences that the numbers call for, most serious first.

    Args:
        evaluation: The cohort's result.
        confidence: Level of its intervals.
        samples: Number of its bootstrap resamples.
    """
    interval = f"{level(confidence)} interval"
    return (
        *_on_size(evaluation),
        *_on_leaks(evaluation),
        *_on_chance(evaluation, interval),
        *_on_fusion(evaluation, interval),
        *_on_calibration(evaluation, interval),
        *_on_estimates_outside(evaluation, interval),
        *_on_no_width(evaluation),
        *_on_resamples(evaluation, samples),
    )


def _on_size(evaluation: CohortEvaluation) -> Iterator[str]:
    timed = _is_timed(evaluation)
    for name, patients in zip(evaluation.classes, evaluation.class_patients, strict=False):
        if patients < FEWEST_PATIENTS:
            yield (
                f"{'Event' if timed else 'Class'} {name} has {_patients(patients)}, fewer than {FEWEST_PATIENTS}: "
                "no conclusion can be drawn from these numbers."
            )
    fewest = min(evaluation.class_patients, default=PATIENTS_FOR_CALIBRATION)
    if timed and fewest < PATIENTS_FOR_CALIBRATION:
        have = "has" if fewest == 1 else "have"
        yield f"{_patients(fewest)} {have} the event; below {PATIENTS_FOR_CALIBRATION} all calibration is rough."
    elif fewest < PATIENTS_FOR_CALIBRATION:
        sloped = any(True for _ in _each(evaluation, "calibration_slope"))
        what = "calibration slope and intercept are" if sloped else "all calibration is"
        yield f"The smallest class has {_patients(fewest)}; below {PATIENTS_FOR_CALIBRATION} per class {what} rough."


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count} patients"


def _on_leaks(evaluation: CohortEvaluation) -> Iterator[str]:
    for arm, auroc in _compared(evaluation):
        if auroc.estimate is not None and auroc.estimate >= NEAR_PERFECT_AUROC:
            yield (
                f"{NAMES[auroc.name]} of the {arm} arm is {auroc.estimate:.3f}, near 1: look for a leak, such as "
                "findings or a diagnosis in the note, burned-in text, or a scanner or site that gives the outcome away."
            )
    for gain in _telling_gains(evaluation):
        if gain.estimate is not None and gain.estimate >= LARGE_GAIN:
            yield (
                f"Fused gains {gain.estimate:.2f} {NAMES[gain.name]} over {gain.group}-only: so large a gain is a leak "
                "until shown otherwise."
            )


def _telling_gains(evaluation: CohortEvaluation) -> list[Metric]:
    """Return what fused gains over the best single arm, and over images.

    A gain over a weaker arm tells of that arm; but what others add to images is theirs, and may be the answer.
    """
    least = min((gain.estimate for gain in evaluation.differences if gain.estimate is not None), default=None)
    return [gain for gain in evaluation.differences if gain.group == "image" or gain.estimate == least]


def _on_chance(evaluation: CohortEvaluation, interval: str) -> Iterator[str]:
    for arm, auroc in _compared(evaluation):
        if auroc.low is not None and auroc.high is not None and auroc.low <= 0.5:
            fault = "is worse than" if auroc.high < 0.5 else "is not shown to beat"
            name = NAMES[auroc.name]
            yield f"The {arm} arm {fault} chance: the {interval} of its {name} is {auroc.low:.2f} to {auroc.high:.2f}."


def _on_fusion(evaluation: CohortEvaluation, interval: str) -> Iterator[str]:
    for gain in evaluation.differences:
        other = f"{gain.group}-only"
        if gain.low is None or gain.high is None:
            yield f"Whether fused beats {other} cannot be told: the {NAMES[gain.name]} difference has no interval."
        elif gain.high < 0:
            yield (
                f"Fused is worse than {other}: the {interval} of the {NAMES[gain.name]} difference lies below 0 "
                f"({gain.low:+z.3f} to {gain.high:+z.3f})."
            )
        elif gain.low <= 0:
            yield (
                f"Fused does not beat {other}: the {interval} of the {NAMES[gain.name]} difference contains 0 "
                f"({gain.low:+z.3f} to {gain.high:+z.3f})."
            )


def _on_calibration(evaluation: CohortEvaluation, interval: str) -> Iterator[str]:
    for arm, slope in _each(evaluation, "calibration_slope"):
        if slope.low is None or slope.high is None:
            yield f"The calibration slope of the {arm} arm cannot be estimated with an interval."
        elif not slope.low <= 1 <= slope.high:
            fault = "too extreme" if slope.high < 1 else "too timid"
            yield (
                f"Probabilities of the {arm} arm are {fault}: the {interval} of the calibration slope is "
                f"{slope.low:z.2f} to {slope.high:z.2f}, 1 is right."
            )
    for arm, intercept in _each(evaluation, "calibration_intercept"):
        if intercept.low is not None and intercept.high is not None and not intercept.low <= 0 <= intercept.high:
            fault = "too high" if intercept.high < 0 else "too low"
            yield (
                f"Probabilities of the {arm} arm are {fault} on average: the {interval} of the calibration intercept "
                f"is {intercept.low:+z.2f} to {intercept.high:+z.2f}, 0 is right."
            )


def _on_estimates_outside(evaluation: CohortEvaluation, interval: str) -> Iterator[str]:
    outside: dict[str, list[str]] = {}
    for arm in evaluation.arms:
        for metric in arm.metrics:
            if metric.estimate is None or metric.low is None or metric.high is None:
                continue
            if not metric.low - _ROUNDING <= metric.estimate <= metric.high + _ROUNDING:
                whose = f"{arm.arm} arm" if metric.group == "all" else f"{arm.arm} arm at {metric.group}"
                numbers = f"{metric.estimate:.3f} against {metric.low:.3f} to {metric.high:.3f}"
                outside.setdefault(metric.name, []).append(f"{whose}: {numbers}")
    for name, found in outside.items():
        why = (
            "noise alone makes it too large in small cohorts, and the interval takes that off"
            if name in LEANS_UPWARDS
            else "resampling shifts this measure, so take neither as exact"
        )
        yield f"An estimate of the {called(name)} lies outside of its {interval} ({'; '.join(found)}): {why}."


def _on_no_width(evaluation: CohortEvaluation) -> Iterator[str]:
    flat = [
        f"{called(metric.name, metric.group)} of the {arm.arm} arm ({metric.estimate:z.3f})"
        for arm in evaluation.arms
        for metric in arm.metrics
        if _is_flat(metric)
    ]
    if flat:
        yield (
            f"No resample changes the {', '.join(flat)}: an interval without width does not tell how far other "
            "patients would."
        )


def _is_flat(metric: Metric) -> bool:
    """Return whether the interval is the estimate alone."""
    if metric.estimate is None or metric.low is None or metric.high is None:
        return False
    return max(metric.high, metric.estimate) - min(metric.low, metric.estimate) <= _ROUNDING


def _on_resamples(evaluation: CohortEvaluation, samples: int) -> Iterator[str]:
    lacking = evaluation.resamples_lacking_a_class
    if lacking > NOTICEABLE_SKIPS * samples:
        what = "the event, or all censored studies," if _is_timed(evaluation) else "a class"
        yield f"{lacking} of {samples} bootstrap resamples lacked {what} and were left out: the intervals are rough."


def called(metric: str, group: str = "all") -> str:
    """Return how a metric is called in a sentence, with the horizon or cut that it is of.

    >>> called("auroc"), called("auroc[>=3]"), called("brier", "365 days"), called("calibration_slope")
    ('AUROC', 'AUROC at >=3', 'Brier score at 365 days', 'calibration slope')
    """
    plain, _, rest = metric.rstrip("]").partition("[")
    at = rest or ("" if group == "all" else group)
    return CALLED.get(plain, plain.replace("_", " ")) + (f" at {at}" if at else "")


def _is_timed(evaluation: CohortEvaluation) -> bool:
    return any(True for _ in _each(evaluation, "c_index"))


def _compared(evaluation: CohortEvaluation) -> Iterator[tuple[str, Metric]]:
    """Yield each arm with the metric that arms are compared by."""
    for name in NAMES:
        yield from _each(evaluation, name)


def _each(evaluation: CohortEvaluation, name: str) -> Iterator[tuple[str, Metric]]:
    for arm in evaluation.arms:
        for metric in arm.metrics:
            if metric.name == name and metric.group == "all":
                yield arm.arm, metric
