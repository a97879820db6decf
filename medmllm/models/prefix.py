"""Put what the other modalities show before a note's words, so that BERT reads all of it together (`bert_prefix`).

    eight octants of the image's feature map; one vector of any other modality
        -> as wide as word embeddings -> first tokens of every window of the note -> contextual states

As in MMBT (Kiela et al., 2019, arXiv:1909.02950). A modality's tokens always take the same positions, whether a study
has it or not: they are masked where it is missing, and a word's position does not depend on other studies.
"""

import math

import torch
from torch import Tensor, nn

from medmllm.models.tokens import Tokens
from medmllm.records import MODALITIES

OCTANTS = 8
PREFIX_TOKENS = OCTANTS + len([name for name in MODALITIES if name not in ("image", "text")])
"""The most that stands before a window of words."""

EMBEDDING_SPREAD = 0.02  # of BERT's word embeddings at their start (initializer_range)


class Prefix(nn.Module):
    """Bring tokens of several modalities to the width of word embeddings, one behind the other.

    Args:
        widths: Token width of each modality, in order.
        embedding_width: Of the network's word embeddings.
    """

    def __init__(self, widths: list[int], embedding_width: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(_projection(width, embedding_width) for width in widths)

    def forward(self, modalities: list[Tokens]) -> Tokens:
        """Return the tokens that stand before the words."""
        values = [project(tokens.values) for project, tokens in zip(self.project, modalities, strict=True)]
        return Tokens(torch.cat(values, dim=1), torch.cat([tokens.real for tokens in modalities], dim=1))


def _projection(width: int, embedding_width: int) -> nn.Module:
    layer = nn.Linear(width, embedding_width)
    # As small as words, so that the position that BERT adds, which tells the octant, is not drowned.
    nn.init.normal_(layer.weight, std=EMBEDDING_SPREAD / math.sqrt(width))
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.LayerNorm(width), layer)


def octants(features: Tensor) -> list[Tensor]:
    """Return the eight corners of a map, each half as long along x, y and z: of an odd length, halves share the middle.

    Args:
        features: Shape (batch, channels, x, y, z).

    >>> line = torch.arange(3.0).reshape(1, 1, 1, 1, 3)
    >>> [part.flatten().tolist() for part in octants(line)[:2]]
    [[0.0, 1.0], [1.0, 2.0]]
    """
    parts = [features]
    for axis in (2, 3, 4):
        size = features.shape[axis]
        half = (size + 1) // 2
        parts = [part.narrow(axis, start, half) for part in parts for start in (0, size - half)]
    return parts
