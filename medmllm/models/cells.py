"""The smallest image encoder: linear in the means of the cells that the field of view is cut into.

    image (batch, channels, x, y, z) -> means of 8 x 8 x 8 cells -> standardised over the cohort -> width numbers
                                     -> and, where asked for, how many voxels have which tone, as logarithms

For cohorts of some hundred studies whose images are aligned, as crops about a lesion are. It knows where things are,
and learns no shape: what a logistic regression on coarse voxels would see, but it can be fused and explained. Tones say
how much there is of what, wherever it lies: the size of a lesion cut out of its surroundings, the lung below -950 HU.
"""

import torch
from torch import Tensor, nn

from medmllm.models.batch_norm import EarlyNorm

EDGE = 8
"""Cells along an axis. Where it has fewer voxels, neighbouring cells share them."""


TONES = (-2.0, 4.0, 49)
"""Lowest and highest tone in model units, and how many: 1/8 apart, so that a window, 0 to 1, holds nine."""


class CellMeans(nn.Module):
    """A map of one place, (batch, width, 1, 1, 1), linear in the standardised means of cells.

    Args:
        channels: Image channels.
        width: Numbers that come out.
        dropout: Chance that a cell is hidden while training, which is what keeps some hundred weights in check.
        tones: Whether the tones are counted as well.
    """

    def __init__(self, channels: int, *, width: int, dropout: float, tones: bool = False) -> None:
        super().__init__()
        self.tones = tones
        features = channels * (EDGE**3 + (TONES[2] if tones else 0))
        self.normalise = EarlyNorm(features, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(features, width)

    def forward(self, image: Tensor) -> Tensor:
        """Return the map for an image (batch, channels, x, y, z)."""
        x, y, z = (_windows(voxels, image) for voxels in image.shape[2:])
        read = torch.einsum("bcxyz,ix,jy,kz->bcijk", image, x, y, z).flatten(1)
        if self.tones:
            read = torch.cat([read, count_tones(image).log1p().flatten(1)], dim=1)
        found: Tensor = self.out(self.dropout(self.normalise(read[:, :, None, None, None]).flatten(1)))
        return found[:, :, None, None, None]


def count_tones(image: Tensor) -> Tensor:
    """Return how many voxels have each tone, shape (batch, channels, tones).

    A voxel between two tones counts for both, for the nearer one more, so that gradients reach it; one beyond the
    outermost counts for that.
    """
    lowest, highest, tones = TONES
    place = (image.flatten(2).clamp(lowest, highest) - lowest) * ((tones - 1) / (highest - lowest))
    first, last = place.aminmax()
    used, none = range(int(first), int(last.ceil()) + 1), place.new_zeros(place.shape[:2])
    # Tone by tone: all at once would be 49 times the image. A window, 0 to 1, spends it on nine of them.
    counts = [(1 - (place - tone).abs()).clamp(min=0).sum(dim=2) if tone in used else none for tone in range(tones)]
    return torch.stack(counts, dim=2)


def _windows(voxels: int, like: Tensor) -> Tensor:
    """Return the weights of the means along one axis, (cells, voxels), with the windows of torch's adaptive pooling.

    A product, as the gradients of torch's own pooling are summed in any order on CUDA.
    """
    weights = like.new_zeros(EDGE, voxels)
    for cell in range(EDGE):
        start, stop = cell * voxels // EDGE, -(-(cell + 1) * voxels // EDGE)
        weights[cell, start:stop] = 1 / (stop - start)
    return weights
