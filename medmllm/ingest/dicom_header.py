"""Read what the header of one DICOM file says; its pixels stay where they are.

    file -> file meta -> bounded stream of the data set -> DicomHeader

The file meta is looked at first, because a deflated data set of a megabyte may inflate to a gigabyte. A file without
the DICM mark is read only when its first element is a plausible one. DICOM PS3.10 section 7, PS3.5 annex A.
"""

import io
import logging
import math
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from medmllm.errors import DicomError
from medmllm.ingest.opening import one_error, open_regular

HEADER_INFLATES_TO = 2**25  # bytes of a deflated data set looked at for its header
IMAGE_INFLATES_TO = 2**28  # and for its pixels
NOT_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF",
}
DICOM_FAILURES = (InvalidDicomError, BytesLengthException)
TAGS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription",
    "ModalityLUTSequence", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionNumber",
    "InstanceNumber", "TemporalPositionIdentifier", "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID", "EchoTime", "EchoNumbers", "InversionTime", "TriggerTime", "DiffusionBValue",
    "DiffusionGradientOrientation", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows",
    "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleIntercept", "RescaleSlope",
)  # fmt: skip
PIXEL_TAGS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PlanarConfiguration")
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")

# What pydicom remarks on a file quotes its values: a name or number may end up in a log. Process-wide, because the
# filters of `warnings.catch_warnings` are not safe among threads; what matters is checked here and reported by key.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DicomHeader:
    """What one file's header says, in DICOM's own frame (LPS, row and column). Holds original identifiers."""

    file: Path
    transfer_syntax: str
    patient_id: str | None
    study_uid: str | None
    series_uid: str | None
    sop_uid: str | None
    modality: str | None
    description: str | None
    image_type: tuple[str, ...]
    frame_of_reference_uid: str | None
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    pixel_spacing_mm: tuple[float, float] | None  # between rows, between columns
    position: tuple[float, float, float] | None  # Image Position (Patient), mm, LPS
    orientation: tuple[float, ...] | None  # Image Orientation (Patient), six cosines, LPS
    has_rescale: bool
    has_modality_lut: bool
    truncated: bool  # the pixel data end before they should
    acquisition: tuple[tuple[str, str], ...]  # (keyword, value) of what tells volumes of one series apart


APART = (
    "AcquisitionNumber", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "InversionTime", "TriggerTime",
    "DiffusionBValue", "DiffusionGradientOrientation", "ImageType",
)  # fmt: skip
"""Attributes that may tell volumes at the same place within one series apart, the plainest first."""


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


def read_header(path: Path) -> DicomHeader:
    """Read the header of one DICOM file.

    Raises:
        DicomError: `not_dicom`, `dicomdir` or `not_an_image` for what is no image; `no_pixels` for an image
            without any; `dicom_unreadable`.
    """
    doing = "the DICOM header cannot be parsed"
    with open_regular(path) as file, one_error(DicomError, doing, also=DICOM_FAILURES):
        stream, force, transfer_syntax = data_set_stream(file, HEADER_INFLATES_TO)
        data = pydicom.dcmread(stream, stop_before_pixels=True, force=force, specific_tags=list(TAGS))
        _refuse_other_objects(data)
        missing = _missing_pixel_bytes(stream, data, inflated=stream is not file)
        return _header(path, data, transfer_syntax, missing)


def read_with_pixels(path: Path) -> pydicom.Dataset:
    """Return the whole data set of a file; for the decoder.

    Raises:
        DicomError: It cannot be parsed, or inflates beyond bounds.
    """
    with open_regular(path) as file, one_error(DicomError, "the DICOM file cannot be parsed", also=DICOM_FAILURES):
        stream, force, _ = data_set_stream(file, IMAGE_INFLATES_TO)
        data = pydicom.dcmread(stream, force=force, specific_tags=[*TAGS, *PIXEL_TAGS])
        if "TransferSyntaxUID" not in data.file_meta:
            data.file_meta.TransferSyntaxUID = _encoding(data)
        return data


def data_set_stream(file: BinaryIO, most_bytes: int) -> tuple[BinaryIO, bool, str | None]:
    """Return a stream that pydicom may read, whether to force it, and the transfer syntax if one is named.

    A deflated data set is inflated here, up to a bound, and handed on as the explicit little endian that it is.
    """
    start = file.read(132)
    marked = start[128:] == b"DICM"
    if not marked and not _starts_with_element(start):
        raise DicomError("the file has no DICM mark and does not start with a DICOM element", code="not_dicom")
    file.seek(132 if marked else 0)
    meta = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag.group != 2
    )
    syntax = meta.get("TransferSyntaxUID")
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise DicomError("a DICOMDIR lists files and holds no image", code="dicomdir")
    if syntax != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return file, not marked, str(syntax) if syntax else None
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(file.read(most_bytes), most_bytes)
    if inflater.unconsumed_tail and most_bytes == IMAGE_INFLATES_TO:
        raise DicomError(f"the deflated file inflates to more than {most_bytes:,} bytes", code="deflated_too_large")
    return io.BytesIO(plain), True, str(syntax)


