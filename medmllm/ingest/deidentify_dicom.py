"""Write one DICOM file without what tells who it is about.

    file -> header, bounded -> policy -> cleaned header with keys and new UIDs -> new file meta, same pixels -> file

Profile: DICOM PS3.15 annex E, Basic Application Level Confidentiality Profile with the options that the settings name,
each of which is recorded in De-identification Method Code Sequence (0012,0064). The transfer syntax stays as it is,
but for deflated files, which are written as the explicit little endian that they hold. Voxels stay what they are.
"""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)

from medmllm.deidentify_config import DicomRules
from medmllm.errors import DicomError, IngestError
from medmllm.ingest.deidentify_descriptors import Descriptors
from medmllm.ingest.deidentify_header import HeaderCleaner
from medmllm.ingest.deidentify_identifiers import Identifiers, collect
from medmllm.ingest.deidentify_pixels import Encoding, copy_pixels
from medmllm.ingest.deidentify_policy import check_object, shows_a_face
from medmllm.ingest.deidentify_private import PrivateRules
from medmllm.ingest.deidentify_profile import METHOD_CODES
from medmllm.ingest.deidentify_writing import write_pieces
from medmllm.ingest.dicom_header import element_text
from medmllm.ingest.dicom_stream import DICOM_FAILURES, HEADER_INFLATES_TO, IMAGE_INFLATES_TO, data_set_stream
from medmllm.ingest.keys import Keyring
from medmllm.ingest.opening import WatchedStream, one_error, open_regular

LARGEST_HEADER_BYTES = 2**26
IMPLEMENTATION_CLASS_UID = "2.25.207839250337613104470411735925438108253"
IMPLEMENTATION_VERSION = "MEDMLLM"
METHOD = "medmllm, DICOM PS3.15 Annex E"


@dataclass(frozen=True, slots=True)
class DicomRun:
    """What all files of a run share."""

    rules: DicomRules
    keyring: Keyring = field(repr=False)
    descriptors: Descriptors = field(repr=False)
    actions: Counter[tuple[str, str]]  # (what was done, attribute) -> how often


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose file it is."""

    patient_key: str
    study_key: str
    series_key: str  # taken where the header names no series
    known: Identifiers = field(repr=False)  # of the study; what the header tells is added to it


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of one file."""

    series_key: str
    shows_a_face: bool


def deidentify_dicom(source: Path, file_key: str, owner: Owner, run: DicomRun, *, into: Path | None) -> Cleaned:
    """Clean one file.

    Args:
        source: The file.
        file_key: What it is called from now on.
        owner: Whose it is; gets to know the identifiers in the header.
        run: Rules, secret and tally.
        into: Folder of the study; the file becomes SERIES_KEY/FILE_KEY.dcm there. None writes nothing.

    Raises:
        IngestError: The file cannot be opened.
        DicomError: It is refused by the policy (`check_object`), or damaged.
    """
    doing = "the DICOM file cannot be de-identified"
    with open_regular(source) as file, one_error(DicomError, doing, also=DICOM_FAILURES):
        stream, force, syntax = data_set_stream(file, IMAGE_INFLATES_TO, whole=True)
        bounded = _Bounded(stream)
        data = pydicom.dcmread(bounded, stop_before_pixels=True, force=force)
        bounded.left = None
        if not element_text(data, "SOPClassUID") and "MediaStorageSOPClassUID" in data.file_meta:
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID  # some tools strip the one and not the other
        check_object(data, run.rules)
        found = collect(data)
        owner.known.update(found)
        implicit, little = data.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = native if syntax in (None, DeflatedExplicitVRLittleEndian) else syntax
        if syntax not in UID_dictionary:
            raise DicomError("the transfer syntax is none of the standard's", code="unknown_transfer_syntax")
        cleaner = HeaderCleaner(
            run.rules, run.keyring, run.descriptors, owner.known, owner.patient_key, run.actions,
            PrivateRules(run.rules.private_tags),
        )  # fmt: skip
        made = cleaner.clean(data)
        series_key = _identify(made, data, owner, run.keyring, file_key)
        _declare(made, run.rules)
        header = _encode(made, str(syntax))
        encoding = Encoding(bool(implicit), bool(little), str(syntax))
        pixels = copy_pixels(bounded, data, encoding, owner.known)  # type: ignore[arg-type]
        target = None if into is None else into / series_key / f"{file_key}.dcm"
        write_pieces(target, chain([header], pixels))
        return Cleaned(series_key, shows_a_face(data))


