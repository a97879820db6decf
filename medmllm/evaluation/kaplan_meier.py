"""Estimate how many come through to a time, when not all were followed until then.

    times, events, weights (draws, studies) -> share without the event at given times (draws, times)
    the same for the censoring -> share still followed, which other measures are weighted by

Kaplan & Meier, J Am Stat Assoc 1958. At equal times events come before censoring, so the share still followed is taken
of those that had no event then.
"""

from dataclasses import dataclass, field

import numpy as np

from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.records import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """The studies in order of time, as all draws of weights share them."""

    time: FloatArray = field(repr=False)  # (studies,)
    event: BoolArray = field(repr=False)  # (studies,), False: censored
    order: IntArray = field(init=False, repr=False)  # (studies,), by time
    starts: IntArray = field(init=False, repr=False)  # (different times,), places in that order
    distinct: FloatArray = field(init=False, repr=False)  # (different times,)

    def __post_init__(self) -> None:
        order = np.argsort(self.time, kind="stable")
        distinct, starts = np.unique(self.time[order], return_index=True)
        for name, value in (("order", order), ("starts", starts), ("distinct", distinct)):
            object.__setattr__(self, name, value)

    def event_free(self, weights: FloatArray, at: FloatArray) -> FloatArray:
        """Return the share without the event until and including each time.

        Args:
            weights: How often each study counts; shape (draws, studies).
            at: Shape (times,); after the last study's time the share stays.

        Returns:
            Shape (draws, times).
        """
        total, events = self._sums(weights)
        return _steps(self._falls(events, _from_here_on(total)), self._place(at, including=True))

    def followed(self, weights: FloatArray, at: FloatArray, *, including: bool) -> FloatArray:
        """Return the share not censored before each time, or until and including it; arguments as of `event_free`."""
        total, events = self._sums(weights)
        left = _from_here_on(total) - events
        return _steps(self._falls(total - events, left), self._place(at, including=including))

    def _sums(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the weight of all studies, and of those with an event, at each different time."""
        ordered = weights[:, self.order]
        total = np.add.reduceat(ordered, self.starts, axis=1)
        return total, np.add.reduceat(ordered * self.event[self.order], self.starts, axis=1)

    def _falls(self, lost: FloatArray, before: FloatArray) -> FloatArray:
        return 1 - np.divide(lost, before, out=np.zeros_like(lost), where=before > 0)

    def _place(self, at: FloatArray, *, including: bool) -> IntArray:
        """Return how many different times lie before each time, or at it too."""
        place: IntArray = np.searchsorted(self.distinct, at, side="right" if including else "left")
        return place


def _from_here_on(total: FloatArray) -> FloatArray:
    """Return the weight of the studies at each time and later."""
    reverse: FloatArray = total[:, ::-1].cumsum(axis=1)[:, ::-1]
    return reverse


def _steps(falls: FloatArray, place: IntArray) -> FloatArray:
    steps: FloatArray = np.concatenate([np.ones((len(falls), 1)), falls.cumprod(axis=1)], axis=1)[:, place]
    return steps
