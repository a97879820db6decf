"""Decode the pixels of one DICOM slice into real values.

    data set -> frame bytes, held against bounds -> codec -> stored values -> rescaled float32, (rows, columns)

pydicom decodes big endian, imagecodecs runs and the JPEG family. A compressed frame says its own size; it is
compared before the codec may allocate it. Pixels that stand for "outside the image" (Pixel Padding Value) stay as they
are. Stored values: PS3.5 8.1.1; Modality LUT and rescale: PS3.3 C.11.1, slice by slice, since PET slices may each
carry their own slope (C.8.9.4).
"""

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock, local
from typing import Any, TypeVar

import imagecodecs
import numpy as np
import numpy.typing as npt
from imagecodecs import PackbitsError, packbits_decode
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from medmllm.errors import DicomError
from medmllm.ingest.dicom_header import DicomHeader, read_with_pixels
from medmllm.ingest.dicom_lut import look_up, read_modality_lut
from medmllm.ingest.dicom_stream import DICOM_FAILURES, HEADER_INFLATES_TO, IMAGE_INFLATES_TO
from medmllm.ingest.opening import one_error, open_regular
from medmllm.records import FloatArray

Codec = Callable[[bytes], npt.NDArray[Any]]
Held = TypeVar("Held")

LITTLE_ENDIAN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")  # the last is deflated
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
CODECS: dict[str, Codec] = {
    "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_decode,  # JPEG baseline, 8 bit
    "1.2.840.10008.1.2.4.51": imagecodecs.jpeg8_decode,  # JPEG extended, 8 or 12 bit
    # JPEG lossless through libjpeg-turbo: imagecodecs' own decoder of it (liblj92) crashes without a Huffman table.
    "1.2.840.10008.1.2.4.57": imagecodecs.jpeg8_decode,  # JPEG lossless
    "1.2.840.10008.1.2.4.70": imagecodecs.jpeg8_decode,  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
    # HTJ2K through OpenJPEG: imagecodecs' own decoder (OpenJPH) returns half a frame where the stream is damaged.
    "1.2.840.10008.1.2.4.201": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.202": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.203": imagecodecs.jpeg2k_decode,
}
BITS_ALLOCATED = (8, 16, 32)  # one bit is a mask, not a measured value
RLE_HEADER_BYTES = 64
JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, then SIZ
JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"  # how a JP2 file starts, whose boxes are wrapped around a codestream
SSIZ = 42  # byte of the codestream that holds the bits per pixel less 1, and the sign above them
END_OF_IMAGE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000 alike; some decoders make up what is missing
END_WITHIN_BYTES = 32  # frames are padded, by zeros even further
TRANSFER_SYNTAXES = frozenset((*LITTLE_ENDIAN, BIG_ENDIAN, RLE, *CODECS))


