"""Decide whether the slices of one DICOM series are one regular grid, and which.

    headers -> the same files once -> parts that belong together -> slices in order -> Stack, or the reason why not

Only headers are looked at, so the index and the reader decide alike. Parts are told apart by what the headers record
(orientation and size, or an attribute such as Echo Time or Acquisition Number), never by the order of files; what
cannot be told apart is refused. Geometry: DICOM PS3.3 C.7.6.2.1.1.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from medmllm.errors import DicomError, GeometryError
from medmllm.geometry import (
    SAME_DIRECTION,
    UNEVEN_GAPS,
    same_orientation,
    shear_deg,
    slice_normal,
    slice_order,
    slice_step,
    stack_affine,
)
from medmllm.ingest.dicom_header import APART, DicomHeader
from medmllm.ingest.dicom_pixels import BITS_ALLOCATED, TRANSFER_SYNTAXES
from medmllm.ingest.dicom_regrid import Evening, Regrid, Upright, even_out, upright_grid
from medmllm.records import FloatArray

LARGEST_VOXELS = 2**30  # 4 GiB as float32
SAME_SPACING = 1e-3  # largest difference of Pixel Spacing within a stack, as a fraction
NO_TILT_DEG = 0.5  # positions are rounded: less is not a tilted gantry
SAME_PLACE_MM = 1e-3
LONE_SLICE_MM = 1.0  # depth of a slice without a neighbour whose header states none: it has to be something
DICOM_ROOT = "1.2.840.10008."
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."  # with its multi-frame kinds
MOSAICS = frozenset({"MOSAIC", "VFRAME"})  # the latter is United Imaging's, whose private header is not read
LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Slices in order, and the grid they make."""

    slices: tuple[DicomHeader, ...] = field(repr=False)  # as measured, along the normal
    shape: tuple[int, int, int]  # (x, y, z): columns, rows, slices
    affine: FloatArray  # (4, 4), voxel index -> RAS+ mm
    warnings: tuple[tuple[str, str], ...]  # (code, reason)
    evening: Evening | None = None  # how slices at uneven gaps become those of the grid, on request
    upright: Upright | None = None  # how sheared slices become those of the grid, on request

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (x, y, z), in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def padding(self) -> tuple[float, float] | None:
        """Lowest and highest value of voxels outside the image, where all slices name the same; None else."""
        named = {header.rescaled_padding for header in self.slices}
        return named.pop() if len(named) == 1 else None


def arrange(headers: Sequence[DicomHeader], *, regrid: Regrid = "never") -> Stack:
    """Return the one regular grid that these slices make.

    Args:
        headers: In any order.
        regrid: Which stacks to bring onto an upright, regular grid by interpolation; a warning says so.

    Raises:
        DicomError: An image is not of a kind that stacks: multi-frame, mosaic, localizer, colour, cut short,
            without spacing or position, of another size or orientation than the others ...
        GeometryError: The slices are not regular; see `slice_gap`, `slice_step` and `even_out`.
    """
    for header in headers:
        _refuse_slice(header)
    _refuse_mixture(headers)
    normal = slice_normal(np.array(headers[0].orientation))
    positions = np.array([header.position for header in headers], dtype=np.float64)
    order = slice_order(positions, normal)
    slices = tuple(headers[index] for index in order)
    start = slices[0]
    _refuse_large(start, len(slices))
    step, evening = _step(slices, positions[order], normal, regrid)
    shape = (start.columns, start.rows, len(slices) if evening is None else len(evening.below))
    assert start.pixel_spacing_mm is not None  # for the type checker: refused above
    affine = stack_affine(np.array(start.orientation), start.pixel_spacing_mm, positions[order[0]], step)
    shear = shear_deg(step, normal)
    upright = upright_grid(shape, affine) if regrid != "never" and shear > NO_TILT_DEG else None
    if upright is not None:
        shape, affine = upright.shape, upright.affine
    warnings = (*_shape_warnings(slices, shear, evening, upright), *_remarks(slices))
    _refuse_large(start, math.ceil(math.prod(shape) / (start.columns * start.rows)))
    return Stack(slices, shape, affine, warnings, evening, upright)


