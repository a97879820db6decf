"""Blank in a compressed frame what is no image: comments, application data, and what lies behind its end.

    JPEG, JPEG-LS, JPEG 2000 or run lengths -> its markers, one by one -> the same bytes, zeros where text may stand

Zeros, not a shorter frame: every offset into the pixel data stays true, and a decoder reads the same voxels. Kept of
application data is what decoders go by: JFIF without its thumbnail, Adobe's colour transform, SPIFF's header. A marker
that none of these standards knows is refused. JPEG: ITU T.81 annex B; JPEG-LS: T.87 annex C; SPIFF: T.84 annex F;
JPEG 2000: T.800 annex A, T.814; run lengths: DICOM PS3.5 annex G.
"""

import re
import struct
from dataclasses import dataclass, field
from itertools import pairwise

from medmllm.errors import DicomError
from medmllm.ingest.deidentify_identifiers import Identifiers

BY_CHANCE = 7  # shorter words come up in compressed data by themselves, once in some gigabytes
RLE_HEADER_BYTES = 64
START_OF_JPEG, START_OF_JPEG2000 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
_START_OF_SCAN, _END, _LS_FRAME = 0xDA, 0xD9, 0xF7
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xDE, _LS_FRAME}) - {0xC4, 0xC8, 0xCC}
_TABLES = _FRAMES | {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xDF, 0xF8}
_APPLICATION = {  # marker -> (how its data start, how many bytes of them stay)
    0xE0: ((b"JFIF\0", 12),),
    0xE8: ((b"mrfx", 5), (b"SPIFF\0", 30), (b"\0\0\0\1\xff\xd8", 6)),
    0xEE: ((b"Adobe", 12),),
}
_BLANKED = frozenset({*range(0xE0, 0xF0), 0xFE})
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # FF00 is a value, D0 to D7 restart within the scan
_AFTER_LS_SCAN = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")  # a value FF is followed by a bit 0
_TILE_PART, _TILE_DATA, _COMMENT_2000 = 0x90, 0x93, 0x64
_TABLES_2000 = frozenset({0x50, 0x51, 0x52, 0x53, *range(0x55, 0x5A), 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63})


@dataclass(slots=True)
class _Walk:
    """What a walk over a frame found; (start, end) in bytes."""

    blank: list[tuple[int, int]] = field(default_factory=list)
    tables: list[tuple[int, int]] = field(default_factory=list)  # what stays of the marker segments


def blanked(frame: bytes, known: Identifiers, *, runs: tuple[int, int] | None = None) -> bytes:
    """Return a frame, as long as it was, with zeros where text may stand.

    Args:
        frame: All fragments of one frame.
        known: Looked for in what stays.
        runs: For run lengths: bytes per segment, and number of segments. None for the JPEG family.

    Raises:
        DicomError: `truncated_pixels`, `pixels_unreadable`, or `text_in_pixels` where a known identifier is left.
    """
    if runs:
        walk = _walk_runs(frame, *runs)
    elif frame.startswith(START_OF_JPEG):
        walk = _walk_jpeg(frame)
    elif frame.startswith(START_OF_JPEG2000):
        walk = _walk_jpeg2000(frame)
    else:
        raise _unreadable("is none of JPEG, JPEG-LS and JPEG 2000: others are not looked into")
    made = bytearray(frame)
    for start, end in walk.blank:
        made[start:end] = bytes(max(0, end - start))
    tables = b"|".join(bytes(made[start:end]) for start, end in walk.tables)
    if known.in_bytes(tables) or known.in_bytes(made, shortest=BY_CHANCE):
        raise DicomError("a compressed frame holds a name or number of the patient among its tables or values",
                         code="text_in_pixels")  # fmt: skip
    return bytes(made)


