"""Look stored values up in a Modality LUT, where an image has one instead of slope and intercept.

    file -> Modality LUT Sequence (0028,3000) -> ModalityLut        stored values -> real values

The table takes the place of the rescale: an image that has both, which the standard forbids, goes by its table.
Values below the first one mapped get the first entry, those above the last one the last entry. DICOM PS3.3 C.11.1.1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from medmllm.errors import DicomError
from medmllm.ingest.dicom_header import DicomHeader
from medmllm.ingest.dicom_stream import DICOM_FAILURES, HEADER_INFLATES_TO, data_set_stream
from medmllm.ingest.opening import one_error, open_regular
from medmllm.records import FloatArray

MOST_ENTRIES = 2**16
ENTRY_BITS = range(8, 17)  # the standard has 8 and 16; scanners have written 10 and 12


LARGEST_TABLE_BYTES = 2**18  # its entries, and what is written around them


@dataclass(frozen=True, slots=True, eq=False)
class ModalityLut:
    """Real values of consecutive stored values."""

    first: int  # the stored value that the first entry belongs to
    entries: FloatArray  # (stored values,), float32


def read_modality_lut(header: DicomHeader) -> ModalityLut:
    """Read the table of a file.

    Raises:
        DicomError: `bad_lookup_table` when it has no entries, fewer than it says, or more bits than fit.
    """
    doing = "the Modality LUT cannot be parsed"
    with (
        open_regular(header.file) as file,
        one_error(DicomError, doing, code="bad_lookup_table", also=DICOM_FAILURES),
    ):
        stream, force, _ = data_set_stream(file, HEADER_INFLATES_TO)
        wanted = ["ModalityLUTSequence", "PixelRepresentation"]  # the latter tells pydicom how to read the former
        data = pydicom.dcmread(stream, stop_before_pixels=True, force=force, specific_tags=wanted)
        raw = data.get_item("ModalityLUTSequence")
        if raw is not None and isinstance(raw.value, bytes) and len(raw.value) > LARGEST_TABLE_BYTES:
            raise DicomError(f"the Modality LUT takes {len(raw.value):,} bytes; the largest has 131,072",
                             code="bad_lookup_table")  # fmt: skip
        item = data.ModalityLUTSequence[0]
        count, first, bits = (int(number) & 0xFFFF for number in item.LUTDescriptor)
        little_endian = data.original_encoding[1]
        entries = lut_entries(item.LUTData, count or MOST_ENTRIES, bits, little_endian=bool(little_endian))
    return ModalityLut(first - 2**16 if header.signed and first >= 2**15 else first, entries.astype(np.float32))


def lut_entries(data: Any, count: int, bits: int, *, little_endian: bool) -> npt.NDArray[np.uint16]:
    """Return the entries of LUT Data (0028,3006), or of a palette; shape (count,).

    Args:
        data: Its value as pydicom gives it: whole numbers, or bytes. Entries of 8 bits are packed two into a word,
            or have a word each.
        count: Number of entries, from the LUT Descriptor.
        bits: Of an entry, from the LUT Descriptor.
        little_endian: How bytes are to be read.

    Raises:
        DicomError: `bad_lookup_table`.

    >>> lut_entries(bytes.fromhex("0001 0002 0003"), 3, 16, little_endian=False).tolist()
    [1, 2, 3]
    >>> lut_entries([0x0201, 0x0003], 3, 8, little_endian=True).tolist()
    [1, 2, 3]
    """
    if bits not in ENTRY_BITS:
        raise DicomError(f"the lookup table says that its entries have {bits} bits; 8 to 16 are read",
                         code="bad_lookup_table")  # fmt: skip
    if isinstance(data, bytes):
        words = np.frombuffer(data + bytes(len(data) % 2), dtype="<u2" if little_endian else ">u2")
    else:
        words = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    entries = words.astype(np.uint16)
    if bits == 8 and len(entries) < count:
        entries = entries.astype("<u2").view(np.uint8).astype(np.uint16)
    if len(entries) < count:
        raise DicomError(f"the lookup table says that it has {count} entries and has {len(entries)}",
                         code="bad_lookup_table")  # fmt: skip
    return entries[:count]


def look_up(lut: ModalityLut, stored: npt.NDArray[Any], out: FloatArray) -> None:
    """Write the real value of each stored value to `out`; both of the same shape."""
    index = np.clip(stored.astype(np.int64) - lut.first, 0, len(lut.entries) - 1)
    np.take(lut.entries, index, out=out)