def _step(
    slices: Sequence[DicomHeader], positions: FloatArray, normal: FloatArray, regrid: Regrid
) -> tuple[FloatArray, Evening | None]:
    """Return the step from slice to slice, and what makes it the same everywhere where it is not and may be made so."""
    if len(slices) == 1:
        return _lone_step(slices[0], normal), None
    try:
        return slice_step(positions, normal), None
    except GeometryError as error:
        if regrid != "uneven" or error.code not in UNEVEN_GAPS:
            raise
    evening = even_out(positions, normal)
    return evening.step, evening


def _refuse_large(header: DicomHeader, slices: int) -> None:
    shape = header.columns, header.rows, slices
    if math.prod(shape) > LARGEST_VOXELS:
        raise DicomError(f"the series declares shape {shape}; at most {LARGEST_VOXELS:,} voxels are read",
                         code="too_large")  # fmt: skip


def _refuse_mixture(headers: Sequence[DicomHeader]) -> None:
    """Raise for slices that do not lie on one grid, whatever their order."""
    orientations = np.array([header.orientation for header in headers], dtype=np.float64)
    spacings = np.array([header.pixel_spacing_mm for header in headers], dtype=np.float64)
    if len({(header.rows, header.columns) for header in headers}) > 1:
        raise DicomError("slices of different sizes share this series", code="mixed_sizes")
    if not same_orientation(orientations):
        raise DicomError("slices of different orientations share this series", code="mixed_orientation")
    if np.ptp(spacings, axis=0).max() > SAME_SPACING * spacings.min():
        raise DicomError("slices of different Pixel Spacing share this series", code="mixed_spacing")
    if len({header.frame_of_reference_uid for header in headers} - {None}) > 1:
        raise DicomError("slices of different frames of reference share this series", code="mixed_frames_of_reference")


def _lone_step(header: DicomHeader, normal: FloatArray) -> FloatArray:
    """Return the step of a slice without a neighbour: as deep as the header says, else 1 mm; see the warning."""
    return (header.thickness_mm or LONE_SLICE_MM) * normal


def _shape_warnings(
    slices: Sequence[DicomHeader], shear: float, evening: Evening | None, upright: Upright | None
) -> list[tuple[str, str]]:
    """Return (code, reason) of what is out of the ordinary in where the slices lie."""
    found = []
    if len(slices) == 1:
        said = "what the header says" if slices[0].thickness_mm else f"unknown, and was set to {LONE_SLICE_MM:g} mm"
        found.append(("single_slice", f"one slice without a neighbour: its depth is {said}"))
    if evening is not None:
        reason = (f"{evening.interpolated} of {len(evening.below)} slices were interpolated between their neighbours, "
                  f"as was asked for: the {len(slices)} slices of the series lie at uneven gaps")  # fmt: skip
        found.append(("slices_interpolated", reason))
    if upright is not None:
        reason = (f"the slices are sheared by {shear:.1f} degrees (tilted gantry), and were brought onto an upright "
                  "grid by interpolation, as was asked for")  # fmt: skip
        found.append(("straightened", reason))
    elif shear > NO_TILT_DEG:
        reason = f"the slices are sheared by {shear:.1f} degrees (tilted gantry); the affine holds the shear"
        found.append(("gantry_tilt", reason))
    return found


