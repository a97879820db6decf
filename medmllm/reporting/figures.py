"""Draw a volume for a report: three planes through one voxel, raw and with attribution laid over.

    Volume (+ attribution) -> closest RAS axes -> axial, coronal, sagittal -> WebP data URIs

Radiological convention: the patient's right is on the picture's left in the axial and coronal plane,
anterior is on the left in the sagittal plane; anterior (axial) and superior (coronal, sagittal) are up.
Axes are swapped and turned but never resampled: an oblique series keeps its own planes, and
`obliquity_degrees` says how far they lie from the patient's. Pictures have square pixels at one scale
(mm per pixel) for all three planes. They are lossy and for reading only; the numbers are in the NIfTI file.
"""

import base64
import io
import math
from dataclasses import dataclass, field
from typing import TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image

from medmllm.errors import GeometryError
from medmllm.records import FloatArray, Volume

RAISES = (214, 47, 39)  # red and blue differ for readers with any of the common colour-vision deficiencies
LOWERS = (43, 124, 255)
OPACITY = 0.7  # of the strongest colour
LONGEST_SIDE_PIXELS = 400
STRONGEST_PART = 0.1  # of all absolute attribution is drawn in the strongest colour
WINDOW_PERCENTILES = (1.0, 99.0)
SAMPLED_VOXELS = 1_000_000  # percentile and scale of larger volumes are taken from every n-th voxel

Gray = npt.NDArray[np.uint8]
Pixel = TypeVar("Pixel", np.uint8, np.float32)


@dataclass(frozen=True, slots=True)
class Plane:
    """One anatomical plane of an RAS array: which axes it shows and the letters at its four edges."""

    name: str
    columns: int  # RAS axis drawn from right to left
    rows: int  # RAS axis drawn from bottom to top
    through: int  # RAS axis that the plane cuts
    left: str
    right: str
    top: str
    bottom: str


PLANES = (
    Plane("axial", columns=0, rows=1, through=2, left="R", right="L", top="A", bottom="P"),
    Plane("coronal", columns=0, rows=2, through=1, left="R", right="L", top="S", bottom="I"),
    Plane("sagittal", columns=1, rows=2, through=0, left="A", right="P", top="S", bottom="I"),
)

WORDS = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}


@dataclass(frozen=True, slots=True)
class PlanePicture:
    """One plane as two pictures of the same size, and where the chosen voxel lies in them."""

    plane: Plane
    raw: str = field(repr=False)  # data URI
    overlay: str | None = field(repr=False)  # data URI; None without attribution
    width: int  # pixels
    height: int
    mark_x: float  # centre of the chosen voxel, per cent of the width from the left
    mark_y: float  # per cent of the height from the top
    slice_number: int  # 1-based along the RAS axis, counted from left, posterior or inferior
    slice_count: int

    @property
    def description(self) -> str:
        """The alternative text of the raw picture."""
        p = self.plane
        return (
            f"{p.name.capitalize()} slice {self.slice_number} of {self.slice_count}; "
            f"{WORDS[p.left]} of the patient is on the left of the picture, {WORDS[p.top]} is up"
        )


