"""Read what the header of one DICOM file says; its pixels stay where they are.

    file -> file meta -> bounded stream of the data set -> DicomHeader

Plain files are walked (dicom_part10), all others are read by pydicom. DICOM PS3.10 section 7, PS3.5 annex A.
"""

import io
import logging
import struct
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, NoReturn

import pydicom
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from medmllm.errors import DicomError
from medmllm.ingest.dicom_length import FITS, Fit, fit_of
from medmllm.ingest.dicom_part10 import MOST_ITEMS, PlainFile, TooManyItemsError, walk
from medmllm.ingest.dicom_stream import DICOM_FAILURES, HEADER_INFLATES_TO, IMAGE_INFLATES_TO, data_set_stream
from medmllm.ingest.dicom_values import (
    instance_of,
    modality_of,
    number_of,
    numbers_of,
    padding_of,
    thickness_of,
    words_of,
)
from medmllm.ingest.dicom_wish import compile_keywords
from medmllm.ingest.opening import PARSER_FAILURES, RegularFile, one_error, open_regular, refused_as
from medmllm.ingest.technique import TECHNIQUE_TAGS, ToldTechnique, told_by

NOT_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation by labels",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF",
}
STORAGE = "1.2.840.10008.5.1.4.1.1."  # the classes of objects that are stored; private ones lie elsewhere
TAGS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription",
    "ModalityLUTSequence", "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionNumber",
    "InstanceNumber", "TemporalPositionIdentifier", "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID", "EchoTime", "EchoNumbers", "InversionTime", "TriggerTime", "DiffusionBValue",
    "DiffusionGradientOrientation", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows",
    "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleIntercept", "RescaleSlope", "SliceThickness", "SpacingBetweenSlices",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "SeriesNumber", "FlipAngle", "RepetitionTime", "SequenceName",
    "KVP", "ReconstructionDiameter", "FrameReferenceTime", "NominalPercentageOfCardiacPhase",
    *TECHNIQUE_TAGS,
)  # fmt: skip
EXPLICIT_PIXELS = (b"OW\0\0", b"OB\0\0")  # how their element goes on; as the length of an implicit one it would be odd
PIXEL_TAGS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PlanarConfiguration")

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
    sop_class_uid: str | None
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
    frames: int  # in the file
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool | None  # None when the header does not say
    slope: float | None  # Rescale Slope; None when there is none
    intercept: float | None
    pixel_spacing_mm: tuple[float, float] | None  # between rows, between columns
    position: tuple[float, float, float] | None  # Image Position (Patient), mm, LPS
    orientation: tuple[float, ...] | None  # Image Orientation (Patient), six cosines, LPS
    thickness_mm: float | None  # Spacing Between Slices, else Slice Thickness: all that a lone slice tells of its depth
    has_modality_lut: bool
    truncated: bool  # the pixel data end before they should
    pixel_place: int | None  # byte of the file where the value of Pixel Data starts; None when not looked up
    acquisition: tuple[tuple[str, str], ...]  # (keyword, value) of APART, as far as there are any
    instance: int | None = None  # Instance Number, or the number of the frame
    placed: bool = False  # by the functional groups of a multi-frame object
    frame: int = 0  # which frame of the file, or tile of a mosaic, this is about
    tiles_across: int = 0  # tiles beside and below each other in the mosaic that this slice is a part of; 0 for none
    padding: tuple[int, int] | None = None  # lowest and highest stored value of pixels outside the image
    told: ToldTechnique = field(default_factory=ToldTechnique)
    patient_name: str | None = None  # decoded; the linkage table alone may show it
    misfit: bool = False  # the pixel data hold a frame more than they should, or are compressed and should not be

    @property
    def rescaled_padding(self) -> tuple[float, float] | None:
        """Lowest and highest value, after rescale, of pixels outside the image; None when the header names none."""
        if self.padding is None or self.has_modality_lut:
            return None
        slope, intercept = (1.0 if self.slope is None else self.slope), self.intercept or 0.0
        low, high = sorted(slope * value + intercept for value in self.padding)
        return low, high

    @property
    def has_rescale(self) -> bool:
        """Whether both Rescale Slope and Rescale Intercept are there."""
        return self.slope is not None and self.intercept is not None


