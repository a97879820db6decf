"""Turn what a network says of a study into the share without the event at any time.

    logits of hazards, or log-risk and baseline -> cumulative hazard at the bounds -> at any time between -> its median

Between two bounds the hazard is constant, so the cumulative hazard is a line. The number that stands for a study, and
that is explained, is the logarithm of its cumulative hazard at the largest horizon: in a Cox model it is the log-risk
but for a constant.

Baseline hazard of the Cox model: Breslow's estimator (in the discussion of Cox 1972).
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar

from medmllm.evaluation.calibration import TEMPERATURE_BOUNDS
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.records import FloatArray

_LEAST = 1e-12  # a cumulative hazard has a logarithm


def cumulative_hazard(logits: FloatArray, baseline: FloatArray | None) -> FloatArray:
    """Return the cumulative hazard at each bound, shape (studies, bounds).

    Args:
        logits: Calibrated. Of hazards, shape (studies, bounds); with a baseline log-risks, shape (studies, 1).
        baseline: Cumulative hazard at each bound for a log-risk of 0; None: the discrete-time model.
    """
    if baseline is None:
        summed: FloatArray = np.logaddexp(0.0, logits).cumsum(axis=1)  # -log(1 - hazard), interval by interval
        return summed
    return np.exp(logits) * np.asarray(baseline)


def hazard_until(cumulative: FloatArray, bounds: FloatArray, at: FloatArray) -> FloatArray:
    """Return the cumulative hazard at each time, shape (studies, times).

    Args:
        cumulative: At each bound; shape (studies, bounds).
        bounds: Rising, above 0; shape (bounds,).
        at: From 0 to the last bound; beyond it, that of the last bound.
    """
    knots = np.concatenate([[0.0], bounds])
    values = np.concatenate([np.zeros((len(cumulative), 1)), cumulative], axis=1)
    found = [np.interp(at, knots, own) for own in values]
    return np.stack(found) if found else np.zeros((0, len(at)))


def log_hazard(hazard: FloatArray) -> FloatArray:
    """Return the logarithm of a cumulative hazard, of the same shape."""
    logarithm: FloatArray = np.log(np.maximum(hazard, _LEAST))
    return logarithm


def median_time(cumulative: FloatArray, bounds: FloatArray) -> FloatArray:
    """Return the time at which half have had the event, shape (studies,); NaN where the last bound comes before.

    Args:
        cumulative: At each bound; shape (studies, bounds).
        bounds: Rising, above 0; shape (bounds,).
    """
    knots, half = np.concatenate([[0.0], bounds]), np.log(2.0)
    reached = cumulative[:, -1] >= half
    values = np.concatenate([np.zeros((len(cumulative), 1)), cumulative], axis=1)
    place = (values < half).sum(axis=1).clip(max=len(bounds))
    rows = np.arange(len(values))
    low, high = values[rows, place - 1], values[rows, place]
    within = np.divide(half - low, high - low, out=np.zeros(len(values)), where=high > low)
    return np.where(reached, knots[place - 1] + within * (knots[place] - knots[place - 1]), np.nan)


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


def fit_hazard_temperature(logits: FloatArray, at_risk: IntArray) -> float:
    """Return the temperature that gives a tuning part the highest likelihood in the discrete-time model.

    Args:
        logits: Raw; shape (studies, intervals).
        at_risk: Intervals at risk, and whether the event came in the last of them; shape (studies, 2).
    """
    number = np.arange(logits.shape[1])
    inside = number < at_risk[:, :1]
    sign = np.where((number == at_risk[:, :1] - 1) & (at_risk[:, 1:] == 1), -1.0, 1.0)
    signed = (sign * logits)[inside]

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, signed / np.exp(log_temperature)).sum())

    return _best_temperature(loss)


def fit_risk_temperature(log_risk: FloatArray, time: FloatArray, event: BoolArray) -> float:
    """Return the temperature that gives a tuning part the highest partial likelihood (Breslow's, for ties).

    It is the inverse of the slope of a Cox regression on the log-risk, kept above 0.

    Args:
        log_risk: Raw; shape (studies,).
        time: Shape (studies,).
        event: Shape (studies,).
    """
    order = np.argsort(-time, kind="stable")
    last = np.searchsorted(-time[order], -time[event], side="right") - 1  # of those still at risk at each event

    def loss(log_temperature: float) -> float:
        scaled = log_risk / np.exp(log_temperature)
        still = np.logaddexp.accumulate(scaled[order])[last]
        return float((still - scaled[event]).sum())

    return _best_temperature(loss)


def _best_temperature(loss: Callable[[float], float]) -> float:
    bounds = (float(np.log(TEMPERATURE_BOUNDS[0])), float(np.log(TEMPERATURE_BOUNDS[1])))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))
