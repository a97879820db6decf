"""Damage to DICOM files that knows where their elements lie: lengths, values, order, sequences, fragments, bombs.

    bytes, random -> other bytes; what cannot be done to a file falls back to damage that any bytes can take

Elements are found in explicit little endian alone, the encoding of most files. Encoding: DICOM PS3.5 section 7, A.4.
"""

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from reports.robustness import damage

LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"})
VRS = (
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"OB", b"OW", b"PN", b"SH",
    b"SL", b"SQ", b"SS", b"ST", b"TM", b"UI", b"UL", b"UN", b"US", b"UT", b"??", b"\0\0",
)  # fmt: skip
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HH", 0xFFFE, number) for number in (0xE000, 0xE00D, 0xE0DD))
PIXEL_DATA = struct.pack("<HH", 0x7FE0, 0x0010)
SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.100", "1.2.3.4", "",
)  # fmt: skip
# What decides about memory, time and place: (group, element) -> values to try.
NUMBERS = (b"0", b"-1", b"1", b"65535", b"2147483647", b"99999999999", b"1e400", b"nan", b"inf", b"-inf", b"1e-400",
           b"\\\\\\", b"", b"abc", b"1\\2", b"0.1\\0.2\\0.3\\0.4\\0.5\\0.6\\0.7", b"1e38", b"-1e38")  # fmt: skip
SHORTS = tuple(
    struct.pack("<H", number) for number in (0, 1, 2, 7, 8, 12, 13, 16, 17, 24, 31, 32, 64, 255, 4096, 65535)
)
TARGETS: tuple[tuple[tuple[int, int], tuple[bytes, ...]], ...] = (
    ((0x0028, 0x0010), SHORTS),  # Rows
    ((0x0028, 0x0011), SHORTS),  # Columns
    ((0x0028, 0x0008), NUMBERS),  # Number of Frames
    ((0x0028, 0x0002), SHORTS),  # Samples per Pixel
    ((0x0028, 0x0100), SHORTS),  # Bits Allocated
    ((0x0028, 0x0101), SHORTS),  # Bits Stored
    ((0x0028, 0x0102), SHORTS),  # High Bit
    ((0x0028, 0x0103), SHORTS),  # Pixel Representation
    ((0x0028, 0x0004), (b"RGB ", b"PALETTE COLOR ", b"MONOCHROME1 ", b"YBR_FULL", b"")),
    ((0x0028, 0x0030), NUMBERS),  # Pixel Spacing
    ((0x0028, 0x1052), NUMBERS),  # Rescale Intercept
    ((0x0028, 0x1053), NUMBERS),  # Rescale Slope
    ((0x0020, 0x0032), NUMBERS),  # Image Position (Patient)
    ((0x0020, 0x0037), NUMBERS),  # Image Orientation (Patient)
    ((0x0020, 0x0013), NUMBERS),  # Instance Number
    ((0x0018, 0x0050), NUMBERS),  # Slice Thickness
    ((0x0008, 0x0005), (b"ISO 2022 IR 87", b"ISO_IR 192", b"\\ISO 2022 IR 149", b"ISO_IR 999", b"\xff\xfe")),
    ((0x0010, 0x0020), (b"\x1b$B\x1b", b"\xff" * 64, b"A\\B", b"")),  # Patient ID
    ((0x0020, 0x000D), (b"", b"1." * 60, b"\0\0")),  # Study Instance UID
    ((0x0020, 0x000E), (b"", b"1." * 60, b"\0\0")),  # Series Instance UID
    ((0x0008, 0x0016), (b"1.2.840.10008.5.1.4.1.1.66.4", b"1.2.840.10008.1.3.10", b"1.2.3")),  # SOP Class UID
)


@dataclass(frozen=True, slots=True)
class Element:
    """Where one element of the outermost data set lies."""

    tag: tuple[int, int]
    vr: bytes
    start: int  # of its tag
    value: int  # of its value
    end: int  # behind its value; the end of the file where the length is undefined


