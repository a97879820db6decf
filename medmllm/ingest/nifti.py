"""Build one Volume from one NIfTI file.

    .nii, .nii.gz or .hdr with .img -> header, held against bounds -> bytes, checked -> scaled float32 -> Volume

Orientation as nibabel does it; what nibabel mends in a header without a word is told (see nifti_fields). A gzip stream
is read to its end, so that its checksum and length are verified; nibabel alone stops early and takes a flipped bit for
data. What is declared is held against bounds before any of it is read.
"""

import gzip
import io
import json
import logging
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medmllm.errors import IngestError, NiftiError
from medmllm.ingest.nifti_fields import Remarks, look_at_fields, warnings_of
from medmllm.ingest.opening import PARSER_FAILURES, RegularFile, one_error, open_regular, refused_as
from medmllm.records import FloatArray, Volume

LARGEST_VOXELS = 2**30  # 4 GiB as float32
MOST_VOLUMES = 2**14
DEFLATE_MOST = 1032  # gzip cannot do better (zlib.net, "Technical Details")
IMAGE_MOST, UNSUSPICIOUS_BYTES = 100, 2**27  # what images shrink by at most; below this nobody minds
LARGEST_EXTRA_BYTES = 2**24  # header extensions, and what may follow the voxels
GZIP = b"\x1f\x8b"
NIFTI1_BYTES = 348
NIFTI1_SIZES = tuple(NIFTI1_BYTES.to_bytes(4, order) for order in ("little", "big"))
HEADER_BYTES = 540  # NIfTI-2
SMALLEST_VOXEL_MM3 = 1e-9
CHUNK_BYTES = 2**20
LENGTH_UNIT, UNIT_UNSET, MILLIMETRES = 0b111, 0, 2  # bits of xyzt_units, and their values (nifti1.h)
OTHER_UNITS = {1: "metres", 3: "micrometres"}
NIBABEL_FAILURES = (HeaderDataError, ImageFileError, WrapStructError)
CIFTI_INTENTS = range(3000, 3100)  # CIFTI-2 section 3.4
_HEADERS = {
    b"n+1": nibabel.Nifti1Header,
    b"ni1": nibabel.nifti1.Nifti1PairHeader,
    b"n+2": nibabel.Nifti2Header,
    b"ni2": nibabel.nifti2.Nifti2PairHeader,
}
BIDS_MODALITY = {"MagneticResonanceImaging": "MR", "MR": "MR", "CT": "CT", "PT": "PT", "PET": "PT"}
BIDS_MR_SUFFIXES = frozenset({
    "T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "angio", "bold", "cbv", "sbref", "dwi",
    "asl", "m0scan", "T1map", "T2map", "phasediff", "phase1", "phase2", "magnitude1", "magnitude2", "magnitude",
    "epi", "MP2RAGE", "MEGRE", "MESE", "UNIT1",
})  # fmt: skip

# Its remarks on odd headers go to stderr without saying which file; what matters is in `NiftiHeader.warnings`.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """What the header of one NIfTI file says; reading it reads no voxels."""

    shape: tuple[int, int, int]  # (x, y, z)
    affine: FloatArray = field(repr=False)  # (4, 4), RAS+ mm
    warnings: tuple[tuple[str, str], ...]  # (code, reason): it loads, but somebody should look
    volumes: int = 1  # time points, echoes or the like: the product of the axes beyond the third

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along (x, y, z), in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def read_header(path: Path) -> NiftiHeader:
    """Read and judge the header of a NIfTI file.

    Raises:
        IngestError: The file cannot be opened.
        NiftiError: Not NIfTI, of fewer than three axes, not millimetres, not one number per voxel, without
            a place in the patient, or too large.
    """
    try:  # not `one_error`, which would take longer than some of the reading
        start, size, inflated = _read_start(path)
        raw, header = _judged(start[:NIFTI1_BYTES] if start[:4] in NIFTI1_SIZES else start)
        beyond = _check_size(raw, path, size, inflated)
    except (*PARSER_FAILURES, *NIBABEL_FAILURES, gzip.BadGzipFile) as error:
        if isinstance(error, EOFError):
            raise NiftiError("the gzip stream ends within the header: copy the file again",
                             code="nifti_truncated") from None  # fmt: skip
        raise refused_as(NiftiError, error, "the header cannot be parsed") from None
    if beyond < math.prod(header.shape[:2]) * raw.get_data_dtype().itemsize:
        return header
    reason = f"{beyond:,} bytes follow the voxels that the header declares, a slice or more: its size may be wrong"
    return replace(header, warnings=(*header.warnings, ("more_voxels", reason)))


