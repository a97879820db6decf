"""Measure predictions of ordered classes, such as grades: how far off, not only how often wrong.

    targets, probabilities -> the median class; AUROC of every cut, quadratic kappa, mean absolute error

Weighted kappa: Cohen, Psychol Bull 1968. Ranked probability score: Epstein, J Appl Meteorol 1969, divided by its
largest value. The predicted class is the median of the probabilities: no other lies nearer to the truth on average,
if they are right. The `weighted_*` functions take any number of weightings at once, as in `discrimination`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medmllm.evaluation.calibration import surprise, weighted_ece
from medmllm.evaluation.discrimination import (
    IntArray,
    weighted_accuracy,
    weighted_auroc,
    weighted_balanced_accuracy,
)
from medmllm.evaluation.resampling import Measure
from medmllm.records import FloatArray

_ROUNDING = 1e-9  # 0.1 + 0.4 is even odds, whatever the last bit


def median_class(probabilities: FloatArray) -> IntArray:
    """Return the lowest class of each study that it or a lower one is as likely as not; shape (studies,).

    Args:
        probabilities: Of the classes in order; shape (studies, classes).

    >>> median_class(np.array([[0.4, 0.3, 0.3], [0.45, 0.05, 0.5]]))
    array([1, 1])
    """
    found: IntArray = (np.cumsum(probabilities, axis=1) >= 0.5 - _ROUNDING).argmax(axis=1)
    return found


def at_least(probabilities: FloatArray) -> FloatArray:
    """Return P(class >= k) for k = 1, 2, ...; shape (studies, classes - 1).

    Args:
        probabilities: Of the classes in order; shape (studies, classes).
    """
    return np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1][:, 1:]


def ordinal_measures(
    targets: IntArray, probabilities: FloatArray, predicted: IntArray, classes: Sequence[str]
) -> Mapping[str, Measure]:
    """Return name -> measure of weighted studies for ordered classes, in the order of the report.

    Args:
        targets: Class index; shape (studies,).
        probabilities: Shape (studies, classes).
        predicted: Class index; shape (studies,).
        classes: Class names, lowest first.
    """
    count, cumulative = len(classes), at_least(probabilities)
    reached = targets[:, None] >= np.arange(1, count)  # (studies, cuts)
    misses = np.abs(targets - predicted)
    ranked = ((cumulative - reached) ** 2).mean(axis=1)
    surprises, top = surprise(targets, probabilities), probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets

    def of_cut(cut: int) -> Measure:
        return lambda weights: weighted_auroc(reached[:, cut], cumulative[:, cut], weights)

    cuts = {f"auroc[>={name}]": of_cut(cut) for cut, name in enumerate(classes[1:])}
    return {
        "auroc": lambda weights: np.mean([measure(weights) for measure in cuts.values()], axis=0),
        "quadratic_kappa": lambda weights: weighted_kappa(targets, predicted, count, weights),
        "mean_absolute_error": lambda weights: weights @ misses / weights.sum(axis=1),
        "accuracy": lambda weights: weighted_accuracy(targets, predicted, weights),
        "balanced_accuracy": lambda weights: weighted_balanced_accuracy(targets, predicted, count, weights),
        "ranked_probability_score": lambda weights: weights @ ranked / weights.sum(axis=1),
        "ece": lambda weights: weighted_ece(right, top, weights),
        "log_loss": lambda weights: weights @ surprises / weights.sum(axis=1),
        **cuts,
    }


def weighted_kappa(targets: IntArray, predicted: IntArray, classes: int, weights: FloatArray) -> FloatArray:
    """Return the quadratically weighted kappa under each weighting; NaN where truth and prediction never vary.

    Args:
        targets: Class index; shape (studies,).
        predicted: Class index; shape (studies,).
        classes: Number of classes.
        weights: Shape (draws, studies).

    Returns:
        Shape (draws,).
    """
    names = np.arange(classes)
    squares = (names[:, None] - names) ** 2
    truth, said = (weights @ (np.asarray(own)[:, None] == names) for own in (targets, predicted))
    by_chance = np.einsum("di,ij,dj->d", truth, squares, said) / weights.sum(axis=1)
    seen = weights @ (np.asarray(targets) - np.asarray(predicted)) ** 2
    return 1 - np.divide(seen, by_chance, out=np.full(len(weights), np.nan), where=by_chance > 0)
