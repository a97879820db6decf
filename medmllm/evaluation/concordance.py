"""Tell how well risks order the times to an event: Harrell's and Uno's C.

    Followed, risks, weights (draws, studies) -> C of each draw (draws,)

C is the share of pairs in which the study with the higher risk had its event first; a pair of equal risks counts half.
A pair can be compared when the earlier of the two times ended with the event; at equal times, when one ended with it
and the other is censored. 0.5 is chance.

Harrell et al., JAMA 1982, counts all such pairs alike, so what it estimates depends on who was censored. Uno et al.,
Stat Med 2011, weighs the pairs by the inverse of the squared share that was still followed, up to a last time.
"""

import numpy as np

from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.records import FloatArray

_ROWS_AT_ONCE = 256  # pairs held in memory: this times the studies


def weighted_harrell(
    followed: Followed, risk: FloatArray, weights: FloatArray, *, folds: IntArray | None = None
) -> FloatArray:
    """Return Harrell's C of each draw; NaN where no pair can be compared.

    Args:
        followed: The studies.
        risk: Higher: sooner; shape (studies,).
        weights: How often each study counts; shape (draws, studies).
        folds: Only studies of one fold are compared; shape (studies,). None: all.
    """
    return _concordance(followed, risk, weights, weights, np.flatnonzero(followed.event), folds)


def weighted_uno(followed: Followed, risk: FloatArray, weights: FloatArray, *, last: float) -> FloatArray:
    """Return Uno's C of each draw; NaN where no pair can be compared.

    Args:
        followed: The studies.
        risk: Higher: sooner; shape (studies,).
        weights: How often each study counts; shape (draws, studies).
        last: Events from this time on are not counted.
    """
    rows = np.flatnonzero(followed.event & (followed.time < last))
    share = followed.followed(weights, followed.time, including=False)
    inverse = np.divide(weights, share**2, out=np.zeros_like(weights), where=weights > 0)
    return _concordance(followed, risk, inverse, weights, rows, None)


def _concordance(
    followed: Followed,
    risk: FloatArray,
    of_first: FloatArray,
    of_second: FloatArray,
    rows: IntArray,
    folds: IntArray | None,
) -> FloatArray:
    """Return the weighted share of pairs in order, `rows` being the studies whose event may have come first."""
    agreeing, comparable = np.zeros(len(of_first)), np.zeros(len(of_first))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        own = rows[start : start + _ROWS_AT_ONCE, None]
        later = followed.time > followed.time[own]
        later |= (followed.time == followed.time[own]) & ~followed.event
        if folds is not None:
            later &= folds == folds[own]
        first = (risk[own] > risk) + 0.5 * (risk[own] == risk)
        agreeing += (of_first[:, own[:, 0]] * (of_second @ (later * first).T)).sum(axis=1)
        comparable += (of_first[:, own[:, 0]] * (of_second @ later.T.astype(np.float64))).sum(axis=1)
    return np.divide(agreeing, comparable, out=np.full(len(of_first), np.nan), where=comparable > 0)
