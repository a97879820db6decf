"""Calibrate probabilities by a rising curve of any shape instead of a single temperature.

    tuning part's probabilities, targets -> one IsotonicMap per class -> calibrated logits

Zadrozny and Elkan, KDD 2002; the curve is scikit-learn's IsotonicRegression, kept as its knots. With more than two
classes each has its own curve, one against the rest, and the results are scaled to sum to 1.

A curve bends to every study it is fitted on: below some hundred tuning studies it follows their noise, where a
temperature would not. It is flat over stretches, so studies that a temperature leaves apart tie, and the AUROC falls.
No probability is moved beyond 1 / (n + 2) of 0 or 1, which is what n tuning studies can support (Laplace). Studies are
told apart by four decimals of their probability: what differs by less, as the same note read in two batches does by
rounding, would stand on two sides of a step, and be scored as the one or the other by chance.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.isotonic import IsotonicRegression

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import apply_temperature, to_logits, to_probabilities
from medmllm.evaluation.discrimination import IntArray
from medmllm.records import FloatArray
from medmllm.tuning_documents import IsotonicMap

DECIMALS = 4


def fit_isotonic(probabilities: FloatArray, targets: IntArray) -> tuple[IsotonicMap, ...]:
    """Return the curve of the positive class when there are two, else one per class.

    Args:
        probabilities: Of the tuning part, after temperature; shape (studies, classes).
        targets: Class index; shape (studies,).

    Raises:
        EvaluationError: No studies, or not one target per study.
    """
    if not len(targets) or len(targets) != len(probabilities):
        raise EvaluationError(f"{len(probabilities)} probabilities do not fit {len(targets)} targets")
    classes = probabilities.shape[1]
    return tuple(_fit(probabilities[:, k], targets == k) for k in ([1] if classes == 2 else range(classes)))


def _fit(chances: FloatArray, events: FloatArray) -> IsotonicMap:
    least = 1 / (len(chances) + 2)
    curve = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    curve.fit(np.round(chances, DECIMALS), events.astype(float))
    return IsotonicMap(given=tuple(map(float, curve.X_thresholds_)), calibrated=tuple(map(float, curve.y_thresholds_)))


def calibrate(
    logits: FloatArray,
    temperature: float,
    maps: Sequence[IsotonicMap] | None,
    offsets: Sequence[float] | None = None,
) -> FloatArray:
    """Return calibrated logits, whose sigmoid (one output) or softmax (several) is the probability.

    Args:
        logits: Raw; shape (studies, outputs).
        temperature: They are divided by it first.
        maps: As of `fit_isotonic`; None leaves it at temperature and offsets.
        offsets: Then added, one per output.
    """
    scaled = apply_temperature(logits, temperature) + (0.0 if offsets is None else np.array(offsets))
    if maps is None:
        return scaled
    if scaled.shape[1] == 1:
        return to_logits(_follow(maps[0], to_probabilities(scaled[:, 0])[:, 1]))[:, None]
    chances = to_probabilities(scaled)
    moved = np.stack([_follow(own, chances[:, k]) for k, own in enumerate(maps)], axis=1)
    return np.log(moved / moved.sum(axis=1, keepdims=True))


def _follow(own: IsotonicMap, chances: FloatArray) -> FloatArray:
    """Return the curve's values: straight between knots, flat outside them."""
    return np.interp(chances, own.given, own.calibrated)
