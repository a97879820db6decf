"""Fuse the features of several modalities into logits.

features of each modality (batch, width_m) -> logits (batch, outputs)

These read one vector of each modality; `cross_attention` reads tokens. With `bert_prefix` the vectors are what BERT
makes of each modality, having read all of them together.
"""

import math

import torch
from torch import Tensor, nn

from medmllm.models.cross_attention import CrossAttention


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


class Gated(nn.Module):
    """Let each study weigh its modalities: a gated multimodal unit (Arevalo et al., ICLR workshop 2017).

    Each unit of the hidden layer is a weighted mean of the modalities' units, with weights from all features together.

    Args:
        widths: Feature width of each modality, in order.
        hidden: Units of the hidden layer.
        outputs: Logits; 1 for a binary task.
        dropout: Applied to the hidden layer.
    """

    def __init__(self, widths: list[int], *, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.normalise = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.project = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.gate = nn.Linear(sum(widths), hidden * len(widths)) if len(widths) > 1 else None  # else nothing to weigh
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits, shape (batch, outputs)."""
        normal = [normalise(f) for normalise, f in zip(self.normalise, features, strict=True)]
        units = torch.stack([torch.tanh(project(f)) for project, f in zip(self.project, normal, strict=True)], dim=1)
        if self.gate is not None:
            units = units * self.gate(torch.cat(normal, dim=1)).view(units.shape).softmax(dim=1)
        logits: Tensor = self.out(self.dropout(units.sum(dim=1)))
        return logits


class LowRank(nn.Module):
    """Multiply the modalities, each with every other: low-rank multimodal fusion (Liu et al., ACL 2018).

    The hidden units are what a full bilinear (with three modalities trilinear) layer would give whose weights have
    rank RANK; a 1 beside each modality's features keeps the terms of fewer modalities.

    Args:
        widths: Feature width of each modality, in order.
        hidden: Units of the hidden layer.
        outputs: Logits; 1 for a binary task.
        dropout: Applied to the hidden layer.
    """

    RANK = 4

    def __init__(self, widths: list[int], *, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.normalise = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.factors = nn.ParameterList(
            nn.Parameter(torch.randn(self.RANK, width + 1, hidden) / math.sqrt(width + 1)) for width in widths
        )
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout))
        self.out = nn.Linear(hidden, outputs)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits, shape (batch, outputs)."""
        product: Tensor | float = 1.0
        for normalise, factor, found in zip(self.normalise, self.factors, features, strict=True):
            normal = normalise(found)
            with_one = torch.cat([normal, torch.ones_like(normal[:, :1])], dim=1)
            product = product * torch.einsum("bw,rwh->rbh", with_one, factor)
        assert isinstance(product, Tensor)  # there is a modality at least
        logits: Tensor = self.out(self.mix(product.sum(dim=0)))
        return logits


FUSIONS = {
    "concat": Concat,
    "gated": Gated,
    "low_rank": LowRank,
    "cross_attention": CrossAttention,
    "bert_prefix": Concat,
}
