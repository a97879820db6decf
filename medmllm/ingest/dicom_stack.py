"""Decide whether the slices of one DICOM series are one regular grid, and which.

    headers -> slices in order -> Stack, or the reason why not

Only headers are looked at, so the index and the reader decide alike. What shares a series without being one volume is
told apart before (dicom_parts); what could not be is refused. Geometry: DICOM PS3.3 C.7.6.2.1.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medmllm.errors import DicomError, GeometryError
from medmllm.geometry import (
    UNEVEN_GAPS,
    same_orientation,
    shear_deg,
    slice_normal,
    slice_order,
    slice_step,
    stack_affine,
)
from medmllm.ingest.dicom_header import DicomHeader
from medmllm.ingest.dicom_pixels import BITS_ALLOCATED, TRANSFER_SYNTAXES
from medmllm.ingest.dicom_regrid import Evening, Regrid, Upright, even_out, upright_grid
from medmllm.records import FloatArray

LARGEST_VOXELS = 2**30  # 4 GiB as float32
SAME_SPACING = 1e-3  # largest difference of Pixel Spacing within a stack, as a fraction
FEWEST = 3  # slices of which a rule is believed: any two keep one
SAME_GAP = 0.01  # largest difference of a gap from what it is held against, as a fraction
NO_TILT_DEG = 0.5  # positions are rounded: less is not a tilted gantry
LONE_SLICE_MM = 1.0  # depth of a slice without a neighbour whose header states none: it has to be something
DICOM_ROOT = "1.2.840.10008."
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."  # with its multi-frame kinds
MOSAICS = frozenset({"MOSAIC", "VFRAME"})  # the latter is United Imaging's, whose private header is not read
CUT_SHORT = "the pixel data of a slice end before they should: copy the file again"
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
    def frame_of_reference_uid(self) -> str | None:
        """The frame of reference that the slices name; None when they name none, or each its own."""
        named = {header.frame_of_reference_uid for header in self.slices} - {None}
        return named.pop() if len(named) == 1 else None

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
        if error.code not in UNEVEN_GAPS:
            raise
        uneven = error
    if regrid != "uneven":
        raise GeometryError(f"{uneven.reason}{_way_out(positions, normal)}", code=uneven.code) from None
    evening = even_out(positions, normal)
    return evening.step, evening


def _way_out(positions: FloatArray, normal: FloatArray) -> str:
    """Return the advice to interpolate slices at uneven gaps; none where that would be refused."""
    try:
        even_out(positions, normal)
    except GeometryError:
        return ""
    return ', or set regrid = "uneven" in [image] to interpolate'


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
    if len({header.frame_of_reference_uid for header in headers} - {None}) > 1 and not _frames_of_their_own(headers):
        raise DicomError("slices of different frames of reference share this series, and may lie in different spaces: "
                         "export those of each by themselves", code="mixed_frames_of_reference")  # fmt: skip


def _frames_of_their_own(headers: Sequence[DicomHeader]) -> bool:
    """Say whether every slice names a frame of reference of its own, as some anonymisers do."""
    named = {header.frame_of_reference_uid for header in headers} - {None}
    return len(named) == len(headers) >= FEWEST


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
    apart = _numbers_apart(slices)
    if apart > 1:
        reason = (f"Instance Numbers go up by {apart}, slices lie {apart} times as far apart as the header says: those "
                  "between may be missing")  # fmt: skip
        found.append(("slices_left_out", reason))
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


def _numbers_apart(slices: Sequence[DicomHeader]) -> int:
    """Return by how much Instance Number goes up per slice, if slices lie as many times too far apart; 1 else."""
    numbers = [header.instance for header in slices]
    said_mm = slices[0].thickness_mm
    if len(slices) < FEWEST or None in numbers or not said_mm:
        return 1
    steps = set(np.abs(np.diff(np.array(numbers, dtype=np.float64))).tolist())
    apart = int(steps.pop())
    first, second = (np.array(header.position) for header in slices[:2])
    gap_mm = float(np.linalg.norm(second - first))
    return apart if not steps and apart > 1 and abs(gap_mm - apart * said_mm) <= SAME_GAP * gap_mm else 1


def _remarks(slices: Sequence[DicomHeader]) -> list[tuple[str, str]]:
    """Return (code, reason) of what some of the slices say that a reader of their values should know."""
    count = len(slices)
    known = sum(header.has_rescale or header.has_modality_lut for header in slices)
    bare = count - known if slices[0].modality == "CT" else 0
    inverted = sum(header.photometric == "MONOCHROME1" for header in slices)
    doubled = sum(header.has_modality_lut and header.slope is not None for header in slices)
    unheld = sum(_pads_beyond_its_bits(header) for header in slices)
    own = count if count > 1 and _frames_of_their_own(slices) else 0
    nowhere = sum(header.frame_of_reference_uid is None for header in slices)
    remarks = (
        ("no_rescale", bare, "of a CT have no Rescale Slope and Intercept: values may not be HU"),
        ("monochrome1", inverted, "ask to be shown with their lowest values white (MONOCHROME1): values are kept"),
        ("lut_and_rescale", doubled, "have a Modality LUT and a rescale, of which only the table was applied"),
        ("padding_beyond_bits", unheld, "name a Pixel Padding Value that does not fit into Bits Stored: pixels with it "
         "read as another value"),
        ("no_frame_of_reference", nowhere, "name no frame of reference: whether other series lie in the same space "
         "is unknown"),
        ("frames_of_reference_differ", own, "name a frame of reference of their own: whether other series lie in the "
         "same space is unknown"),
    )  # fmt: skip
    return [(code, f"{many} of {count} slices {reason}") for code, many, reason in remarks if many]


def _pads_beyond_its_bits(header: DicomHeader) -> bool:
    """Say whether the value of pixels outside the image is none that the stored bits can hold."""
    if header.padding is None or not header.bits_stored:
        return False
    lowest = -(2 ** (header.bits_stored - 1)) if header.signed else 0
    return header.padding[0] < lowest or header.padding[1] >= lowest + 2**header.bits_stored


def _refuse_slice(header: DicomHeader) -> None:
    refusal = refusal_of(header)
    if refusal:
        raise DicomError(refusal[1], code=refusal[0])


def refusal_of(header: DicomHeader) -> tuple[str, str] | None:
    """Return (code, reason) of why an image can be no slice of a volume, whatever its neighbours; None if it can."""
    kind = set(header.image_type)
    if header.transfer_syntax not in TRANSFER_SYNTAXES:
        syntax = header.transfer_syntax if header.transfer_syntax.startswith(DICOM_ROOT) else "(a private one)"
        return "unsupported_transfer_syntax", f"the transfer syntax {syntax} is not supported: convert the files"
    refusals = (
        ("truncated_pixels", header.truncated and header.frames > 1, CUT_SHORT),
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
        ("pixel_length", header.misfit, "the pixel data are longer than size, bits and number of frames say, by a "
         "frame or more, or are compressed against the transfer syntax: the header is wrong, export the series again"),
        ("no_pixel_spacing", header.pixel_spacing_mm is None, "Pixel Spacing (0028,0030) is missing, or not two "
         "positive numbers"),
        ("no_position", header.position is None or header.orientation is None,
         "Image Position or Image Orientation (Patient) is missing, or not numbers: the slice has no place"),
        ("truncated_pixels", header.truncated, CUT_SHORT),
        ("bad_rescale", not math.isfinite((header.slope or 0) + (header.intercept or 0)),
         "Rescale Slope or Intercept is not a number: the values are unknown"),
    )  # fmt: skip
    return next(((code, reason) for code, refused, reason in refusals if refused), None)