class FileCache:
    """What was read of the last multi-frame file or mosaic, so that its slices read it once; safe among threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._file: Path | None = None
        self._held: Any = None
        self._own = local()

    def hold(self, header: DicomHeader, read: Callable[[DicomHeader], Held]) -> Held:
        """Return what `read` gives for the file of a slice; a second call for the same file returns it again."""
        if header.frames == 1 and not header.tiles_across:
            return read(header)
        with self._lock:
            if self._file != header.file:
                self._held, self._file = read(header), header.file
            held: Held = self._held
            return held

    def buffer(self, length: int, use: str = "read") -> memoryview:
        """Return `length` bytes to work in, the same for every slice that a thread reads: new ones cost more.

        Args:
            length: In bytes.
            use: Each has bytes of its own.
        """
        held: dict[str, bytearray] = self._own.__dict__.setdefault("held", {})
        if len(held.get(use, b"")) < length:
            held[use] = bytearray(length)
        return memoryview(held[use])[:length]

    def pixels(self, like: npt.NDArray[Any], use: str) -> npt.NDArray[Any]:
        """Return an array of this shape and kind to write into, of a buffer."""
        return np.frombuffer(self.buffer(like.nbytes, use), dtype=like.dtype).reshape(like.shape)


def read_slice(header: DicomHeader, out: FloatArray | None = None, *, cache: FileCache | None = None) -> FloatArray:
    """Return the values of one slice after Modality LUT or rescale: HU for CT; shape (rows, columns), float32.

    MONOCHROME1 asks for the lowest values to be shown white: the values are what they are, and are not inverted
    (PS3.3 C.7.6.3.1.2).

    Args:
        header: The slice, or the frame of a multi-frame object, or the tile of a mosaic.
        out: Where to put them, shape (rows, columns), float32; None makes a new array.
        cache: The same for all slices of a stack, so that a file with several is read once.

    Raises:
        DicomError: The pixels are damaged, cut short, of another size than the header says, or of an
            unsupported kind.
    """
    doing = "the pixels of a slice cannot be decoded"
    with one_error(DicomError, doing, code="pixels_unreadable", also=DICOM_FAILURES):
        if header.samples != 1 or header.photometric == "PALETTE COLOR":
            raise DicomError("the image is in colours, not grey values: see read_colour", code="colour")
        if header.bits_allocated not in BITS_ALLOCATED:
            raise DicomError(f"{header.bits_allocated} bits are allocated per pixel; 8, 16 and 32 are read",
                             code="unsupported_bits")  # fmt: skip
        stored = _stored_slice(header, cache or FileCache())
        if out is None:
            out = np.empty((header.rows, header.columns), dtype=np.float32)
        if header.has_modality_lut:
            look_up(read_modality_lut(header), stored, out)
        else:
            _rescale(stored, header, out)
        return out


def _rescale(stored: npt.NDArray[Any], header: DicomHeader, out: FloatArray) -> None:
    slope = 1.0 if header.slope is None else header.slope
    intercept = 0.0 if header.intercept is None else header.intercept
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise DicomError("Rescale Slope or Intercept is not finite", code="bad_rescale")
    if slope == 0 and np.ptp(stored):  # an empty PET slice may have it; here it would hide an image
        raise DicomError("Rescale Slope (0028,1053) is 0, which makes all pixels of an image alike: their values are "
                         "unknown", code="bad_rescale")  # fmt: skip
    if stored.dtype.itemsize > 2:  # 32 bits do not fit into a float32
        out[...] = stored * np.float64(slope) + np.float64(intercept)
    elif slope == 1.0:
        np.add(stored, np.float32(intercept), out=out, dtype=np.float32)
    else:
        np.multiply(stored, np.float32(slope), out=out, dtype=np.float32)
        out += np.float32(intercept)


def _stored_slice(header: DicomHeader, cache: FileCache) -> npt.NDArray[Any]:
    if not header.tiles_across:
        return _stored_values(_frame(header, cache), header, cache)
    across, rows, columns = header.tiles_across, header.rows, header.columns

    def whole(tile: DicomHeader) -> npt.NDArray[Any]:
        mosaic = replace(tile, rows=rows * across, columns=columns * across, frame=0, tiles_across=0)
        return _stored_values(_frame(mosaic, cache), mosaic, cache).copy()  # out of the thread's buffers

    down, right = divmod(header.frame, across)
    mosaic = cache.hold(header, whole)
    return mosaic[down * rows : (down + 1) * rows, right * columns : (right + 1) * columns]


def _frame(header: DicomHeader, cache: FileCache) -> npt.NDArray[Any]:
    """Return the frame as the codec gives it; shape (rows, columns)."""
    size = header.rows, header.columns
    if header.transfer_syntax in LITTLE_ENDIAN:
        return _native(header, cache)
    if header.transfer_syntax == BIG_ENDIAN:
        frame = cache.hold(header, _by_pydicom)[header.frame]
    elif header.transfer_syntax == RLE:
        frame = _run_lengths(cache.hold(header, encoded_frames)[header.frame], header, cache)
    else:
        encoded = cache.hold(header, encoded_frames)[header.frame]
        frame = _with_sign(decode(encoded, header), encoded, header)
    if frame.shape != size or frame.dtype.kind not in "iu":
        raise DicomError(f"decoding gives {frame.dtype} of shape {frame.shape} where the header says {size}",
                         code="pixels_unreadable")  # fmt: skip
    return frame


def decode(encoded: bytes, header: DicomHeader, codec: Codec | None = None) -> npt.NDArray[Any]:
    """Return a frame of the JPEG family as its codec gives it, after a look at the size it declares and at its end.

    Args:
        encoded: One frame.
        header: Of its file.
        codec: None for the one of the transfer syntax.

    Raises:
        DicomError: `pixels_unreadable` for another size than the header's, `truncated_pixels` without an end.
    """
    said, size = coded_size(encoded), (header.rows, header.columns)
    if said != size:
        raise DicomError(f"the compressed frame says it has {said} rows and columns, the header says {size}",
                         code="pixels_unreadable")  # fmt: skip
    if END_OF_IMAGE not in encoded[-END_WITHIN_BYTES:] and not encoded.rstrip(b"\0").endswith(END_OF_IMAGE):
        raise DicomError("a compressed frame ends before its end marker: copy the file again",
                         code="truncated_pixels")  # fmt: skip
    return (codec or CODECS[header.transfer_syntax])(encoded)


def _with_sign(frame: npt.NDArray[Any], encoded: bytes, header: DicomHeader) -> npt.NDArray[Any]:
    """Return a JPEG 2000 frame whose header says signed and whose codestream says unsigned, with its sign extended.

    Such a frame holds two's complements of as many bits as the codestream says, whatever Bits Stored says; as pydicom.
    """
    if not header.signed or encoded[:4] != JPEG_2000 or frame.dtype.kind != "u":
        return frame
    above = 8 * frame.dtype.itemsize - 1 - (encoded[SSIZ] & 0x7F)
    signed: npt.NDArray[Any] = np.left_shift(frame, above).view(f"i{frame.dtype.itemsize}")
    return np.right_shift(signed, above)


def _run_lengths(encoded: bytes, header: DicomHeader, cache: FileCache) -> npt.NDArray[Any]:
    """Return a run-length encoded frame: one segment per byte of a pixel, the highest first (PS3.5 annex G).

    imagecodecs' decoder of whole frames goes by what the frame says of its segments, and crashed where that was
    damaged; so the segments are found here.
    """
    count, *starts = struct.unpack("<16I", encoded[:RLE_HEADER_BYTES])
    pixels, pixel_bytes = header.rows * header.columns, header.bits_allocated // 8
    if count != pixel_bytes:
        raise DicomError(f"the frame has {count} run-length segments where the header says {pixel_bytes}",
                         code="pixels_unreadable")  # fmt: skip
    values = np.frombuffer(cache.buffer(pixels * pixel_bytes, "pixels"), dtype=f"u{pixel_bytes}")
    plane, whole = cache.buffer(pixels), memoryview(encoded)
    for number, (start, end) in enumerate(zip(starts[:count], [*starts[1:count], len(encoded)], strict=True)):
        held = _runs(whole[start:end], plane)
        if len(held) < pixels:
            raise DicomError(f"a run-length segment holds {len(held)} bytes of {pixels}: copy the file again",
                             code="truncated_pixels")  # fmt: skip
        own = np.frombuffer(held, dtype=np.uint8, count=pixels)
        weight = values.dtype.type(1 << 8 * (count - 1 - number))
        if number == 0:
            np.multiply(own, weight, out=values)  # faster than a copy and a shift
        else:
            values |= own if weight == 1 else np.multiply(own, weight)
    return values.reshape(header.rows, header.columns)


def _runs(segment: memoryview, plane: memoryview) -> bytes | bytearray:
    """Return the bytes of one segment, in `plane` unless more are there than fit: encoders have written too many."""
    view: Any = segment  # taken as it is, though the types of imagecodecs do not say so
    try:
        return packbits_decode(view, out=plane)
    except PackbitsError:
        return packbits_decode(view)


def _by_pydicom(header: DicomHeader) -> npt.NDArray[Any]:
    """Return every frame of a file; shape (frames, rows, columns)."""
    decoder, data = get_decoder(UID(header.transfer_syntax)), read_with_pixels(header.file)
    # Its correction of unused bits takes them for the highest ones, whatever High Bit says.
    frames, _ = decoder.as_array(data, raw=True, correct_unused_bits=False)
    return frames if header.frames > 1 else frames[None]


def _inflated(header: DicomHeader) -> bytes:
    expected = header.frames * header.rows * header.columns * header.bits_allocated // 8
    most_bytes = min(IMAGE_INFLATES_TO, HEADER_INFLATES_TO + 2 * expected)
    held: bytes = read_with_pixels(header.file, most_bytes=most_bytes).PixelData
    return held


def _native(header: DicomHeader, cache: FileCache) -> npt.NDArray[Any]:
    """Return an uncompressed frame; little endian."""
    kind = np.dtype(f"<u{header.bits_allocated // 8}")
    length = header.rows * header.columns * kind.itemsize
    if header.pixel_place is None:  # deflated
        start = header.frame * length
        held = memoryview(cache.hold(header, _inflated))[start : start + length]
    else:
        held = cache.buffer(length)
        with open_regular(header.file) as file:
            held = held[: os.preadv(file.fileno(), [held], header.pixel_place + header.frame * length)]
    if len(held) < length:
        raise DicomError("the pixel data of a slice end before they should: copy the file again",
                         code="truncated_pixels")  # fmt: skip
    return np.frombuffer(held, dtype=kind).reshape(header.rows, header.columns)


def encoded_frames(header: DicomHeader) -> list[bytes]:
    """Return every compressed frame of the file that a header is about."""
    if header.pixel_place is None:
        held = read_with_pixels(header.file).PixelData
    else:
        with open_regular(header.file) as file:
            file.seek(header.pixel_place)
            held = file.read()
    frames = [_unboxed(frame) for frame in generate_frames(held, number_of_frames=header.frames)]
    if len(frames) != header.frames:
        raise DicomError(f"the file has {len(frames)} compressed frames where the header says {header.frames}",
                         code="pixels_unreadable")  # fmt: skip
    return frames


def _unboxed(frame: bytes) -> bytes:
    """Return the codestream of a frame that is a whole JP2 file, against PS3.5 A.4.4; others as they are."""
    start = frame.find(JPEG_2000) if frame.startswith(JP2) else -1
    return frame[start:] if start > 0 else frame


def _stored_values(frame: npt.NDArray[Any], header: DicomHeader, cache: FileCache) -> npt.NDArray[Any]:
    """Return the stored values alone: bits outside Bits Stored (old overlays) are cleared, the sign is extended.

    The frame is left as it is; what is changed lies in a buffer of the thread.
    """
    allocated, stored = header.bits_allocated, header.bits_stored
    shift = header.high_bit + 1 - stored
    if not 0 < stored <= allocated or not 0 <= shift <= allocated - stored:
        raise DicomError(f"{stored} bits stored of {allocated} allocated, high bit {header.high_bit}", code="bad_bits")
    if header.signed is None:
        raise DicomError("Pixel Representation (0028,0103) is missing: signed or not?", code="bad_bits")
    width = 8 * frame.dtype.itemsize
    if header.transfer_syntax in CODECS:
        shift = 0  # codecs give the stored values at the low end
    unsigned = frame.view(f"{frame.dtype.byteorder}u{frame.dtype.itemsize}")
    if width < stored:
        raise DicomError(f"decoding gives {width} bits where the header says {stored}", code="pixels_unreadable")
    unsigned = unsigned.astype(unsigned.dtype.newbyteorder("="), copy=False)
    changed = cache.pixels(unsigned, "stored")
    if header.signed:  # up to the top, and down again with the sign
        if width > stored + shift:
            unsigned = np.left_shift(unsigned, width - stored - shift, out=changed)
        values: npt.NDArray[Any] = unsigned.view(f"i{frame.dtype.itemsize}")
        return np.right_shift(values, width - stored, out=changed.view(values.dtype)) if width > stored else values
    if shift:
        unsigned = np.right_shift(unsigned, shift, out=changed)
    if stored < width:
        unsigned = np.bitwise_and(unsigned, unsigned.dtype.type((1 << stored) - 1), out=changed)
    return unsigned


def coded_size(encoded: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) that a JPEG, JPEG-LS or JPEG 2000 frame declares; None when it is none of them.

    >>> coded_size(bytes.fromhex("ffd8 ffc3 000b 10 0003 0005 01"))
    (3, 5)
    """
    if encoded[:4] == JPEG_2000:  # extent less origin
        if len(encoded) < 24:
            return None
        width, height, left, top = struct.unpack(">4I", encoded[8:24])
        return height - top, width - left
    if encoded[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(encoded) and encoded[place] == 0xFF:
        marker = encoded[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if is_frame or marker == 0xF7:  # SOF of JPEG or of JPEG-LS
            rows, columns = struct.unpack(">HH", encoded[place + 5 : place + 9])
            return rows, columns
        place += 2 + struct.unpack(">H", encoded[place + 2 : place + 4])[0]
    return None
