"""Carry pixel data over from one DICOM file to another, value by value.

    stream at the pixel element -> its header, held against the image's size -> the same values behind the new header

Uncompressed pixels end where the image ends: what some writers leave behind them is not part of the image. Compressed
frames are put together from their items, blanked where text may stand (`deidentify_codestream`), and written as items
of the same lengths; offset tables are kept if they point at items. Encoding: DICOM PS3.5 7.5 and A.4.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medmllm.errors import DicomError
from medmllm.ingest.deidentify_codestream import START_OF_JPEG, START_OF_JPEG2000, blanked
from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.dicom_header import element_text

PIECE_BYTES = 2**20
LARGEST_FRAME_BYTES = 2**28  # compressed; held in memory
MOST_ITEMS = 2**20
UNDEFINED = 0xFFFFFFFF
PIXELS = {0x7FE00008: b"OF", 0x7FE00009: b"OD", 0x7FE00010: b"OW"}
NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is written."""

    implicit: bool
    little: bool
    syntax: str

    @property
    def order(self) -> str:
        """Byte order as `struct` spells it."""
        return "<" if self.little else ">"


@dataclass(frozen=True, slots=True)
class _Item:
    place: int  # in the stream, of its first byte
    length: int


def copy_pixels(stream: BinaryIO, data: Dataset, encoding: Encoding, known: Identifiers) -> Iterator[bytes]:
    """Yield the bytes of the pixel element that the stream stands at; nothing when it stands at another or the end.

    Args:
        stream: Of the whole data set; it can be sought in.
        data: The header.
        encoding: Of the data set.
        known: Looked for in what is kept of compressed frames.

    Raises:
        DicomError: `no_pixels`, `truncated_pixels`, `pixels_unreadable`, `too_large` or `text_in_pixels`.
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
    if (length == UNDEFINED) is (encoding.syntax in NATIVE):
        said, found = ("not compressed", "are") if length == UNDEFINED else ("compressed", "are not")
        raise DicomError(f"the pixels are said to be {said}, and {found}", code="pixels_unreadable")
    if length == UNDEFINED:
        yield head if encoding.implicit else head[:4] + b"OB\0\0" + head[-4:]
        yield from _copy_items(stream, data, encoding.syntax, known)
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


# --- compressed ----------------------------------------------------------------------------


def _copy_items(stream: BinaryIO, data: Dataset, syntax: str, known: Identifiers) -> Iterator[bytes]:
    items = _items(stream)
    if not items:
        raise DicomError("the compressed pixels have no offset table, not even an empty one", code="pixels_unreadable")
    table, fragments = items[0], items[1:]
    frames = int(element_text(data, "NumberOfFrames") or "1")
    yield _ITEM + struct.pack("<I", table.length) + _offset_table(stream, table, fragments)
    _check_extended_table(data, fragments)
    found = 0
    for group in _frames(stream, fragments, each=syntax == RLELossless):
        found += 1
        if found > frames:
            raise DicomError(f"there are more compressed frames than the {frames} that the header tells of",
                             code="pixels_unreadable")  # fmt: skip
        made = blanked(_joined(stream, group), known, runs=_runs(data) if syntax == RLELossless else None)
        done = 0
        for fragment in group:
            yield _ITEM + struct.pack("<I", fragment.length) + made[done : done + fragment.length]
            done += fragment.length
    if found < frames:
        raise DicomError(f"{found} of {frames} compressed frames are there", code="truncated_pixels")
    yield _SEQUENCE_END + bytes(4)


def _items(stream: BinaryIO) -> list[_Item]:
    """Return where the items lie, up to the sequence's end; reads nothing of what they hold."""
    items: list[_Item] = []
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise DicomError("the compressed pixels end before their end mark", code="truncated_pixels")
        if head[:4] == _SEQUENCE_END:
            return items
        length = struct.unpack("<I", head[4:])[0]
        if head[:4] != _ITEM or length == UNDEFINED:
            raise DicomError("the compressed pixels are not a sequence of items", code="pixels_unreadable")
        if len(items) > MOST_ITEMS:
            raise DicomError(f"the compressed pixels are more than {MOST_ITEMS:,} items", code="too_large")
        items.append(_Item(stream.tell(), length))
        stream.seek(length, 1)


def _frames(stream: BinaryIO, fragments: Sequence[_Item], *, each: bool) -> Iterator[list[_Item]]:
    """Yield the fragments of one frame after the other: each of them a frame, or where one starts like a frame."""
    group: list[_Item] = []
    for fragment in fragments:
        stream.seek(fragment.place)
        start = stream.read(min(4, fragment.length))
        if group and (each or start.startswith((START_OF_JPEG, START_OF_JPEG2000))):
            yield group
            group = []
        group.append(fragment)
    if group:
        yield group


def _joined(stream: BinaryIO, fragments: Sequence[_Item]) -> bytes:
    length = sum(fragment.length for fragment in fragments)
    if length > LARGEST_FRAME_BYTES:
        raise DicomError(f"a compressed frame takes {length:,} bytes, at most {LARGEST_FRAME_BYTES:,} are looked into",
                         code="too_large")  # fmt: skip
    pieces: list[bytes] = []
    for fragment in fragments:
        stream.seek(fragment.place)
        pieces.extend(_exactly(stream, fragment.length))
    return b"".join(pieces)


def _offset_table(stream: BinaryIO, table: _Item, fragments: Sequence[_Item]) -> bytes:
    """Return the basic offset table, of which each offset has to lead to an item."""
    if table.length > 4 * len(fragments):
        raise _bad_table()
    stream.seek(table.place)
    held = b"".join(_exactly(stream, table.length))
    _check_offsets([offset for (offset,) in struct.iter_unpack("<I", held[: len(held) // 4 * 4])], fragments)
    if len(held) % 4:
        raise _bad_table()
    return held


def _check_extended_table(data: Dataset, fragments: Sequence[_Item]) -> None:
    """Hold the extended offset table, which the header has kept, against the items; PS3.3 C.7.6.3.1.8."""
    offsets, lengths = data.get("ExtendedOffsetTable") or b"", data.get("ExtendedOffsetTableLengths") or b""
    if not offsets and not lengths:
        return
    if len(offsets) != 8 * len(fragments) or len(lengths) != len(offsets):
        raise _bad_table()
    _check_offsets([offset for (offset,) in struct.iter_unpack("<Q", offsets)], fragments)
    for (length,), fragment in zip(struct.iter_unpack("<Q", lengths), fragments, strict=True):
        if not fragment.length - 1 <= length <= fragment.length:
            raise _bad_table()


def _check_offsets(offsets: Sequence[int], fragments: Sequence[_Item]) -> None:
    there = {fragment.place - fragments[0].place for fragment in fragments}
    if offsets and (offsets[0] != 0 or not there.issuperset(offsets) or list(offsets) != sorted(set(offsets))):
        raise _bad_table()


def _bad_table() -> DicomError:
    return DicomError("the offset table of the compressed frames does not lead to them", code="pixels_unreadable")


def _runs(data: Dataset) -> tuple[int, int]:
    """Return bytes per segment and number of segments of a run-length encoded frame."""
    rows, columns, samples, allocated = (
        int(element_text(data, keyword) or default)
        for keyword, default in (("Rows", "0"), ("Columns", "0"), ("SamplesPerPixel", "1"), ("BitsAllocated", "8"))
    )
    return rows * columns, samples * ((allocated + 7) // 8)


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
