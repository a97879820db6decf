"""Put a study's volumes on the model's grid.

    Volume per channel -> intensities -> axes in the order nearest to RAS -> spacing -> crop or pad -> MetaTensor

Axes are swapped and reversed, never rotated: an oblique series stays oblique, of which the quality
gate warns. The first present channel sets the grid (its centre stays the centre); the others are resampled onto
it by their affines, which is only true when they share a frame of reference. A missing channel is
left as zeros *and marked missing*: the model replaces it by a learned value. MONAI transforms
throughout; the MetaTensor's affine says where each voxel lies in the patient, and so leads back to
every source grid.
"""

from collections.abc import Mapping

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    NormalizeIntensity,
    Orientation,
    ResizeWithPadOrCrop,
    ScaleIntensityRange,
    Spacing,
    SpatialResample,
)

from medmllm.documents import ImageSettings
from medmllm.errors import ContractError
from medmllm.records import Volume

ORIENTATION = "RAS"


def prepare_image(volumes: Mapping[str, Volume], settings: ImageSettings) -> tuple[MetaTensor, tuple[bool, ...]]:
    """Return the model's image and which of its channels are real.

    Args:
        volumes: By channel name; at least one.
        settings: Grid, intensities and the order of the channels.

    Returns:
        A MetaTensor (channels, x, y, z), float32, whose affine maps its voxels to RAS+ mm; and one
        bool per channel, False where the study has no such series.

    Raises:
        ContractError: No volume, or volumes whose frames of reference differ.
    """
    present = tuple(name in volumes for name in settings.channels)
    names = [name for name in settings.channels if name in volumes]
    if not names:
        raise ContractError("no series for any channel of the model", code="no_matching_series")
    check_one_frame({name: volumes[name] for name in names})
    grid = _onto_own_grid(_scaled(volumes[names[0]], settings), settings)
    on_grid = {names[0]: grid}
    for name in names[1:]:
        on_grid[name] = _onto(_scaled(volumes[name], settings), grid)
    empty = torch.zeros_like(grid.as_tensor())
    stacked = torch.cat([on_grid[name].as_tensor() if name in on_grid else empty for name in settings.channels])
    return MetaTensor(stacked.float().contiguous(), affine=grid.affine), present


def check_one_frame(volumes: Mapping[str, Volume]) -> None:
    """Refuse volumes that may not be overlaid.

    Raises:
        ContractError: Two volumes name different frames of reference (PS3.3 C.7.4.1).
    """
    frames = {volume.frame_of_reference_uid for volume in volumes.values()} - {None}
    if len(frames) > 1:
        raise ContractError(
            f"the series for channels {', '.join(volumes)} have {len(frames)} different frames of reference: they "
            "cannot be laid over each other. Register them first.",
            code="frames_differ",
        )


def _scaled(volume: Volume, settings: ImageSettings) -> MetaTensor:
    """Return the volume as (1, x, y, z) with the model's intensities; its lowest value is what padding gets."""
    # Copied: a reader's array may be flipped, read-only or in another byte order, which torch does not take.
    bad = volume.voxels.size - np.count_nonzero(np.isfinite(volume.voxels))
    if bad:
        raise ContractError(
            f"{bad:,} of {volume.voxels.size:,} voxels are NaN or infinite: what they mean is not known. Write a value "
            "in their place, or leave the study out.",
            code="nan_voxels",
        )
    voxels = torch.from_numpy(np.array(volume.voxels, dtype=np.float32))
    image = MetaTensor(voxels[None], affine=torch.from_numpy(np.array(volume.affine, dtype=np.float64)))
    if settings.intensity == "window":
        low, high = settings.window
        scaled = ScaleIntensityRange(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)(image)
    else:
        scaled = NormalizeIntensity()(image)
    assert isinstance(scaled, MetaTensor)
    return scaled


def _onto_own_grid(image: MetaTensor, settings: ImageSettings) -> MetaTensor:
    floor = float(image.min())
    oriented = Orientation(axcodes=ORIENTATION, labels=None)(image)
    spaced = Spacing(pixdim=settings.spacing_mm, mode="bilinear", padding_mode="border")(oriented)
    sized = ResizeWithPadOrCrop(settings.size, mode="constant", value=floor)(spaced)
    assert isinstance(sized, MetaTensor)
    return sized


def _onto(image: MetaTensor, grid: MetaTensor) -> MetaTensor:
    floor = image.min()
    resample = SpatialResample(mode="bilinear", padding_mode="zeros")
    placed = resample(image - floor, dst_affine=grid.affine, spatial_size=grid.shape[1:])
    assert isinstance(placed, MetaTensor)
    return placed + floor
