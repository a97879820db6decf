"""Lay what was predicted beside what came, in groups of studies: quarters by risk, and higher against lower risk.

    SurvivalOutOfFold, Followed -> calibration by quarters at a horizon; Kaplan-Meier curves of two groups, log-rank

Curves, Greenwood's intervals (log-log) and the log-rank test are scipy's. They take studies as independent, which
several studies of one patient are not; the intervals of the metrics do not.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import CensoredData, ecdf, logrank

from medmllm.evaluation.discrimination import BoolArray
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.model_documents import RISK_GROUPS
from medmllm.records import FloatArray

QUARTERS = 4
POINTS = 101
"""Times from 0 to the end of the follow-up at which a curve is told."""


@dataclass(frozen=True, slots=True)
class Quarter:
    """The studies of one quarter by predicted risk, lowest first."""

    n: int
    predicted: float  # mean share with the event by the horizon
    observed: float  # by Kaplan-Meier
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class RiskGroup:
    """The Kaplan-Meier curve of one group."""

    name: str
    n: int
    events: int
    times: tuple[float, ...] = field(repr=False)
    event_free: tuple[float, ...] = field(repr=False)
    low: tuple[float | None, ...] = field(repr=False)
    high: tuple[float | None, ...] = field(repr=False)
    at_risk: tuple[int, ...] = field(repr=False)  # just before each time


def calibration_quarters(
    followed: Followed, event_free: FloatArray, horizon: float, *, confidence: float
) -> tuple[Quarter, ...]:
    """Return predicted and observed shares with the event by a horizon, in quarters of the studies by predicted risk.

    Studies with the same prediction are in one quarter, so there may be fewer than four.

    Args:
        followed: Time and event of each study.
        event_free: Predicted probability of no event until the horizon; shape (studies,).
        horizon: The time.
        confidence: Level of the intervals.
    """
    risk = 1 - event_free
    place = np.searchsorted(np.quantile(risk, np.arange(1, QUARTERS) / QUARTERS), risk)
    found = []
    for number in np.unique(place):
        inside = place == number
        share, low, high = _curve(followed, inside, np.array([horizon]), confidence)
        found.append(
            Quarter(
                n=int(inside.sum()),
                predicted=float(risk[inside].mean()),
                observed=float(1 - share[0]),
                low=None if np.isnan(high[0]) else float(1 - high[0]),
                high=None if np.isnan(low[0]) else float(1 - low[0]),
            )
        )
    return tuple(found)


def risk_groups(followed: Followed, higher: BoolArray, *, confidence: float) -> tuple[RiskGroup, ...]:
    """Return the curves of the studies at lower and at higher risk, in this order; an empty group is left out.

    Args:
        followed: Time and event of each study.
        higher: Whether a study is at higher risk; shape (studies,).
        confidence: Level of the intervals.
    """
    times = np.linspace(0.0, followed.time.max(), POINTS)
    found = []
    for name, inside in zip(RISK_GROUPS, (~higher, higher), strict=True):
        if not inside.any():
            continue
        share, low, high = _curve(followed, inside, times, confidence)
        found.append(
            RiskGroup(
                name=name,
                n=int(inside.sum()),
                events=int(followed.event[inside].sum()),
                times=tuple(times.tolist()),
                event_free=tuple(share.tolist()),
                low=_defined(low),
                high=_defined(high),
                at_risk=tuple((followed.time[inside][:, None] >= times).sum(axis=0).tolist()),
            )
        )
    return tuple(found)


def logrank_p(followed: Followed, higher: BoolArray) -> float | None:
    """Return the two-sided p of the log-rank test between the two groups; None where it is not defined."""
    if higher.all() or not higher.any() or not followed.event.any():
        return None
    with np.errstate(invalid="ignore"):  # where no time tells the groups apart there is no variance, and NaN says so
        p = float(logrank(_censored(followed, higher), _censored(followed, ~higher)).pvalue)
    return None if np.isnan(p) else p


def _censored(followed: Followed, inside: BoolArray) -> CensoredData:
    return CensoredData.right_censored(followed.time[inside], ~followed.event[inside])


def _curve(
    followed: Followed, inside: BoolArray, times: FloatArray, confidence: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the event-free share at each time and its interval; NaN where that is not defined."""
    curve = ecdf(_censored(followed, inside)).sf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)  # NaN says so too
        interval = curve.confidence_interval(confidence, method="log-log")
    return curve.evaluate(times), interval.low.evaluate(times), interval.high.evaluate(times)


def _defined(values: FloatArray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)