def _read_start(path: Path) -> tuple[bytes, int, int | None]:
    """Return what a header takes of a file, as `_open_plain` would; the file's size; and the size that it inflates to.

    The latter as its last member says, modulo 4 GiB; None when the file is not zipped.
    """
    with RegularFile(path) as file:
        size, start = file.size, file.start()
        if start[:2] != GZIP:
            return start[:HEADER_BYTES], size, None
        says = int.from_bytes(os.pread(file.descriptor, 4, max(size - 4, 0)), "little")
    try:
        inflated = zlib.decompressobj(zlib.MAX_WBITS + 16).decompress(start, io.DEFAULT_BUFFER_SIZE)
    except zlib.error:
        inflated = b""
    whole = len(inflated) == io.DEFAULT_BUFFER_SIZE or size == len(start)  # as far as gzip looks, and checks
    if len(inflated) >= HEADER_BYTES and whole:
        return inflated[:HEADER_BYTES], size, says
    with _open_plain(path) as plain:
        return plain.stream.read(HEADER_BYTES), size, says


@lru_cache(64)
def _judged(start: bytes) -> tuple[Any, NiftiHeader]:
    """Parse a header and judge it; kept in mind, since the images of a study mostly have one grid in common."""
    raw, remarks = _parse_header(start)
    header = _judge(raw, remarks)
    header.affine.setflags(write=False)
    return raw, header


def read_volume(path: Path, *, number: int = 0, modality: str | None = None) -> Volume:
    """Read the voxels of a NIfTI file, scaled by its slope and intercept; those that are not finite stay so.

    Args:
        path: The file; the .hdr of a pair.
        number: Which volume, when the image has more than three axes.
        modality: What to call it.

    Raises:
        IngestError: A file cannot be opened.
        NiftiError: As `read_header`; or damaged, cut short, or with values that no float32 can hold.
    """
    doing = "the voxels cannot be read: the file may have been cut short, copy it again"
    with one_error(NiftiError, doing, also=(*NIBABEL_FAILURES, gzip.BadGzipFile)):
        with _open_plain(path) as plain:
            raw, remarks = _parse_header(plain.stream.read(HEADER_BYTES))
            header = _judge(raw, remarks)
            _check_size(raw, path, plain.size, 0 if plain.zipped else None)
            stored = None if _is_pair(raw) else _read_voxels(plain.stream, raw, number)
        if stored is None:
            with _open_plain(image_beside(path)) as plain:
                stored = _read_voxels(plain.stream, raw, number)
        with np.errstate(over="ignore", invalid="ignore"):  # what no float32 can hold is refused below
            voxels = _scale(stored, *raw.get_slope_inter())
    overflown = np.count_nonzero(np.isfinite(stored)) - np.count_nonzero(np.isfinite(voxels))
    if overflown:
        raise NiftiError(f"{overflown:,} of {voxels.size:,} voxels are larger than a float32 can hold",
                         code="out_of_range")  # fmt: skip
    voxels = voxels.reshape(header.shape, order="F")
    return Volume(voxels=voxels, affine=header.affine, frame_of_reference_uid=None, modality=modality)


def _scale(stored: npt.NDArray[Any], slope: float | None, intercept: float | None) -> FloatArray:
    """Return stored values as float32, scaled in float64 piece by piece, to keep no whole copy of it."""
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return stored.astype(np.float32)
    assert intercept is not None  # nibabel gives both or neither
    scaled = np.empty(stored.shape, dtype=np.float32)
    for start in range(0, len(stored), CHUNK_BYTES):
        piece = slice(start, start + CHUNK_BYTES)
        scaled[piece] = stored[piece].astype(np.float64) * slope + intercept
    return scaled


class _Plain(NamedTuple):
    stream: BinaryIO  # looks through gzip
    size: int  # bytes on the disk
    zipped: bool


@contextmanager
def _open_plain(path: Path) -> Iterator[_Plain]:
    """Open a file, looking through gzip by what it holds, whatever it is called."""
    with open_regular(path) as stream:
        size, zipped = os.fstat(stream.fileno()).st_size, stream.read(2) == GZIP
        stream.seek(0)
        if zipped:
            with gzip.GzipFile(fileobj=stream, mode="rb") as plain:
                try:
                    yield _Plain(cast(BinaryIO, plain), size, zipped)
                except gzip.BadGzipFile:
                    raise NiftiError("the gzip stream is damaged, or something else follows it: copy the file again",
                                     code="nifti_unreadable") from None  # fmt: skip
        else:
            yield _Plain(stream, size, zipped)


