"""Tell how well predictions separate the classes: AUROC, AUPRC, sensitivity, specificity, Youden's threshold.

    targets, probabilities -> one number; weights (draws, studies) -> one number per draw

The `weighted_*` functions take any number of weightings at once, so that a bootstrap is one call. A measure
that is not defined (a class is missing) is NaN there and None in the functions for a single cohort.

AUROC with ties: Hanley & McNeil, Radiology 1982. Average precision: the step-wise area of scikit-learn.
Multiclass: unweighted mean of one-versus-rest (macro). Threshold: Youden, Cancer 1950.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medmllm.errors import EvaluationError
from medmllm.records import FloatArray

IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]

ROUNDING = 1e-5
"""Logits nearer than this count as one where a threshold is sought: batches of another size move them by about 1e-6."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a binary classifier does at one threshold; None where a class is missing."""

    threshold: float  # predicted positive when probability >= threshold
    sensitivity: float | None
    specificity: float | None
    balanced_accuracy: float | None


# --- one cohort ----------------------------------------------------------------------------


def auroc(targets: IntArray, probabilities: FloatArray) -> float | None:
    """Return the area under the ROC curve: the chance that a positive ranks above a negative.

    Args:
        targets: 0 or 1; shape (studies,).
        probabilities: Any score that grows with the chance of class 1; shape (studies,).

    >>> auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8]))  # 3.5 of 4 pairs in order
    0.875
    """
    return _single(weighted_auroc(np.asarray(targets) == 1, probabilities, _ones(targets)))


def auprc(targets: IntArray, probabilities: FloatArray) -> float | None:
    """Return the average precision; chance level is the share of positives, not 0.5.

    Args:
        targets: 0 or 1; shape (studies,).
        probabilities: Any score that grows with the chance of class 1; shape (studies,).

    >>> auprc(np.array([0, 1, 1]), np.array([0.5, 0.9, 0.2]))  # (1/1 + 2/3) / 2
    0.8333333333333333
    """
    return _single(weighted_auprc(np.asarray(targets) == 1, probabilities, _ones(targets)))


def macro_auroc(targets: IntArray, probabilities: FloatArray) -> float | None:
    """Return the mean over classes of the one-versus-rest AUROC.

    Args:
        targets: Class index; shape (studies,).
        probabilities: Shape (studies, classes).
    """
    return _single(weighted_macro_auroc(np.asarray(targets), probabilities, _ones(targets)))


def at_threshold(targets: IntArray, probabilities: FloatArray, threshold: float) -> OperatingPoint:
    """Return sensitivity, specificity and their mean when `probability >= threshold` is called positive.

    Args:
        targets: 0 or 1; shape (studies,).
        probabilities: Of class 1; shape (studies,).
        threshold: The operating point.
    """
    predicted = (np.asarray(probabilities) >= threshold).astype(np.int64)
    sensitivity = _single(weighted_recall(targets, predicted, 1, _ones(targets)))
    specificity = _single(weighted_recall(targets, predicted, 0, _ones(targets)))
    both = None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
    return OperatingPoint(threshold, sensitivity, specificity, both)


