"""Let the tokens of every modality look at those of the others: where in the image a word is about, and back.

    tokens of each modality -> each attends to all tokens of the other modalities -> mean and maximum over its real
    tokens -> all modalities side by side -> logits

Co-attention as in ViLBERT (Lu et al., NeurIPS 2019), with one layer: places of the image's last feature map and word
pieces each ask, and are asked. With one modality alone there is nothing to attend to; the rest is the same.
"""

import math

import torch
from torch import Tensor, nn

from medmllm.models.tokens import Tokens


class CrossAttention(nn.Module):
    """Attend across modalities, pool each, lay them side by side, and classify with one hidden layer.

    Args:
        widths: Token width of each modality, in order.
        hidden: Units of every layer.
        outputs: Logits; 1 for a binary task.
        dropout: Applied to attention weights and hidden layers.
    """

    HEADS = 4  # or fewer, where `hidden` is not a multiple of it

    def __init__(self, widths: list[int], *, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        heads = math.gcd(hidden, self.HEADS)
        asking = widths if len(widths) > 1 else []
        self.project = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden)) for width in widths)
        self.attend = nn.ModuleList(
            nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True) for _ in asking
        )
        self.feed_forward = nn.ModuleList(_feed_forward(hidden, dropout) for _ in widths)
        self.mix = nn.Sequential(nn.Linear(2 * hidden * len(widths), hidden), nn.GELU(), nn.Dropout(dropout))
        self.out = nn.Linear(hidden, outputs)
        for layer in [*self.project.modules(), *self.feed_forward.modules(), *self.mix.modules()]:
            if isinstance(layer, nn.Linear):  # as in Concat
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, modalities: list[Tokens]) -> Tensor:
        """Return logits, shape (batch, outputs); every sequence has a real token."""
        given = [
            Tokens(project(tokens.values), tokens.real)
            for project, tokens in zip(self.project, modalities, strict=True)
        ]
        pooled = []
        for number, feed_forward in enumerate(self.feed_forward):
            states = given[number].values + self._from_others(number, given) if self.attend else given[number].values
            pooled.append(_mean_and_max(states + feed_forward(states), given[number].real))
        logits: Tensor = self.out(self.mix(torch.cat(pooled, dim=1)))
        return logits

    def _from_others(self, number: int, given: list[Tokens]) -> Tensor:
        """Return what each token of a modality takes from the real tokens of all others."""
        others = [tokens for other, tokens in enumerate(given) if other != number]
        known = torch.cat([tokens.values for tokens in others], dim=1)
        padding = ~torch.cat([tokens.real for tokens in others], dim=1)  # gets a weight of exactly 0
        attended, _ = self.attend[number](
            given[number].values, known, known, key_padding_mask=padding, need_weights=False
        )
        states: Tensor = attended
        return states


def _feed_forward(hidden: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(hidden),
        nn.Linear(hidden, 2 * hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(2 * hidden, hidden),
    )


def _mean_and_max(states: Tensor, real: Tensor) -> Tensor:
    """Return (batch, 2 * width) of the real tokens: as MeanAndMax, the maximum keeps what a few places alone show."""
    real = real[:, :, None]
    mean = states.masked_fill(~real, 0.0).sum(1) / real.sum(1)
    return torch.cat([mean, states.masked_fill(~real, -torch.inf).amax(1)], dim=1)