def _check_size(raw: Any, path: Path, size: int, inflated: int | None) -> int:
    """Hold what a header declares against the size of the file that should hold it, before any of it is read.

    Returns:
        How many bytes follow the voxels, as far as that is known.

    Args:
        raw: The header.
        path: Its file.
        size: That file's, in bytes; the voxels of a pair are in another one.
        inflated: What it inflates to, 0 where that is not known; None when it is not zipped.

    Raises:
        IngestError: The file cannot be opened.
        NiftiError: `nifti_truncated` when it cannot hold that much; `implausible_compression` when it would have to
            shrink more than images do.
    """
    if _is_pair(raw):
        with _open_plain(image_beside(path)) as plain:
            size, inflated = plain.size, 0 if plain.zipped else None
    zipped, plain_bytes = inflated is not None, size if inflated is None else inflated
    offset, shape = int(raw.get_data_offset()), raw.get_data_shape()
    least = 0 if _is_pair(raw) else raw.template_dtype.itemsize  # nibabel would take the header for voxels
    if not least <= offset <= LARGEST_EXTRA_BYTES:
        raise NiftiError(f"the voxels are said to start at byte {offset:,}, the header takes {least}: it is damaged",
                         code="nifti_unreadable")  # fmt: skip
    declared = math.prod(shape) * raw.get_data_dtype().itemsize
    if declared > (size * DEFLATE_MOST if zipped else size - offset):
        raise NiftiError(f"the header declares {declared:,} bytes of voxels, the file has {size:,}"
                         f"{' (gzip)' if zipped else ''}: copy it again", code="nifti_truncated")  # fmt: skip
    needed = max(declared, 4 * math.prod(shape[:3]))  # as stored; one volume as float32
    if zipped and needed > max(UNSUSPICIOUS_BYTES, IMAGE_MOST * size):
        raise NiftiError(f"{size:,} bytes would inflate to {needed:,}: no image is compressed so well",
                         code="implausible_compression")  # fmt: skip
    if plain_bytes > size * DEFLATE_MOST:
        return 0  # something else lies at the end of the gzip stream
    return max(plain_bytes - offset - declared, 0)


def image_beside(header: Path) -> Path:
    """Return the .img (or .img.gz) that belongs to a .hdr, whether it is there or not."""
    stem = header.name.removesuffix(".gz")
    beside = header.with_name(stem[: -len(".hdr")] + (".IMG" if stem.endswith(".HDR") else ".img"))
    zipped = beside.with_name(f"{beside.name}.gz")
    return zipped if zipped.exists() and not beside.exists() else beside


def _parse_header(start: bytes) -> tuple[Any, Remarks]:
    """Return nibabel's header of the kind that the first bytes name, and what was odd before nibabel mended it.

    The kinds are NIfTI-1 and -2, as single files and as pairs.
    """
    if not start:
        raise NiftiError("the file is empty", code="empty_file")
    if len(start) < NIFTI1_BYTES:
        raise NiftiError(f"the file ends within its header, after {len(start)} bytes", code="nifti_truncated")
    size = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    version = 1 if NIFTI1_BYTES in size else 2 if HEADER_BYTES in size else 0
    magic = {1: start[344:348], 2: start[4:8]}.get(version, b"")
    kind = _HEADERS.get(magic[:3])
    if kind is None:
        raise NiftiError("the file has no NIfTI header (Analyze files do not say left from right)", code="not_nifti")
    raw = kind(start[: kind.template_dtype.itemsize], check=False)
    remarks = look_at_fields(raw)
    raw.check_fix()
    return raw, remarks


def _is_pair(raw: Any) -> bool:
    return not raw.is_single


