"""Turn a folder of studies into an index, and what the index refers to into volumes and notes.

    folder -> walk -> recognise (headers only) -> store -> studies -> join the label table -> keys -> FolderIndex
    SeriesReference -> Volume        Study -> Note

Every file under the root ends up in a study, as the label table, or among the problems with a reason. Studies come one
at a time, so that a folder of millions of files takes little memory; `index_folder` returns them all at once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from medmllm.errors import IngestError, LabelError, MedmllmError, MisuseError
from medmllm.geometry import UNEVEN_GAPS
from medmllm.ingest import dicom, nifti
from medmllm.ingest.bare_studies import studies_without_images
from medmllm.ingest.copies import find_copies
from medmllm.ingest.damaged import DamagedFiles
from medmllm.ingest.dicom_regrid import Regrid
from medmllm.ingest.draft import FolderMap, StudyDraft
from medmllm.ingest.fate import Fate
from medmllm.ingest.file_store import FileStore, StoredFile
from medmllm.ingest.grouping import draft_studies, home_of
from medmllm.ingest.joining import join
from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import Layouts
from medmllm.ingest.listing import read_listing
from medmllm.ingest.naming import IndexedStudy, Maker, Unmade, link
from medmllm.ingest.notes import join_notes, read_note
from medmllm.ingest.recognise import TABLES, Kind
from medmllm.ingest.stock import Workers, take_stock
from medmllm.ingest.tables import LabelTable, TableRow, read_label_table
from medmllm.ingest.walk import FileProblem, walk, walk_listed
from medmllm.records import Note, SeriesReference, Study, Volume
from medmllm.table_rows import FileRow, LinkageRow, ProblemRow

Told = TypeVar("Told")

FILES_TOGETHER = 128  # whose studies are put together at a time


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
    if listing is None:
        bare = store.of_kinds(Kind.NOTE, Kind.RECORDING)
        drafts += studies_without_images(bare, drafts, table, root_name=layouts.root_name)
        drafts.sort(key=lambda study: (study.original, study.layout))
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
        return self.told(_as_it_is)

    def told(self, tell: Callable[[IndexedStudy], Told], workers: Workers | None = None) -> Iterator[Told]:
        """Yield what `tell` says of each study, in the order of `studies`.

        Args:
            tell: Says it; a function that worker processes can import.
            workers: Put the studies together, where they are processes; None does it here.
        """
        listed = self._layouts.listing is not None  # as large as the folder: it is not sent along with every part
        ready = Workers(self._keyring) if workers is None or listed else workers
        maker = Maker(self._layouts, self._keyring, tell)
        waiting: deque[tuple[list[Unmade], Callable[[], list[tuple[Told, list[Fate]]]]]] = deque()
        for part in self._parts():
            waiting.append((part, ready.ask(maker.make, part)))
            while len(waiting) > ready.ahead:
                yield from self._settled(*waiting.popleft())
        while waiting:
            yield from self._settled(*waiting.popleft())

    def _parts(self) -> Iterator[list[Unmade]]:
        """Yield what studies are made of, some hundred files at a time."""
        problems = ((self._store.relative(file), file.fate) for file in self._store.problems())
        damaged = DamagedFiles(self._layouts.root, problems)
        part: list[Unmade] = []
        files = 0
        for draft in self._drafts:
            rows = self._store.of_study(draft.stored) if draft.stored else []
            part.append(Unmade(draft, rows, damaged.of_study(draft)))
            files += len(rows) + 1
            if files >= FILES_TOGETHER:
                yield part
                part, files = [], 0
        if part:
            yield part

    def _settled(self, part: list[Unmade], answer: Callable[[], list[tuple[Told, list[Fate]]]]) -> Iterator[Told]:
        for unmade, (told, fates) in zip(part, answer(), strict=True):
            self._store.settle_rows(unmade.rows, fates)
            yield told

    def rest(self) -> Iterator[tuple[ProblemRow, LinkageRow]]:
        """Yield the problems of files, lines of a list and rows of the table that belong to no study; ask last."""
        for file in self._store.problems():
            yield _problem_of_file(file), link(file.key, "file", self._store.relative(file))
        for original, row in self._unclaimed.items():
            key = self._keyring.study(original) if self._by_study else self._keyring.patient(original)
            yield ProblemRow(
                where_key=key, study_key=None, severity="warning", code="row_without_study",
                reason=f"line {row.line} of the label table fits no study", retryable=False,
            ), link(key, "study" if self._by_study else "patient", original)  # fmt: skip
        listing = self._layouts.listing
        for one in listing.without_files if listing else ():
            key = self._keyring.study(one.original)
            yield ProblemRow(
                where_key=key, study_key=None, severity="warning", code="line_without_study",
                reason=f"line {one.line} of the list names no image, note or recording", retryable=False,
            ), link(key, "study", one.original)  # fmt: skip
        for line, severity, code, names in listing.lines_told if listing else ():
            key = self._keyring.file(f"line {line}")
            yield ProblemRow(
                where_key=key, study_key=None, severity=severity, code=code,
                reason=f"line {line} of the list names {names}", retryable=False,
            ), link(key, "file", f"line {line}")  # fmt: skip

    def files(self) -> Iterator[FileRow]:
        """Yield what became of every file, in order of their paths; ask after `studies`."""
        for key, kind, size, fate in self._store.fates():
            yield FileRow(
                file_key=key, kind=kind, bytes=size, status=fate.status, code=fate.code, reason=fate.reason,
                retryable=fate.retryable, study_key=fate.study_key, series_key=fate.series_key, series=fate.series,
            )  # fmt: skip


def _as_it_is(study: IndexedStudy) -> IndexedStudy:
    """Return all of a study."""
    return study


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
            volume = dicom.read_series(series.files, series.frames, regrid=regrid)
            return replace(volume, damaged_beside=series.damaged_beside) if series.damaged_beside else volume
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


def _problem_of_file(file: StoredFile) -> ProblemRow:
    return ProblemRow(
        where_key=file.key, study_key=None, severity=file.fate.status, code=file.fate.code, reason=file.fate.reason,
        retryable=file.fate.retryable,
    )  # fmt: skip
