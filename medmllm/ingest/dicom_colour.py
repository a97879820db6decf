"""Read the colours of a DICOM image that is no volume: ultrasound, photographs, secondary captures.

    DicomHeader -> decoded samples -> palette or YBR to RGB -> (rows, columns, 3)

Colours are kept apart from volumes: a colour is no measured value, and `arrange` refuses them all. What JPEG stores is
told by its Adobe marker where it has one, else by Photometric Interpretation; JPEG 2000 undoes its own transform.
DICOM PS3.3 C.7.6.3.1.2 (interpretations) and C.7.6.3.1.5 (palettes), PS3.5 8.2 (compressed colours).
"""

from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import apply_color_lut, convert_color_space, get_decoder
from pydicom.uid import UID

from medmllm.errors import DicomError
from medmllm.ingest.dicom_header import DicomHeader, read_with_pixels
from medmllm.ingest.dicom_lut import MOST_ENTRIES, lut_entries
from medmllm.ingest.dicom_pixels import CODECS, RLE, TRANSFER_SYNTAXES, decode, encoded_frames
from medmllm.ingest.dicom_stream import DICOM_FAILURES
from medmllm.ingest.opening import one_error

PALETTE = "PALETTE COLOR"
INTERPRETATIONS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", PALETTE})
JPEG_WITH_TRANSFORM = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
UNDONE_BY_CODEC = frozenset({"RGB", "YBR_RCT", "YBR_ICT"})
RUNS_GROW_BY = 64  # two bytes of a run-length segment become at most 128
COLOURS = ("Red", "Green", "Blue")
PALETTE_TAGS = tuple(
    f"{more}{colour}PaletteColorLookupTable{what}"
    for colour in COLOURS
    for more, what in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)


def read_colour(header: DicomHeader) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return the colours of an image, or of one frame of it, as red, green and blue.

    Args:
        header: The image; `replace(header, frame=2)` for the third frame of a film.

    Returns:
        Shape (rows, columns, 3), as many bits as the file has; a palette's own where it has one.

    Raises:
        DicomError: `not_colour` for grey values, `unsupported_colour` for another interpretation or number of bits,
            `pixels_unreadable`, `truncated_pixels`.
    """
    _refuse_other(header)
    doing = "the colours of an image cannot be decoded"
    with one_error(DicomError, doing, code="pixels_unreadable", also=DICOM_FAILURES):
        if header.photometric == PALETTE:
            colours = _by_palette(header)
        elif header.transfer_syntax in CODECS:
            colours = _of_codec(header)
        else:
            colours = _by_pydicom(header)
        if colours.shape != (header.rows, header.columns, 3) or colours.dtype.kind != "u":
            raise DicomError(
                f"decoding gives {colours.dtype} of shape {colours.shape} where the header says "
                f"{(header.rows, header.columns, 3)}",
                code="pixels_unreadable",
            )
        return colours.astype(colours.dtype.newbyteorder("="), copy=False)


def _refuse_other(header: DicomHeader) -> None:
    if header.photometric.startswith("MONOCHROME"):
        raise DicomError("the image holds grey values, not colours: see read_slice", code="not_colour")
    samples = 1 if header.photometric == PALETTE else 3
    supported = header.photometric in INTERPRETATIONS and header.transfer_syntax in TRANSFER_SYNTAXES
    if not supported or header.samples != samples or header.bits_allocated not in (8, 16) or header.signed:
        raise DicomError(
            f"{header.samples} samples of {header.bits_allocated} bits with this Photometric Interpretation, signed or "
            "in this transfer syntax, are not read as colours: convert the file",
            code="unsupported_colour",
        )
    if not 0 <= header.frame < header.frames:
        raise DicomError(f"the image has {header.frames} frames, and no frame {header.frame}", code="no_such_frame")


def _by_palette(header: DicomHeader) -> npt.NDArray[Any]:
    data = read_with_pixels(header.file, PALETTE_TAGS)
    if header.transfer_syntax in CODECS:
        indices = decode(encoded_frames(header)[header.frame], header)
    else:
        indices = _by_pydicom(header)
    if "RedPaletteColorLookupTableData" not in data:  # then it comes in segments (C.7.9.2)
        return apply_color_lut(indices, data)[..., :3]
    tables = [_palette(data, colour) for colour in COLOURS]
    colours = np.stack([table[np.clip(indices.astype(np.int64) - first, 0, len(table) - 1)] for first, table in tables],
                       axis=-1)  # fmt: skip
    is_byte = data.RedPaletteColorLookupTableDescriptor[2] == 8 and colours.max(initial=0) < 2**8
    return colours.astype(np.uint8) if is_byte else colours


def _palette(data: pydicom.Dataset, colour: str) -> tuple[int, npt.NDArray[np.uint16]]:
    """Return the first index that a palette maps, and its entries for one of the colours."""
    descriptor = data[f"{colour}PaletteColorLookupTableDescriptor"].value
    count, first, bits = (int(number) & 0xFFFF for number in descriptor)
    little_endian = bool(data.original_encoding[1])
    entries = data[f"{colour}PaletteColorLookupTableData"].value
    return first, lut_entries(entries, count or MOST_ENTRIES, bits, little_endian=little_endian)


def _by_pydicom(header: DicomHeader) -> npt.NDArray[Any]:
    """Return uncompressed and run-length encoded samples; YBR is converted on the way."""
    if header.transfer_syntax == RLE:
        size = header.rows * header.columns * header.samples * header.bits_allocated // 8
        held = len(encoded_frames(header)[header.frame])
        if size > held * RUNS_GROW_BY:
            raise DicomError(f"{held} bytes of run lengths cannot hold the {size} bytes that the header says",
                             code="truncated_pixels")  # fmt: skip
    data = read_with_pixels(header.file)
    decoded, _ = get_decoder(UID(header.transfer_syntax)).as_array(data, index=header.frame)
    return decoded


def _of_codec(header: DicomHeader) -> npt.NDArray[Any]:
    encoded = encoded_frames(header)[header.frame]
    if header.transfer_syntax in JPEG_WITH_TRANSFORM:
        stored = adobe_transform(encoded)
        is_ybr = header.photometric != "RGB" if stored is None else stored == 1

        def jpeg(encoded: bytes) -> npt.NDArray[Any]:
            space = "YCBCR" if is_ybr else "RGB"
            decoded: npt.NDArray[Any] = imagecodecs.jpeg8_decode(encoded, colorspace=space, outcolorspace="RGB")
            return decoded

        return decode(encoded, header, jpeg)
    colours = decode(encoded, header)
    if header.photometric in UNDONE_BY_CODEC:
        return colours
    return convert_color_space(colours, header.photometric, "RGB")


def adobe_transform(encoded: bytes) -> int | None:
    """Return what the Adobe marker (APP14) of a JPEG frame says: 0 for RGB, 1 for YCbCr; None without a marker.

    >>> adobe_transform(bytes.fromhex("ffd8 ffee 000e 41646f6265 0064 0000 0000 01 ffda"))
    1
    """
    place = 2
    while place + 4 <= len(encoded) and encoded[place] == 0xFF and encoded[place + 1] != 0xDA:
        length = int.from_bytes(encoded[place + 2 : place + 4], "big")
        segment = encoded[place + 4 : place + 2 + length]
        if encoded[place + 1] == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            return segment[11]
        place += 2 + length
    return None