def _walk_jpeg(frame: bytes) -> _Walk:
    """Find what may be text in JPEG and JPEG-LS, to the end of the image and behind it."""
    walk, place, after_scan = _Walk(), 2, _AFTER_SCAN
    while True:
        marker, place = _marker(frame, place)
        if marker == _END:
            walk.blank.append((place, len(frame)))
            return walk
        if marker not in _TABLES | _BLANKED:
            raise _unreadable(f"holds a marker FF{marker:02X}, of which nobody knows what it holds")
        start, end = place + 2, place + _length(frame, place)
        held = frame[start:end]
        kept = len(held) if marker in _TABLES else _kept_of_application(marker, held)
        counted = {_START_OF_SCAN: 4 + 2 * held[0] if held else 0}
        counted |= dict.fromkeys(_FRAMES, 6 + 3 * held[5] if len(held) > 5 else 0)
        if len(held) != counted.get(marker, len(held)):
            raise _unreadable(f"holds more than its components behind the marker FF{marker:02X}")
        walk.tables.append((start, start + kept))
        walk.blank.append((start + kept, end))
        place = end
        if marker == _LS_FRAME:
            after_scan = _AFTER_LS_SCAN
        if marker == _START_OF_SCAN:
            found = after_scan.search(frame, place)
            place = found.start() if found else len(frame)


def _kept_of_application(marker: int, held: bytes) -> int:
    return next((count for start, count in _APPLICATION.get(marker, ()) if held.startswith(start)), 0)


def _walk_jpeg2000(frame: bytes) -> _Walk:
    """Find what may be text in a codestream of JPEG 2000 or HTJ2K, in its tile-parts too."""
    walk, place, part, part_end = _Walk(), 2, 0, 0
    while True:
        marker, place = _marker(frame, place)
        if marker == _END:
            walk.blank.append((place, len(frame)))
            return walk
        if marker == _TILE_DATA and part:
            part_end = part_end or frame.find(b"\xff\xd9", place)
            if not place <= part_end <= len(frame):
                raise _cut_short()
            place, part, part_end = part_end, 0, 0
            continue
        start, end = place + 2, place + _length(frame, place)
        if marker == _TILE_PART and end - start == 8 and not part:
            part = place - 2
            length = struct.unpack(">I", frame[start + 2 : start + 6])[0]
            part_end = part + length if length else 0
        elif marker == _COMMENT_2000:
            walk.blank.append((start, end))
        elif marker in _TABLES_2000:
            walk.tables.append((start, end))
        else:
            raise _unreadable(f"holds a marker FF{marker:02X} where none of the standard's stands")
        place = end


def _walk_runs(frame: bytes, pixels: int, segments: int) -> _Walk:
    """Find what stands behind the values of each segment."""
    if len(frame) < RLE_HEADER_BYTES:
        raise _cut_short()
    count, *starts = struct.unpack("<16I", frame[:RLE_HEADER_BYTES])
    if count != segments or count > len(starts):
        raise _unreadable(f"has {count} run-length segments where the header says {segments}")
    edges = [*starts[:count], len(frame)]
    if edges[0] < RLE_HEADER_BYTES or edges != sorted(edges):
        raise _unreadable("has run-length segments that lie in each other")
    walk = _Walk(blank=[(4 + 4 * count, edges[0])])
    for start, end in pairwise(edges):
        _walk_segment(frame, start, end, pixels, walk)
    return walk


def _walk_segment(frame: bytes, start: int, end: int, pixels: int, walk: _Walk) -> None:
    place, left = start, pixels
    while left > 0:
        if place >= end:
            raise _cut_short()
        control = frame[place]
        if control > 128:  # one value, repeated
            left -= 257 - control
            place += 2
        elif control < 128:
            if left < control + 1:
                walk.blank.append((place + 1 + left, min(end, place + 2 + control)))
            left -= control + 1
            place += control + 2
        else:
            place += 1
    walk.blank.append((min(place, end), end))


def _marker(frame: bytes, place: int) -> tuple[int, int]:
    """Return the marker at a place, and where it ends; any number of FF may stand before it."""
    if frame[place : place + 1] not in (b"\xff", b""):
        raise _unreadable("holds other bytes where a marker should be")
    while place < len(frame) and frame[place] == 0xFF:
        place += 1
    if place >= len(frame):
        raise _cut_short()
    return frame[place], place + 1


def _length(frame: bytes, place: int) -> int:
    length = int.from_bytes(frame[place : place + 2], "big")
    if place + max(length, 2) > len(frame):
        raise _cut_short()
    if length < 2:
        raise _unreadable("holds a marker segment of no length")
    return length


def _unreadable(what: str) -> DicomError:
    return DicomError(f"a compressed frame {what}", code="pixels_unreadable")


def _cut_short() -> DicomError:
    return DicomError("a compressed frame ends before its end marker: copy the file again", code="truncated_pixels")