APART = (
    "AcquisitionNumber", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "InversionTime", "TriggerTime",
    "DiffusionBValue", "DiffusionGradientOrientation", "ImageType", "StackID", "DimensionIndexValues", "FlipAngle",
    "RepetitionTime", "SequenceName", "KVP", "ConvolutionKernel", "ReconstructionDiameter", "ContrastBolusAgent",
    "NominalPercentageOfCardiacPhase", "SeriesNumber", "SeriesDescription", "FrameReferenceTime", "AcquisitionTime",
    "SliceThickness", "ComplexImageComponent", "VelocityEncodingDirection", "ASLContext", "FrameOfReferenceUID",
)  # fmt: skip
"""Attributes that may tell volumes at the same place within one series apart, the plainest first."""


_WANTED = compile_keywords(TAGS)
_FIELDS = tuple(each.name for each in fields(DicomHeader))
_PLAIN = {
    keyword: _FIELDS.index(name)
    for keyword, name in (
        ("SOPInstanceUID", "sop_uid"), ("SeriesInstanceUID", "series_uid"), ("StudyInstanceUID", "study_uid"),
        ("PatientID", "patient_id"), ("PatientName", "patient_name"), ("SeriesDescription", "description"),
        ("FrameOfReferenceUID", "frame_of_reference_uid"),
    )
}  # fmt: skip
"""Attributes whose text is a field as it is."""
_TELLING = frozenset({*APART, *TECHNIQUE_TAGS, "PatientName"} - {"ImageType", "SliceThickness"})
"""Attributes that `acquisition` and `told` hang on (no scanner is told that bears the patient's name), and no other
field but those of `_PLAIN`."""
_LIGHT = frozenset({*_PLAIN, *_TELLING, "ImagePositionPatient", "InstanceNumber"})
_FILE, _SYNTAX, _TRUNCATED, _MISFIT, _POSITION, _INSTANCE, _ACQUISITION, _TOLD = map(
    _FIELDS.index, ("file", "transfer_syntax", "truncated", "misfit", "position", "instance", "acquisition", "told")
)
_all_fields = attrgetter(*_FIELDS)


def read_header(path: Path) -> DicomHeader:
    """Read the header of one DICOM file.

    Raises:
        DicomError: `not_dicom`, `dicomdir` or `not_an_image` for what is no image; `no_pixels` for an image
            without any; `dicom_unreadable`.
    """
    with RegularFile(path) as file:
        return read_opened(path, file)


def read_opened(path: Path, file: RegularFile) -> DicomHeader:
    """Read the header of a DICOM file that stands open.

    Raises:
        DicomError: As `read_header`.
    """
    try:  # not `one_error`, which would take longer than some of the reading
        plain = walk(file, _WANTED)
        return _of_plain(path, plain, file.size) if plain is not None else _of_any(path, file)
    except TooManyItemsError:
        raise DicomError(f"the sequences of the header hold more than {MOST_ITEMS:,} items",
                         code="too_large") from None  # fmt: skip
    except (*PARSER_FAILURES, *DICOM_FAILURES) as error:
        raise refused_as(DicomError, error, "the DICOM header cannot be parsed") from None


def _of_any(path: Path, file: RegularFile) -> DicomHeader:
    """Return what pydicom reads of a header."""
    with file.stream() as opened:
        stream, force, transfer_syntax = data_set_stream(opened, HEADER_INFLATES_TO)
        data = pydicom.dcmread(stream, stop_before_pixels=True, force=force, specific_tags=list(TAGS))
        plain_tags = (keyword for keyword in TAGS if keyword != "ModalityLUTSequence")
        values = {keyword: text for keyword in plain_tags if (text := element_text(data, keyword)) is not None}
        media_storage = str(data.file_meta.get("MediaStorageSOPClassUID") or "")
        _refuse_other_objects(values, media_storage)
        transfer_syntax = transfer_syntax or _encoding(data)
        if (end := _pixel_place(stream, data, values, transfer_syntax)) is None:
            _refuse_without("pixel data", values, media_storage)
        place, fit = end
        table = data.get_item("ModalityLUTSequence")  # as it is: its items may be many, and are not asked for
        has_lut = bool(table is not None and table.value)
        told = told_by(values, empty={keyword for keyword in TECHNIQUE_TAGS if keyword in data} - values.keys())
        return _header(path, values, transfer_syntax, has_lut, place, fit, told)


