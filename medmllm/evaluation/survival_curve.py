"""Turn what a network says of a study into the share without the event at any time.

    logits of the hazards in a fold's intervals -> drawn towards everybody's by a temperature
    -> log cumulative hazard at times that all folds share -> risk, event-free share, median

Between two bounds the hazard is constant, so the cumulative hazard is a line. Its logarithm is what stands for a study,
is averaged over networks, and is explained: in a Cox model it is the log-risk but for a constant.

A temperature that divided the logits themselves would draw every hazard towards one half, which no interval has; so
what is divided is their distance from the hazards of all studies that were learnt from.

Baseline hazard of the Cox model: Breslow's estimator (in the discussion of Cox 1972).
"""

from collections.abc import Sequence

import numpy as np

from medmllm.evaluation.calibration import most_probable_temperature
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.records import FloatArray
from medmllm.tuning_documents import FoldSurvival

GRID = 50
"""Times up to the largest horizon, that itself included, at which every curve is told."""

_LEAST = 1e-12  # a cumulative hazard has a logarithm


def time_grid(last: float) -> FloatArray:
    """Return evenly spaced times up to the largest horizon, 0 left out; shape (GRID,)."""
    return np.linspace(0.0, last, GRID + 1)[1:]


def shared_times(horizons: Sequence[float]) -> FloatArray:
    """Return the times at which all folds' log cumulative hazards are told: the horizons, then the grid."""
    return np.concatenate([horizons, time_grid(horizons[-1])])


def log_hazards(raw: FloatArray, temperature: float, fold: FoldSurvival, at: FloatArray) -> FloatArray:
    """Return calibrated log cumulative hazards until each time, shape (studies, times).

    Args:
        raw: Logits of the hazards; shape (studies, intervals). Of a study that nothing is said of, as of one that could
            not be given another patient's image, they are NaN, and so is what comes back.
        temperature: Of the fold.
        fold: Its intervals, and everybody's logits.
        at: Above 0, up to the last bound; shape (times,).
    """
    everybody = np.array(fold.everybody)
    drawn = everybody + (raw - everybody) / temperature
    # numpy's logaddexp warns of each NaN it meets
    steps = np.logaddexp(0.0, drawn, out=np.full_like(drawn, np.nan), where=~np.isnan(drawn))  # -log(1 - hazard)
    return np.log(np.maximum(steps @ parts_until(fold.bounds, at), _LEAST))


def parts_until(bounds: Sequence[float], at: Sequence[float] | FloatArray) -> FloatArray:
    """Return of each interval the part that lies before each time, shape (intervals, times).

    >>> parts_until((2.0, 4.0, 8.0), [3.0, 8.0]).tolist()
    [[1.0, 1.0], [0.5, 1.0], [0.0, 1.0]]
    """
    ends = np.array(bounds)
    starts = np.concatenate([[0.0], ends[:-1]])
    parts: FloatArray = ((np.asarray(at)[None, :] - starts[:, None]) / (ends - starts)[:, None]).clip(0, 1)
    return parts


def risks(log_hazard: FloatArray) -> FloatArray:
    """Return the probability that the event came, from log cumulative hazards, of the same shape."""
    chance: FloatArray = -np.expm1(-np.exp(log_hazard))
    return chance


def horizon_chances(logits: FloatArray, horizons: int) -> FloatArray:
    """Return the probabilities of no event by the largest horizon and of the event by then, shape (studies, 2).

    Args:
        logits: Log cumulative hazards at `shared_times`; shape (studies, times).
        horizons: How many.
    """
    came = risks(logits[:, horizons - 1])
    return np.stack([1 - came, came], axis=1)


def median_times(log_hazard: FloatArray, at: FloatArray) -> FloatArray:
    """Return the time by which half have had the event, shape (studies,); NaN where it comes after the last time.

    Args:
        log_hazard: Log cumulative hazards until each time; shape (studies, times).
        at: Rising, above 0; shape (times,). The cumulative hazard is a line between two of them.
    """
    half, knots = np.log(2.0), np.concatenate([[0.0], at])
    values = np.concatenate([np.zeros((len(log_hazard), 1)), np.exp(log_hazard)], axis=1)
    place = (values < half).sum(axis=1).clip(max=len(at))
    rows = np.arange(len(values))
    low, high = values[rows, place - 1], values[rows, place]
    within = np.divide(half - low, high - low, out=np.zeros(len(values)), where=high > low)
    return np.where(values[:, -1] >= half, knots[place - 1] + within * (knots[place] - knots[place - 1]), np.nan)


def breslow_baseline(log_risk: FloatArray, time: FloatArray, event: BoolArray, at: FloatArray) -> FloatArray:
    """Return the cumulative hazard of a log-risk of 0 at each time, shape (times,).

    Args:
        log_risk: Of the training part; shape (studies,).
        time: Likewise.
        event: Likewise; False: censored.
        at: Rising; shape (times,).
    """
    distinct = np.unique(time[event])
    risk = np.exp(log_risk)
    steps = [(event & (time == own)).sum() / risk[time >= own].sum() for own in distinct]
    passed = np.searchsorted(distinct, at, side="right")
    return np.concatenate([[0.0], np.cumsum(steps)])[passed]


def fit_hazard_temperature(raw: FloatArray, at_risk: IntArray, everybody: Sequence[float]) -> float:
    """Return the most probable temperature of a tuning part, as `calibration.fit_temperature` does of classes.

    Args:
        raw: Logits of the hazards; shape (studies, intervals).
        at_risk: Intervals at risk, and whether the event came in the last of them; shape (studies, 2).
        everybody: What the temperature draws towards; shape (intervals,).
    """
    return most_probable_temperature(lambda temperature: hazard_surprise(raw, at_risk, everybody, temperature))


def hazard_surprise(raw: FloatArray, at_risk: IntArray, everybody: Sequence[float], temperature: float) -> float:
    """Return the summed negative log-likelihood of all intervals at risk, in nats, under a temperature.

    Args:
        raw: Logits of the hazards; shape (studies, intervals).
        at_risk: Intervals at risk, and whether the event came in the last of them; shape (studies, 2).
        everybody: What the temperature draws towards; shape (intervals,).
        temperature: Divides the distance from everybody's.
    """
    base, number = np.array(everybody), np.arange(raw.shape[1])
    inside = number < at_risk[:, :1]
    sign = np.where((number == at_risk[:, :1] - 1) & (at_risk[:, 1:] == 1), -1.0, 1.0)
    return float(np.logaddexp(0.0, sign * (base + (raw - base) / temperature))[inside].sum())