def choose_threshold(targets: IntArray, probabilities: FloatArray) -> float:
    """Return the threshold with the largest Youden's J (sensitivity + specificity - 1).

    Thresholds lie midway between neighbouring distinct probabilities, so that the cut is not glued to one
    study; not between those that only rounding tells apart, where there are others: such studies would fall now to
    one side and now to the other as they are scored in other batches. Of equally good ones the nearest to 0.5 is
    taken; without any J above 0 it is 0.5 itself. Choose on a tuning part, never on the studies that are then reported.

    Args:
        targets: 0 or 1, both present; shape (studies,).
        probabilities: Of class 1; shape (studies,).

    Raises:
        EvaluationError: Only one class is present.

    >>> choose_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9]))
    0.4
    """
    target = np.asarray(targets)
    positives, negatives = int((target == 1).sum()), int((target == 0).sum())
    if not positives or not negatives:
        raise EvaluationError(
            f"a threshold needs both classes, got {positives} positive and {negatives} negative studies"
        )
    levels, place = np.unique(np.asarray(probabilities, dtype=np.float64), return_inverse=True)
    missed = np.cumsum(np.bincount(place, weights=target == 1, minlength=levels.size))[:-1]
    rejected = np.cumsum(np.bincount(place, weights=target == 0, minlength=levels.size))[:-1]
    youden = rejected / negatives - missed / positives  # of the cut just above each level
    with np.errstate(divide="ignore"):
        apart = np.diff(np.log(levels) - np.log1p(-levels)) > ROUNDING
    if apart.any():
        youden = np.where(apart, youden, -np.inf)
    if not youden.size or youden.max() <= 0:
        return 0.5
    midpoints = (levels[:-1] + levels[1:]) / 2
    cuts = np.where(midpoints > levels[:-1], midpoints, levels[1:])  # neighbouring floats have no midpoint
    best = cuts[youden >= youden.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


# --- many weightings at once ---------------------------------------------------------------


def weighted_auroc(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the AUROC under each weighting; NaN where a class has no weight.

    Args:
        positive: Shape (studies,).
        scores: Shape (studies,).
        weights: Not negative; shape (draws, studies).

    Returns:
        Shape (draws,).
    """
    gained, lost = _weight_by_level(positive, np.asarray(scores), weights)
    below = np.cumsum(lost, axis=1) - lost
    return _ratio((gained * (below + lost / 2)).sum(axis=1), gained.sum(axis=1) * lost.sum(axis=1))


def weighted_auprc(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the average precision under each weighting; NaN where no positive has weight.

    Args:
        positive: Shape (studies,).
        scores: Shape (studies,).
        weights: Not negative; shape (draws, studies).

    Returns:
        Shape (draws,).
    """
    gained, lost = _weight_by_level(positive, -np.asarray(scores), weights)
    found = np.cumsum(gained, axis=1)
    called = found + np.cumsum(lost, axis=1)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return _ratio((gained * precision).sum(axis=1), found[:, -1])


def weighted_macro_auroc(targets: IntArray, probabilities: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the mean one-versus-rest AUROC under each weighting; NaN where any class has no weight.

    Args:
        targets: Class index; shape (studies,).
        probabilities: Shape (studies, classes).
        weights: Shape (draws, studies).

    Returns:
        Shape (draws,).
    """
    areas = [
        weighted_auroc(targets == label, probabilities[:, label], weights) for label in range(probabilities.shape[1])
    ]
    return np.mean(areas, axis=0)


def weighted_auroc_within(groups: IntArray, positive: BoolArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the AUROC over pairs of studies of the same group; NaN where no group has both classes.

    Args:
        groups: For example the fold that predicted each study; shape (studies,).
        positive: Shape (studies,).
        scores: Compared within a group only; shape (studies,).
        weights: Shape (draws, studies).

    Returns:
        Shape (draws,).
    """
    ordered = np.zeros(weights.shape[0])
    pairs = np.zeros(weights.shape[0])
    for group in np.unique(groups):
        inside = groups == group
        weight = weights[:, inside]
        count = (weight @ positive[inside]) * (weight @ ~positive[inside])
        # Without a class the group has no pairs, and its undefined AUROC counts for nothing.
        ordered += np.nan_to_num(weighted_auroc(positive[inside], scores[inside], weight)) * count
        pairs += count
    return _ratio(ordered, pairs)


def weighted_recall(targets: IntArray, predicted: IntArray, label: int, weights: FloatArray) -> FloatArray:
    """Return the share of a class that is predicted as that class: sensitivity (1) or specificity (0) when binary.

    Args:
        targets: Class index; shape (studies,).
        predicted: Class index; shape (studies,).
        label: The class.
        weights: Shape (draws, studies).

    Returns:
        Shape (draws,); NaN where the class has no weight.
    """
    member = np.asarray(targets) == label
    return _ratio(weights @ (member & (np.asarray(predicted) == label)), weights @ member)


def weighted_balanced_accuracy(targets: IntArray, predicted: IntArray, classes: int, weights: FloatArray) -> FloatArray:
    """Return the mean recall over all classes; NaN where any class has no weight.

    Args:
        targets: Class index; shape (studies,).
        predicted: Class index; shape (studies,).
        classes: Number of classes.
        weights: Shape (draws, studies).

    Returns:
        Shape (draws,).
    """
    return np.mean([weighted_recall(targets, predicted, label, weights) for label in range(classes)], axis=0)


def weighted_accuracy(targets: IntArray, predicted: IntArray, weights: FloatArray) -> FloatArray:
    """Return the share of studies predicted right under each weighting.

    Args:
        targets: Class index; shape (studies,).
        predicted: Class index; shape (studies,).
        weights: Shape (draws, studies).

    Returns:
        Shape (draws,).
    """
    return _ratio(weights @ (np.asarray(targets) == np.asarray(predicted)), weights.sum(axis=1))


def _weight_by_level(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the weight of positives and of negatives at each distinct score, ascending; (draws, levels) each."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) != 0]))
    sorted_weights = weights[:, order]
    gained = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)
    return gained, np.add.reduceat(sorted_weights, starts, axis=1) - gained


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _ones(targets: IntArray) -> FloatArray:
    return np.ones((1, len(targets)))


def _single(draws: FloatArray) -> float | None:
    return None if np.isnan(draws[0]) else float(draws[0])
