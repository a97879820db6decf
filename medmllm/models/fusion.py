"""Fuse the features of several modalities into logits.

features of each modality (batch, width_m) -> logits (batch, outputs)
"""

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """Normalise each modality, lay them side by side, and classify with one hidden layer.

    Args:
        widths: Feature width of each modality, in order.
        hidden: Units of the hidden layer.
        outputs: Logits; 1 for a binary task.
        dropout: Applied to the hidden layer.
    """

    def __init__(self, widths: list[int], *, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden)) for width in widths)
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(hidden * len(widths), hidden), nn.GELU(), nn.Dropout(dropout))
        self.out = nn.Linear(hidden, outputs)
        for layer in [*self.project.modules(), *self.mix.modules()]:
            if isinstance(layer, nn.Linear):  # the default start is so small that interactions take long to show
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # He et al., ICCV 2015
                nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits, shape (batch, outputs)."""
        side_by_side = torch.cat([project(f) for project, f in zip(self.project, features, strict=True)], dim=1)
        logits: Tensor = self.out(self.mix(side_by_side))
        return logits


FUSIONS = {"concat": Concat}
