"""Paint one trunk with two lungs and one lesion: a CT whose every voxel is known.

    random draws -> Body, Lesion, affine -> Volume in Hounsfield units and the lesion's mask

Shapes are formulas in RAS+ mm, evaluated at voxel centres: turning or shifting the grid moves no
tissue. No claim to look like a patient: an ellipse of soft tissue, two ellipsoids of air, a spine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medmllm.errors import ConfigError
from medmllm.records import FloatArray, Volume

Triple = tuple[float, float, float]

AIR_HU, LUNG_HU, SOFT_HU, SPINE_HU = -1000.0, -800.0, 40.0, 300.0
LESION_HU = 1950.0
NOISE_HU = 20.0  # standard deviation
LOWEST_HU = -1024.0

SHORT_MM, LONG_MM = (17.0, 18.5), (34.0, 36.0)  # semi-axes of a lesion across and along
PLEURA_MM = 2.0  # least lung around a lesion

# Semi-axes as fractions: trunk and lung height of half the field of view, the rest of the trunk.
_TRUNK_X, _TRUNK_Y, _LUNG_Z = (0.86, 0.94), (0.74, 0.84), (0.76, 0.90)
_LUNG_X, _LUNG_Y = 0.36, 0.62


@dataclass(frozen=True, slots=True)
class Body:
    """One patient's trunk, an elliptic cylinder along S-I with two ellipsoid lungs; RAS+ mm."""

    centre_mm: Triple
    trunk_mm: tuple[float, float]  # semi-axes along R-L and A-P
    lung_mm: Triple  # semi-axes

    def lung_centre(self, side: int) -> Triple:
        """Return the centre of the right (side 1) or left (side -1) lung; RAS+ mm."""
        x, y, z = self.centre_mm
        return x + side * 0.46 * self.trunk_mm[0], y + 0.05 * self.trunk_mm[1], z


@dataclass(frozen=True, slots=True)
class Lesion:
    """One rod with round ends, without its direction; RAS+ mm."""

    centre_mm: Triple
    short_mm: float  # semi-axis across
    long_mm: float  # semi-axis along

    def radius_mm(self, *, upright: bool) -> Triple:
        """Return the semi-axes of the rod along S-I (upright) or along A-P; equal volume either way."""
        return (self.short_mm, self.short_mm, self.long_mm) if upright else (self.short_mm, self.long_mm, self.short_mm)


def check_field_of_view(size: tuple[int, int, int], spacing_mm: Triple) -> None:
    """Raise when a grid cannot hold a lung with a lesion well inside it.

    Raises:
        ConfigError: The field of view is too small or the voxels are too coarse; names the bound.
    """
    across, along = (longest + PLEURA_MM + 2.0 for longest in (SHORT_MM[1], LONG_MM[1]))  # with room to move
    bounds = (
        2 * across / (_LUNG_X * _TRUNK_X[0]),
        2 * along / (_LUNG_Y * _TRUNK_Y[0]),
        2 * along / _LUNG_Z[0],
    )
    extent = tuple(n * s for n, s in zip(size, spacing_mm, strict=True))
    if any(e < bound for e, bound in zip(extent, bounds, strict=True)):
        raise ConfigError(
            f"[cohort] size and spacing_mm give a field of view of {_times(extent)} mm; lungs hold a lesion "
            f"from {_times(tuple(float(np.ceil(b)) for b in bounds))} mm on. Raise size or spacing_mm."
        )
    half_diagonal = float(np.linalg.norm(spacing_mm)) / 2
    if half_diagonal >= SHORT_MM[0]:
        raise ConfigError(
            f"[cohort] spacing_mm {_times(spacing_mm)}: half a voxel's diagonal is {half_diagonal:.1f} mm, so a "
            f"lesion of {SHORT_MM[0]:.0f} mm could fall between voxels. Lower spacing_mm."
        )


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def draw_body(rng: np.random.Generator, extent_mm: Triple) -> Body:
    """Return a trunk that fits the field of view, somewhere in the scanner's room.

    Args:
        rng: Source of the draws.
        extent_mm: Field of view along R-L, A-P, S-I.
    """
    half = np.asarray(extent_mm) / 2
    trunk = rng.uniform(*_TRUNK_X) * half[0], rng.uniform(*_TRUNK_Y) * half[1]
    lung = _LUNG_X * trunk[0], _LUNG_Y * trunk[1], rng.uniform(*_LUNG_Z) * half[2]
    return Body(_triple(rng.uniform((-15, -15, -400), (15, 15, 100))), trunk, _triple(lung))