def identifiers_in(source: Path) -> Identifiers:
    """Return the identifiers in a file's header; none when it cannot be read, which `deidentify_dicom` will say."""
    doing = "the DICOM header cannot be parsed"
    with (
        suppress(IngestError),
        open_regular(source) as file,
        one_error(DicomError, doing, also=DICOM_FAILURES),
    ):
        stream, force, _ = data_set_stream(file, HEADER_INFLATES_TO)
        return collect(pydicom.dcmread(_Bounded(stream), stop_before_pixels=True, force=force))
    return Identifiers()


def owner_in_header(source: Path, keyring: Keyring) -> Owner:
    """Return whose file this is by its header alone; for objects that no index knows.

    Raises:
        IngestError: The file cannot be opened.
        DicomError: It cannot be parsed, or names neither a study nor a patient.
    """
    with open_regular(source) as file, one_error(DicomError, "the DICOM file cannot be parsed", also=DICOM_FAILURES):
        stream, force, _ = data_set_stream(file, HEADER_INFLATES_TO)
        wanted = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"]
        data = pydicom.dcmread(stream, stop_before_pixels=True, force=force, specific_tags=wanted)
        patient, study, series = (element_text(data, keyword) for keyword in wanted)
        if not study:
            raise DicomError("the object names no study that it belongs to", code="not_an_image")
        return Owner(
            keyring.patient(patient or f"study {study}"), keyring.study(study), keyring.series(f"{study}/{series}"),
            Identifiers(),
        )  # fmt: skip


class _Bounded(WatchedStream):
    """A stream that gives out so many bytes and no more: a header is small, whatever its lengths say."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.left: int | None = LARGEST_HEADER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        return self._stream.read(-1 if size is None else size) if self.left is None else self._bounded(size)

    def _bounded(self, size: int | None) -> bytes:
        assert self.left is not None
        data = self._stream.read(self.left + 1 if size is None or size < 0 else min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise DicomError(f"the header is longer than {LARGEST_HEADER_BYTES:,} bytes", code="header_too_large")
        return data


def _identify(made: Dataset, data: Dataset, owner: Owner, keyring: Keyring, file_key: str) -> str:
    """Put keys where names were, give UIDs to an object that lacks them, and return the key of its series."""
    made.PatientName = owner.patient_key
    made.PatientID = owner.patient_key
    series_uid = element_text(data, "SeriesInstanceUID")
    study_uid = element_text(data, "StudyInstanceUID")
    if not study_uid:
        made.StudyInstanceUID = keyring.uid(owner.study_key)
    if not series_uid:
        made.SeriesInstanceUID = keyring.uid(owner.series_key)
    if not element_text(data, "SOPInstanceUID"):
        made.SOPInstanceUID = keyring.uid(file_key)
    return keyring.series(f"{study_uid}/{series_uid}") if series_uid and study_uid else owner.series_key


def method_codes(rules: DicomRules) -> list[tuple[str, str]]:
    """Return (code, meaning) of CID 7050 for the profile and each option in force."""
    done = [
        "basic",
        *(["descriptors"] if rules.descriptors == "clean" else []),
        *({"shift": ["shifted_dates"], "keep": ["full_dates"]}.get(rules.dates, [])),
        *(["patient"] if rules.patient_characteristics else []),
        *(["device"] if rules.device_identity else []),
        *(["uids"] if rules.uids == "keep" else []),
        *(["private"] if rules.private_tags else []),
    ]
    return [METHOD_CODES[name] for name in done]


def _declare(made: Dataset, rules: DicomRules) -> None:
    """Say in the header what was done."""
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = METHOD
    made.DeidentificationMethodCodeSequence = [_code(*code) for code in method_codes(rules)]
    made.LongitudinalTemporalInformationModified = {
        "shift": "MODIFIED", "keep": "UNMODIFIED", "remove": "REMOVED",
    }[rules.dates]  # fmt: skip


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _encode(made: Dataset, syntax: str) -> bytes:
    """Return the new file up to its pixels."""
    if any(not text.isascii() for text in _texts(made)):
        made.SpecificCharacterSet = "ISO_IR 192"
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    made.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def _texts(data: Dataset) -> Iterator[str]:
    for element in data:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif isinstance(element.value, str):
            yield element.value
        elif not isinstance(element.value, bytes) and element.value is not None:
            yield str(element.value)
