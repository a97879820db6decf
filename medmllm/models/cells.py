"""The smallest image encoder: linear in the means of the cells that the field of view is cut into.

    image (batch, channels, x, y, z) -> means of 8 x 8 x 8 cells -> standardised over the cohort -> width numbers

For cohorts of some hundred studies whose images are aligned, as crops about a lesion are. It knows where things are,
and learns no shape: what a logistic regression on coarse voxels would see, but it can be fused and explained.
"""

import torch
from torch import Tensor, nn

from medmllm.models.batch_norm import EarlyNorm

EDGE = 8
"""Cells along an axis. Where it has fewer voxels, neighbouring cells share them."""


class CellMeans(nn.Module):
    """A map of one place, (batch, width, 1, 1, 1), linear in the standardised means of cells.

    Args:
        channels: Image channels.
        width: Numbers that come out.
        dropout: Chance that a cell is hidden while training, which is what keeps some hundred weights in check.
    """

    def __init__(self, channels: int, *, width: int, dropout: float) -> None:
        super().__init__()
        features = channels * EDGE**3
        self.normalise = EarlyNorm(features, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(features, width)

    def forward(self, image: Tensor) -> Tensor:
        """Return the map for an image (batch, channels, x, y, z)."""
        x, y, z = (_windows(voxels, image) for voxels in image.shape[2:])
        means = torch.einsum("bcxyz,ix,jy,kz->bcijk", image, x, y, z).flatten(1)[:, :, None, None, None]
        found: Tensor = self.out(self.dropout(self.normalise(means).flatten(1)))
        return found[:, :, None, None, None]


def _windows(voxels: int, like: Tensor) -> Tensor:
    """Return the weights of the means along one axis, (cells, voxels), with the windows of torch's adaptive pooling.

    A product, as the gradients of torch's own pooling are summed in any order on CUDA.
    """
    weights = like.new_zeros(EDGE, voxels)
    for cell in range(EDGE):
        start, stop = cell * voxels // EDGE, -(-(cell + 1) * voxels // EDGE)
        weights[cell, start:stop] = 1 / (stop - start)
    return weights
