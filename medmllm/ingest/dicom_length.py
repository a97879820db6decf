"""Hold the length of a DICOM file's pixel data against what its header says.

    Rows, Columns, Bits Allocated, Number of Frames; declared length, bytes there -> cut short? longer than that?

Pixel data that are longer by a frame mean that the header is wrong (Number of Frames missing, Bits Allocated of another
image), and whoever reads as much as it says reads something else than the image. DICOM PS3.5 section 8.
"""

from collections.abc import Mapping

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
Fit = tuple[bool, bool]
"""Whether the pixel data end before they should; whether they are a frame longer, or compressed and should not be."""
FITS: Fit = (False, False)


def fit_of(values: Mapping[str, str], transfer_syntax: str, declared: int | None, there: int | None) -> Fit:
    """Return whether pixel data are as long as the header says.

    Args:
        values: Of the header.
        transfer_syntax: Of the file.
        declared: Bytes that Pixel Data say they have; None when they are compressed.
        there: Bytes from their start to the end of the file; None where that is not known.
    """
    if declared is None:
        return False, transfer_syntax in NATIVE
    expected = expected_bytes(values)
    truncated = declared < expected or (there is not None and there < max(expected, declared - 1))
    # Padding is common, a frame of it is not.
    more = declared > expected + 1 and declared - expected >= expected // (int(values.get("NumberOfFrames", "1")) or 1)
    return truncated, more


def expected_bytes(values: Mapping[str, str]) -> int:
    """Return how many bytes the pixels of an uncompressed image take."""
    count = int(values["Rows"]) * int(values["Columns"]) * int(values.get("NumberOfFrames", "1"))
    return count * int(values.get("SamplesPerPixel", "1")) * int(values.get("BitsAllocated", "8")) // 8
