"""Tell whether a model uses each modality, by taking it away: permuted between patients, and left out.

    out-of-fold probabilities as they are, with one modality of other patients, and without it
    -> fall of the AUROC with its patient-clustered interval -> used, ignored, or not to be told

A model can do well and never look at the image. Permutation importance (Breiman, Machine Learning 2001; Fisher et al.,
J Mach Learn Res 2019): what the AUROC loses when a study's image is another patient's is what the model took from
images. Only studies that have the modality, and could be given another patient's, are counted. Of several repeats of
the cross-validation each AUROC is the mean over them, every network tested on its own test part.

`ignored` wants evidence: the whole interval of the fall lies below a stated bound. The verdict is on what a modality
says, so the fall without any is no part of it: that is an input the network may not have learnt to go without. Of an
arm that is not shown to beat chance nothing is said, as there is nothing to lose.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medmllm.evaluation.cohort import OutOfFold, auroc_measure
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.repeats import mean_measure
from medmllm.evaluation.resampling import Interval, Measure, level, resample, within
from medmllm.records import FloatArray

MeasureOf = Callable[[list[int], FloatArray], Measure]
"""Places of some studies, what is said of them (studies, classes) -> measure of their weights."""

MetricName = Literal["AUROC", "C-index"]

Verdict = Literal["used", "ignored", "unclear"]

CHANCE = 0.5

NOUNS = {"image": "the image", "text": "the note", "table": "the table"}
"""How a modality is called in a sentence; others go by their name."""


@dataclass(frozen=True, slots=True, eq=False)
class Deprived:
    """What an arm says of every study when one modality is taken away."""

    modality: str
    permuted: FloatArray = field(repr=False)  # (permutations, studies, classes), calibrated; NaN where not permuted
    absent: FloatArray = field(repr=False)  # (studies, classes), calibrated


@dataclass(frozen=True, slots=True, eq=False)
class Probed:
    """What an arm says of every study in one repeat of the cross-validation."""

    said: FloatArray = field(repr=False)  # (studies, classes), calibrated: as they are
    deprived: Sequence[Deprived]


@dataclass(frozen=True, slots=True)
class ModalityUse:
    """What one arm takes from one modality."""

    arm: str
    modality: str
    n: int  # studies that have it and were given another patient's
    patients: int
    permutations: int  # in each repeat
    auroc: Interval  # or the other metric: as they are, of these studies
    permuted: Interval  # mean over the permutations
    fall: Interval  # auroc - permuted, paired
    fall_absent: Interval  # auroc - that without the modality, paired
    bound: float  # `ignored` when the whole interval of `fall` lies below
    verdict: Verdict
    metric: MetricName = "AUROC"


def evaluate_use(
    arm: OutOfFold,
    deprived: Sequence[Deprived],
    *,
    targets: IntArray,
    patients: Sequence[str],
    bound: float,
    confidence: float,
    samples: int,
    seed: int,
    ordered: bool = False,
    more: Sequence[Probed] = (),
) -> tuple[ModalityUse, ...]:
    """Return what an arm takes from each modality; none for one that no study could be given of another patient.

    Args:
        arm: Its out-of-fold predictions as they are.
        deprived: The same studies in the same order, by modality.
        targets: Class index of each study; shape (studies,).
        patients: Patient of each study.
        bound: AUROC; a fall whose whole interval lies below it is none.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
        ordered: The classes stand in an order, lowest first.
        more: The same of further repeats of the cross-validation.
    """

    def measure_of(inside: list[int], chances: FloatArray) -> Measure:
        return auroc_measure(targets[inside], chances, ordered=ordered)

    return evaluate_use_by(
        measure_of,
        arm.arm,
        (Probed(arm.probabilities, deprived), *more),
        metric="AUROC",
        strata=targets,
        patients=patients,
        bound=bound,
        confidence=confidence,
        samples=samples,
        seed=seed,
    )


def evaluate_use_by(
    measure_of: MeasureOf,
    arm: str,
    repeats: Sequence[Probed],
    *,
    metric: MetricName,
    strata: IntArray,
    patients: Sequence[str],
    bound: float,
    confidence: float,
    samples: int,
    seed: int,
) -> tuple[ModalityUse, ...]:
    """Return what an arm takes from each modality, by a metric of which 0.5 is chance; see `evaluate_use`.

    Args:
        measure_of: The metric.
        arm: Its name.
        repeats: What it says of the same studies in the same order, in each repeat of the cross-validation.
        metric: How the metric is called.
        strata: Class of each study, all of which a resample must hold; shape (studies,).
        patients: Patient of each study.
        bound: A fall whose whole interval lies below it is none.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
    """
    found = []
    for modality in dict.fromkeys(own.modality for repeat in repeats for own in repeat.deprived):
        each = [(repeat.said, own) for repeat in repeats for own in repeat.deprived if own.modality == modality]
        inside = np.flatnonzero(np.any([_given(own) for _, own in each], axis=0))
        if not inside.size:
            continue
        owners = [patients[k] for k in inside.tolist()]
        measures = _measures(measure_of, each, inside)
        drawn = resample(measures, targets=strata[inside], patients=owners, samples=samples, seed=seed)
        auroc, fall = drawn.interval("as it is", confidence), drawn.difference("as it is", "permuted", confidence)
        found.append(
            ModalityUse(
                arm=arm,
                modality=modality,
                n=len(inside),
                patients=len(set(owners)),
                permutations=len(each[0][1].permuted),
                auroc=auroc,
                permuted=drawn.interval("permuted", confidence),
                fall=fall,
                fall_absent=drawn.difference("as it is", "absent", confidence),
                bound=bound,
                verdict=verdict(auroc, fall, bound),
                metric=metric,
            )
        )
    return tuple(found)


def _given(own: Deprived) -> BoolArray:
    """Return which studies were given another patient's; shape (studies,)."""
    return np.asarray(np.isfinite(own.permuted).all(axis=(0, 2)))


