"""Turn one score into the probabilities of ordered classes: the proportional-odds model.

    score (batch, 1) -> P(class >= k) for every cut k -> log-probability of each class (batch, classes)

McCullagh, J R Stat Soc B 1980: one score per study, and one cut between every two neighbouring classes. The cuts are in
order whatever the weights, so the probabilities of "this class or higher" fall from class to class, and those of the
classes are positive and sum to 1. What comes out stands where the logits of unordered classes stand: cross-entropy of
it is the model's likelihood, and a temperature keeps it valid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST_GAP = 1e-3
"""Between neighbouring cuts: a class between two equal ones would have the probability 0."""


class OrdinalHead(nn.Module):
    """Log-probabilities of ordered classes from one score; a higher score shifts them towards the higher classes.

    Args:
        classes: Number of classes, 3 or more. At first a score of 0 gives all of them the same probability.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        even = torch.logit(torch.arange(1, classes) / classes)
        self.first = nn.Parameter(even[:1].clone())
        self.steps = nn.Parameter(torch.log(torch.expm1(even.diff() - LEAST_GAP)))  # softplus gives the gaps back

    @property
    def gaps(self) -> Tensor:
        """Distances of neighbouring cuts, all above 0; shape (classes - 2,)."""
        return functional.softplus(self.steps) + LEAST_GAP

    @property
    def cuts(self) -> Tensor:
        """Where the odds of the next class or higher are even, ascending; shape (classes - 1,)."""
        up_to = torch.ones(len(self.gaps), len(self.gaps), device=self.gaps.device).tril()
        # a sum, as `use_deterministic_algorithms` stops at cumsum on CUDA
        return torch.cat([self.first, self.first + (up_to * self.gaps).sum(dim=1)])

    def forward(self, score: Tensor) -> Tensor:
        """Return log-probabilities, shape (batch, classes).

        Args:
            score: Shape (batch, 1).
        """
        below = functional.logsigmoid(self.cuts - score)  # log P(class < k), one column per cut
        above = functional.logsigmoid(score - self.cuts)  # log P(class >= k)
        # P(below the upper cut) - P(below the lower one), with no difference of near-equal numbers:
        # s(a) - s(b) = s(a) s(-b) (1 - exp(b - a))
        middle = below[:, 1:] + above[:, :-1] + torch.log(-torch.expm1(-self.gaps))
        return torch.cat([below[:, :1], middle, above[:, -1:]], dim=1)
