"""Carry pixel data over from one DICOM file to another, bit for bit, piece by piece.

    stream at the pixel element -> its header, held against the image's size -> the same bytes behind the new header

Uncompressed pixels end where the image ends: what some writers leave behind them is not part of the image. Compressed
frames go item by item up to the sequence's end; the first bytes of each, where JPEG keeps comments, are looked at for
known identifiers. Encoding: DICOM PS3.5 7.5 and A.4.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.dataset import Dataset

from medmllm.errors import DicomError
from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.dicom_header import element_text

PIECE_BYTES = 2**20
COMMENT_BYTES = 4096
UNDEFINED = 0xFFFFFFFF
PIXELS = {0x7FE00008: b"OF", 0x7FE00009: b"OD", 0x7FE00010: b"OW"}
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is written."""

    implicit: bool
    little: bool

    @property
    def order(self) -> str:
        """Byte order as `struct` spells it."""
        return "<" if self.little else ">"


def copy_pixels(stream: BinaryIO, data: Dataset, encoding: Encoding, known: Identifiers) -> Iterator[bytes]:
    """Yield the bytes of the pixel element that the stream stands at; nothing when it stands at another or the end.

    Raises:
        DicomError: `no_pixels`, `truncated_pixels`, `pixels_unreadable` or `text_in_pixels`.
    """
    size = 8 if encoding.implicit else 12
    head = stream.read(size)
    group, number = struct.unpack(f"{encoding.order}HH", head[:4]) if len(head) == size else (0, 0)
    tag = group << 16 | number
    if tag not in PIXELS:
        if element_text(data, "Rows"):
            raise DicomError("the image holds no pixel data: it was cut short or emptied", code="no_pixels")
        return
    length = struct.unpack(f"{encoding.order}I", head[-4:])[0]
    if length == UNDEFINED:
        yield head
        yield from _copy_items(stream, known)
        return
    expected = _expected_bytes(data)
    if length < expected:
        raise DicomError(f"{length:,} of {expected:,} bytes of pixels are there", code="truncated_pixels")
    padded = expected + expected % 2
    vr = head[4:6] if head[4:6] in (b"OB", b"OW", b"OF", b"OD") else PIXELS[tag]
    tagged = head[:4] if encoding.implicit else head[:4] + vr + b"\0\0"
    yield tagged + struct.pack(f"{encoding.order}I", padded)
    yield from _exactly(stream, expected)
    yield b"\0" * (padded - expected)


def _copy_items(stream: BinaryIO, known: Identifiers) -> Iterator[bytes]:
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise DicomError("the compressed pixels end before their end mark", code="truncated_pixels")
        yield head
        if head[:4] == _SEQUENCE_END:
            return
        length = struct.unpack("<I", head[4:])[0]
        if head[:4] != _ITEM or length == UNDEFINED:
            raise DicomError("the compressed pixels are not a sequence of items", code="pixels_unreadable")
        for number, piece in enumerate(_exactly(stream, length)):
            if number == 0 and known.in_bytes(piece[:COMMENT_BYTES]):
                raise DicomError("a compressed frame holds a name or number of the patient, in a comment or the like",
                                 code="text_in_pixels")  # fmt: skip
            yield piece


def _exactly(stream: BinaryIO, length: int) -> Iterator[bytes]:
    left = length
    while left:
        piece = stream.read(min(left, PIECE_BYTES))
        if not piece:
            raise DicomError(f"{left:,} bytes of pixels are missing: copy the file again", code="truncated_pixels")
        left -= len(piece)
        yield piece


def _expected_bytes(data: Dataset) -> int:
    """Return how many bytes the pixels of an uncompressed image take."""
    count = 1
    for keyword in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"):
        count *= int(element_text(data, keyword) or "1")
    if (element_text(data, "PhotometricInterpretation") or "") in ("YBR_FULL_422", "YBR_PARTIAL_422"):
        count = count * 2 // 3
    return (count * int(element_text(data, "BitsAllocated") or "8") + 7) // 8
