"""The losses of times to an event, of which some were not seen to come (right-censored).

    logits of hazards, AtRisk -> HazardLoss: the likelihood of the discrete-time model
    log-risks, Ranked -> CoxLoss: the partial likelihood, ties after Efron

In discrete time each interval in which the event could have come is a yes or no, as in logistic regression on
person-periods (Singer & Willett, J Educ Stat 1993); the others are masked. Cox compares each event with those still at
risk at its time (Cox, J R Stat Soc B 1972; Efron, J Am Stat Assoc 1977), here those of the same batch: a batch of few
studies compares with few, and one without an event teaches nothing, so batches of 16 or more are wanted.

Beside other targets a study may lack its time, which is then UNKNOWN twice: it counts nowhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST = 1e-12  # a loss of 0 may be divided by it


@dataclass(frozen=True, slots=True)
class HazardLoss:
    """Negative log-likelihood of the discrete-time model, the mean over the studies."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            logits: Of the hazard in each interval; shape (batch, intervals).
            target: As `AtRisk`; shape (batch, 2).
        """
        return self.summed(logits, target) / self.divisor(target)

    def summed(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the sum over the studies whose time is known; the logits of others get a gradient of exactly 0."""
        number = torch.arange(logits.shape[1], device=logits.device)
        count, event = target[:, :1], target[:, 1:]
        came = (number == count - 1) & (event == 1)
        each = functional.binary_cross_entropy_with_logits(logits, came.to(logits.dtype), reduction="none")
        return torch.where(number < count, each, 0.0).sum()

    def counted(self, target: Tensor) -> Tensor:
        """Return which studies the mean is over: those whose time is known; bool, shape (batch,)."""
        return target[:, 0] >= 0

    def divisor(self, target: Tensor) -> Tensor | float:
        """Return the number of studies."""
        return float(len(target))


@dataclass(frozen=True, slots=True)
class CoxLoss:
    """Negative log partial likelihood of the studies of a batch, the mean over its events."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss; 0 where there is no event.

        Args:
            logits: Log-risk; shape (batch, 1).
            target: As `Ranked`; shape (batch, 2).
        """
        return self.summed(logits, target) / self.divisor(target)

    def summed(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the sum over the events; the logits of studies whose time is not known get a gradient of exactly 0."""
        risk, place, event = logits[:, 0], target[:, 0], target[:, 1] == 1  # UNKNOWN lies before every place
        # Rows are events, columns those they are compared with.
        still = place[None, :] >= place[event, None]
        tied = (place[None, :] == place[event, None]) & event[None, :]
        # Of d events at one time, the l-th (from 0) is compared with all but a share l / d of each of the d.
        before = torch.tril(tied[:, event], diagonal=-1).sum(dim=1, keepdim=True)
        weight = still.to(risk.dtype) - tied * before / tied.sum(dim=1, keepdim=True)
        compared = torch.logsumexp(risk[None, :] + weight.log(), dim=1)
        return (compared - risk[event]).sum()

    def counted(self, target: Tensor) -> Tensor:
        """Return which studies the mean is over: those with the event; bool, shape (batch,)."""
        return target[:, 1] == 1

    def divisor(self, target: Tensor) -> Tensor | float:
        """Return the number of events; a batch without any counts for nothing among others."""
        return target[:, 1].sum().clamp(min=_SMALLEST)
