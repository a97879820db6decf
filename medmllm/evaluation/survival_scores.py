"""Tell how far predicted shares without an event lie from what came, when not all were followed until then.

    Followed, predicted shares, weights (draws, studies) -> Brier score at times; over all times; observed - expected

The Brier score counts a study that was censored too early not at all, and the others by the inverse of the share that
was still followed (IPCW; Graf et al., Stat Med 1999). Calibration in the large compares the share of events until a
time, by Kaplan-Meier, with the mean predicted one.
"""

import numpy as np

from medmllm.evaluation.kaplan_meier import Followed
from medmllm.records import FloatArray


def weighted_brier(followed: Followed, predicted: FloatArray, at: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the Brier score of each draw at each time, shape (draws, times): 0 is perfect.

    Args:
        followed: The studies.
        predicted: Share without the event until each time; shape (studies, times).
        at: The times; shape (times,).
        weights: How often each study counts; shape (draws, studies).
    """
    time = followed.time[:, None]
    until_own = followed.followed(weights, followed.time, including=False)
    until_at = followed.followed(weights, at, including=True)
    came = (predicted**2 * (followed.event[:, None] & (time <= at))).astype(np.float64)
    to_come = (1 - predicted) ** 2 * (time > at)
    inverse = np.divide(weights, until_own, out=np.zeros_like(weights), where=weights > 0)
    later = weights @ to_come  # none where nobody was followed until then
    summed = inverse @ came + np.divide(later, until_at, out=np.zeros_like(later), where=later > 0)
    score: FloatArray = summed / weights.sum(axis=1, keepdims=True)
    return score


def weighted_integrated_brier(
    followed: Followed, predicted: FloatArray, at: FloatArray, weights: FloatArray
) -> FloatArray:
    """Return the mean of the Brier score over the times from the first to the last, shape (draws,).

    Args:
        followed: The studies.
        predicted: Shape (studies, times).
        at: The times, rising; trapezoids between them.
        weights: Shape (draws, studies).
    """
    scores = weighted_brier(followed, predicted, at, weights)
    mean: FloatArray = np.trapezoid(scores, at, axis=1) / (at[-1] - at[0])
    return mean


def weighted_excess(followed: Followed, predicted: FloatArray, at: float, weights: FloatArray) -> FloatArray:
    """Return the observed share of events until a time minus the mean predicted one, shape (draws,).

    Args:
        followed: The studies.
        predicted: Share without the event until then; shape (studies,).
        at: The time.
        weights: Shape (draws, studies).
    """
    observed = 1 - followed.event_free(weights, np.array([at]))[:, 0]
    excess: FloatArray = observed - weights @ (1 - predicted) / weights.sum(axis=1)
    return excess
