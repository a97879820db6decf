"""Place stacked slices in the patient.

    orientation, positions, pixel spacing (DICOM, LPS, row and column) -> order, gap, step -> affine (RAS+, mm)

The affine is built from where the slices are, so a tilted gantry's sheared stack keeps its true shape. A stack whose
steps are not all alike has no affine and is refused. Geometry: DICOM PS3.3 C.7.6.2.1.1.
"""

import numpy as np
import numpy.typing as npt

from medmllm.errors import GeometryError
from medmllm.records import FloatArray, Plane

ORTHOGONAL = 1e-3  # |row . column| of direction cosines; files carry 4 to 8 digits
SAME_DIRECTION = 2e-3  # largest difference of a cosine from that of one slice of a stack: 0.11 degrees
ROUNDING_MM = 0.018  # two decimals are off by 0.005 along each of three axes: two positions by 0.0173 together
ROUNDING_OF_TENTHS_MM = 0.174  # and of one decimal ten times as much
MOST_ROUNDING = 0.25  # of a gap, which else might hide a missing slice
UNEVEN_GAPS = frozenset({"missing_slice", "uneven_gap"})  # codes of `slice_gap` that interpolation may mend
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
OBLIQUE_DEG = 30.0  # a slice turned by more than this out of a plane is not of that plane
SAME_LENGTH = 0.01  # spacings that differ by less, as a fraction, are alike
PLANES: tuple[Plane, Plane, Plane] = ("sagittal", "coronal", "axial")  # across x, y, z


def slice_normal(orientation: FloatArray) -> FloatArray:
    """Return the unit vector across a slice.

    Args:
        orientation: Image Orientation (Patient): cosines along a row, then along a column; shape (6,), LPS.

    Returns:
        row x column; shape (3,), LPS.

    Raises:
        GeometryError: The two directions are not of length 1 or not perpendicular.

    >>> slice_normal(np.array([1.0, 0, 0, 0, 1, 0]))
    array([0., 0., 1.])
    """
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1.0, atol=ORTHOGONAL):
        raise GeometryError(
            f"the directions of Image Orientation have lengths {lengths[0]:.4f} and {lengths[1]:.4f} instead of 1",
            code="bad_orientation",
        )
    if abs(row @ column) > ORTHOGONAL:
        raise GeometryError(
            f"row and column of Image Orientation are not perpendicular (cosine {row @ column:.4f})",
            code="bad_orientation",
        )
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def same_orientation(orientations: FloatArray) -> bool:
    """Return whether all slices lie parallel and are turned alike; shape (slices, 6).

    Exporters round the cosines differently from slice to slice: a jitter in the seventh digit is common. All that lie
    within the tolerance of one of them are alike.
    """
    return bool(np.ptp(orientations, axis=0).max() <= 2 * SAME_DIRECTION)


def slice_order(positions: FloatArray, normal: FloatArray) -> npt.NDArray[np.intp]:
    """Return the indices that sort slices along their normal; positions (slices, 3), normal (3,), both LPS."""
    return np.argsort(positions @ normal, kind="stable")