def _encoding(data: pydicom.Dataset) -> str:
    """Return the transfer syntax of a native data set that names none, from how it was read."""
    implicit, little = data.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _refuse_other_objects(data: pydicom.Dataset) -> None:
    kind = NOT_IMAGES.get(str(data.get("SOPClassUID", "")))
    if kind:
        raise DicomError(f"the object is {kind}, not an image", code="not_an_image")
    if not (data.get("Rows") and data.get("Columns")):
        _refuse_without("rows and columns", data)


def _refuse_without(what: str, data: pydicom.Dataset) -> NoReturn:
    """Raise for an object without what an image has: damaged where its class is an image, else another object."""
    if UID(str(data.get("SOPClassUID", ""))).name.endswith("Image Storage"):
        raise DicomError(f"the image holds no {what}: it was cut short or emptied", code="no_pixels")
    raise DicomError(f"the object has no {what}: a report, plan, curve or the like", code="not_an_image")


def _missing_pixel_bytes(stream: BinaryIO, data: pydicom.Dataset, *, inflated: bool) -> bool:
    """Return whether the pixel data end before they should; the stream stands at their element.

    pydicom takes what is there and only warns. An inflated stream may have been cut on purpose.

    Raises:
        DicomError: There are no pixel data at all.
    """
    implicit, little = data.original_encoding
    place = stream.tell()
    start = stream.read(12)
    end = stream.seek(0, io.SEEK_END)
    order = "<" if little else ">"
    if len(start) < 12 or struct.unpack(f"{order}H", start[:2])[0] != 0x7FE0:
        if inflated:
            return False
        _refuse_without("pixel data", data)
    header_bytes = 8 if implicit else 12
    declared = struct.unpack(f"{order}I", start[header_bytes - 4 : header_bytes])[0]
    if inflated or declared == 0xFFFFFFFF:
        return False
    count = int(data.Rows) * int(data.Columns) * int(data.get("NumberOfFrames") or 1)
    expected = count * int(data.get("SamplesPerPixel") or 1) * int(data.get("BitsAllocated") or 8) // 8
    return end - place - header_bytes < max(expected, declared - 1) or declared < expected


def _header(path: Path, data: pydicom.Dataset, transfer_syntax: str | None, truncated: bool) -> DicomHeader:
    spacing, position = _numbers(data, "PixelSpacing", 2), _numbers(data, "ImagePositionPatient", 3)
    return DicomHeader(
        file=path,
        transfer_syntax=transfer_syntax or _encoding(data),
        patient_id=_text(data, "PatientID"),
        study_uid=_text(data, "StudyInstanceUID"),
        series_uid=_text(data, "SeriesInstanceUID"),
        sop_uid=_text(data, "SOPInstanceUID"),
        modality=_modality(data),
        description=_text(data, "SeriesDescription"),
        image_type=tuple(word.strip().upper() for word in (_text(data, "ImageType") or "").split("\\")),
        frame_of_reference_uid=_text(data, "FrameOfReferenceUID"),
        rows=int(data.Rows),
        columns=int(data.Columns),
        frames=int(data.get("NumberOfFrames") or 1),
        samples=int(data.get("SamplesPerPixel") or 1),
        photometric=_text(data, "PhotometricInterpretation") or "",
        bits_allocated=int(data.get("BitsAllocated") or 0),
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        position=(position[0], position[1], position[2]) if position else None,
        orientation=_numbers(data, "ImageOrientationPatient", 6),
        has_rescale="RescaleSlope" in data and "RescaleIntercept" in data,
        has_modality_lut=bool(data.get("ModalityLUTSequence")),
        truncated=truncated,
        acquisition=tuple((keyword, _text(data, keyword) or "") for keyword in APART),
    )


def _modality(data: pydicom.Dataset) -> str | None:
    """Return Modality (0008,0060); None unless it is a code string, since results show it."""
    modality = _text(data, "Modality") or ""
    return modality if _CODE_STRING.fullmatch(modality) else None


def _text(data: pydicom.Dataset, keyword: str) -> str | None:
    """Return a value as text, several joined by backslashes as in the file; None when empty or absent."""
    value = data.get(keyword)
    if value is None:
        return None
    many = value if isinstance(value, MultiValue) else [value]
    return "\\".join(str(part) for part in many).strip(" \0") or None


def _numbers(data: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return a value of exactly `count` finite numbers; None when it is anything else."""
    value: Any = data.get(keyword)
    if not isinstance(value, MultiValue) or len(value) != count:
        return None
    numbers = tuple(float(part) for part in value)
    return numbers if all(math.isfinite(number) for number in numbers) else None