@dataclass(frozen=True, slots=True, eq=False)
class CanonicalGrid:
    """How a source grid is turned to the closest RAS axes; see `nibabel.as_closest_canonical`."""

    orientation: npt.NDArray[np.floating]  # (3, 2): for each source axis the RAS axis and +1 or -1
    shape: tuple[int, int, int]  # of the source
    spacing_mm: tuple[float, float, float]  # along R, A, S
    obliquity_degrees: float  # largest angle between a source axis and its RAS axis

    @classmethod
    def of(cls, volume: Volume) -> "CanonicalGrid":
        """Return the turning of one volume's grid."""
        orientation = nib.orientations.io_orientation(volume.affine)
        directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
        spacing = [0.0, 0.0, 0.0]
        cosines = []
        for axis in range(3):
            target = int(orientation[axis, 0])
            spacing[target] = volume.spacing_mm[axis]
            cosines.append(abs(directions[target, axis]))
        x, y, z = volume.voxels.shape
        angle = float(np.degrees(np.arccos(np.clip(min(cosines), -1, 1))))
        return cls(orientation, (x, y, z), (spacing[0], spacing[1], spacing[2]), angle)

    def turn(self, array: FloatArray) -> FloatArray:
        """Return a source-grid array (x, y, z) with axes along R, A, S; a view where possible."""
        if array.shape != self.shape:
            raise GeometryError(f"the attribution has shape {array.shape}, its series {self.shape}: not one grid")
        return nib.orientations.apply_orientation(array, self.orientation)

    def turn_voxel(self, voxel: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the index in the turned array of a voxel of the source array."""
        turned = [0, 0, 0]
        for axis, index in enumerate(voxel):
            if not 0 <= index < self.shape[axis]:
                raise GeometryError(f"voxel {voxel} lies outside a volume of {self.shape}")
            forward = self.orientation[axis, 1] > 0
            turned[int(self.orientation[axis, 0])] = index if forward else self.shape[axis] - 1 - index
        return turned[0], turned[1], turned[2]


def draw_planes(
    volume: Volume,
    *,
    through: tuple[int, int, int],
    window: tuple[float, float],
    attribution: FloatArray | None = None,
    scale: float | None = None,
) -> tuple[PlanePicture, ...]:
    """Draw the three planes through one voxel; a plane less than two voxels wide is left out.

    Args:
        volume: The series as read.
        through: The voxel (x, y, z) that all planes pass through, on the volume's own grid.
        window: Lowest and highest value shown, as black and white.
        attribution: (x, y, z) on the volume's grid, logit units per voxel; None draws raw slices only.
        scale: Attribution of the strongest colour; required with `attribution`, None when that is all zero.

    Raises:
        GeometryError: The attribution has another shape, or the voxel lies outside.
    """
    grid = CanonicalGrid.of(volume)
    voxels, at = grid.turn(volume.voxels), grid.turn_voxel(through)
    heat = None if attribution is None else grid.turn(attribution)
    extents = [count * step for count, step in zip(voxels.shape, grid.spacing_mm, strict=True)]
    pixels_per_mm = LONGEST_SIDE_PIXELS / max(extents)
    pictures = []
    for plane in PLANES:
        if min(voxels.shape[plane.columns], voxels.shape[plane.rows]) < 2:
            continue
        size = (
            max(1, round(extents[plane.columns] * pixels_per_mm)),
            max(1, round(extents[plane.rows] * pixels_per_mm)),
        )
        gray: Gray = _resize(to_gray(_cut(voxels, plane, at), window), size)
        overlay = None
        if heat is not None:
            red_blue = _resize(_cut(heat, plane, at).astype(np.float32), size)
            overlay = to_data_uri(lay_over(gray, red_blue, scale))
        columns, rows, cut = (voxels.shape[axis] for axis in (plane.columns, plane.rows, plane.through))
        pictures.append(
            PlanePicture(
                plane=plane,
                raw=to_data_uri(gray),
                overlay=overlay,
                width=size[0],
                height=size[1],
                mark_x=100 * (columns - at[plane.columns] - 0.5) / columns,
                mark_y=100 * (rows - at[plane.rows] - 0.5) / rows,
                slice_number=at[plane.through] + 1,
                slice_count=cut,
            )
        )
    return tuple(pictures)


def _cut(array: FloatArray, plane: Plane, at: tuple[int, int, int]) -> FloatArray:
    """Return one plane of an RAS array as (rows, columns), as a radiologist looks at it.

    RAS indices grow towards right, anterior and superior; pictures start at the top left. So right
    (or anterior) comes first along a row, and anterior (or superior) in the top row.
    """
    sliced = np.moveaxis(array, plane.through, 0)[at[plane.through]]  # a view: np.take would copy the volume
    return sliced[::-1, ::-1].T


def _resize(picture: npt.NDArray[Pixel], size: tuple[int, int]) -> npt.NDArray[Pixel]:
    """Return uint8 or float32 (rows, columns) at `size` = (columns, rows), bilinear."""
    resized = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized)


def to_gray(values: FloatArray, window: tuple[float, float]) -> Gray:
    """Return values as 0 (lowest of the window and below, or not a number) to 255 (highest and above)."""
    low, high = window
    width = high - low if high > low else 1.0
    return (np.clip((np.nan_to_num(values, nan=low) - low) / width, 0, 1) * 255).round().astype(np.uint8)


def lay_over(gray: Gray, attribution: FloatArray, scale: float | None) -> npt.NDArray[np.uint8]:
    """Return RGB (rows, columns, 3): red where the attribution raises the logit, blue where it lowers it.

    The colour covers the picture in proportion to |attribution| / scale, fully from `scale` on.
    """
    background = np.repeat(gray[..., None], 3, axis=2).astype(np.float32)
    if scale is None:
        return background.astype(np.uint8)
    strength = np.clip(np.abs(np.nan_to_num(attribution)) / scale, 0, 1)[..., None] * OPACITY
    colour = np.where(attribution[..., None] >= 0, np.array(RAISES), np.array(LOWERS))
    mixed: npt.NDArray[np.uint8] = ((1 - strength) * background + strength * colour).round().astype(np.uint8)
    return mixed


def colour_bar() -> str:
    """Return a CSS gradient from the strongest blue over clear to the strongest red, as they look on mid-gray."""
    ends = lay_over(np.full((1, 3), 128, np.uint8), np.array([[-1.0, 0.0, 1.0]]), 1.0)[0]
    return f"linear-gradient(90deg, {', '.join(f'rgb({r} {g} {b})' for r, g, b in ends)})"


def to_data_uri(picture: npt.NDArray[np.uint8]) -> str:
    """Return a gray (rows, columns) or RGB (rows, columns, 3) picture as a WebP data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "WEBP", quality=90, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def intensity_window(volume: Volume) -> tuple[float, float]:
    """Return the 1st and 99th percentile of a volume, for series that have no window of their own."""
    low, high = np.nanpercentile(_sampled(volume.voxels), WINDOW_PERCENTILES)
    return float(low), float(high)


def attribution_scale(attribution: FloatArray) -> float | None:
    """Return the absolute attribution from which on voxels hold a tenth of all of it; None when it is all zero.

    A percentile of voxels would lose a small lesion in the noise of a large volume, the maximum would
    fade everything beside one extreme voxel: this follows where the attribution is.

    >>> attribution_scale(np.array([[[-100.0, 60.0, 40.0, 0.0]]]))
    100.0
    """
    values = np.sort(np.abs(_sampled(attribution)).astype(np.float64))[::-1]
    if not values.size or values[0] == 0:
        values = np.sort(np.abs(attribution[attribution != 0]).astype(np.float64))[::-1]
    if not values.size:
        return None
    held = np.cumsum(values)
    return float(values[np.searchsorted(held, STRONGEST_PART * held[-1])])


def _sampled(array: FloatArray) -> FloatArray:
    """Return at most about SAMPLED_VOXELS values, in steps that share no factor with the grid: no axis is skipped."""
    step = max(1, array.size // SAMPLED_VOXELS)
    while math.gcd(step, array.size) > 1:
        step += 1
    return array.ravel(order="K")[::step]
