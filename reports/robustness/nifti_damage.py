"""Damage to NIfTI files that knows their header: sizes, types, offsets, transforms, gzip streams and bombs.

    bytes, random -> other bytes; a gzip file is opened first, unless it is the gzip that is to be damaged

Fields: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

import gzip
import random
import struct
import zlib
from collections.abc import Sequence

from reports.robustness import damage

MOST_BYTES = 2**24  # looked at within a gzip file
SHORTS = (-32768, -1, 0, 1, 2, 3, 7, 8, 64, 255, 1024, 4096, 16384, 32767)
FLOATS = (0.0, -1.0, 1.0, 1e-30, 1e30, -1e30, 3e38, float("nan"), float("inf"), float("-inf"), 352.0, 1e9)
LONGS = (-(2**63), -1, 0, 1, 2, 64, 1024, 2**31 - 1, 2**31, 2**40, 2**63 - 1)
DATATYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1, 32767)
# name -> (offset, struct codes) in NIfTI-1; dim is written one by one
FIELDS_1 = {
    "sizeof_hdr": (0, "i"), "dim_info": (39, "B"), "dim": (40, "8h"), "intent_code": (68, "h"), "datatype": (70, "h"),
    "bitpix": (72, "h"), "slice_start": (74, "h"), "pixdim": (76, "8f"), "vox_offset": (108, "f"),
    "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"), "qform_code": (252, "h"),
    "sform_code": (254, "h"), "quatern": (256, "6f"), "srow": (280, "12f"), "magic": (344, "4s"),
    "extension": (348, "4s"),
}  # fmt: skip
FIELDS_2 = {
    "sizeof_hdr": (0, "i"), "magic": (4, "8s"), "datatype": (12, "h"), "bitpix": (14, "h"), "dim": (16, "8q"),
    "pixdim": (104, "8d"), "vox_offset": (168, "q"), "scl_slope": (176, "d"), "scl_inter": (184, "d"),
    "qform_code": (344, "i"), "sform_code": (348, "i"), "quatern": (352, "6d"), "srow": (400, "12d"),
    "xyzt_units": (500, "i"), "extension": (540, "4s"),
}  # fmt: skip
MAGICS = (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0", b"\0\0\0\0", b"n+9\0", b"n+1\0\r\n\x1a\n", b"n+2\0\r\n\x1a\n")


def opened(data: bytes) -> tuple[bytes, bool]:
    """Return the bytes within a gzip file, and whether it was one; a bomb is left as it is."""
    inflater = zlib.decompressobj(31)
    try:
        plain = inflater.decompress(data, MOST_BYTES)
    except zlib.error:
        return data, False
    return (plain, True) if inflater.eof else (data, False)


def closed(plain: bytes, zipped: bool) -> bytes:
    """Return bytes as a gzip file without name and time, or as they are."""
    return gzip.compress(plain, 1, mtime=0) if zipped else plain


def lie_about_field(data: bytes, rng: random.Random) -> bytes:
    """Give one to three fields of the header an extreme value."""
    plain, zipped = opened(data)
    order = "<" if plain[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    fields = FIELDS_2 if plain[:4] in (struct.pack(f"{order}i", 540),) else FIELDS_1
    found = bytearray(plain)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(("dim", "dim", "dim", "datatype", "vox_offset", *fields))
        offset, kind = fields[name]
        count, code = int(kind[:-1] or 1), kind[-1]
        if code == "s":
            value = rng.choice((*MAGICS, rng.randbytes(4)))[:count]
        else:
            size = struct.calcsize(order + code)
            offset += size * rng.randrange(count)
            value = struct.pack(order + code, _number(name, code, rng))
        if offset + len(value) <= len(found):
            found[offset : offset + len(value)] = value
    return closed(bytes(found), zipped)


def _number(name: str, code: str, rng: random.Random) -> float:
    if name == "datatype":
        return rng.choice(DATATYPES)
    if code in "fd":
        return rng.choice(FLOATS)
    if code == "B":
        return rng.randrange(256)
    if code == "h":
        return rng.choice(SHORTS)
    if code == "i":
        return rng.choice((*SHORTS, 348, 540, 2**31 - 1, -(2**31)))
    return rng.choice(LONGS)


def many_volumes(data: bytes, rng: random.Random) -> bytes:
    """Declare up to 32,767 x 32,767 volumes, as if the image had five axes."""
    plain, zipped = opened(data)
    dims = struct.pack(
        "<8h", 5, rng.choice((1, 2)), 1, 1, rng.choice((1, 40, 1000, 32767)), rng.choice((1, 32767)), 1, 1
    )
    return closed(plain[:40] + dims + plain[56:], zipped)


def within_gzip(data: bytes, rng: random.Random) -> bytes:
    """Damage the bytes within a gzip file, whose checksum is right again."""
    plain, zipped = opened(data)
    return closed(rng.choice(damage.ANY)(plain, rng), zipped)


def damage_gzip(data: bytes, rng: random.Random) -> bytes:
    """Damage a gzip stream itself: its flags, its checksum, its length, a second member, a gzip within a gzip."""
    plain, _ = opened(data)
    found = bytearray(closed(plain, True))
    match rng.randrange(6):
        case 0:
            found[3] = rng.randrange(256)
        case 1:
            found[-8:] = rng.randbytes(8)
        case 2:
            found += found[: rng.randrange(len(found))]
        case 3:
            found = bytearray(closed(bytes(found), True))
        case 4:
            found += rng.choice((bytes(100), b"\x1f\x8b", rng.randbytes(20)))
        case 5:
            found = found[: rng.randrange(len(found))]
    return bytes(found)


def gzip_bomb(data: bytes, rng: random.Random) -> bytes:
    """Hand the file over with up to 4 GiB of zeros behind it, whose header may or may not declare them."""
    plain, _ = opened(data)
    megabytes = rng.choice((1, 40, 300, 1100, 4000))
    if rng.random() < 0.5 and len(plain) >= 352:
        plain = plain[:40] + struct.pack("<8h", 3, 1024, 1024, rng.choice((1, 300, 1024)), 1, 1, 1, 1) + plain[56:]
    return damage.deflated_zeros(plain, megabytes, gz=True)


def grow_extension(data: bytes, rng: random.Random) -> bytes:
    """Announce header extensions of any size."""
    plain, zipped = opened(data)
    said = struct.pack("<4B2i", 1, 0, 0, 0, rng.choice((0, -1, 8, 16, 2**31 - 1, 15)), rng.choice((0, 4, 6, -1, 999)))
    return closed(plain[:348] + said + plain[rng.choice((348, 352, 360)) :], zipped)


NIFTI: Sequence[damage.Damage] = (
    *damage.ANY, within_gzip, within_gzip, lie_about_field, lie_about_field, lie_about_field, lie_about_field,
    lie_about_field, lie_about_field, many_volumes, damage_gzip, damage_gzip, gzip_bomb, grow_extension,
)  # fmt: skip
