"""Code times to an event as whole numbers that a loss can be taken of.

    times of the training part -> bounds of intervals; time -> AtRisk: how many intervals, did the event end the last
    times of a part -> Ranked: place in time, and whether the event came

Intervals lie between quantiles of the training part's event times, so that each holds about as many events (Kvamme &
Borgan, Lifetime Data Analysis 2021). A study that is censored counts as having come through an interval when it was
followed for at least half of it (Gensheimer & Narasimhan, PeerJ 2019).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from medmllm.errors import SplitError
from medmllm.records import Survival, Target


class AtRisk(NamedTuple):
    """A study in discrete time: the intervals in which the event could have come, counted from the first."""

    intervals: int
    event: int  # 1: it came in the last of them


class Ranked(NamedTuple):
    """A study among others: its place in time, from 0; equal times share one."""

    place: int
    event: int  # 1: it came then; 0: censored


def time_of(target: Target | None) -> Survival | None:
    """Return the time to an event that a study's target is, or that is among its targets; None where it has none.

    >>> time_of((2, Survival(4.0, event=True))), time_of((2, -1))
    (Survival(time=4.0, event=True), None)
    """
    each = target if isinstance(target, tuple) else (target,)
    return next((own for own in each if isinstance(own, Survival)), None)


def interval_bounds(survived: Sequence[Survival], intervals: int, last_horizon: float) -> tuple[float, ...]:
    """Return the upper bounds of the intervals, which start at 0.

    Fewer than asked for where many events share their time. The last interval reaches to the last event, or to the last
    horizon where that is later.

    Args:
        survived: Of the training part.
        intervals: As many as there shall be.
        last_horizon: The latest time that is asked about.

    Raises:
        SplitError: No event after time 0.
    """
    times = [one.time for one in survived if one.event and one.time > 0]
    if not times:
        raise SplitError("the training part of a fold has no event after time 0: nothing to learn")
    bounds = np.unique(np.quantile(times, np.arange(1, intervals + 1) / intervals))
    bounds[-1] = max(bounds[-1], last_horizon)
    return tuple(map(float, bounds))


def at_risk(survived: Survival, bounds: Sequence[float]) -> AtRisk:
    """Return a study's intervals at risk; an event after the last bound had not come by then.

    >>> at_risk(Survival(2.0, event=True), (1.0, 2.0, 4.0)), at_risk(Survival(3.0, event=False), (1.0, 2.0, 4.0))
    (AtRisk(intervals=2, event=1), AtRisk(intervals=3, event=0))
    """
    if survived.event:
        place = int(np.searchsorted(bounds, survived.time))  # a bound belongs to the interval that it ends
        return AtRisk(place + 1, 1) if place < len(bounds) else AtRisk(len(bounds), 0)
    halves = [(low + high) / 2 for low, high in pairwise((0.0, *bounds))]
    return AtRisk(int(np.searchsorted(halves, survived.time, side="right")), 0)


def rank_times(survived: Sequence[Survival]) -> list[Ranked]:
    """Return each study's place in time among all of them.

    >>> rank_times([Survival(5.0, event=True), Survival(2.5, event=False), Survival(5.0, event=False)])
    [Ranked(place=1, event=1), Ranked(place=0, event=0), Ranked(place=1, event=0)]
    """
    _, places = np.unique([one.time for one in survived], return_inverse=True)
    return [Ranked(int(place), int(one.event)) for place, one in zip(places, survived, strict=True)]
