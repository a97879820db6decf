"""Keep of a NIfTI header what voxels and affine need; everything else is written anew.

    first bytes of a file -> fields -> those in use kept, all others as a new file would have them -> header, extent

In use is what nibabel, and with it our reader, goes by: a quaternion only with a qform code, rows of an affine only
with an sform code, as many sizes as there are axes, as many parameters as the intent has. nifti1.h and nifti2.h.
"""

import math
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import nibabel
import numpy as np
import numpy.typing as npt

from medmllm.errors import NiftiError

LAYOUTS = {348: nibabel.Nifti1Header.template_dtype, 540: nibabel.Nifti2Header.template_dtype}
NEVER_USED = (
    "data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str", "extents", "session_error", "regular",
    "glmax", "glmin", "cal_max", "cal_min",
)  # fmt: skip
QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
SFORM = ("srow_x", "srow_y", "srow_z")
SLICE_TIMES = ("slice_start", "slice_end", "slice_code", "slice_duration")


@dataclass(frozen=True, slots=True)
class CleanHeader:
    """A header without texts, and where the voxels are that it declares."""

    encoded: bytes = field(repr=False)
    offset: int  # bytes
    voxel_bytes: int  # of all volumes, by the data type alone: what writers put into bitpix may be wrong
    is_pair: bool


def clean_header(stream: BinaryIO) -> CleanHeader:
    """Read and clean the header that a stream starts with.

    Raises:
        NiftiError: `not_nifti`, or `nifti_unreadable` for an axis of no length.
    """
    start = stream.read(348)
    for order in "<>":
        size = int.from_bytes(start[:4], "little" if order == "<" else "big")
        if size in LAYOUTS:
            start += stream.read(size - len(start))
            fields = np.frombuffer(start, dtype=LAYOUTS[size].newbyteorder(order)).copy()
            return _cleaned(fields)
    raise NiftiError("the file has no NIfTI header", code="not_nifti")


def _cleaned(fields: npt.NDArray[Any]) -> CleanHeader:
    axes = int(fields["dim"][0, 0])
    shape = [int(length) for length in fields["dim"][0, 1 : axes + 1]]
    if min(shape, default=0) < 1:
        raise NiftiError(f"the header declares shape {tuple(shape)}", code="nifti_unreadable")
    voxel = nibabel.nifti1.data_type_codes.dtype[int(fields["datatype"][0])]
    magic = bytes(fields["magic"].item())[:3]
    offset = int(fields["vox_offset"][0])
    fields["bitpix"] = 8 * voxel.itemsize
    fields["vox_offset"] = offset
    fields["dim"][0, axes + 1 :] = 1
    fields["pixdim"][0, axes + 1 :] = 0
    fields["pixdim"][0, 0] = -1 if fields["pixdim"][0, 0] == -1 else 1  # as nibabel takes any other value
    _empty(fields, _unused(fields, axes))
    return CleanHeader(fields.tobytes(), offset, math.prod(shape) * voxel.itemsize, magic.startswith(b"ni"))


def _unused(fields: npt.NDArray[Any], axes: int) -> list[str]:
    """Return the fields by which nobody goes."""
    told = {name: int(fields[name][0]) for name in ("qform_code", "sform_code", "intent_code", "dim_info")}
    unused = list(NEVER_USED)
    for code, names in (("qform_code", QFORM), ("sform_code", SFORM)):
        unused += () if told[code] and told[code] in nibabel.nifti1.xform_codes.value_set("code") else names
    unused += () if axes > 3 and told["dim_info"] >> 4 & 3 else SLICE_TIMES
    unused += () if axes > 3 else ("toffset",)
    unused += [f"intent_p{number}" for number in range(_intent_parameters(told["intent_code"]) + 1, 4)]
    slope = float(fields["scl_slope"][0])
    if not math.isfinite(slope) or slope == 0:  # unscaled; a NaN has room for text too
        unused += ["scl_slope", "scl_inter"]
    return unused


def _intent_parameters(code: int) -> int:
    known = nibabel.nifti1.intent_codes
    return len(known.parameters[code]) if code in known.value_set("code") else 0


def _empty(fields: npt.NDArray[Any], names: list[str]) -> None:
    for name in names:
        if name in (fields.dtype.names or ()):
            fields[name] = b"" if fields.dtype[name].kind == "S" else 0
