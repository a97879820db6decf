"""Bring tilted and uneven stacks of slices onto a regular, upright grid; only on request, and saying so.

    uneven positions -> Evening: which two slices each new one lies between -> slices at equal gaps
    sheared affine -> Upright: a grid whose third axis is the normal -> each slice shifted within its plane

Both interpolate linearly, so whatever changes linearly in the patient stays what it is. Nothing is extrapolated: a gap
that lacks more slices than are plausible is refused, and the corners that an upright grid adds to a sheared stack get
the value of pixels outside the image, or the lowest there is.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medmllm.errors import GeometryError
from medmllm.geometry import ROUNDING_MM
from medmllm.records import FloatArray

Regrid = Literal["never", "tilted", "uneven"]
"""What may be interpolated: nothing; slices of a tilted gantry; these, and slices between uneven gaps."""

LARGEST_GAP = 3.0  # times the new gap: two neighbouring slices may be missing, a block of them may not
NEGLIGIBLE = 1e-6  # of a voxel
UNSHEARED = 0.05  # voxels over the whole stack along one of its axes: positions are rounded, so it stays in the affine


@dataclass(frozen=True, slots=True, eq=False)
class Evening:
    """Where slices at equal gaps lie among slices at uneven ones."""

    step: FloatArray  # from each new slice to the next; shape (3,), mm, LPS
    below: npt.NDArray[np.intp]  # for each new slice the measured one at or below it
    weight: FloatArray  # for each new slice the share of the measured one above, 0 to 1
    interpolated: int  # new slices that were not measured

    def apply(self, voxels: FloatArray) -> FloatArray:
        """Return the new slices; from shape (measured, rows, columns) to (new, rows, columns), float32."""
        out = np.empty((len(self.below), *voxels.shape[1:]), dtype=np.float32)
        for number, (below, weight) in enumerate(zip(self.below, self.weight, strict=True)):
            if weight == 0:
                out[number] = voxels[below]
            else:
                np.multiply(voxels[below], np.float32(1 - weight), out=out[number])
                out[number] += np.float32(weight) * voxels[below + 1]
        return out


def even_out(positions: FloatArray, normal: FloatArray, *, tolerance: float = 0.01) -> Evening:
    """Return slices at equal gaps from the first to the last of an uneven stack.

    Where slices are missing from a regular stack, the others are kept as they are. Else the new gap is the median.

    Args:
        positions: Image Position (Patient), in order along the normal; shape (slices, 3), mm, LPS.
        normal: Unit vector across the slices; shape (3,), LPS.
        tolerance: Largest distance of a slice from its place, as a fraction of the new gap.

    Raises:
        GeometryError: `large_gap` where a gap exceeds three new ones; `shifted_slice` for a slice beside the line
            from the first to the last.
    """
    heights = positions @ normal
    gaps, extent = np.diff(heights), heights[-1] - heights[0]
    multiples = gaps / gaps.min()
    whole = bool(np.all(abs(multiples - np.round(multiples)) <= tolerance * np.round(multiples)))
    count = round(extent / (gaps.min() if whole else np.median(gaps))) + 1
    gap = extent / (count - 1)
    if gaps.max() > LARGEST_GAP * gap * (1 + tolerance):
        raise GeometryError(
            f"slices {int(np.argmax(gaps))} and {int(np.argmax(gaps)) + 1} of {len(positions)} lie {gaps.max():.2f} mm "
            f"apart, more than {LARGEST_GAP:g} times the {gap:.2f} mm of the others: too much would be made up. Export "
            "the series again, whole.",
            code="large_gap",
        )
    bound = max(tolerance * gap, ROUNDING_MM)
    line = positions[0] + np.outer((heights - heights[0]) / extent, positions[-1] - positions[0])
    off = np.linalg.norm(positions - line, axis=1)
    if off.max() > bound:
        raise GeometryError(
            f"slice {int(np.argmax(off))} of {len(positions)} lies {off.max():.2f} mm beside the others (tolerance "
            f"{tolerance:.0%} of the {gap:.2f} mm gap)",
            code="shifted_slice",
        )
    wanted = heights[0] + gap * np.arange(count)
    below = np.clip(np.searchsorted(heights, wanted, side="right") - 1, 0, len(heights) - 2)
    weight = np.clip((wanted - heights[below]) / gaps[below], 0.0, 1.0)
    measured = np.minimum(weight, 1 - weight) * gaps[below] <= bound
    return Evening(
        step=(positions[-1] - positions[0]) / (count - 1),
        below=np.where(measured & (weight > 0.5), below + 1, below),
        weight=np.where(measured, 0.0, weight),
        interpolated=int(np.count_nonzero(~measured)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Upright:
    """The upright grid that holds all of a sheared one."""

    shape: tuple[int, int, int]  # (x, y, z)
    affine: FloatArray  # (4, 4), voxel index -> RAS+ mm
    offsets: FloatArray  # (z, 2): index of a slice's own grid at the first voxel of the new one, along x and y

    def apply(self, voxels: FloatArray, fill: float) -> FloatArray:
        """Return the slices on the upright grid; from (z, y, x) to (z, new y, new x), float32.

        Args:
            voxels: The sheared stack.
            fill: For voxels that no slice covers.
        """
        columns, rows, count = self.shape
        out = np.empty((count, rows, columns), dtype=np.float32)
        for number, (along_x, along_y) in enumerate(self.offsets):
            wide = _shifted(voxels[number].T, along_x, columns, fill)  # (x, y)
            out[number] = _shifted(wide.T, along_y, rows, fill)
        return out


def upright_grid(shape: tuple[int, int, int], affine: FloatArray) -> Upright:
    """Return the upright grid that holds all of a sheared one; in the planes and at the heights of its slices.

    Args:
        shape: (x, y, z) of the sheared grid.
        affine: (4, 4), voxel index -> RAS+ mm; its first two axes are perpendicular.
    """
    along_x, along_y, step = affine[:3, :3].T
    shear = np.array([step @ along / (along @ along) for along in (along_x, along_y)])  # voxels from slice to slice
    shear[abs(shear) * (shape[2] - 1) < UNSHEARED] = 0.0
    shifts = np.outer(np.arange(shape[2]), shear)
    low, high = (np.array([math.floor(part) for part in shifts.min(axis=0) + NEGLIGIBLE]),
                 np.array([math.ceil(part) for part in shifts.max(axis=0) - NEGLIGIBLE]))  # fmt: skip
    upright = affine.copy()
    upright[:3, 2] = step - shear[0] * along_x - shear[1] * along_y
    upright[:3, 3] += low[0] * along_x + low[1] * along_y
    columns, rows = (int(size) for size in np.array(shape[:2]) + high - low)
    return Upright((columns, rows, shape[2]), upright, low - shifts)


def _shifted(lines: FloatArray, offset: float, size: int, fill: float) -> FloatArray:
    """Return lines interpolated at offset, offset + 1 ... along the first axis; `fill` where they have no values.

    >>> _shifted(np.array([10.0, 20.0, 40.0]), -0.5, 4, -1.0)
    array([-1., 15., 30., -1.])
    """
    out = np.full((size, *lines.shape[1:]), fill, dtype=lines.dtype)
    start = math.ceil(-offset - NEGLIGIBLE)
    stop = min(math.floor(len(lines) - 1 - offset + NEGLIGIBLE) + 1, size)
    first = math.floor(start + offset + NEGLIGIBLE)
    part = start + offset - first
    count = stop - start
    if abs(part) <= NEGLIGIBLE:
        out[start:stop] = lines[first : first + count]
    else:
        out[start:stop] = (1 - part) * lines[first : first + count] + part * lines[first + 1 : first + 1 + count]
    return out
