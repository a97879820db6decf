"""Hand a DICOM file's data set to a general parser, without letting the file harm it.

    open file -> file meta -> transfer syntax -> a stream of the data set, inflated up to a bound, read so often at most

The file meta is looked at first, because a deflated data set of a megabyte may inflate to a gigabyte. A file without
the DICM mark is read only when its first element is a plausible one. DICOM PS3.10 section 7, PS3.5 annex A.
"""

import io
import struct
import zlib
from typing import BinaryIO, cast

from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from medmllm.errors import DicomError
from medmllm.ingest.dicom_part10 import end_of_pixels
from medmllm.ingest.opening import PatientStream

HEADER_INFLATES_TO = 2**25  # bytes of a deflated data set looked at for its header
IMAGE_INFLATES_TO = 2**28  # and for its pixels
MOST_READS = 2**19  # of a header that only pydicom can read; two for an element
DICOM_FAILURES = (InvalidDicomError, BytesLengthException)


def looks_like_dicom(start: bytes) -> bool:
    """Return whether a file with these first 132 bytes has the DICM mark, or starts with a plausible element.

    >>> [looks_like_dicom(start) for start in (bytes(128) + b"DICM", bytes.fromhex("0800 0500 4353 0a00") * 2, b"{}")]
    [True, True, False]
    """
    return start[128:132] == b"DICM" or _starts_with_element(start)


def _starts_with_element(start: bytes) -> bool:
    """Return whether the first element is one of group 0002 or 0008, explicit or implicit, of either byte order."""
    if len(start) < 12:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", start[:4])
        if group not in (2, 8) or element > 0x0100:
            continue
        explicit = start[4:6].isalpha() and start[4:6].isupper()
        length = struct.unpack(f"{order}I", start[4:8])[0]
        if explicit or length <= 1024:
            return True
    return False


def data_set_stream(file: BinaryIO, most_bytes: int, *, whole: bool = False) -> tuple[BinaryIO, bool, str | None]:
    """Return a stream that pydicom may read, whether to force it, and the transfer syntax if one is named.

    A deflated data set is inflated here, up to a bound, and handed on as the explicit little endian that it is.

    Args:
        file: Open at its start.
        most_bytes: How much of a deflated data set is looked at.
        whole: Refuse one that inflates to more.

    Raises:
        DicomError: `not_dicom`, `dicomdir`, `deflated_too_large`, or what is inside is no sequence of elements.
    """
    start = file.read(132)
    marked = start[128:] == b"DICM"
    if not marked and not _starts_with_element(start):
        raise DicomError("the file has no DICM mark and does not start with a DICOM element", code="not_dicom")
    file.seek(132 if marked else 0)
    meta = read_dataset(
        cast(BinaryIO, PatientStream(file, MOST_READS)),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag.group != 2,
    )
    syntax = meta.get("TransferSyntaxUID")
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise DicomError("a DICOMDIR lists files and holds no image", code="dicomdir")
    if syntax != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return cast(BinaryIO, PatientStream(file, MOST_READS)), not marked, str(syntax) if syntax else None
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(file.read(most_bytes), most_bytes)
    if inflater.unconsumed_tail and whole:
        raise DicomError(f"the deflated file inflates to more than {most_bytes:,} bytes", code="deflated_too_large")
    end = end_of_pixels(plain)
    if end is None:
        raise DicomError("the deflated data set is no plain sequence of elements, or larger than the bounds")
    return io.BytesIO(memoryview(plain)[:end]), True, str(syntax)
