"""Decode the pixels of one DICOM slice into real values.

    data set -> frame bytes, held against bounds -> codec -> stored values -> rescaled float32, (rows, columns)

pydicom decodes big endian and RLE, imagecodecs the JPEG family. A compressed frame says its own size; it is
compared before the codec may allocate it. Pixel Padding Values stay as they are. Stored values: PS3.5 8.1.1; rescale:
PS3.3 C.11.1, slice by slice, since PET slices may each carry their own slope (C.8.9.4).
"""

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from medmllm.errors import DicomError
from medmllm.ingest.dicom_header import DICOM_FAILURES, DicomHeader, read_with_pixels
from medmllm.ingest.opening import one_error
from medmllm.records import FloatArray

Codec = Callable[[bytes], npt.NDArray[Any]]

LITTLE_ENDIAN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")  # the last is deflated
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
CODECS: dict[str, Codec] = {
    "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_decode,  # JPEG baseline, 8 bit
    "1.2.840.10008.1.2.4.51": imagecodecs.jpeg8_decode,  # JPEG extended, 8 or 12 bit
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_decode,  # JPEG lossless
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_decode,  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
    # HTJ2K through OpenJPEG: imagecodecs' own decoder (OpenJPH) returns half a frame where the stream is damaged.
    "1.2.840.10008.1.2.4.201": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.202": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.203": imagecodecs.jpeg2k_decode,
}
END_OF_IMAGE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000 alike; some decoders make up what is missing
END_WITHIN_BYTES = 32  # frames are padded
TRANSFER_SYNTAXES = frozenset((*LITTLE_ENDIAN, BIG_ENDIAN, RLE, *CODECS))


def read_slice(header: DicomHeader, out: FloatArray | None = None) -> FloatArray:
    """Return the values of one slice after rescale: HU for CT; shape (rows, columns), float32.

    Args:
        header: The slice.
        out: Where to put them, shape (rows, columns), float32; None makes a new array.

    Raises:
        DicomError: The pixels are damaged, cut short, of another size than the header says, or of an
            unsupported kind.
    """
    doing = "the pixels of a slice cannot be decoded"
    with one_error(DicomError, doing, code="pixels_unreadable", also=DICOM_FAILURES):
        data = read_with_pixels(header.file)
        stored = _stored_values(_decode(data, header), data)
        slope, intercept = float(data.get("RescaleSlope", 1.0)), float(data.get("RescaleIntercept", 0.0))
        if not (np.isfinite(slope) and np.isfinite(intercept)):
            raise DicomError("Rescale Slope or Intercept is not finite", code="bad_rescale")
        exact = np.float64 if stored.dtype.itemsize > 4 else np.float32  # 32 bits do not fit into a float32
        values = np.multiply(stored, exact(slope), out=None if exact is np.float64 else out, dtype=exact)
        values += exact(intercept)
        if out is None:
            return values.astype(np.float32, copy=False)
        if values is not out:
            out[...] = values
        return out


def _decode(data: pydicom.Dataset, header: DicomHeader) -> npt.NDArray[Any]:
    """Return the frame as the codec gives it; shape (rows, columns)."""
    size = header.rows, header.columns
    codec = CODECS.get(header.transfer_syntax)
    if header.transfer_syntax in LITTLE_ENDIAN:  # what most files are; pydicom's way is sound, but 4 times slower
        kind = np.dtype(f"<u{int(data.BitsAllocated) // 8}")
        return np.frombuffer(data.PixelData, dtype=kind, count=header.rows * header.columns).reshape(size)
    if codec is None:
        frame, _ = get_decoder(UID(header.transfer_syntax)).as_array(data, raw=True)
    else:
        encoded = next(generate_frames(data.PixelData, number_of_frames=1), b"")
        said = coded_size(encoded)
        if said != size:
            raise DicomError(f"the compressed frame says it has {said} rows and columns, the header says {size}",
                             code="pixels_unreadable")  # fmt: skip
        if END_OF_IMAGE not in encoded[-END_WITHIN_BYTES:]:
            raise DicomError("a compressed frame ends before its end marker: copy the file again",
                             code="truncated_pixels")  # fmt: skip
        frame = codec(encoded)
    if frame.shape != size or frame.dtype.kind not in "iu":
        raise DicomError(f"decoding gives {frame.dtype} of shape {frame.shape} where the header says {size}",
                         code="pixels_unreadable")  # fmt: skip
    return frame


def _stored_values(frame: npt.NDArray[Any], data: pydicom.Dataset) -> npt.NDArray[np.int32 | np.int64]:
    """Return the stored values alone: bits outside Bits Stored (old overlays) are cleared, the sign is extended."""
    allocated, stored = int(data.BitsAllocated), int(data.BitsStored)
    shift = int(data.HighBit) + 1 - stored
    if not 0 < stored <= allocated or not 0 <= shift <= allocated - stored:
        raise DicomError(f"{stored} bits stored of {allocated} allocated, high bit {data.HighBit}", code="bad_bits")
    if str(data.file_meta.TransferSyntaxUID) in CODECS:
        shift = 0  # codecs give the stored values at the low end
    values: npt.NDArray[np.int32 | np.int64]
    values = frame.astype(np.int32) if allocated <= 16 else frame.astype(np.int64)  # room for the sign
    values >>= shift
    values &= (1 << stored) - 1
    if int(data.PixelRepresentation) == 1:
        sign = 1 << (stored - 1)
        values ^= sign
        values -= sign
    return values


def coded_size(encoded: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) that a JPEG, JPEG-LS or JPEG 2000 frame declares; None when it is none of them.

    >>> coded_size(bytes.fromhex("ffd8 ffc3 000b 10 0003 0005 01"))
    (3, 5)
    """
    if encoded[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SIZ follows SOC; extent less origin
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