def _of_plain(path: Path, plain: PlainFile, size: int) -> DicomHeader:
    if plain.media_storage_class == MediaStorageDirectoryStorage:
        raise DicomError("a DICOMDIR lists files and holds no image", code="dicomdir")
    if plain.before is not None and plain.before.made is not None and _LIGHT.issuperset(plain.changed):
        header = _beside(plain.before.made, path, plain, _fit_of_plain(plain, size))
    else:
        _refuse_other_objects(plain.values, plain.media_storage_class)
        if plain.pixel_place is None:
            _refuse_without("pixel data", plain.values, plain.media_storage_class)
        has_lut, fit = "ModalityLUTSequence" in plain.sequences, _fit_of_plain(plain, size)
        told = told_by(plain.values, plain.empty)
        header = _header(path, plain.values, plain.transfer_syntax, has_lut, plain.pixel_place, fit, told)
    if plain.latest is not None:
        plain.latest.made = header
    return header


def _fit_of_plain(plain: PlainFile, size: int) -> Fit:
    if plain.pixel_place is None:
        return FITS
    return fit_of(plain.values, plain.transfer_syntax, plain.pixel_bytes, size - plain.pixel_place)


def _beside(before: DicomHeader, path: Path, plain: PlainFile, fit: Fit) -> DicomHeader:
    """Return the header of a slice from one that differs from it in `_LIGHT` alone: most of it is taken over."""
    values, told = plain.values, list(_all_fields(before))
    told[_FILE], told[_SYNTAX], (told[_TRUNCATED], told[_MISFIT]) = path, plain.transfer_syntax, fit  # not data set
    for keyword in plain.changed:
        if keyword in _PLAIN:
            told[_PLAIN[keyword]] = values[keyword]
        elif keyword == "ImagePositionPatient":
            told[_POSITION] = numbers_of(values[keyword], 3)
        elif keyword == "InstanceNumber":
            told[_INSTANCE] = instance_of(values[keyword])
    if not _TELLING.isdisjoint(plain.changed):
        told[_ACQUISITION] = _acquisition(values)
        told[_TOLD] = told_by(values, plain.empty)
    return DicomHeader(*told)


def read_with_pixels(path: Path, more: Iterable[str] = (), *, most_bytes: int | None = None) -> pydicom.Dataset:
    """Return what a decoder needs of a file, pixels included, and `more` by keyword; inflated to `most_bytes` at most.

    Raises:
        DicomError: It cannot be parsed, or inflates beyond bounds.
    """
    with open_regular(path) as file, one_error(DicomError, "the DICOM file cannot be parsed", also=DICOM_FAILURES):
        stream, force, _ = data_set_stream(file, most_bytes or IMAGE_INFLATES_TO, whole=True)
        data = pydicom.dcmread(stream, force=force, specific_tags=[*TAGS, *PIXEL_TAGS, *more])
        if "TransferSyntaxUID" not in data.file_meta:
            data.file_meta.TransferSyntaxUID = _encoding(data)
        return data


def _encoding(data: pydicom.Dataset) -> str:
    """Return the transfer syntax of a native data set that names none, from how it was read."""
    implicit, little = data.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _refuse_other_objects(values: Mapping[str, str], media_storage: str) -> None:
    kind = NOT_IMAGES.get(values.get("SOPClassUID", ""))
    if kind:
        raise DicomError(f"the object is {kind}, not an image", code="not_an_image")
    if not all(values.get(keyword, "0").strip("0") for keyword in ("Rows", "Columns")):
        _refuse_without("rows and columns", values, media_storage)


def _refuse_without(what: str, values: Mapping[str, str], media_storage: str) -> NoReturn:
    """Raise for an object without what an image has: damaged where its class is an image, else another object.

    A file that was cut before its SOP Class UID, or within it, goes by the file meta; one cut in that too is damaged.
    """
    for each in (UID(values.get("SOPClassUID", "")), UID(media_storage)):
        if each.name == each and (each.startswith(STORAGE) or STORAGE.startswith(each)):
            continue  # there is none, or not all of it
        if "Image Storage" not in each.name:
            raise DicomError(f"the object has no {what}: a report, plan, curve or the like", code="not_an_image")
        raise DicomError(f"the image holds no {what}: the file was cut short or emptied, copy it again",
                         code="no_pixels")  # fmt: skip
    raise DicomError(f"the object names no SOP class in full and holds no {what}: the file was cut short or emptied, "
                     "copy it again", code="no_pixels")  # fmt: skip