def _remarks(slices: Sequence[DicomHeader]) -> list[tuple[str, str]]:
    """Return (code, reason) of what some of the slices say that a reader of their values should know."""
    count = len(slices)
    known = sum(header.has_rescale or header.has_modality_lut for header in slices)
    bare = count - known if slices[0].modality == "CT" else 0
    inverted = sum(header.photometric == "MONOCHROME1" for header in slices)
    doubled = sum(header.has_modality_lut and header.slope is not None for header in slices)
    nowhere = sum(header.frame_of_reference_uid is None for header in slices)
    remarks = (
        ("no_rescale", bare, "of a CT have no Rescale Slope and Intercept: values may not be HU"),
        ("monochrome1", inverted, "ask to be shown with their lowest values white (MONOCHROME1): values are kept"),
        ("lut_and_rescale", doubled, "have a Modality LUT and a rescale, of which only the table was applied"),
        ("no_frame_of_reference", nowhere, "name no frame of reference: whether other series lie in the same space "
         "is unknown"),
    )  # fmt: skip
    return [(code, f"{many} of {count} slices {reason}") for code, many, reason in remarks if many]


def _refuse_slice(header: DicomHeader) -> None:
    """Raise for an image that cannot be one slice of a volume, whatever its neighbours."""
    kind = set(header.image_type)
    if header.transfer_syntax not in TRANSFER_SYNTAXES:
        syntax = header.transfer_syntax if header.transfer_syntax.startswith(DICOM_ROOT) else "(a private one)"
        raise DicomError(f"the transfer syntax {syntax} is not supported: convert the files",
                         code="unsupported_transfer_syntax")  # fmt: skip
    refusals = (
        ("multi_frame", header.frames > 1 and not header.placed,
         f"the {header.frames} frames of the object have no place in the patient: it is a film, or was cut short"),
        ("mosaic", not MOSAICS.isdisjoint(kind), "the image is a mosaic that tiles all slices, and the Siemens CSA "
         "header that tells their number and direction is missing or contradicts it: export or convert it again"),
        ("localizer", not LOCALIZERS.isdisjoint(kind), "the image is a localizer, not part of a volume"),
        ("colour", header.samples != 1 or header.photometric not in ("MONOCHROME1", "MONOCHROME2"),
         "the image is in colours or its Photometric Interpretation is missing: not grey values"),
        ("secondary_capture", f"{header.sop_class_uid}.".startswith(SECONDARY_CAPTURE) and header.position is None,
         "the image is a secondary capture (a screen shot, a scanned page): it has no place in the patient"),
        ("unsupported_bits", header.bits_allocated not in BITS_ALLOCATED,
         f"{header.bits_allocated} bits are allocated per pixel; 8, 16 and 32 are read"),
        ("no_pixel_spacing", header.pixel_spacing_mm is None, "Pixel Spacing (0028,0030) is missing or not positive"),
        ("no_position", header.position is None or header.orientation is None,
         "Image Position or Image Orientation (Patient) is missing: the slice has no place"),
        ("truncated_pixels", header.truncated, "the pixel data of a slice end before they should: copy the file again"),
    )  # fmt: skip
    for code, refused, reason in refusals:
        if refused:
            raise DicomError(reason, code=code)


# --- parts of a series that must not be merged ---------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Images of one series that belong together."""

    label: str  # what tells it from the others; empty when the series is whole
    headers: tuple[DicomHeader, ...] = field(repr=False)


def split(headers: Sequence[DicomHeader]) -> tuple[Part, ...]:
    """Return the parts of a series: stacks of other orientation or size, and volumes at the same place.

    A scout may share a series with the axial slices; echoes and phases of contrast often do. They are told apart by
    one recorded attribute under which every part has each place once; where there is none, the series stays whole and
    `arrange` refuses it.
    """
    stacks: defaultdict[tuple[object, ...], list[DicomHeader]] = defaultdict(list)
    directions: list[FloatArray] = []
    for header in headers:
        stacks[header.rows, header.columns, _direction(header, directions)].append(header)
    parts = []
    for number, stack in enumerate(sorted(stacks.values(), key=_looks), start=1):
        label = f"stack {number} of {len(stacks)}" if len(stacks) > 1 else ""
        parts += [Part(" ".join(filter(None, (label, more))), kept) for more, kept in _volumes(stack)]
    return tuple(parts)