def _judge(raw: Any, remarks: Remarks) -> NiftiHeader:
    """Hold a parsed header against what a volume needs."""
    stored = raw.get_data_dtype()
    if stored.kind not in "iuf":
        what = "colours" if stored.names else f"{stored} values"
        raise NiftiError(f"the voxels are {what}, not single real numbers", code="not_scalar")
    if int(raw["intent_code"]) in CIFTI_INTENTS:
        raise NiftiError("this is CIFTI: values of surfaces or connections, not a volume", code="not_a_volume")
    shape = tuple(int(size) for size in raw.get_data_shape())
    if len(shape) < 3:
        raise NiftiError(f"the image has shape {shape}, a volume has 3 axes", code="not_3d")
    if min(shape) < 1:
        raise NiftiError(f"the header declares shape {shape}: no voxels", code="no_voxels")
    if math.prod(shape) > LARGEST_VOXELS:
        raise NiftiError(f"the header declares shape {shape}; at most {LARGEST_VOXELS:,} voxels are read",
                         code="too_large")  # fmt: skip
    unit = int(raw["xyzt_units"]) & LENGTH_UNIT  # not by nibabel, which fails on a unit of time that it does not know
    if unit not in (UNIT_UNSET, MILLIMETRES):
        said = OTHER_UNITS.get(unit, f"an unknown unit (code {unit})")
        raise NiftiError(f"the header says lengths are in {said}, not mm: convert the affine to mm, or, where it is in "
                         "mm already, set xyzt_units to 2 (nibabel: set_xyzt_units('mm'))",
                         code="not_millimetres")  # fmt: skip
    affine = _affine(raw)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < SMALLEST_VOXEL_MM3:
        way_out = (
            "; the qform counts where sform_code is 0" if int(raw["sform_code"]) and int(raw["qform_code"]) else ""
        )
        raise NiftiError(f"the affine is singular or not finite: voxels have no place{way_out}", code="singular_affine")
    volumes = math.prod(shape[3:])
    if volumes > MOST_VOLUMES:
        raise NiftiError(
            f"the header declares {volumes:,} volumes; at most {MOST_VOLUMES:,} are read", code="too_large"
        )
    warnings = (*remarks, *warnings_of(raw, affine, shape[:3]))
    return NiftiHeader((shape[0], shape[1], shape[2]), affine, warnings, volumes)


def _affine(raw: Any) -> FloatArray:
    try:
        return np.asarray(raw.get_best_affine(), dtype=np.float64)
    except ValueError:
        raise NiftiError("the quaternion of the qform is no rotation: voxels have no place; convert it again, or "
                         "set an sform", code="bad_qform") from None  # fmt: skip


def _read_voxels(stream: BinaryIO, raw: Any, number: int) -> npt.NDArray[Any]:
    """Return the stored values of one volume, flat; the header was held against the bounds before."""
    offset, stored = int(raw.get_data_offset()), raw.get_data_dtype()
    shape = raw.get_data_shape()
    values = np.empty(math.prod(shape[:3]), dtype=stored)
    if not 0 <= number < math.prod(shape[3:]):
        raise NiftiError(f"there is no volume {number + 1} among {math.prod(shape[3:])}", code="nifti_unreadable")
    stream.seek(offset + number * values.nbytes)
    after = (math.prod(shape[3:]) - number - 1) * values.nbytes
    into = values.view(np.uint8).data
    done = 0
    while done < len(into):
        data = stream.read(min(CHUNK_BYTES, len(into) - done))
        if not data:
            raise NiftiError(f"{done:,} of {len(into):,} bytes of voxels are there", code="nifti_truncated")
        into[done : done + len(data)] = data
        done += len(data)
    extra = 0
    while data := stream.read(CHUNK_BYTES):  # to the end: only there gzip checks length and checksum
        extra += len(data)
        if extra > after + LARGEST_EXTRA_BYTES:
            raise NiftiError("much follows the voxels that the header does not declare", code="nifti_unreadable")
    if extra < after:
        raise NiftiError(f"{after - extra:,} bytes of the volumes after this one are missing", code="nifti_truncated")
    return values


def modality_of(path: Path) -> str | None:
    """Return the DICOM Modality that a BIDS file name or its JSON sidecar tells, else None."""
    stem = path.name.partition(".")[0]
    sidecar = path.with_name(f"{stem}.json")
    try:
        with open_regular(sidecar) as stream:
            said = json.loads(stream.read(LARGEST_EXTRA_BYTES))
        named = BIDS_MODALITY.get(said.get("Modality", "")) if isinstance(said, dict) else None
    except (IngestError, OSError, ValueError, TypeError, RecursionError):
        named = None
    if named or not stem.startswith("sub-"):
        return named
    suffix = stem.rpartition("_")[2]
    return "MR" if suffix in BIDS_MR_SUFFIXES else "PT" if suffix == "pet" else None
