"""Look at the fields of a NIfTI header as they are written, before nibabel mends them without a word.

    nibabel's header, unchecked -> what cannot be decided is refused, what was mended or disagrees is told

nibabel takes a spacing of 0 for 1 mm, an unknown form code for none, an infinite slope for no scaling. Orientation is
as nibabel does it: the sform when its code is not 0, else the qform, else the header's base affine. Fields: nifti1.h.
"""

import math
from itertools import combinations
from operator import mul
from typing import Any

import numpy as np
from nibabel import nifti1
from nibabel.spatialimages import HeaderDataError

from medmllm.errors import NiftiError
from medmllm.records import FloatArray

SAME_PLACE = 0.1  # sform and qform agree when all corners do, to this fraction of a voxel
SAME_SPACING = 0.01  # pixdim and sform agree to this fraction
NO_SHEAR_DEG = 0.5  # affines are rounded: less is not a sheared grid
MOST_AXES = 7
FORMS = ("sform_code", "qform_code")
FORM_CODES = frozenset(nifti1.xform_codes.value_set("code"))
DATATYPES = frozenset(code for code in nifti1.data_type_codes.value_set("code")
                      if nifti1.data_type_codes.dtype[code].itemsize)  # fmt: skip

Remarks = tuple[tuple[str, str], ...]
"""(code, reason) of what loads, but somebody should look at."""


def look_at_fields(raw: Any) -> Remarks:
    """Return what nibabel is going to mend in a header, or reads in a way of its own.

    Args:
        raw: nibabel's header, unchecked and unmended.

    Raises:
        NiftiError: What it says cannot be decided: of no spacing, no known kind of number, no scaling.
    """
    _refuse_undecidable(raw)
    codes = {form: int(raw[form]) for form in FORMS}
    known = {form: code in FORM_CODES for form, code in codes.items()}
    found = [("unknown_form_code", f"the {form} {codes[form]} is none of nifti1.h: it was taken as unset, as "
              "nibabel does") for form in FORMS if not known[form]]  # fmt: skip
    if not (known["sform_code"] and codes["sform_code"]):
        found += _spacing(raw)
    elif not (known["qform_code"] and codes["qform_code"]):
        found += _beside_sform(raw)
    if math.isinf(float(raw["scl_slope"])):
        reason = "scl_slope is infinite: the voxels were left as they are stored, as nibabel does"
        found.append(("infinite_slope", reason))
    return tuple(found)


def _refuse_undecidable(raw: Any) -> None:
    axes = int(raw["dim"][0])
    if not 0 <= axes <= MOST_AXES:
        raise NiftiError(f"the header says that the image has {axes} axes, of 1 to {MOST_AXES}: it is damaged, "
                         "copy or convert the file again", code="nifti_unreadable")  # fmt: skip
    kind = int(raw["datatype"])
    if kind not in DATATYPES:
        raise NiftiError(f"the header says that voxels are of type {kind}, which is none that is read: convert them to "
                         "whole or real numbers of 8 to 64 bits", code="unsupported_datatype")  # fmt: skip
    slope, intercept, offset = (float(raw[field]) for field in ("scl_slope", "scl_inter", "vox_offset"))
    if math.isfinite(slope) and slope != 0 and not math.isfinite(intercept):
        raise NiftiError("scl_inter is not a number beside a valid scl_slope: the values are unknown; convert it "
                         "again, or set scl_slope and scl_inter", code="bad_scaling")  # fmt: skip
    if not math.isfinite(offset):
        raise NiftiError("vox_offset is not a number: where the voxels start is unknown; convert the file again",
                         code="nifti_unreadable")  # fmt: skip


def _spacing(raw: Any) -> list[tuple[str, str]]:
    """Return what is odd about pixdim, where it tells the size of voxels.

    Raises:
        NiftiError: It does not tell it, for an axis that has several.
    """
    found = []
    sizes, spacings = raw["dim"][1:4].tolist(), raw["pixdim"][1:4].tolist()
    for number, (size, spacing) in enumerate(zip(sizes, spacings, strict=True), start=1):
        if spacing < 0:
            reason = f"pixdim[{number}] is negative: its absolute value was taken, as nibabel does"
            found.append(("negative_spacing", reason))
        elif (spacing == 0 or not math.isfinite(spacing)) and size > 1:
            raise NiftiError(f"pixdim[{number}] is {spacing:g} and there is no sform: how far voxels lie apart is "
                             "unknown; convert it again, or set an sform", code="no_spacing")  # fmt: skip
        elif spacing == 0:
            found.append(("no_spacing", f"pixdim[{number}] is 0: the depth of the only slice was set to 1 mm"))
    return found


def _beside_sform(raw: Any) -> list[tuple[str, str]]:
    """Return where pixdim tells another size of voxels than the sform: other programs go by it."""
    used = np.linalg.norm(raw.get_sform()[:3, :3], axis=0)
    for number in (1, 2, 3):
        said, size = float(raw["pixdim"][number]), float(used[number - 1])
        if raw["dim"][number] > 1 and said > 0 and abs(said - size) > SAME_SPACING * size:
            reason = (f"pixdim[{number}] says {said:.3f} mm, the sform {size:.3f} mm; the sform was used, as nibabel "
                      "does")  # fmt: skip
            return [("spacing_differs", reason)]
    return []


def warnings_of(raw: Any, affine: FloatArray, shape: tuple[int, ...]) -> Remarks:
    """Return what a checked header says about orientation that somebody should look at.

    Args:
        raw: nibabel's header, mended.
        affine: The one that was chosen.
        shape: (x, y, z).
    """
    found = _which_form(raw, affine, shape)
    shear = _shear_deg(affine)
    if shear > NO_SHEAR_DEG:
        reason = f"the axes of the grid are {90 - shear:.1f} degrees apart in places, not 90: the affine is sheared"
        found += (("sheared", reason),)
    return found


def _shear_deg(affine: FloatArray) -> float:
    """Return by how much the two least perpendicular axes of a grid miss the right angle, in degrees."""
    axes = affine[:3, :3].T.tolist()  # of three numbers each: numpy takes longer
    cosines = (abs(sum(map(mul, a, b))) / (math.hypot(*a) * math.hypot(*b)) for a, b in combinations(axes, 2))
    return math.degrees(math.asin(min(1.0, max(cosines))))


def _which_form(raw: Any, affine: FloatArray, shape: tuple[int, ...]) -> Remarks:
    sform_code, qform_code = int(raw["sform_code"]), int(raw["qform_code"])
    if not (sform_code or qform_code):
        reason = "sform and qform are both unset: orientation is unknown, left may be right; read as nibabel does"
        return (("orientation_unknown", reason),)
    if not (sform_code and qform_code):
        return ()
    try:
        other = raw.get_qform()
    except (HeaderDataError, ValueError):
        return (("sform_qform_differ", "the qform is not valid; the sform was used, as nibabel does"),)
    corners = np.array([[x, y, z, 1.0] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])])
    apart = float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())
    if apart <= SAME_PLACE * np.linalg.norm(affine[:3, :3], axis=0).min():
        return ()
    reason = f"sform and qform disagree by up to {apart:.2f} mm; the sform was used, as nibabel does"
    return (("sform_qform_differ", reason),)
