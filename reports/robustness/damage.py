"""Damage that any bytes can take, wherever they come from; all of it decided by the random numbers handed in.

bytes, random -> other bytes
"""

import random
import struct
import zlib
from collections.abc import Callable, Sequence

Damage = Callable[[bytes, random.Random], bytes]

EXTREMES = (0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
ZEROS_BYTES = 2**20


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Flip 1 to 8 single bits."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 8) if found else 0):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def flip_early(data: bytes, rng: random.Random) -> bytes:
    """Set 1 to 16 bytes of the first kilobyte, where headers are, to anything."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 16) if found else 0):
        found[rng.randrange(min(len(found), 1024))] = rng.randrange(256)
    return bytes(found)


def run_of_one_byte(data: bytes, rng: random.Random) -> bytes:
    """Overwrite a stretch with one value, mostly 0 or 255."""
    start, length = _stretch(data, rng)
    return data[:start] + bytes([rng.choice((0, 255, 32, rng.randrange(256)))]) * length + data[start + length :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Keep the beginning."""
    return data[: rng.choice((rng.randrange(len(data) + 1), rng.randrange(min(len(data), 600) + 1)))]


def drop_last(data: bytes, rng: random.Random) -> bytes:
    """Lose the last 1 to 16 bytes."""
    return data[: -rng.randint(1, 16)]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Put 1 to 64 bytes in between."""
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randint(1, 64)) + data[place:]


def delete(data: bytes, rng: random.Random) -> bytes:
    """Take a stretch out."""
    start, length = _stretch(data, rng)
    return data[:start] + data[start + length :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """Write a stretch twice."""
    start, length = _stretch(data, rng)
    return data[: start + length] + data[start:]


def extreme_number(data: bytes, rng: random.Random) -> bytes:
    """Write the least, the largest or an odd number of 2, 4 or 8 bytes at an even place of the first 2 kB."""
    kind = rng.choice(("<H", "<I", "<Q", ">H", ">I", ">Q"))
    size = struct.calcsize(kind)
    if len(data) < size:
        return data
    place = rng.randrange(0, min(len(data), 2048) - size + 1) & ~1
    return data[:place] + struct.pack(kind, rng.choice(EXTREMES) % 2 ** (8 * size)) + data[place + size :]


def trailing(data: bytes, rng: random.Random) -> bytes:
    """Add what does not belong there behind the end."""
    return data + rng.choice((bytes(rng.randint(1, 4096)), rng.randbytes(rng.randint(1, 4096)), data))


def noise(data: bytes, rng: random.Random) -> bytes:
    """Keep the first bytes, by which the kind of file is known, and nothing else."""
    return data[: rng.choice((4, 132, 144, 348, 352))] + rng.randbytes(rng.randint(0, 2000))


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Join the beginning of one file to the end of another."""
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _stretch(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data) - start, rng.choice((1, 2, 4, 8, 64, rng.randint(1, 4096))))


def deflated_zeros(start: bytes, megabytes: int, *, gz: bool = False) -> bytes:
    """Return `start` and that many MiB of zeros as a deflate or gzip stream of about a thousandth of the size.

    The same compressed MiB is written again and again, so that making it costs nothing; a gzip's checksum is wrong.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if gz else -15)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(ZEROS_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + zeros * megabytes + packer.flush(zlib.Z_FINISH)


ANY: Sequence[Damage] = (
    flip_bits, flip_bits, flip_early, flip_early, run_of_one_byte, truncate, drop_last, insert, delete, repeat,
    extreme_number, trailing, noise,
)  # fmt: skip
