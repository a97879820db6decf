"""Read off an image what lies where, and how much there is of what.

    image (batch, channels, x, y, z) -> means of the 8 x 8 x 8 cells that the field of view is cut into
                                     -> how many voxels have which tone, as logarithms

Means of cells are for images that are aligned, as crops about a lesion are. Linear in these, an encoder knows where
things are, and learns no shape: what a logistic regression on coarse voxels would see, but it can be fused and
explained. Tones say how much there is of what, wherever it lies: the size of a lesion cut out of its surroundings, the
lung below -950 HU.
"""

import torch
from torch import Tensor

from medmllm.models.linear_reader import Reading

EDGE = 8
"""Cells along an axis. Where it has fewer voxels, neighbouring cells share them."""


TONES = (-2.0, 4.0, 49)
"""Lowest and highest tone in model units, and how many: 1/8 apart, so that a window, 0 to 1, holds nine."""


def cell_means(image: Tensor) -> Tensor:
    """Return the means of cells, shape (batch, channels, 8, 8, 8), for an image (batch, channels, x, y, z)."""
    x, y, z = (_windows(voxels, image) for voxels in image.shape[2:])
    return torch.einsum("bcxyz,ix,jy,kz->bcijk", image, x, y, z)


def log_tones(image: Tensor) -> Tensor:
    """Return log(1 + voxels) of each tone, shape (batch, channels, tones)."""
    return count_tones(image).log1p()


def count_tones(image: Tensor) -> Tensor:
    """Return how many voxels have each tone, shape (batch, channels, tones).

    A voxel between two tones counts for both, for the nearer one more, so that gradients reach it; one beyond the
    outermost counts for that.
    """
    lowest, highest, tones = TONES
    place = (image.flatten(2).clamp(lowest, highest) - lowest) * ((tones - 1) / (highest - lowest))
    # A process that shares its batch statistics may be asked to read no study at all.
    first, last = place.detach().aminmax() if len(place) else place.new_zeros(2)
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


CELL_MEANS = Reading(EDGE**3, cell_means)
LOG_TONES = Reading(TONES[2], log_tones)