def draw_lesion(rng: np.random.Generator, body: Body) -> Lesion:
    """Return a lesion well inside one of the lungs, at a place where it fits along A-P and along S-I alike."""
    short, long = rng.uniform(*SHORT_MM), rng.uniform(*LONG_MM)
    side = 1 if rng.random() < 0.5 else -1
    lung = np.asarray(body.lung_mm)
    reach = ((np.array([short, long, long]) + PLEURA_MM) / lung).max()  # in units of the lung's semi-axes
    direction = rng.normal(size=3)
    inside_unit_ball = direction / np.linalg.norm(direction) * rng.random() ** (1 / 3)
    return Lesion(_triple(body.lung_centre(side) + inside_unit_ball * (1 - reach) * lung), short, long)


def draw_affine(
    rng: np.random.Generator, centre_mm: Triple, size: tuple[int, int, int], spacing_mm: Triple
) -> FloatArray:
    """Return a CT grid's affine: columns run to the left, rows to the back, slices to the head.

    About a third of the grids are turned by up to 6 degrees within the slice plane; all are centred
    near `centre_mm`.

    Returns:
        Shape (4, 4), float64; voxel index -> RAS+ mm.
    """
    angle = np.deg2rad(rng.uniform(-6.0, 6.0)) if rng.random() < 0.35 else 0.0
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2]])
    shift = rng.uniform(-0.02, 0.02, size=3) * size * np.asarray(spacing_mm)
    affine[:3, 3] = centre_mm + shift - affine[:3, :3] @ ((np.asarray(size) - 1) / 2)
    return affine


def paint(
    body: Body,
    lesion: Lesion,
    *,
    upright: bool,
    affine: FloatArray,
    size: tuple[int, int, int],
    frame_of_reference_uid: str,
    rng: np.random.Generator,
) -> tuple[Volume, npt.NDArray[np.uint8]]:
    """Return the CT of a body with one lesion along S-I (upright) or A-P, and the lesion's mask on the same grid.

    Returns:
        The volume in whole HU, and a mask of shape `size` that is 1 where the voxel's centre lies in the lesion.
    """
    index = np.ogrid[: size[0], : size[1], : size[2]]
    place = [sum(row[axis] * index[axis] for axis in range(3)) + row[3] for row in affine[:3]]  # RAS+ mm
    x, y = place[0] - body.centre_mm[0], place[1] - body.centre_mm[1]
    width, depth = body.trunk_mm

    hu = np.full(size, AIR_HU)
    hu[(x / width) ** 2 + (y / depth) ** 2 <= 1] = SOFT_HU
    for side in (1, -1):
        hu[_inside(place, body.lung_centre(side), body.lung_mm)] = LUNG_HU
    hu[np.hypot(x, y + 0.7 * depth) <= 0.13 * width] = SPINE_HU
    mask = _inside(place, lesion.centre_mm, lesion.radius_mm(upright=upright))
    hu[mask] = LESION_HU
    noisy = np.rint(hu + rng.normal(0.0, NOISE_HU, size))
    voxels = np.maximum(noisy, LOWEST_HU).astype(np.float32)
    return Volume(voxels, affine, frame_of_reference_uid, "CT"), mask.astype(np.uint8)


def _inside(place: Sequence[FloatArray], centre_mm: Triple, radius_mm: Triple) -> npt.NDArray[np.bool_]:
    axes = zip(place, centre_mm, radius_mm, strict=True)
    x, y, z = (((along - centre) / radius) ** 2 for along, centre, radius in axes)
    return x + y + z <= 1


def _triple(values: FloatArray | tuple[float, ...]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
