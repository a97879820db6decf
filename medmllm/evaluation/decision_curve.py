"""Tell whether acting on a model's probabilities would help more than treating all, or none.

    targets, probabilities -> net benefit at each threshold, with patient-clustered intervals; treat all; treat none

At a threshold t whoever's probability reaches t is treated, which says that a false alarm is worth t / (1 - t) of a
finding. Net benefit = true positives / n - false positives / n * t / (1 - t): Vickers and Elkin, Med Decis Making 2006.
It needs calibrated probabilities. Treating none gives 0. Intervals hold for one threshold at a time. Of several repeats
of the cross-validation it is the mean over them, on the same resamples of patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmllm.errors import EvaluationError
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.repeats import resample_repeats
from medmllm.evaluation.resampling import Interval, Measure
from medmllm.records import FloatArray

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""From 0.05 to 0.95; which of them matter is for the clinic to say."""


@dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit of one arm, per study."""

    arm: str
    thresholds: tuple[float, ...]
    net_benefit: tuple[Interval, ...]  # one per threshold
    treat_all: tuple[float, ...]  # the same whatever the arm
    repeats: tuple[tuple[float, ...], ...]  # net benefit in each repeat of several; empty where there is one


def net_benefit(targets: IntArray, probabilities: FloatArray, threshold: float, weights: FloatArray) -> FloatArray:
    """Return the net benefit of treating from a threshold on, under each weighting; shape (draws,).

    Args:
        targets: 0 or 1; shape (studies,).
        probabilities: Of class 1; shape (studies,).
        threshold: Above 0 and below 1; a probability at the threshold is treated.
        weights: Shape (draws, studies).

    Raises:
        EvaluationError: The threshold does not lie between 0 and 1.

    >>> float(net_benefit(np.array([1, 0, 0, 1]), np.array([0.9, 0.3, 0.1, 0.1]), 0.2, np.ones((1, 4)))[0])
    0.1875
    """
    if not 0 < threshold < 1:
        raise EvaluationError(f"a threshold lies between 0 and 1, got {threshold:g}")
    treated, odds = probabilities >= threshold, threshold / (1 - threshold)
    gain = np.where(targets == 1, 1.0, -odds) * treated
    return weights @ gain / weights.sum(axis=1)


def decision_curve(
    arm: str,
    targets: IntArray,
    probabilities: FloatArray,
    patients: Sequence[str],
    *,
    confidence: float,
    samples: int,
    seed: int,
    more: Sequence[FloatArray] = (),
) -> DecisionCurve:
    """Return an arm's net benefit at every one of THRESHOLDS.

    Args:
        arm: Its name.
        targets: 0 or 1; shape (studies,).
        probabilities: Of class 1, calibrated; shape (studies,).
        patients: Patient of each study.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
        more: Probabilities of the same studies in further repeats of the cross-validation.
    """

    def measure(chances: FloatArray, threshold: float) -> Measure:
        return lambda weights: net_benefit(targets, chances, threshold, weights)

    each = {f"{threshold:g}": [measure(own, threshold) for own in (probabilities, *more)] for threshold in THRESHOLDS}
    found = resample_repeats(each, strata=targets, patients=patients, confidence=confidence, samples=samples, seed=seed)
    share = float(np.mean(targets))
    by_repeat = np.stack(list(found.each.values()), axis=1)
    return DecisionCurve(
        arm=arm,
        thresholds=THRESHOLDS,
        net_benefit=tuple(found.drawn.interval(name, confidence) for name in each),
        treat_all=tuple(share - (1 - share) * threshold / (1 - threshold) for threshold in THRESHOLDS),
        repeats=tuple(map(tuple, by_repeat.tolist())) if more else (),
    )