def elements(data: bytes) -> list[Element]:
    """Return the elements of an explicit little endian file, as far as they can be walked."""
    found: list[Element] = []
    place = 132
    while place + 8 <= len(data):
        group, number, vr, short = struct.unpack_from("<HH2sH", data, place)
        if not vr.isalpha() or not vr.isupper():
            break
        value, length = place + 8, short
        if vr in LONG:
            if place + 12 > len(data):
                break
            value, length = place + 12, struct.unpack_from("<I", data, place + 8)[0]
        end = len(data) if length == UNDEFINED else min(value + length, len(data))
        found.append(Element((group, number), vr, place, value, end))
        place = end
    return found


def with_value(data: bytes, element: Element, value: bytes) -> bytes:
    """Return the file with another value of an element, and the length that goes with it."""
    value += b" " * (len(value) % 2)
    if element.vr in LONG:
        head = data[element.start : element.start + 8] + struct.pack("<I", len(value) % 2**32)
    else:
        head = data[element.start : element.start + 6] + struct.pack("<H", len(value) % 2**16)
    return data[: element.start] + head + value + data[element.end :]


def lie_about_target(data: bytes, rng: random.Random) -> bytes:
    """Give one or two elements that decide about memory, time or place an extreme value."""
    for _ in range(rng.randint(1, 2)):
        tag, values = rng.choice(TARGETS)
        for element in elements(data):
            if element.tag == tag:
                data = with_value(data, element, rng.choice(values))
                break
    return data


def change_any_value(data: bytes, rng: random.Random) -> bytes:
    """Give any element junk for a value."""
    known = elements(data)
    if not known:
        return damage.flip_early(data, rng)
    element = rng.choice(known)
    values = (rng.choice(NUMBERS), rng.choice(SHORTS), rng.randbytes(rng.randint(0, 40)), b"\\" * 300, b"")
    return with_value(data, element, rng.choice(values))


def change_length(data: bytes, rng: random.Random) -> bytes:
    """Change the length of an element, not its value: what follows is read from the wrong place."""
    known = elements(data)
    if not known:
        return damage.extreme_number(data, rng)
    element = rng.choice(known)
    size = 4 if element.vr in LONG else 2
    now = int.from_bytes(data[element.value - size : element.value], "little")
    told = rng.choice((*damage.EXTREMES, now + 1, now - 1, now * 2, now + 10, len(data))) % 2 ** (8 * size)
    return data[: element.value - size] + told.to_bytes(size, "little") + data[element.value :]


def change_vr(data: bytes, rng: random.Random) -> bytes:
    """Give an element another Value Representation."""
    known = elements(data)
    if not known:
        return damage.flip_early(data, rng)
    element = rng.choice(known)
    return data[: element.start + 4] + rng.choice(VRS) + data[element.start + 6 :]


def change_order(data: bytes, rng: random.Random) -> bytes:
    """Swap two elements, or write one twice, or leave one out."""
    known = elements(data)
    if len(known) < 3:
        return damage.repeat(data, rng)
    first, second = sorted(rng.sample(known, 2), key=lambda element: element.start)
    one, two = data[first.start : first.end], data[second.start : second.end]
    before, between, after = data[: first.start], data[first.end : second.start], data[second.end :]
    return rng.choice((
        before + two + between + one + after,
        before + one + one + between + two + after,
        before + between + two + after,
    ))  # fmt: skip


def change_syntax(data: bytes, rng: random.Random) -> bytes:
    """Name another transfer syntax than the one the file is in."""
    for element in elements(data):
        if element.tag == (2, 0x10):
            return with_value(data, element, rng.choice(SYNTAXES).encode().replace(b" ", b"\0"))
    return damage.flip_early(data, rng)


def _boundary(data: bytes, rng: random.Random) -> int:
    """Return a place between two elements, behind the file meta."""
    places = [element.start for element in elements(data) if element.tag[0] > 2]
    return rng.choice(places) if places else min(len(data), 132)


def nest(data: bytes, rng: random.Random) -> bytes:
    """Put sequences within sequences, 2 to 3000 deep, closed or not."""
    depth = rng.choice((2, 15, 17, 100, 500, 1000, 3000))
    tag = rng.choice((struct.pack("<HH", 0x0008, 0x1140), struct.pack("<HH", 0x0009, 0x1001), PIXEL_DATA))
    opened = tag + b"SQ\0\0" + struct.pack("<I", UNDEFINED) + ITEM + struct.pack("<I", UNDEFINED)
    closed = ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)
    place = _boundary(data, rng)
    return data[:place] + opened * depth + closed * rng.choice((depth, depth, depth - 1, 0)) + data[place:]