def _measures(
    measure_of: MeasureOf, each: Sequence[tuple[FloatArray, Deprived]], inside: IntArray
) -> dict[str, Measure]:
    """Return the means over the repeats, as measures of weights of the studies inside.

    A study that could be given another patient's in some repeats alone counts in these.
    """
    found: dict[str, list[Measure]] = {"as it is": [], "permuted": [], "absent": []}
    for said, own in each:
        places = np.flatnonzero(_given(own))
        if not places.size:
            continue
        column, of = np.searchsorted(inside, places), places.tolist()
        permuted = mean_measure([measure_of(of, chances) for chances in own.permuted[:, places]])
        found["as it is"].append(within(column, measure_of(of, said[places])))
        found["permuted"].append(within(column, permuted))
        found["absent"].append(within(column, measure_of(of, own.absent[places])))
    return {name: mean_measure(own) for name, own in found.items()}


def verdict(auroc: Interval, fall: Interval, bound: float) -> Verdict:
    """Return what the fall of the AUROC says.

    >>> verdict(Interval(0.8, 0.7, 0.9, 0), Interval(0.0, -0.01, 0.015, 0), bound=0.02)
    'ignored'
    >>> verdict(Interval(0.55, 0.45, 0.65, 0), Interval(0.0, -0.01, 0.015, 0), bound=0.02)  # may be guessing
    'unclear'
    """
    if None in (auroc.low, fall.low, fall.high):
        return "unclear"
    assert auroc.low is not None and fall.low is not None and fall.high is not None
    if auroc.low <= CHANCE:
        return "unclear"
    if fall.high < bound:
        return "ignored"
    return "used" if fall.low > 0 else "unclear"


def use_remarks(uses: Sequence[ModalityUse], *, confidence: float) -> Iterator[str]:
    """Yield in plain words which modalities an arm ignores, and of which it cannot be told.

    Args:
        uses: As of `evaluate_use`.
        confidence: Level of their intervals.
    """
    for use in uses:
        noun, fall = NOUNS.get(use.modality, f"the {use.modality}"), use.fall
        if use.verdict == "ignored":
            yield (
                f"The {use.arm} model ignores {noun}: given another patient's, its {use.metric} falls by "
                f"{fall.estimate:+z.3f} ({level(confidence)} interval {fall.low:+z.3f} to {fall.high:+z.3f}, "
                f"all below {use.bound:g}).{_without(use)}"
            )
        elif use.verdict == "unclear":
            yield f"Whether the {use.arm} model uses {noun} cannot be told: {_why_unclear(use, confidence)}."


def _without(use: ModalityUse) -> str:
    """Return how an ignored modality can be missed all the same; nothing where it is not."""
    fall = use.fall_absent
    if fall.low is None or fall.low <= 0:
        return ""
    return (
        f" That the {use.metric} falls by {fall.estimate:+z.3f} without any is no use of what it says: the network "
        "misses an input that it was trained with."
    )


def _why_unclear(use: ModalityUse, confidence: float) -> str:
    interval = f"{level(confidence)} interval"
    if use.auroc.low is None or use.fall.low is None:
        return f"the fall of its {use.metric} with another patient's has no interval"
    if use.auroc.low <= CHANCE:
        return f"it is not shown to beat chance (the {interval} of its {use.metric} starts at {use.auroc.low:.2f})"
    return (
        f"with another patient's its {use.metric} falls by {use.fall.estimate:+z.3f} ({interval} "
        f"{use.fall.low:+z.3f} to {use.fall.high:+z.3f}), which is neither above 0 nor below {use.bound:g}"
    )
