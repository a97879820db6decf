"""Turn a folder of studies into an index, and what the index refers to into volumes and notes.

    folder -> walk -> recognise (headers only) -> store -> studies -> join the label table -> keys -> FolderIndex
    SeriesReference -> Volume        Study -> Note

Every file under the root ends up in a study, as the label table, or among the problems with a reason. Studies come one
at a time, so that a folder of millions of files takes little memory; `index_folder` returns them all at once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from medmllm.errors import IngestError, LabelError, MedmllmError, MisuseError
from medmllm.geometry import UNEVEN_GAPS
from medmllm.ingest import dicom, nifti
from medmllm.ingest.copies import find_copies
from medmllm.ingest.dicom_regrid import Regrid
from medmllm.ingest.draft import FolderMap, Remark, SeriesDraft, StudyDraft
from medmllm.ingest.file_store import Fate, FileStore, StoredFile
from medmllm.ingest.grouping import add_series, draft_studies, home_of
from medmllm.ingest.joining import join, studies_of_notes
from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import Layouts
from medmllm.ingest.listing import read_listing
from medmllm.ingest.notes import join_notes, read_note
from medmllm.ingest.recognise import TABLES, Kind, Recognised
from medmllm.ingest.stock import Workers, take_stock
from medmllm.ingest.tables import LabelTable, TableRow, read_label_table
from medmllm.ingest.walk import FileProblem, FoundFile, walk, walk_listed
from medmllm.records import Note, NoteReference, RecordingReference, SeriesReference, Study, Volume
from medmllm.table_rows import FileRow, LinkageRow, ProblemRow

DAMAGED_DICOM = frozenset({"dicom_unreadable", "no_pixels", "unreadable", "empty_file"})


@dataclass(frozen=True, slots=True)
class StudyIndex:
    """What a folder holds."""

    studies: tuple[Study, ...]  # sorted by original identifiers, so that the order does not depend on the secret
    problems: tuple[ProblemRow, ...]
    linkage: tuple[LinkageRow, ...] = field(repr=False)  # key -> original; guard it like the originals


@dataclass(frozen=True, slots=True)
class IndexedStudy:
    """One study, and what is to be said of it."""

    study: Study
    problems: tuple[ProblemRow, ...]
    linkage: tuple[LinkageRow, ...] = field(repr=False)


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
        root: The folder of studies, or a list of them (MONAI datalist, CSV manifest).
        keyring: Makes the pseudonymous keys.
        table: Joined on study or patient; None takes `labels.csv` or `participants.tsv` of the root if there.
        advance: Called with the number of files just looked at.

    Raises:
        MisuseError: The root is absent, not a folder, cannot be listed, or holds no file at all.
    """
    with FileStore(None, keyring, folder_of(root)) as store:
        index = open_index(root, keyring=keyring, store=store, table=table, advance=advance)
        found = list(index.studies())
        rest = list(index.rest())
    linkage = {row.key: row for part in (*(item.linkage for item in found), (row for _, row in rest)) for row in part}
    problems = [problem for item in found for problem in item.problems] + [problem for problem, _ in rest]
    return StudyIndex(tuple(item.study for item in found), tuple(problems), tuple(linkage.values()))


def folder_of(root: Path) -> Path:
    """Return the folder that STUDIES means: itself, or the one a list of studies lies in."""
    return root.parent if root.is_file() else root


def open_index(
    root: Path,
    *,
    keyring: Keyring,
    store: FileStore,
    table: LabelTable | None = None,
    workers: Workers | None = None,
    advance: Callable[[int], None] = _no_progress,
) -> "FolderIndex":
    """Look at every file under a folder that the store does not know yet, and say which studies there are.

    Args:
        root: As for `index_folder`.
        keyring: Makes the pseudonymous keys.
        store: What is known of the files; brought up to date.
        table: As for `index_folder`.
        workers: Look at files; None looks at them here.
        advance: Called with the number of files just dealt with.

    Raises:
        MisuseError: As `index_folder`.
    """
    folder = folder_of(root)
    listing = read_listing(root) if root.is_file() else None
    layouts = Layouts(folder, listing)
    entries = walk_listed(folder, listing.places) if listing else walk(folder)
    with nullcontext(workers) if workers else Workers(keyring) as ready:
        count = take_stock(entries, store, layouts, workers=ready, advance=advance)
    if not count:
        raise MisuseError("the folder of studies holds no files")
    table = _choose_table(store, keyring, folder, table)
    store.settle((key, _COPIES[code]) for key, code in find_copies(store.twins()))
    drafts = draft_studies(store.places())
    if table:
        drafts += studies_of_notes(store.of_kinds(Kind.NOTE, Kind.RECORDING), FolderMap(drafts), table)
        drafts.sort(key=lambda study: (study.original, study.layout))
    if listing is None:
        _attach(store, keyring, drafts)
    else:
        for draft in drafts:
            draft.row = listing.row(draft.original)
    unclaimed = join(drafts, table) if table else {}
    return FolderIndex(layouts, keyring, store, drafts, unclaimed, by_study=bool(table and table.by_study))


