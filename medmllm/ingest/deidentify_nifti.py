"""Write a NIfTI file without the texts in its header; voxels and affine are the same bytes.

    .nii, .nii.gz or .hdr with .img -> header cleaned, extensions left out -> the same kind of file
    JSON sidecar -> the allowed keys; .bval and .bvec -> numbers alone

A gzip stream is written anew, without the file name and time in its head. What follows the declared voxels is left
out; where it is much, the file is refused, as the reader does. Sidecars: BIDS 1.10.
"""

import gzip
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from medmllm.errors import NiftiError
from medmllm.ingest.deidentify_identifiers import Identifiers, holds_a_date
from medmllm.ingest.deidentify_nifti_header import clean_header
from medmllm.ingest.deidentify_writing import write_pieces, write_text
from medmllm.ingest.nifti import LARGEST_EXTRA_BYTES, NIBABEL_FAILURES, image_beside, read_header
from medmllm.ingest.opening import one_error, open_regular

PIECE_BYTES = 2**20
LARGEST_SIDECAR_BYTES = 2**20
_FAILURES = (*NIBABEL_FAILURES, gzip.BadGzipFile)
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_.+\-\\/*]{1,24}")  # no spaces: a code, not a sentence
_NUMBERS = re.compile(r"[-+0-9.eE\s]*")


def deidentify_nifti(source: Path, target: Path | None) -> list[Path]:
    """Clean one image; return the files written.

    Args:
        source: The image; the .hdr of a pair.
        target: Where it goes, without a suffix: `OUT/pt-.../st-.../t1`. None writes nothing.

    Raises:
        IngestError: A file cannot be opened.
        NiftiError: As `nifti.read_header`; or damaged or cut short.
    """
    read_header(source)
    with one_error(NiftiError, "the NIfTI file cannot be de-identified", also=_FAILURES):
        with open_plain(source) as (stream, zipped):
            header = clean_header(stream)
            if not header.is_pair:
                between = header.offset - len(header.encoded)
                if not 0 <= between <= LARGEST_EXTRA_BYTES:
                    raise NiftiError(f"the voxels are said to start at byte {header.offset:,}", code="nifti_unreadable")
                _skip(stream, between)
                parts = _pieces(header.encoded + bytes(between), stream, header.voxel_bytes)
                return _write(target, ".nii", parts, zipped=zipped)
        with open_plain(image_beside(source)) as (stream, image_zipped):
            _skip(stream, header.offset)
            return [
                *_write(target, ".hdr", iter([header.encoded, bytes(4)]), zipped=zipped),
                *_write(target, ".img", _pieces(bytes(header.offset), stream, header.voxel_bytes), zipped=image_zipped),
            ]


def deidentify_sidecar(source: Path, target: Path | None, keys: Collection[str], known: Identifiers) -> dict[str, Any]:
    """Write the allowed keys of a JSON sidecar and return them; texts of several words are left out.

    Raises:
        NiftiError: It is not a JSON object, or too large.
    """
    with open_regular(source) as stream, one_error(NiftiError, "the sidecar cannot be read", code="bad_sidecar"):
        said = json.loads(stream.read(LARGEST_SIDECAR_BYTES))
    if not isinstance(said, dict):
        raise NiftiError("the sidecar is not a JSON object", code="bad_sidecar")
    kept = {key: value for key, value in said.items() if key in keys and _is_technical(value, known)}
    if kept:
        write_text(target, json.dumps(kept, indent=2, sort_keys=True) + "\n")
    return kept


def copy_numbers(source: Path, target: Path | None, known: Identifiers) -> None:
    """Copy a .bval or .bvec file.

    Raises:
        NiftiError: It holds anything but numbers, or a number of the patient.
    """
    with open_regular(source) as stream, one_error(NiftiError, "the file cannot be read", code="bad_sidecar"):
        text = stream.read(LARGEST_SIDECAR_BYTES).decode("ascii")
    if not _NUMBERS.fullmatch(text):
        raise NiftiError("the file holds more than numbers", code="bad_sidecar")
    if any(map(known.is_number, text.split())):
        raise NiftiError("one of the numbers is the patient's", code="bad_sidecar")
    write_text(target, text)


@contextmanager
def open_plain(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """Open a file, looking through gzip by what it holds; yields the stream and whether it was zipped."""
    with open_regular(path) as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if zipped:
            with gzip.GzipFile(fileobj=stream, mode="rb") as plain:
                yield cast(BinaryIO, plain), True
        else:
            yield stream, False


def _pieces(head: bytes, stream: BinaryIO, size: int) -> Iterator[bytes]:
    yield head
    left = size
    while left:
        piece = stream.read(min(left, PIECE_BYTES))
        if not piece:
            raise NiftiError(f"{left:,} of {size:,} bytes of voxels are missing", code="nifti_truncated")
        left -= len(piece)
        yield piece
    extra = 0
    while data := stream.read(PIECE_BYTES):  # to the end: only there gzip checks length and checksum
        extra += len(data)
        if extra > LARGEST_EXTRA_BYTES:
            raise NiftiError("much follows the voxels that the header does not declare", code="nifti_unreadable")


def _skip(stream: BinaryIO, count: int) -> None:
    left = count
    while left > 0 and (piece := stream.read(min(left, PIECE_BYTES))):
        left -= len(piece)


def _write(target: Path | None, suffix: str, parts: Iterator[bytes], *, zipped: bool) -> list[Path]:
    file = None if target is None else target.with_name(target.name + suffix + (".gz" if zipped else ""))
    write_pieces(file, parts, zipped=zipped)
    return [file] if file else []


def _is_technical(value: object, known: Identifiers) -> bool:
    if isinstance(value, bool | int | float):
        return not known.is_number(value)
    if isinstance(value, list):
        return all(not isinstance(part, dict) and _is_technical(part, known) for part in value)
    if not isinstance(value, str) or not _PLAIN_WORD.fullmatch(value):
        return False
    return not known.in_value(value) and not known.is_number(value) and not holds_a_date(value)
