"""Studies while they are being put together, still under their original identifiers. They never leave ingest.

recognised files -> StudyDraft, SeriesDraft -> (keys) -> Study, SeriesReference
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medmllm.ingest.layouts import Layout
from medmllm.ingest.tables import TableRow
from medmllm.ingest.walk import FoundFile, Severity
from medmllm.records import Refusal, Technique


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to report about a series or study."""

    severity: Severity
    code: str
    reason: str


@dataclass(slots=True, repr=False)
class SeriesDraft:
    """One series, or one part of a series, under its original identifier."""

    original: str  # SeriesInstanceUID (and the part), or the file's relative path
    kind: Literal["dicom", "nifti"]
    modality: str | None
    description: str | None
    files: tuple[Path, ...]
    frames: tuple[int, ...] = ()
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    refusal: Refusal | None = None
    remarks: list[Remark] = field(default_factory=list)
    technique: Technique = field(default_factory=Technique)
    acquired: str | None = None  # when its first image was; see `technique`
    damaged_beside: int = 0


@dataclass(slots=True, repr=False)
class StudyDraft:
    """One study under its original identifiers."""

    original: str  # StudyInstanceUID, or the folder
    patient: str  # PatientID, the table's patient_id, or the folder
    layout: Layout
    folders: set[str]  # that its images lie in, relative to the root; the empty text is the root
    names: list[str]  # under which the label table may know it, the surest first
    patient_names: list[str]  # under which the label table may know its patient
    spelt: list[str] = field(default_factory=list)  # Patient Name as the headers spell it
    stored: bytes | None = None  # what the store knows its files by
    series: list[SeriesDraft] = field(default_factory=list)
    notes: list[FoundFile] = field(default_factory=list)
    recordings: list[FoundFile] = field(default_factory=list)
    row: TableRow | None = None
    remarks: list[Remark] = field(default_factory=list)


def enclosing(folder: str) -> Iterator[str]:
    """Yield a folder and every folder around it, up to the root (the empty text).

    >>> list(enclosing("a/b"))
    ['a/b', 'a', '']
    """
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
    yield ""


class FolderMap:
    """Which studies lie in a folder or below it."""

    def __init__(self, studies: Iterable[StudyDraft]) -> None:
        self._below: dict[str, list[StudyDraft]] = {}
        for study in studies:
            for around in {around for folder in study.folders for around in enclosing(folder)}:
                self._below.setdefault(around, []).append(study)

    def nearest(self, folder: str) -> list[StudyDraft]:
        """Return the studies of the nearest folder, from `folder` outwards, that holds any."""
        for around in enclosing(folder):
            if around in self._below:
                return self._below[around]
        return []

    def only_root_around(self, folder: str) -> bool:
        """Return whether no folder around, up to but without the root, holds a study."""
        return not any(around in self._below for around in enclosing(folder) if around)

    def holds(self, folder: str) -> bool:
        """Return whether any study lies in a folder or below it."""
        return folder in self._below

    def own_folders(self, study: StudyDraft) -> list[str]:
        """Return every folder, from the study's own outwards, below which only this study lies; never the root."""
        return [
            around
            for folder in sorted(study.folders)
            for around in enclosing(folder)
            if around and self._below[around] == [study]
        ]
