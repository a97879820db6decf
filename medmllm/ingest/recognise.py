"""Say what each file is, by its content before its name, looking at headers only.

FoundFile -> DICOM image, NIfTI image, note, recording or table, with its header; or a FileProblem
"""

import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from medmllm.errors import IngestError, MedmllmError
from medmllm.ingest import audio, dicom_header, dicom_stream, nifti
from medmllm.ingest.dicom_frames import frames_of
from medmllm.ingest.dicom_header import DicomHeader
from medmllm.ingest.nifti import NiftiHeader
from medmllm.ingest.opening import PARSER_FAILURES, RegularFile, refused_as
from medmllm.ingest.walk import FileProblem, FoundFile, Severity
from medmllm.records import Refusal

SNIFFED_BYTES = 132
NOT_NOTES = frozenset({
    "readme", "read_me", "read-me", "changes", "changelog", "license", "licence", "copying", "copyright", "notice",
    "citation", "disclaimer", "authors", "contributors", "contributing", "requirements",
})  # fmt: skip
"""Names of text files that are about a data set: no study has such a note, and none is made of one alone."""
TABLES = ("labels.csv", "participants.tsv")  # in the root; the first that is there is used
OWN_FILE = "own_file"
"""Code of a file that medmllm wrote beside studies: it stands among the files, and is no problem."""
OWN_FILES = {"ledger.csv": b"where_key,study_key,severity,", "deidentification.json": b'{"dry_run":'}
"""What `medmllm deidentify` writes beside studies, and how each begins, blanks aside."""
SIDECARS = (".json", ".tsv", ".tsv.gz", ".bval", ".bvec")
DICOM_ENDS = (".dcm", ".dic", ".ima")
PACKED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
IGNORED_CODES = frozenset({"not_dicom", "dicomdir", "not_an_image"})


class Kind(Enum):
    """What a file is to a study."""

    DICOM = "dicom"
    NIFTI = "nifti"
    NIFTI_VOXELS = "nifti_voxels"  # the .img of a .hdr
    NOTE = "note"
    RECORDING = "recording"
    TABLE = "table"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Recognised:
    """One file, what it is, and what its header says."""

    found: FoundFile = field(repr=False)
    kind: Kind
    dicom: tuple[DicomHeader, ...] = ()  # one per frame
    nifti: NiftiHeader | None = None
    refusal: Refusal | None = None  # it is what it is, but cannot be read
    problem: FileProblem | None = field(default=None, repr=False)  # it is no part of any study


def recognise(found: FoundFile) -> Recognised:
    """Return what one file is; never raises for what it holds: that becomes a refusal or a problem."""
    try:
        name = found.name.lower()
        if name.endswith((".nii", ".nii.gz")):
            return _recognise_nifti(found)
        with RegularFile(found.place) as file:
            kind = _kind(found, name, file)
            if kind is Kind.DICOM:
                return Recognised(found, kind, dicom=_frames(dicom_header.read_opened(found.path, file)))
        if kind is Kind.NIFTI:
            return _recognise_nifti(found)
        if kind is Kind.RECORDING:
            return _recognise_recording(found)
        problem = _not_for_us(found, file.start()) if kind is Kind.OTHER else None
        return Recognised(found, kind, problem=problem)
    except MedmllmError as error:
        severity: Severity = "ignored" if error.code in IGNORED_CODES or found.name.startswith(".") else "refused"
        problem = FileProblem(found.relative, severity, error.code, error.reason, error.retryable)
        return Recognised(found, Kind.OTHER, problem=problem)


def _kind(found: FoundFile, name: str, file: RegularFile) -> Kind:
    """Return what an open file is."""
    try:
        start = file.start()[:SNIFFED_BYTES]
    except PARSER_FAILURES as error:
        raise refused_as(IngestError, error, "the file cannot be read") from None
    if start[128:] == b"DICM":
        return Kind.DICOM
    if found.relative in TABLES:
        return Kind.TABLE
    stem, dot, suffix = name.rpartition(".")
    if suffix in ("txt", "md") and dot:
        return Kind.OTHER if stem.partition(".")[0] in NOT_NOTES else Kind.NOTE
    if suffix in ("wav", "flac") and dot:
        return Kind.RECORDING
    plain = name.removesuffix(".gz")
    if plain.endswith(".hdr") and _has_beside(found.path, ".img"):
        return Kind.NIFTI
    if plain.endswith(".img") and _has_beside(found.path, ".hdr"):
        return Kind.NIFTI_VOXELS
    if not start:
        raise IngestError("the file is empty", code="empty_file")
    if dicom_stream.looks_like_dicom(start):
        return Kind.DICOM
    zeros = may_be_a_slice(name) and not any(start[:128])
    if zeros or name.endswith(DICOM_ENDS):
        told = "starts with zeros alone" if zeros else "is no DICOM inside"
        raise IngestError(f"the file is called like a slice and {told}: it was cut short, emptied or overwritten, copy "
                          "it again", code="damaged_dicom")  # fmt: skip
    return Kind.OTHER