_COPIES = {
    code: Fate("ignored", code, reason)
    for code, reason in (
        ("duplicate_file", "the file is byte for byte the same as another one of its study"),
        ("duplicate_image", "the same image is in another file of its study, written another way"),
    )
}


class FolderIndex:
    """The studies of a folder, one at a time."""

    def __init__(
        self,
        layouts: Layouts,
        keyring: Keyring,
        store: FileStore,
        drafts: Sequence[StudyDraft],
        unclaimed: dict[str, TableRow],
        *,
        by_study: bool,
    ) -> None:
        self._layouts, self._keyring, self._store, self._drafts = layouts, keyring, store, drafts
        self._unclaimed, self._by_study = unclaimed, by_study

    def __len__(self) -> int:
        return len(self._drafts)

    def studies(self) -> Iterator[IndexedStudy]:
        """Yield each study, sorted by original identifiers, so that the order does not depend on the secret."""
        damaged = Counter(
            relative.rpartition("/")[0]
            for file in self._store.files(problems=True)
            if file.fate.status == "refused" and file.fate.code in DAMAGED_DICOM
            if _may_be_a_slice(file, relative := self._store.relative(file))
        )
        for draft in self._drafts:
            items = self._store.of_study(draft.stored) if draft.stored else []
            add_series(draft, items, self._layouts, damaged)
            draft.notes = [item.found for item in items if item.kind is Kind.NOTE]
            draft.recordings = [item.found for item in items if item.kind is Kind.RECORDING]
            linkage: dict[str, LinkageRow] = {}
            study = _name_study(draft, self._keyring, linkage)
            self._settle(study, items)
            yield IndexedStudy(study, tuple(_problems_of(draft, study)), tuple(linkage.values()))
            draft.series, draft.notes, draft.recordings = [], [], []

    def rest(self) -> Iterator[tuple[ProblemRow, LinkageRow]]:
        """Yield the problems of files, lines of a list and rows of the table that belong to no study; ask last."""
        for file in self._store.files(problems=True):
            yield _problem_of_file(file), _link(file.key, "file", self._store.relative(file))
        for original, row in self._unclaimed.items():
            key = self._keyring.study(original) if self._by_study else self._keyring.patient(original)
            yield ProblemRow(
                where_key=key, study_key=None, severity="warning", code="row_without_study",
                reason=f"line {row.line} of the label table fits no study", retryable=False,
            ), _link(key, "study" if self._by_study else "patient", original)  # fmt: skip
        listing = self._layouts.listing
        for line in listing.outside if listing else ():
            key = self._keyring.file(f"line {line}")
            yield ProblemRow(
                where_key=key, study_key=None, severity="refused", code="outside_root",
                reason=f"line {line} of the list names a path outside its folder: put the list above the data",
                retryable=False,
            ), _link(key, "file", f"line {line}")  # fmt: skip

    def files(self) -> Iterator[FileRow]:
        """Yield what became of every file, in order of their paths; ask after `studies`."""
        for file in self._store.files():
            fate = file.fate
            yield FileRow(
                file_key=file.key, kind=file.kind.value, bytes=file.size, status=fate.status, code=fate.code,
                reason=fate.reason, retryable=fate.retryable, study_key=fate.study_key, series_key=fate.series_key,
                series=fate.series,
            )  # fmt: skip

    def _settle(self, study: Study, items: Sequence[Recognised]) -> None:
        """Write down what became of the files of a study."""
        holding: dict[Path, list[SeriesReference]] = {}
        for series in study.series:
            for path in dict.fromkeys(series.files):
                holding.setdefault(path, []).append(series)
        self._store.settle(
            (self._store.key_of(item.found.relative), _fate(study, holding.get(_path_of(item), ()))) for item in items
        )


def _path_of(item: Recognised) -> Path:
    return item.dicom[0].file if item.dicom else item.found.path


def _may_be_a_slice(file: StoredFile, relative: str) -> bool:
    """Say whether a file that cannot be read may have been a slice; an empty one goes by its name."""
    suffix = PurePosixPath(relative).suffix.lower()
    named_so = suffix in ("", ".dcm", ".dic", ".ima") or suffix[1:].isdigit()
    return file.fate.code != "empty_file" or named_so