def _pixel_place(
    stream: BinaryIO, data: pydicom.Dataset, values: Mapping[str, str], transfer_syntax: str
) -> tuple[int | None, Fit] | None:
    """Return where the value of Pixel Data starts, and whether it is as long as it should; the stream stands at it.

    None where there are no pixel data at all; pydicom takes what is there and only warns.
    """
    implicit, little = data.original_encoding
    inflated = transfer_syntax == DeflatedExplicitVRLittleEndian
    place = stream.tell()
    start = stream.read(12)
    end = stream.seek(0, io.SEEK_END)
    order = "<" if little else ">"
    # Files were seen that leave it out, or have it, against their transfer syntax.
    has_vr = start[4:8] in EXPLICIT_PIXELS or (not implicit and start[4:6].isalpha())
    header_bytes = 12 if has_vr else 8
    if len(start) < header_bytes or struct.unpack(f"{order}H", start[:2])[0] != 0x7FE0:
        if inflated:
            return None, FITS
        return None
    declared = struct.unpack(f"{order}I", start[header_bytes - 4 : header_bytes])[0]
    place += header_bytes
    there = None if inflated else end - place  # an inflated stream may have been cut on purpose
    fit = fit_of(values, transfer_syntax, None if declared == 0xFFFFFFFF else declared, there)
    return None if inflated else place, fit


def _header(
    path: Path,
    values: Mapping[str, str],
    transfer_syntax: str,
    has_modality_lut: bool,
    pixel_place: int | None,
    fit: Fit,
    told: ToldTechnique,
) -> DicomHeader:
    spacing, position = (
        numbers_of(values.get(keyword, ""), count)
        for keyword, count in (("PixelSpacing", 2), ("ImagePositionPatient", 3))
    )
    stored = int(values.get("BitsStored", "0"))
    return DicomHeader(
        file=path,
        transfer_syntax=transfer_syntax,
        sop_class_uid=values.get("SOPClassUID"),
        patient_id=values.get("PatientID"),
        study_uid=values.get("StudyInstanceUID"),
        series_uid=values.get("SeriesInstanceUID"),
        sop_uid=values.get("SOPInstanceUID"),
        modality=modality_of(values),
        description=values.get("SeriesDescription"),
        image_type=words_of(values.get("ImageType", "")),
        frame_of_reference_uid=values.get("FrameOfReferenceUID"),
        rows=int(values["Rows"]),
        columns=int(values["Columns"]),
        frames=int(values.get("NumberOfFrames", "1")) or 1,
        samples=int(values.get("SamplesPerPixel", "1")) or 1,
        photometric=values.get("PhotometricInterpretation", ""),
        bits_allocated=int(values.get("BitsAllocated", "0")),
        bits_stored=stored,
        high_bit=int(values.get("HighBit", stored - 1)),
        signed={"0": False, "1": True}.get(values.get("PixelRepresentation", "")),
        slope=number_of(values, "RescaleSlope"),
        intercept=number_of(values, "RescaleIntercept"),
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        position=(position[0], position[1], position[2]) if position else None,
        orientation=numbers_of(values.get("ImageOrientationPatient", ""), 6),
        thickness_mm=thickness_of(values),
        has_modality_lut=has_modality_lut,
        truncated=fit[0],
        misfit=fit[1],
        pixel_place=pixel_place,
        acquisition=_acquisition(values),
        instance=instance_of(values.get("InstanceNumber", "")),
        told=told,
        patient_name=values.get("PatientName"),
        padding=padding_of(values),
    )


def _acquisition(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple([(keyword, values[keyword]) for keyword in APART if keyword in values])


def element_text(data: pydicom.Dataset, keyword: str) -> str | None:
    """Return a value as text, several joined by backslashes as in the file; None when empty or absent."""
    value = data.get(keyword)
    if value is None or isinstance(value, Sequence):
        return None
    many = value if isinstance(value, MultiValue | list) else [value]
    return "\\".join(str(part) for part in many).strip(" \0") or None