def may_be_a_slice(name: str) -> bool:
    """Say whether a file whose content tells nothing is called as slices often are.

    >>> [may_be_a_slice(name) for name in ("IM00001", "1.dcm", "1.2.840.7", "Thumbs.db")]
    [True, True, True, False]
    """
    _, dot, suffix = name.lower().rpartition(".")
    return not dot or suffix.isdigit() or f".{suffix}" in DICOM_ENDS


def _has_beside(path: Path, suffix: str) -> bool:
    """Return whether the other half of a header and image pair is there, zipped or not."""
    stem = path.name.removesuffix(".gz")[:-4]
    return any(path.with_name(stem + end).is_file() for end in (suffix, suffix.upper(), f"{suffix}.gz"))


def _frames(header: DicomHeader) -> tuple[DicomHeader, ...]:
    """Return a header per frame; an object whose frames cannot be told apart stays whole, and its series is refused."""
    try:
        return frames_of(header)
    except IngestError:
        return (header,)


def _recognise_nifti(found: FoundFile) -> Recognised:
    """A damaged NIfTI file still belongs to its study: the refusal goes with its series."""
    try:
        return Recognised(found, Kind.NIFTI, nifti=nifti.read_header(found.path))
    except IngestError as error:
        return Recognised(found, Kind.NIFTI, refusal=Refusal.of(error, "index"))


def _recognise_recording(found: FoundFile) -> Recognised:
    """A damaged recording still belongs to its study, unless it is a hidden file, such as those that macOS leaves."""
    try:
        audio.check_recording(found.path)
    except IngestError as error:
        if found.name.startswith("."):
            raise
        return Recognised(found, Kind.RECORDING, refusal=Refusal.of(error, "index"))
    return Recognised(found, Kind.RECORDING)


def _not_for_us(found: FoundFile, start: bytes) -> FileProblem:
    if found.name in OWN_FILES and b"".join(start.split()).startswith(OWN_FILES[found.name]):
        return FileProblem(found.relative, "ignored", OWN_FILE, "medmllm deidentify wrote it about the studies")
    stem = found.name.lower().partition(".")[0]
    if stem in NOT_NOTES:
        return FileProblem(found.relative, "ignored", "not_a_note", "a file about the data set, not about a patient")
    if found.name == "dataset.json" and any((found.path.parent / name).is_dir() for name in ("imagesTr", "imagesTs")):
        return FileProblem(found.relative, "ignored", "nnunet_names", "names the channels of an nnU-Net data set")
    if found.name.endswith(SIDECARS) and found.name.startswith(("sub-", "dataset_description", "participants")):
        return FileProblem(found.relative, "ignored", "bids_sidecar", "a BIDS file beside the images")
    plain = found.place.removesuffix(".json")
    if plain != found.place and any(map(os.path.isfile, (f"{plain}.nii.gz", f"{plain}.nii"))):
        return FileProblem(found.relative, "ignored", "sidecar", "says how the NIfTI image of its name was acquired")
    if found.name.lower().removesuffix(".gz").endswith((".hdr", ".img")):
        reason = "half of a header and image pair, whose other half (.img or .hdr) is not beside it: copy both"
        return FileProblem(found.relative, "refused", "half_a_pair", reason)
    if found.name.lower().endswith(PACKED):
        reason = "an archive or a packed file, which is not looked into: unpack it if it holds images or notes"
        return FileProblem(found.relative, "ignored", "packed", reason)
    return FileProblem(found.relative, "ignored", "not_recognised", "neither DICOM nor NIfTI, note nor recording")
