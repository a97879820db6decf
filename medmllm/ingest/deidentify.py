"""De-identify a folder of studies: every file is written without what tells who it is about, or refused.

    StudyIndex -> study by study: DICOM, NIfTI with its sidecars, then notes, which the headers have told names for
               -> OUT/PATIENT_KEY/STUDY_KEY/..., a ProblemRow for every file that was not written

A file that no rule covers is not copied. Recordings are refused unless the settings take them; files of no study,
objects that are no images and series of several patients are refused with the reason.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from medmllm.deidentify_config import DeidentifyConfig
from medmllm.errors import IngestError, NoteError, RecordingError
from medmllm.ingest.deidentify_descriptors import Descriptors
from medmllm.ingest.deidentify_dicom import DicomRun, Owner, deidentify_dicom, identifiers_in, owner_in_header
from medmllm.ingest.deidentify_identifiers import (
    BIRTH_COLUMNS,
    NAME_COLUMNS,
    NUMBER_COLUMNS,
    STAFF_COLUMNS,
    Identifiers,
)
from medmllm.ingest.deidentify_nifti import copy_numbers, deidentify_nifti, deidentify_sidecar
from medmllm.ingest.deidentify_note import NoteScrubber
from medmllm.ingest.deidentify_paths import words_of_paths
from medmllm.ingest.deidentify_words import ALSO_WORDS, NEVER_NAMES
from medmllm.ingest.deidentify_writing import write_text
from medmllm.ingest.keys import Keyring
from medmllm.ingest.notes import read_note
from medmllm.ingest.opening import one_error
from medmllm.ingest.study_folder import StudyIndex
from medmllm.records import Note, Study
from medmllm.table_rows import LinkageRow, ProblemRow

OF_ALL_FILES = {"mixed_patients": "", "truncated_pixels": "; the other slices would pass for a whole series"}
"""Code of a refusal by the index that no file of a series gets past -> what is said more of it."""

_ENTITY = re.compile(r"(?:^|_)(?:sub|ses)-[A-Za-z0-9]+")
SOUND_PIECE = 2**18


@dataclass(slots=True)
class FolderRun:
    """One run over one folder: what it needs, and what it counts."""

    root: Path = field(repr=False)
    out: Path | None = field(repr=False)  # None writes nothing
    keyring: Keyring = field(repr=False)
    config: DeidentifyConfig
    originals: dict[str, str] = field(repr=False)  # key -> original
    actions: Counter[tuple[str, str]] = field(default_factory=Counter)  # (what was done, attribute)
    placeholders: Counter[str] = field(default_factory=Counter)  # kind -> how many, in notes
    written: Counter[str] = field(default_factory=Counter)  # kind of file -> how many
    ledger: list[ProblemRow] = field(default_factory=list)
    linkage: list[LinkageRow] = field(default_factory=list, repr=False)
    studies: set[str] = field(default_factory=set)  # keys of those of which anything was written
    seen: set[str] = field(default_factory=set)  # keys of files that are dealt with
    words: dict[str, Identifiers] = field(default_factory=dict, repr=False)  # by study key
    descriptors: Descriptors = field(init=False, repr=False)
    dicom: DicomRun = field(init=False, repr=False)

    def folder(self, study: Study) -> Path | None:
        """Return where a study is written."""
        return None if self.out is None else self.out / study.patient_key / study.study_key

    def __post_init__(self) -> None:
        self.descriptors = Descriptors(self.config.descriptors)
        self.dicom = DicomRun(self.config.dicom, self.keyring, self.descriptors, self.actions)


def deidentify_folder(index: StudyIndex, run: FolderRun, advance: Callable[[int], None]) -> None:
    """De-identify every study of an index; a bad file costs itself alone.

    Args:
        index: Of `run.root`.
        run: Takes up what was done.
        advance: Called with 1 after each study.

    Raises:
        MedmllmError: `cannot_write`.
    """
    run.words = dict(words_of_paths(index.studies, run.root, run.descriptors))
    for study in index.studies:
        _study(study, run)
        advance(1)
    staff = {name for known in run.words.values() for name in known.staff if name not in NEVER_NAMES | ALSO_WORDS}
    for study in index.studies:  # once all headers were seen: a colleague's name stands in the notes of many studies
        _notes(study, run, staff)
    patients = {study.study_key: study.patient_key for study in index.studies}
    for problem in index.problems:
        if problem.where_key.startswith("fi-") and problem.where_key not in run.seen:
            if problem.code == "not_an_image":
                _other_object(problem, patients, run)
            else:
                run.ledger.append(problem)
        elif problem.code == "row_without_study":
            run.ledger.append(problem)


def _study(study: Study, run: FolderRun) -> None:
    known = run.words[study.study_key]
    told = study.layout in ("dicom", "list")  # else the patient goes by a folder, which `words_of_paths` has seen
    if told or study.facts:
        known.add_number(run.originals.get(study.patient_key, "").rpartition("/")[2])
    if told:
        known.add_number(run.originals.get(study.study_key, ""))
    for column, cell in study.facts.items():
        if NAME_COLUMNS.search(column):
            known.add_name(cell, staff=STAFF_COLUMNS.search(column) is not None)
        elif NUMBER_COLUMNS.search(column):
            known.add_number(cell)
        elif BIRTH_COLUMNS.search(column):
            known.add_date(cell)
    folder = run.folder(study)
    _dicom_series(study, known, folder, run)
    _nifti_series(study, known, folder, run)
    _recordings(study, folder, run)


@dataclass(slots=True)
class _File:
    """One file while it is dealt with: whatever an IngestError says of it goes into the ledger."""

    run: FolderRun
    path: Path
    study: Study
    key: str = ""

    def __enter__(self) -> "_File":
        relative = self.path.relative_to(self.run.root).as_posix()
        self.key = self.run.keyring.file(relative)
        self.run.seen.add(self.key)
        plain = relative.encode("utf-8", "backslashreplace").decode()
        self.run.linkage.append(LinkageRow(key=self.key, kind="file", original=plain, description=""))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, IngestError):
            self.remark("refused", error.code, error.reason, retryable=error.retryable)
            return True
        return False

    def remark(self, severity: str, code: str, reason: str, *, retryable: bool = False) -> None:
        self.run.ledger.append(ProblemRow.model_validate({
            "where_key": self.key, "study_key": self.study.study_key, "severity": severity, "code": code,
            "reason": reason, "retryable": retryable,
        }))  # fmt: skip

    def wrote(self, kind: str) -> None:
        self.run.written[kind] += 1
        self.run.studies.add(self.study.study_key)


# --- by kind of file -----------------------------------------------------------------------


def _dicom_series(study: Study, known: Identifiers, folder: Path | None, run: FolderRun) -> None:
    done: set[Path] = set()
    of_dicom = [series for series in study.series if series.kind == "dicom"]
    for series in of_dicom:  # what one series says of the patient is looked for in all others
        known.update(identifiers_in(series.files[0]))
    for series in of_dicom:
        owner = Owner(study.patient_key, study.study_key, series.series_key, known)
        for path in series.files:
            if path in done:
                continue
            done.add(path)
            with _File(run, path, study) as file:
                if series.refusal and series.refusal.code in OF_ALL_FILES:
                    reason = series.refusal.reason + OF_ALL_FILES[series.refusal.code]
                    raise IngestError(reason, code=series.refusal.code)
                cleaned = deidentify_dicom(path, file.key, owner, run.dicom, into=folder)
                file.wrote("dicom")
                if series.damaged_beside and path == series.files[0]:
                    file.remark("warning", "damaged_beside", _lost_beside(series.damaged_beside))
                if cleaned.shows_a_face:
                    reason = "the header says that the images let a person be recognised: written as it is"
                    file.remark("warning", "recognisable_face", reason)


def _lost_beside(count: int) -> str:
    files = "1 file" if count == 1 else f"{count} files"
    return (
        f"{files} of its series or in its folder cannot be read: slices may be missing at its ends, which no copy "
        "tells. Copy the files again that are refused, or leave the series out"
    )


def _other_object(problem: ProblemRow, patients: dict[str, str], run: FolderRun) -> None:
    """De-identify an object that is no image, where the policy takes its class."""
    path = run.root / run.originals.get(problem.where_key, "")
    nobody = Study(study_key=run.keyring.study(""), patient_key=run.keyring.patient(""), layout="dicom")
    with _File(run, path, nobody) as file:
        owner = owner_in_header(path, run.keyring)
        patient_key = patients.get(owner.study_key, owner.patient_key)
        file.study = Study(study_key=owner.study_key, patient_key=patient_key, layout="dicom")
        owner = Owner(patient_key, owner.study_key, owner.series_key, run.words.get(owner.study_key, owner.known))
        into = None if run.out is None else run.out / patient_key / owner.study_key
        deidentify_dicom(path, file.key, owner, run.dicom, into=into)
        file.wrote("dicom")


def _nifti_series(study: Study, known: Identifiers, folder: Path | None, run: FolderRun) -> None:
    names: set[str] = set()
    done: set[Path] = set()
    for series in study.series:
        path = series.files[0]
        if series.kind != "nifti" or path in done:
            continue
        done.add(path)
        name = _free(run.descriptors.clean(_ENTITY.sub("", path.name.partition(".")[0]), known), names)
        target = None if folder is None else folder / name
        with _File(run, path, study) as file:
            deidentify_nifti(path, target)
            file.wrote("nifti")
            for number, more in enumerate(series.files[1:]):
                with _File(run, more, study):
                    run.written["nifti"] += number == 0
            _sidecars(path, target, study, known, run, modality=series.modality)


def _sidecars(
    image: Path, target: Path | None, study: Study, known: Identifiers, run: FolderRun, *, modality: str | None
) -> None:
    stem = image.name.partition(".")[0]
    kept = {}
    for suffix in (".json", ".bval", ".bvec"):
        beside = image.with_name(stem + suffix)
        if not beside.is_file() or beside.is_symlink():
            continue
        into = None if target is None else target.with_name(target.name + suffix)
        with _File(run, beside, study) as file:
            if suffix == ".json":
                kept = deidentify_sidecar(beside, into, run.config.sidecar_keys, known)
            else:
                copy_numbers(beside, into, known)
            file.wrote("sidecar")
    if modality and "Modality" not in kept and target is not None:  # its file's name told it, and is gone
        write_text(target.with_name(f"{target.name}.json"), _with_modality(kept, modality))


def _with_modality(kept: dict[str, object], modality: str) -> str:
    return json.dumps(kept | {"Modality": modality}, indent=2, sort_keys=True) + "\n"


def _free(name: str, taken: set[str]) -> str:
    """Return a file name of plain characters that is not taken yet."""
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("_.") or "image"
    free, number = plain, 1
    while free.casefold() in taken:
        number += 1
        free = f"{plain}_{number}"
    taken.add(free.casefold())
    return free


def _notes(study: Study, run: FolderRun, staff: set[str]) -> None:
    rules, known, folder = run.config.notes, run.words[study.study_key], run.folder(study)
    known.guesses |= staff  # names where they are written like one
    for name in rules.names:
        known.add_name(name)
    days = run.keyring.date_shift_days(study.patient_key) if rules.dates == "shift" else None
    keep = frozenset(word.casefold() for word in rules.keep)
    scrubber = NoteScrubber(known, days, keep, run.placeholders)
    for number, reference in enumerate(study.notes, 1):
        with _File(run, reference.file, study) as file:
            note = read_note(reference.file)
            _look_at_encoding(note, known, file)
            name = f"note-{number:03d}" if len(study.notes) > 1 else "note"
            target = None if folder is None else folder / (name + reference.file.suffix.lower())
            write_text(target, scrubber.scrub(note.text) if note else "")
            file.wrote("note")


def _look_at_encoding(note: Note | None, known: Identifiers, file: _File) -> None:
    """Remark a note whose encoding was guessed: in another one, names have other letters and are not found.

    Raises:
        NoteError: It must be another one: a name of the study has letters that the guessed one lacks.
    """
    if note is None or note.guessed_encoding is None:
        return
    why = f"the note is no Unicode text and was read as {note.guessed_encoding}"
    if any(name != name.encode("cp1252", "ignore").decode("cp1252") for name in known.names):
        reason = f"{why}, which lacks letters of names in its study: they could not be found. Save it as UTF-8"
        raise NoteError(reason, code="note_encoding")
    reason = f"{why}: were it another encoding, names with accents were not found. Look at it, or save it as UTF-8"
    file.remark("warning", "note_encoding", reason)


def _recordings(study: Study, folder: Path | None, run: FolderRun) -> None:
    for number, reference in enumerate(study.recordings, 1):
        with _File(run, reference.file, study) as file:
            if not run.config.take_recordings:
                raise RecordingError(
                    "a voice identifies a person and cannot be scrubbed: listen to it, and set take_recordings = true "
                    "to take it all the same",
                    code="recording_not_taken",
                )
            if folder is not None:
                _copy_sound(reference.file, folder / f"recording-{number:03d}.wav")
            file.wrote("recording")


def _copy_sound(source: Path, target: Path) -> None:
    """Write the samples alone, as WAV: titles, comments and the like stay behind."""
    doing, failures = "the recording cannot be copied", (soundfile.SoundFileError,)
    with one_error(RecordingError, doing, also=failures), soundfile.SoundFile(source) as sound:
        target.parent.mkdir(parents=True, exist_ok=True)
        subtype = sound.subtype if sound.subtype in soundfile.available_subtypes("WAV") else "PCM_24"
        with soundfile.SoundFile(target, "w", sound.samplerate, sound.channels, subtype, format="WAV") as copy:
            while len(samples := sound.read(SOUND_PIECE, dtype="int32")):
                copy.write(samples)


def kept_facts(study: Study, run: FolderRun) -> Iterator[str]:
    """Yield the cells of the listed columns of a study's row; one that holds a date or an identifier is left empty."""
    known = run.words.get(study.study_key, Identifiers())
    scrubber = NoteScrubber(Identifiers(), None, frozenset(), Counter())
    for column in run.config.table_columns:
        cell = study.facts.get(column, "")
        if known.in_value(cell) or scrubber.scrub(cell) != cell:
            cell = ""
        if "age" in re.split(r"[^a-z]+", column.casefold()) and re.fullmatch(r"\d{2,3}(\.0*)?", cell):
            cell = "90" if float(cell) > 89 else cell
        yield cell
