"""What stands between the fused features of a study and the hazards of an event in each interval.

    own part of a study (batch, intervals) -> HazardHead -> logits of the hazards
    log-risk (batch, 1) -> CoxHead -> the same, once the baseline hazard is known
    logits of the hazards -> log_hazard_until: the number that is explained

Both kinds of network say the same thing when they predict, so that calibration, scoring and explanations know one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEAST = 1e-6  # a cumulative hazard has a logarithm
_MOST = 60.0  # of a cumulative hazard: nobody comes through, and its exponential is still a number


class HazardHead(nn.Module):
    """Logits of the hazard in each interval: everybody's, which is learnt on, and the study's own part.

    Without everybody's a fresh network would give every interval a hazard of one half, and spend its first epochs on
    unlearning it.

    Args:
        intervals: Number of intervals.
    """

    def __init__(self, intervals: int) -> None:
        super().__init__()
        self.everybody = nn.Parameter(torch.zeros(intervals))

    def start_at(self, logits: Sequence[float]) -> None:
        """Take the logits of the hazards of all studies that are learnt from, one per interval."""
        with torch.no_grad():
            self.everybody.copy_(torch.tensor(logits, dtype=torch.float64))

    def forward(self, own: Tensor) -> Tensor:
        """Return the logits, shape (batch, intervals); `own` has the same shape."""
        return own + self.everybody


class CoxHead(nn.Module):
    """The log-risk while it is learnt; the logits of the hazards from when the baseline is settled.

    Args:
        intervals: Number of intervals that the baseline is kept in.
    """

    baseline: Tensor  # (intervals,), log of the cumulative hazard that each interval adds at a log-risk of 0
    settled: Tensor  # bool

    def __init__(self, intervals: int) -> None:
        super().__init__()
        self.register_buffer("baseline", torch.zeros(intervals))
        self.register_buffer("settled", torch.tensor(False))

    def settle(self, increments: Sequence[float]) -> None:
        """Take the cumulative hazard that each interval adds at a log-risk of 0."""
        self.baseline.copy_(torch.tensor(increments, dtype=torch.float64).clamp(min=_LEAST).log())
        self.settled.fill_(True)

    def forward(self, log_risk: Tensor) -> Tensor:
        """Return log-risks as they are, (batch, 1); once settled, logits (batch, intervals)."""
        if not bool(self.settled):
            return log_risk
        added = (log_risk + self.baseline).exp().clamp(max=_MOST)
        return added.expm1().clamp(min=_LEAST * _LEAST).log()  # 1 - exp(-added) is the hazard


def log_hazard_until(
    logits: Tensor, *, everybody: Sequence[float], temperature: float, parts: Sequence[float]
) -> Tensor:
    """Return the log of the calibrated cumulative hazard until a horizon, shape (batch,).

    Args:
        logits: Of the hazards; shape (batch, intervals).
        everybody: Logits that the temperature draws towards, as of `FoldSurvival`.
        temperature: Of the fold.
        parts: Of each interval, the part that lies before the horizon.
    """
    base, weight = (torch.tensor(values, dtype=logits.dtype, device=logits.device) for values in (everybody, parts))
    hazard: Tensor = functional.softplus(base + (logits - base) / temperature) @ weight
    return hazard.clamp(min=_LEAST * _LEAST).log()