def slice_gap(positions: FloatArray, normal: FloatArray, *, tolerance: float = 0.01) -> float:
    """Return the distance between neighbouring slices of a regular stack, in mm.

    Measured along the slice normal: Slice Thickness (0018,0050) tells how thick a slice is, not how far the next one
    lies. With `slice_step` it decides what a regular grid is.

    Args:
        positions: Image Position (Patient), one row per slice in any order; shape (slices, 3), mm, LPS.
        normal: Unit vector across the slices; shape (3,), LPS.
        tolerance: Largest deviation from the median gap, as a fraction of it; what rounding the positions to the
            decimals that they have may do (two: 0.018 mm) is always let pass.

    Raises:
        GeometryError: Fewer than two slices (`single_slice`), a doubled slice (`doubled_slice`), a
            missing slice (`missing_slice`), or uneven gaps (`uneven_gap`).

    >>> slice_gap(np.array([[0, 0, 5.0], [0, 0, 0], [0, 0, 2.5]]), np.array([0, 0, 1.0]))
    2.5
    """
    if len(positions) < 2:
        raise GeometryError(
            "a single slice has no neighbour: the gap that makes it a volume is unknown, and Slice Thickness does not "
            "tell it",
            code="single_slice",
        )
    gaps = np.diff(np.sort(positions @ normal))
    ranked = np.sort(gaps)  # not np.median, which loads masked arrays
    median = float(ranked[(len(gaps) - 1) // 2] + ranked[len(gaps) // 2]) / 2
    doubled = np.flatnonzero(gaps <= 0.01 * max(median, 0.01))
    if len(doubled):
        raise GeometryError(
            f"{len(doubled)} of {len(positions)} slices lie where another slice lies (first: slices {doubled[0]} "
            f"and {doubled[0] + 1}): several time points, echoes or acquisitions share this series",
            code="doubled_slice",
        )
    worst = int(np.argmax(abs(gaps - median)))
    if abs(gaps[worst] - median) <= max(tolerance * median, _rounding_mm(positions, median)):
        return median
    multiples = gaps / gaps.min()
    missing = np.round(multiples).astype(int) - 1
    whole = bool(np.all(abs(multiples - np.round(multiples)) <= tolerance * np.round(multiples)))
    many = f"{missing.sum()} slices are missing" if missing.sum() != 1 else "1 slice is missing"
    raise GeometryError(
        f"slices {worst} and {worst + 1} of {len(positions)} lie {gaps[worst]:.2f} mm apart, the median gap is "
        f"{median:.2f} mm (tolerance {tolerance:.0%}). {many if whole else 'The gaps are uneven'}: export the series "
        "again, whole",
        code="missing_slice" if whole else "uneven_gap",
    )


def _rounding_mm(positions: FloatArray, gap: float) -> float:
    """Return how far rounding may have moved positions against each other: some are written with one decimal."""
    tenths = 10 * positions
    written_in_tenths = np.abs(tenths - np.round(tenths)).max() <= 1e-6
    return min(ROUNDING_OF_TENTHS_MM if written_in_tenths else ROUNDING_MM, MOST_ROUNDING * gap)


def slice_step(positions: FloatArray, normal: FloatArray, *, tolerance: float = 0.01) -> FloatArray:
    """Return the step from each slice to the next, the same for all; shape (3,), mm, LPS.

    The step points along the normal unless the stack is sheared, as with a tilted gantry.

    Args:
        positions: Image Position (Patient) in any order; shape (slices, 3), mm, LPS.
        normal: Unit vector across the slices; shape (3,), LPS.
        tolerance: Largest distance of a slice from its place on the regular grid, as a fraction of the gap.

    Raises:
        GeometryError: As `slice_gap`, or a slice is shifted sideways against the others (`shifted_slice`).

    >>> slice_step(np.array([[0, 1.0, 4.0], [0, 0, 0], [0, 0.5, 2.0]]), np.array([0, 0, 1.0]))
    array([0. , 0.5, 2. ])
    """
    gap = slice_gap(positions, normal, tolerance=tolerance)
    ordered = positions[slice_order(positions, normal)]
    step = (ordered[-1] - ordered[0]) / (len(ordered) - 1)
    places = ordered[0] + np.arange(len(ordered))[:, None] * step
    off = np.linalg.norm(ordered - places, axis=1)
    worst = int(np.argmax(off))
    if off[worst] > max(tolerance * gap, _rounding_mm(positions, gap)):
        raise GeometryError(
            f"slice {worst} of {len(ordered)} lies {off[worst]:.2f} mm from its place on the regular grid (tolerance "
            f"{tolerance:.0%} of the {gap:.2f} mm gap)",
            code="shifted_slice",
        )
    return step


def shear_deg(step: FloatArray, normal: FloatArray) -> float:
    """Return the angle between the step from slice to slice and the slice normal, in degrees.

    >>> round(shear_deg(np.array([0.0, 3.0, 4.0]), np.array([0.0, 0.0, 1.0])), 2)
    36.87
    """
    cosine = float(step @ normal) / float(np.linalg.norm(step))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def stack_affine(
    orientation: FloatArray, pixel_spacing_mm: tuple[float, float], first: FloatArray, step: FloatArray
) -> FloatArray:
    """Return the affine from voxel index (column, row, slice) to RAS+ position in mm.

    Args:
        orientation: Image Orientation (Patient); shape (6,), LPS.
        pixel_spacing_mm: Pixel Spacing (0028,0030): between rows, then between columns.
        first: Image Position (Patient) of the first slice, the centre of its first voxel; shape (3,), mm, LPS.
        step: From each slice to the next; shape (3,), mm, LPS.

    Returns:
        Shape (4, 4), float64.

    >>> stack_affine(np.array([1.0, 0, 0, 0, 1, 0]), (2.0, 3.0), np.array([-5.0, 7.0, 9.0]), np.array([0, 0, 4.0]))
    array([[-3.,  0.,  0.,  5.],
           [ 0., -2.,  0., -7.],
           [ 0.,  0.,  4.,  9.],
           [ 0.,  0.,  0.,  1.]])
    """
    between_rows, between_columns = pixel_spacing_mm
    lps = np.eye(4)
    lps[:3, 0] = orientation[:3] * between_columns
    lps[:3, 1] = orientation[3:] * between_rows
    lps[:3, 2] = step
    lps[:3, 3] = first
    return LPS_TO_RAS @ lps


def plane_of(normal: FloatArray) -> Plane:
    """Return which plane a slice lies in, by the direction across it; shape (3,), of any length, LPS or RAS.

    A tilted slice counts for the plane that it is turned out of by at most `OBLIQUE_DEG`: brain and spine are commonly
    scanned up to 25 degrees off the axes. Beyond that it is oblique (a cardiac short axis, say), and in none of the
    three.

    >>> plane_of(np.array([0.0, 0.4, 1.0])), plane_of(np.array([0.0, 0.7, 1.0])), plane_of(np.array([-1.0, 0, 0]))
    ('axial', 'oblique', 'sagittal')
    """
    cosines = abs(normal) / np.linalg.norm(normal)
    nearest = int(np.argmax(cosines))
    return PLANES[nearest] if np.degrees(np.arccos(min(cosines[nearest], 1.0))) <= OBLIQUE_DEG else "oblique"


def slice_axis(spacing_mm: tuple[float, float, float]) -> int | None:
    """Return the axis across the slices of a grid that does not say it: pixels are square, slices lie otherwise apart.

    None where all three spacings are alike, or all differ.

    >>> slice_axis((0.9, 0.9, 5.0)), slice_axis((1.0, 0.5, 0.5)), slice_axis((1.0, 1.0, 1.0)), slice_axis((1.0, 2.0, 3))
    (2, 0, None, None)
    """
    others = ((1, 2), (0, 2), (0, 1))  # beside x, y, z
    square = [abs(spacing_mm[a] - spacing_mm[b]) <= SAME_LENGTH * spacing_mm[a] for a, b in others]
    return square.index(True) if square.count(True) == 1 else None