def many_items(data: bytes, rng: random.Random) -> bytes:
    """Put a sequence of a great many empty items in between: small in the file, large in memory."""
    items = ITEM + bytes(4)
    count = rng.choice((1000, 1000, 30_000, 30_000, 300_000, 1_500_000))
    tag = rng.choice((struct.pack("<HH", 0x0008, 0x1140), struct.pack("<HH", 0x5200, 0x9230)))
    place = _boundary(data, rng)
    sequence = tag + b"SQ\0\0" + struct.pack("<I", len(items) * count) + items * count
    return data[:place] + sequence + data[place:]


def jumble_fragments(data: bytes, rng: random.Random) -> bytes:
    """Shuffle, drop, double, cut or fake the fragments of compressed pixels, or their offset table."""
    where = [element for element in elements(data) if element.tag == (0x7FE0, 0x10)]
    if not where or data[where[0].value - 4 : where[0].value] != struct.pack("<I", UNDEFINED):
        return lie_about_target(data, rng)
    start, fragments = where[0].value, []
    place = start
    while data[place : place + 4] == ITEM and place + 8 <= len(data):
        length = struct.unpack_from("<I", data, place + 4)[0]
        fragments.append(data[place + 8 : place + 8 + length])
        place += 8 + length
    tail = data[place:]
    table, rest = (fragments[0], fragments[1:]) if fragments else (b"", [])
    match rng.randrange(8):
        case 0:
            rng.shuffle(rest)
        case 1:
            rest = rest[1:]
        case 2:
            rest = [*rest, *rest]
        case 3:
            rest = [piece[: rng.randrange(len(piece) + 1)] for piece in rest]
        case 4:
            table = b"".join(
                struct.pack("<I", rng.choice((*damage.EXTREMES, 4, 100))) for _ in range(rng.randint(1, 9))
            )
        case 5:
            tail = b""
        case 6:
            rest = [b"", *rest, b""]
        case 7:  # the codec's own header
            rest = [damage.flip_early(piece[:64], rng) + piece[64:] for piece in rest]
    written = b"".join(ITEM + struct.pack("<I", len(piece)) + piece for piece in [table, *rest])
    return data[:start] + written + tail


def flip_pixels(data: bytes, rng: random.Random) -> bytes:
    """Flip bytes of the pixel data alone, so that the codec gets them."""
    place = data.rfind(PIXEL_DATA)
    if place < 0:
        return damage.flip_bits(data, rng)
    near = data[place + 12 :]
    return data[: place + 12] + rng.choice((damage.flip_bits, damage.flip_early, damage.truncate))(near, rng)


def deflate_bomb(data: bytes, rng: random.Random) -> bytes:
    """Hand the data set over deflated, with up to 2 GiB of zeros in it or behind it."""
    known = elements(data)
    meta = [element for element in known if element.tag[0] == 2]
    if not meta:
        return damage.trailing(data, rng)
    named = [element for element in meta if element.tag == (2, 0x10)]
    head = with_value(data[: meta[-1].end], named[0], b"1.2.840.10008.1.2.1.99") if named else data[: meta[-1].end]
    plain = data[meta[-1].end :]
    megabytes = rng.choice((1, 10, 40, 300, 2000))
    lie = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, megabytes * 2**20 % 2**32)
    start = rng.choice((plain, lie, plain[: rng.randrange(len(plain) + 1)], plain[:-60] + lie))
    return head + damage.deflated_zeros(start, megabytes)


DICOM: Sequence[damage.Damage] = (
    *damage.ANY, lie_about_target, lie_about_target, lie_about_target, change_any_value, change_any_value,
    change_length, change_length, change_vr, change_order, change_syntax, nest, many_items, jumble_fragments,
    jumble_fragments, flip_pixels, flip_pixels, deflate_bomb,
)  # fmt: skip