def _looks(stack: Sequence[DicomHeader]) -> tuple[object, ...]:
    """Return what stacks are numbered by, so that their numbers do not depend on file names."""
    return stack[0].rows, stack[0].columns, tuple(round(cosine, 3) for cosine in stack[0].orientation or ())


def _direction(header: DicomHeader, known: list[FloatArray]) -> int | None:
    """Return the number of this orientation among those met so far; None when the image has none."""
    if header.orientation is None:
        return None
    here = np.array(header.orientation)
    for number, other in enumerate(known):
        if abs(here - other).max() <= SAME_DIRECTION:
            return number
    known.append(here)
    return len(known) - 1


def _volumes(stack: Sequence[DicomHeader]) -> list[tuple[str, tuple[DicomHeader, ...]]]:
    """Return (label, headers) of each volume among slices that lie at the same places several times."""
    places = _count_places(stack)
    if places == len(stack):
        return [("", tuple(stack))]
    for many in (1, 2, 3):  # attributes that tell the volumes apart together, as few as will do
        for chosen in combinations(range(len(APART)), many):
            groups: defaultdict[tuple[_Order, ...], list[DicomHeader]] = defaultdict(list)
            for header in stack:
                groups[tuple(_in_order(header.acquisition[index][1]) for index in chosen)].append(header)
            if len(groups) * places == len(stack) and all(
                len(group) == places == _count_places(group) for group in groups.values()
            ):
                keywords = ", ".join(APART[index] for index in chosen)
                return [
                    (f"{keywords} {number} of {len(groups)}", tuple(groups[value]))
                    for number, value in enumerate(sorted(groups), start=1)
                ]
    return _time_points(stack, places) or [("", tuple(stack))]


_Order = tuple[int, float, str]


def _in_order(text: str) -> _Order:
    """Return what a value is sorted by: numbers by size, before words."""
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _time_points(stack: Sequence[DicomHeader], places: int) -> list[tuple[str, tuple[DicomHeader, ...]]]:
    """Return the volumes of a scan that repeats its places as often as it goes round, told apart by Instance Number.

    Only where the numbers themselves show the order: every place comes equally often, and either one volume's numbers
    all come before the next one's, or one place's do. Empty when they show none.
    """
    count, rest = divmod(len(stack), places)
    numbers = [header.instance for header in stack]
    if rest or None in numbers or len(set(numbers)) < len(stack) or any(header.position is None for header in stack):
        return []
    normal = slice_normal(np.array(stack[0].orientation))
    heights = np.array([header.position for header in stack]) @ normal
    by_height = np.argsort(heights, kind="stable").reshape(places, count)
    if np.ptp(heights[by_height], axis=1).max() > SAME_PLACE_MM:
        return []
    instance = np.array(numbers)
    ranked = np.take_along_axis(by_height, np.argsort(instance[by_height], axis=1), axis=1)  # (places, time points)
    found = instance[ranked]
    volume_by_volume = bool(np.all(found.max(axis=0)[:-1] < found.min(axis=0)[1:]))
    first = found[np.argsort(found[:, 0])]
    place_by_place = bool(np.all(first.max(axis=1)[:-1] < first.min(axis=1)[1:]))
    if not (volume_by_volume or place_by_place):
        return []
    return [
        (f"InstanceNumber {number + 1} of {count}", tuple(stack[k] for k in ranked[:, number]))
        for number in range(count)
    ]


def _count_places(headers: Sequence[DicomHeader]) -> int:
    """Return at how many different heights along the normal these images lie; images without a place count each."""
    placed = [header.position for header in headers if header.position and header.orientation]
    if not placed:
        return len(headers)
    try:
        normal = slice_normal(np.array(headers[0].orientation))
    except GeometryError:
        return len(headers)
    gaps = np.diff(np.sort(np.array(placed) @ normal))
    return 1 + int(np.count_nonzero(gaps > SAME_PLACE_MM)) + len(headers) - len(placed)
