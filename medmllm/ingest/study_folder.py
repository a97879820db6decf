"""Turn a folder of studies into an index, and what the index refers to into volumes and notes.

    folder -> walk -> recognise (headers only) -> group -> join the label table -> keys -> StudyIndex
    SeriesReference -> Volume        Study -> Note

Every file under the root ends up in a study, as the label table, or among the problems with a reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medmllm.csv_tables import LinkageRow, ProblemRow
from medmllm.errors import IngestError, LabelError, MedmllmError, MisuseError
from medmllm.geometry import UNEVEN_GAPS
from medmllm.ingest import dicom, nifti
from medmllm.ingest.dicom_regrid import Regrid
from medmllm.ingest.draft import FolderMap, Remark, SeriesDraft, StudyDraft
from medmllm.ingest.grouping import attach, group_dicom, group_nifti, not_raw
from medmllm.ingest.joining import join, studies_of_notes
from medmllm.ingest.keys import Keyring
from medmllm.ingest.notes import join_notes, read_note
from medmllm.ingest.recognise import TABLES, Kind, Recognised, recognise_all
from medmllm.ingest.tables import LabelTable, TableRow, read_label_table
from medmllm.ingest.walk import FileProblem, FoundFile, walk
from medmllm.records import Note, NoteReference, RecordingReference, SeriesReference, Study, Volume


@dataclass(frozen=True, slots=True)
class StudyIndex:
    """What a folder holds."""

    studies: tuple[Study, ...]  # sorted by original identifiers, so that the order does not depend on the secret
    problems: tuple[ProblemRow, ...]
    linkage: tuple[LinkageRow, ...] = field(repr=False)  # key -> original; guard it like the originals


def _no_progress(files: int) -> None:
    """Count nothing."""


def index_folder(
    root: Path,
    *,
    keyring: Keyring,
    table: LabelTable | None = None,
    advance: Callable[[int], None] = _no_progress,
) -> StudyIndex:
    """List the studies under a folder by headers alone; a bad file is a problem, never an exception.

    Args:
        root: The folder of studies.
        keyring: Makes the pseudonymous keys.
        table: Joined on study or patient; None takes `labels.csv` or `participants.tsv` of the root if there.
        advance: Called with the number of files just looked at.

    Raises:
        MisuseError: The root is absent, not a folder, cannot be listed, or holds no file at all.
    """
    files, problems = walk(root)
    if not files:
        raise MisuseError("the folder of studies holds no files")
    beside = not_raw(files)
    reason = "beside the raw images of a BIDS tree: derivatives, source data or code"
    problems += [FileProblem(path, "ignored", "bids_not_raw", reason) for path in sorted(beside)]
    recognised = recognise_all([found for found in files if found.relative not in beside], advance)
    advance(len(beside))
    table, unused = _choose_table(recognised, root, table)
    studies, unplaced = _group(recognised, root, table)
    problems += [*unused, *unplaced, *(item.problem for item in recognised if item.problem)]
    unclaimed = join(studies, table) if table else {}
    return _name(studies, problems, unclaimed, keyring, by_study=bool(table and table.by_study))


def read_volume(series: SeriesReference, *, regrid: Regrid = "never") -> Volume:
    """Read the voxels of one series.

    Args:
        series: Of an index.
        regrid: Which DICOM stacks to bring onto an upright, regular grid; "uneven" also reads series that were
            refused for their gaps.

    Raises:
        IngestError: The series was refused by its headers, or its files are damaged; holds the series key.
        GeometryError: The slices are not one regular grid.
    """
    try:
        if series.refusal and not (regrid == "uneven" and series.refusal.code in UNEVEN_GAPS):
            raise IngestError(series.refusal.reason, code=series.refusal.code, retryable=series.refusal.retryable)
        if series.kind == "dicom":
            return dicom.read_series(series.files, series.frames, regrid=regrid)
        return nifti.read_volume(series.files[0], number=(*series.frames, 0)[0], modality=series.modality)
    except MedmllmError as error:
        error.add_note(f"(in series {series.series_key})")
        raise


def read_study_note(study: Study) -> Note | None:
    """Read the notes of a study as one, in order of their file names, a blank line between; None if there is none.

    Raises:
        NoteError: A note is not text, or too large; holds the study key.
    """
    try:
        notes = [read_note(reference.file) for reference in study.notes]
    except IngestError as error:
        error.add_note(f"(in a note of study {study.study_key})")
        raise
    return join_notes([note for note in notes if note is not None])


# --- the steps of index_folder -------------------------------------------------------------


def _choose_table(
    recognised: Sequence[Recognised], root: Path, given: LabelTable | None
) -> tuple[LabelTable | None, list[FileProblem]]:
    """Return the label table to join, and a problem for each table in the root that is not used."""
    at_root = {item.found.relative: item.found for item in recognised if item.kind is Kind.TABLE}
    chosen, problems = given, []
    for name in TABLES:
        if name not in at_root or (given and given.path.resolve() == at_root[name].path.resolve()):
            continue
        if chosen:
            reason = "another label table was used"
            problems.append(FileProblem(name, "ignored", "unused_table", reason))
            continue
        try:
            chosen = read_label_table(root / name)
        except LabelError as error:
            problems.append(FileProblem(name, "warning", error.code, error.reason))
    return chosen, problems


def _group(
    recognised: Sequence[Recognised], root: Path, table: LabelTable | None
) -> tuple[list[StudyDraft], list[FileProblem]]:
    """Return the studies with their notes and recordings, and the files that found no place."""
    studies, copies = group_dicom(recognised)
    studies += group_nifti(recognised, root.resolve().name)
    if table:
        studies += studies_of_notes(recognised, FolderMap(studies), table)
    studies.sort(key=lambda study: (study.original, study.layout))
    return studies, copies + attach(recognised, FolderMap(studies))


def _name(
    drafts: Sequence[StudyDraft],
    files: Sequence[FileProblem],
    unclaimed: dict[str, TableRow],
    keyring: Keyring,
    *,
    by_study: bool,
) -> StudyIndex:
    """Replace original identifiers by keys."""
    studies: list[Study] = []
    problems: list[ProblemRow] = []
    linkage: dict[str, LinkageRow] = {}
    for draft in drafts:
        study = _name_study(draft, keyring, linkage)
        studies.append(study)
        problems += [_problem(study.study_key, study.study_key, remark) for remark in draft.remarks]
        for series, reference in zip(draft.series, study.series, strict=True):
            problems += [_problem(reference.series_key, study.study_key, remark) for remark in series.remarks]
            if reference.refusal:
                problems.append(ProblemRow(
                    where_key=reference.series_key, study_key=study.study_key, severity="refused",
                    code=reference.refusal.code, reason=reference.refusal.reason,
                    retryable=reference.refusal.retryable,
                ))  # fmt: skip
    for file in sorted(files, key=lambda problem: problem.relative):
        key = keyring.file(file.relative)
        linkage[key] = _link(key, "file", file.relative)
        problems.append(ProblemRow(
            where_key=key, study_key=None, severity=file.severity, code=file.code, reason=file.reason,
            retryable=file.retryable,
        ))  # fmt: skip
    for original, row in unclaimed.items():
        key = keyring.study(original) if by_study else keyring.patient(original)
        linkage[key] = _link(key, "study" if by_study else "patient", original)
        problems.append(ProblemRow(
            where_key=key, study_key=None, severity="warning", code="row_without_study",
            reason=f"line {row.line} of the label table fits no study", retryable=False,
        ))  # fmt: skip
    return StudyIndex(tuple(studies), tuple(problems), tuple(linkage.values()))


def _problem(where_key: str, study_key: str, remark: Remark) -> ProblemRow:
    return ProblemRow(
        where_key=where_key, study_key=study_key, severity=remark.severity, code=remark.code, reason=remark.reason,
        retryable=False,
    )  # fmt: skip


def _name_study(draft: StudyDraft, keyring: Keyring, linkage: dict[str, LinkageRow]) -> Study:
    """Return a draft as a study known by keys; what the keys stand for goes into `linkage`."""
    study_key, patient_key = keyring.study(draft.original), keyring.patient(draft.patient)
    linkage[patient_key] = _link(patient_key, "patient", draft.patient)
    linkage[study_key] = _link(study_key, "study", draft.original)
    draft.series.sort(key=lambda series: series.original)
    references = []
    for series in draft.series:
        key = keyring.series(series.original)
        linkage[key] = _link(key, "series", series.original, series.description or "")
        references.append(_refer(series, key))
    return Study(
        study_key=study_key,
        patient_key=patient_key,
        layout=draft.layout,
        series=tuple(references),
        notes=tuple(NoteReference(found.path) for found in _by_name(draft.notes)),
        recordings=tuple(RecordingReference(found.path) for found in _by_name(draft.recordings)),
        facts=draft.row or {},
    )


def _refer(series: SeriesDraft, key: str) -> SeriesReference:
    return SeriesReference(
        series_key=key,
        kind=series.kind,
        modality=series.modality,
        shape=series.shape,
        spacing_mm=series.spacing_mm,
        description=series.description,
        files=series.files,
        frames=series.frames,
        refusal=series.refusal,
    )


def _by_name(files: Sequence[FoundFile]) -> list[FoundFile]:
    return sorted(files, key=lambda found: (found.name, found.relative))


def _link(key: str, kind: Literal["patient", "study", "series", "file"], original: str, more: str = "") -> LinkageRow:
    """Return a row of the linkage table; bytes of a file name that are no UTF-8 are written as escapes."""
    plain, description = (text.encode("utf-8", "backslashreplace").decode() for text in (original, more))
    return LinkageRow(key=key, kind=kind, original=plain, description=description)