def _fate(study: Study, series: Sequence[SeriesReference]) -> Fate:
    first = series[0] if series else None
    refusal = first.refusal if first and all(one.refusal for one in series) else None
    return Fate(
        status="refused" if refusal else "used",
        code=refusal.code if refusal else None,
        reason=refusal.reason if refusal else None,
        retryable=refusal.retryable if refusal else False,
        study_key=study.study_key,
        series_key=first.series_key if first else None,
        series=len(series),
    )


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


# --- the steps of open_index ---------------------------------------------------------------


def _choose_table(store: FileStore, keyring: Keyring, root: Path, given: LabelTable | None) -> LabelTable | None:
    """Return the label table to join; the fate of each table in the root is settled."""
    at_root = {item.found.relative: item.found for item in store.of_kinds(Kind.TABLE)}
    chosen = given
    for name in TABLES:
        if name not in at_root:
            continue
        fate = Fate("used")
        if chosen and not (given and given.path.resolve() == at_root[name].path.resolve()):
            fate = Fate("ignored", "unused_table", "another label table was used")
        elif not chosen:
            try:
                chosen = read_label_table(root / name)
            except LabelError as error:
                fate = Fate("warning", error.code, error.reason)
        store.settle([(keyring.file(name), fate)])
    return chosen


def _attach(store: FileStore, keyring: Keyring, drafts: Sequence[StudyDraft]) -> None:
    """Give each note and recording to its study, and settle those that have none."""
    folders = FolderMap(drafts)
    homes = []
    for item in store.of_kinds(Kind.NOTE, Kind.RECORDING):
        home = home_of(item, folders)
        homes.append((item.found, home))
    for found, home in homes:
        if isinstance(home, FileProblem):
            fate = Fate(home.severity, home.code, home.reason)
            store.settle([(keyring.file(found.relative), fate)])
        else:
            home.stored = home.stored or store.study_without_images(home.original)
            store.give(found, home.stored)


def _problems_of(draft: StudyDraft, study: Study) -> Iterator[ProblemRow]:
    yield from (_problem(study.study_key, study.study_key, remark) for remark in draft.remarks)
    for series, reference in zip(draft.series, study.series, strict=True):
        yield from (_problem(reference.series_key, study.study_key, remark) for remark in series.remarks)
        if reference.refusal:
            yield ProblemRow(
                where_key=reference.series_key, study_key=study.study_key, severity="refused",
                code=reference.refusal.code, reason=reference.refusal.reason, retryable=reference.refusal.retryable,
            )  # fmt: skip


def _problem_of_file(file: StoredFile) -> ProblemRow:
    return ProblemRow(
        where_key=file.key, study_key=None, severity=file.fate.status, code=file.fate.code, reason=file.fate.reason,
        retryable=file.fate.retryable,
    )  # fmt: skip


def _problem(where_key: str, study_key: str, remark: Remark) -> ProblemRow:
    return ProblemRow(
        where_key=where_key, study_key=study_key, severity=remark.severity, code=remark.code, reason=remark.reason,
        retryable=False,
    )  # fmt: skip


def _name_study(draft: StudyDraft, keyring: Keyring, linkage: dict[str, LinkageRow]) -> Study:
    """Return a draft as a study known by keys; what the keys stand for goes into `linkage`."""
    study_key, patient_key = keyring.study(draft.original), keyring.patient(draft.patient)
    linkage[patient_key] = _link(patient_key, "patient", draft.patient, "; ".join(draft.spelt))
    linkage[study_key] = _link(study_key, "study", draft.original)
    draft.series.sort(key=lambda series: series.original)
    references = []
    times = sorted({series.acquired for series in draft.series if series.acquired})
    for series in draft.series:
        key = keyring.series(series.original)
        linkage[key] = _link(key, "series", series.original, series.description or "")
        references.append(_refer(series, key, times.index(series.acquired) + 1 if series.acquired else None))
    return Study(
        study_key=study_key,
        patient_key=patient_key,
        layout=draft.layout,
        series=tuple(references),
        notes=tuple(NoteReference(found.path) for found in _by_name(draft.notes)),
        recordings=tuple(RecordingReference(found.path) for found in _by_name(draft.recordings)),
        facts=draft.row or {},
    )


def _refer(series: SeriesDraft, key: str, time_order: int | None) -> SeriesReference:
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
        technique=replace(series.technique, time_order=time_order),
    )


def _by_name(files: Sequence[FoundFile]) -> list[FoundFile]:
    return sorted(files, key=lambda found: (found.name, found.relative))


def _link(key: str, kind: Literal["patient", "study", "series", "file"], original: str, more: str = "") -> LinkageRow:
    """Return a row of the linkage table; bytes of a file name that are no UTF-8 are written as escapes."""
    plain, description = (text.encode("utf-8", "backslashreplace").decode() for text in (original, more))
    return LinkageRow(key=key, kind=kind, original=plain, description=description)
