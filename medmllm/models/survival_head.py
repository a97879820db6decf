"""Start a network of times to an event at what the training part says of everybody.

    hazards of the training part -> their logits, added to what the network says of a study

Without it a fresh network would give every interval a hazard of one half, and spend its first epochs on unlearning it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class HazardHead(nn.Module):
    """Logits of the hazard in each interval: everybody's, which is learnt on, and the study's own part.

    Args:
        intervals: Number of intervals.
    """

    def __init__(self, intervals: int) -> None:
        super().__init__()
        self.everybody = nn.Parameter(torch.zeros(intervals))

    def start_at(self, hazards: Sequence[float]) -> None:
        """Take the training part's hazards, one per interval, each between 0 and 1, exclusive."""
        with torch.no_grad():
            self.everybody.copy_(torch.logit(torch.tensor(hazards, dtype=torch.float64)))

    def forward(self, own: Tensor) -> Tensor:
        """Return the logits, shape (batch, intervals); `own` has the same shape."""
        return own + self.everybody
