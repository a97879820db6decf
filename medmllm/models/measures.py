"""Read off an image how much of it is brighter than a threshold, and how large the surface of that is, as logarithms.

    image (batch, channels, x, y, z) -> for each of 18 bands of thresholds: voxels above, and faces between what is
                                        above and what is not, across x, y and z -> log(1 + number)

Wherever it lies, and without a mask: the bands are fixed, so that the measures of a study depend on no other, and are
the same for CT in a window and for MR in standard deviations. A network that is linear in logarithms knows powers and
ratios: the diameter that goes with a volume, the volume fraction above one threshold of that above another, the
surface to volume ratio, and V^(2/3) over the geometric mean of the areas, which tells ragged from smooth as sphericity
does. Those are features of the Image Biomarker Standardisation Initiative (Zwanenburg et al., Radiology 2020) and of
PyRadiomics: volume by counting voxels, surface area, surface to volume ratio, sphericity, intensity-volume histogram.
But they measure within a mask, and surfaces of triangles; here thresholds are soft, for gradients, and faces of voxels
are counted: as many as a solid's shadow along an axis has, twice, if no line along it enters the solid again.

A measure is the mean over all thresholds t of its band, from a to b. For voxels, and by the co-area formula for faces,
that is a sum over voxels of s = (voxel - a) / (b - a) cut to 0 to 1:

    mean voxels above t = sum of s        mean faces across an axis = sum of |s - s of the next voxel along it|

Continuous, and with a slope all through a band, so that attributions reach the voxels. Numbers of voxels are not turned
into mm3: on the model's grid that is one factor for all studies, a constant in each logarithm, which standardising
takes away again.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from medmllm.models.linear_reader import Reading

LEVELS = (-2, -1.5, -1, -0.5, *(step / 8 for step in range(9)), 1.5, 2, 2.5, 3, 3.5, 4)
"""Where bands meet, in model units: 1/8 apart within a window, 0 to 1; 1/2 beyond it, where a z-score has its tails."""
BANDS = tuple(pairwise(LEVELS))


def log_measures(image: Tensor) -> Tensor:
    """Return the measures of an image (batch, channels, x, y, z), shape (batch, channels, bands, 4).

    Of each band: log(1 + voxels above), log(1 + faces across x), across y, across z.
    """
    image = image.float()  # half precision ends at 65,504 with float16, and counts no further than 256 with bfloat16
    # A process that shares its batch statistics may be asked to read no study at all.
    lowest, highest = (float(end) for end in image.detach().aminmax()) if len(image) else (0.0, 0.0)
    # Of a window, 0 to 1, these are 8 of the 18. One at least, so that a gradient has a way to any image.
    reached = [band for band in BANDS if band[0] < highest and lowest < band[1]] or BANDS[:1]
    found = [_measure(image, *band) if band in reached else _even(image, above=band[1] <= lowest) for band in BANDS]
    return torch.stack(found, dim=2).log1p()


def _measure(image: Tensor, low: float, high: float) -> Tensor:
    """Return voxels above, and faces across x, y, z, as means over the thresholds of a band: (batch, channels, 4)."""
    # Where bands meet, the slope is that of the upper one: an empty background at 0 has that of growing brighter.
    # Hardtanh has none at its ends, clamp has one there.
    above = functional.hardtanh((image - low) / (high - low), -1, 1).clamp(min=0)
    faces = [torch.linalg.vector_norm(above.diff(dim=axis), 1, (2, 3, 4)) for axis in (2, 3, 4)]
    return torch.stack([above.sum((2, 3, 4)), *faces], dim=2)


def _even(image: Tensor, *, above: bool) -> Tensor:
    """Return the measures of a band that no voxel lies in: all lie above it, or all below."""
    found = image.new_zeros(*image.shape[:2], 4)
    found[:, :, 0] = image.shape[2:].numel() * above
    return found


LOG_MEASURES = Reading(4 * len(BANDS), log_measures)
