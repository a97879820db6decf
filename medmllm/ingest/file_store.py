"""Keep what is known of every file on disk, so that memory does not grow and a second run reads only what changed.

    file -> key, size, times, kind; sealed: path, study, what its header says -> SQLite
                                                     -> the files of one study at a time, in order of their paths

Whatever may name a patient is sealed with the site's secret (see sealing); keys and codes stand open. One table, one
row per file; the rows of an earlier run are kept while size and times of the file are the same.
"""

import hmac
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from medmllm import __version__
from medmllm.errors import MedmllmError
from medmllm.ingest import record_text
from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import Place
from medmllm.ingest.looking import PURPOSE, Seen
from medmllm.ingest.recognise import Kind, Recognised
from medmllm.ingest.sealing import Seal
from medmllm.ingest.walk import FileProblem, FoundFile, Severity

STORE = "headers.sqlite"
ROWS_AT_ONCE = 500
REMEMBERED = 4096
_OPEN = (None, None, None, False, None, None, 0)  # the cells of a fate not yet known
_CREATE = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE file (
    key TEXT UNIQUE, run INTEGER, seq INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, device INTEGER,
    inode INTEGER, kind TEXT, path BLOB, study BLOB, place BLOB, twin BLOB, record BLOB,
    own INTEGER, status TEXT, code TEXT, reason TEXT, retryable INTEGER, study_key TEXT, series_key TEXT, series INTEGER
);
"""
_FINISH = """
CREATE INDEX IF NOT EXISTS by_study ON file (study, seq);
CREATE INDEX IF NOT EXISTS by_twin ON file (twin) WHERE twin IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_seq ON file (seq);
"""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a file."""

    status: Severity | str  # used, ignored, warning or refused
    code: str | None = None
    reason: str | None = None
    retryable: bool = False
    study_key: str | None = None
    series_key: str | None = None  # the first, where a file holds several
    series: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What the store holds of a file that is to be looked at."""

    same: bool  # size and times are as they were
    kind: Kind


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One row: a file, its key and its fate."""

    key: str
    kind: Kind
    size: int
    path: bytes  # sealed; `FileStore.relative` opens it
    fate: Fate


class FileStore:
    """The files of one folder, on disk; use as a context."""

    def __init__(self, path: Path | None, keyring: Keyring, folder: Path) -> None:
        """Open or make a store; None makes one that lasts as long as the object.

        Raises:
            MedmllmError: The file cannot be opened or made.
        """
        self._keyring, self._root = keyring, os.path.join(folder, "")
        self._seal = Seal.of(keyring.secret, PURPOSE)
        # Asked again and again for the same few: a file while it is dealt with, the study of its neighbours.
        self.key_of = lru_cache(maxsize=REMEMBERED)(keyring.file)
        self._closed = lru_cache(maxsize=REMEMBERED)(self._close_texts)
        about = _about(keyring, folder)
        try:
            if path is not None and not _fits(path, about):
                path.unlink(missing_ok=True)
            self._base = sqlite3.connect(path or "")
            if not self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._base.executescript(_CREATE)
                self._base.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            if path is not None:
                path.chmod(0o600)
        except (sqlite3.Error, OSError) as error:
            raise MedmllmError(f"the store of headers cannot be opened ({type(error).__name__}): choose another --out",
                               code="cannot_write") from None  # fmt: skip
        self._run = 1 + (self._base.execute("SELECT max(run) FROM file").fetchone()[0] or 0)
        self._rows: list[tuple[object, ...]] = []
        self.kept = self.read = 0

    def __enter__(self) -> "FileStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self._base.commit()
        self._base.close()

    @staticmethod
    def is_of(path: Path, keyring: Keyring, folder: Path) -> bool:
        """Say whether there is a store of this folder, made with this secret, by whatever version."""
        return _read_about(path).get("folder") == _about(keyring, folder)["folder"]

    # --- while looking at files ---

    def known(self, found: Sequence[FoundFile]) -> list[Known | None]:
        """Return what is known of some files, in their order; None for a new one."""
        if self._run == 1:
            return [None] * len(found)
        keys = [self.key_of(file.relative) for file in found]
        marks = ",".join("?" * len(keys))
        rows = self._base.execute(
            f"SELECT key, kind, size, mtime, ctime FROM file WHERE key IN ({marks})",
            keys,
        )
        rest = {row[0]: row[1:] for row in rows}
        return [
            Known(rest[key][1:] == (file.size, *file.changed), Kind(rest[key][0])) if key in rest else None
            for key, file in zip(keys, found, strict=True)
        ]

    def keep(self, seq: int, found: FoundFile, fate: FileProblem | Place | None, *, placed: bool) -> None:
        """Take over the row of an unchanged file; where `placed`, with a new place."""
        key = self.key_of(found.relative)
        self._base.execute(
            "UPDATE file SET run=?, seq=?, device=?, inode=?, status=CASE WHEN own THEN status END, study_key=NULL, "
            "series_key=NULL, series=0 WHERE key=?",
            (self._run, seq, *found.inode, key),
        )
        if placed:
            study, place = self._seal_place(fate if isinstance(fate, Place) else None)
            self._base.execute("UPDATE file SET study=?, place=? WHERE key=?", (study, place, key))
        if isinstance(fate, FileProblem):
            self.settle([(key, _fate(fate))])
        self.kept += 1

    def put(self, seq: int, found: FoundFile, seen: Seen, fate: FileProblem | Place | None) -> None:
        """Write the row of a file that was just looked at; a problem of its own holds until it changes."""
        key = self.key_of(found.relative)
        study, place = self._seal_place(fate if isinstance(fate, Place) else None)
        alike = hmac.digest(self._keyring.secret, study + seen.twin.encode(), "sha256") if seen.twin and study else None
        settled = _cells(_fate(fate)) if isinstance(fate, FileProblem) else _OPEN
        self._rows.append((
            key, self._run, seq, found.size, *found.changed, *found.inode, seen.kind.value, seen.path, study, place,
            alike, seen.record, seen.problem is not None, *settled,
        ))  # fmt: skip
        self.read += found.inode != (0, 0)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._base.executemany(f"INSERT OR REPLACE INTO file VALUES ({','.join('?' * 22)})", self._rows)
        self._rows.clear()

    def put_problem(self, seq: int, problem: FileProblem) -> None:
        """Write the row of what was passed over unread."""
        found = FoundFile("", problem.relative, 0)
        seen = Seen(Kind.OTHER, self._seal.close(problem.relative), self._seal.close("[[],null,null,null]"))
        self.put(seq, found, seen, problem)

    def finish(self) -> None:
        """Forget files that are no longer there."""
        self._flush()
        self._base.execute("DELETE FROM file WHERE run<>?", (self._run,))
        self._base.executescript(_FINISH)  # commits before; after the first rows, since that is quicker

    def _seal_place(self, place: Place | None) -> tuple[bytes | None, bytes | None]:
        if place is None:
            return None, None
        return self._closed((place.layout, place.original)), self._closed(
            (place.layout, place.original, place.patient, place.folder)
        )

    def _close_texts(self, texts: tuple[str, ...]) -> bytes:
        return self._seal.close(json.dumps(texts))

    # --- afterwards ---

    def places(self) -> Iterator[tuple[Place, bytes]]:
        """Yield where the files of each study lie, with what `of_study` wants; in no order."""
        rows = self._base.execute("SELECT DISTINCT study, place FROM file WHERE place NOT NULL")
        for study, place in rows:
            yield Place(*json.loads(self._seal.open(place))), study

    def of_study(self, study: bytes) -> list[Recognised]:
        """Return the files of one study in order of their paths, without those already settled."""
        rows = self._base.execute(
            "SELECT path, size, kind, record FROM file WHERE study=? AND status IS NULL ORDER BY seq", (study,)
        )
        return [self._recognised(*row) for row in rows]

    def of_kinds(self, *kinds: Kind) -> Iterator[Recognised]:
        """Yield files of some kinds in order of their paths, without those already settled."""
        named = [kind.value for kind in kinds]
        rows = self._base.cursor().execute(
            f"SELECT path, size, kind, record FROM file WHERE kind IN ({','.join('?' * len(named))}) "
            "AND status IS NULL ORDER BY seq",
            named,
        )
        for row in rows:
            yield self._recognised(*row)

    def study_without_images(self, original: str) -> bytes:
        """Return what a study of notes alone is known by."""
        return self._seal.close(json.dumps(["notes", original]))

    def give(self, found: FoundFile, study: bytes) -> None:
        """Give a note or recording to a study."""
        self._base.execute("UPDATE file SET study=? WHERE key=?", (study, self._keyring.file(found.relative)))

    def twins(self) -> Iterator[list[tuple[str, FoundFile]]]:
        """Yield the (key, file) of images that may be copies: of one study, SOPInstanceUID and position."""
        alike = self._base.cursor().execute("SELECT twin FROM file WHERE twin NOT NULL GROUP BY twin HAVING count(*)>1")
        for (twin,) in alike.fetchall():
            rows = self._base.execute(
                "SELECT key, path, size, device, inode FROM file WHERE twin=? AND status IS NULL ORDER BY seq", (twin,)
            )
            yield [
                (key, self._found(path, size, (device, inode))) for key, path, size, device, inode in rows.fetchall()
            ]

    def settle(self, fates: Iterable[tuple[str, Fate]]) -> None:
        """Say what became of files, by key."""
        self._base.executemany(
            "UPDATE file SET status=?, code=?, reason=?, retryable=?, study_key=?, series_key=?, series=? WHERE key=?",
            ((*_cells(fate), key) for key, fate in fates),
        )

    def files(self, *, problems: bool = False) -> Iterator[StoredFile]:
        """Yield every file in order of its path; or only problems of files that belong to no study."""
        only = "WHERE status<>'used' AND study_key IS NULL" if problems else ""
        rows = self._base.cursor().execute(
            "SELECT key, kind, size, path, status, code, reason, retryable, study_key, series_key, series "
            f"FROM file {only} ORDER BY seq"
        )
        for key, kind, size, path, status, code, reason, retryable, *rest in rows:
            fate = Fate(status, code, reason, bool(retryable), *rest)
            yield StoredFile(key, Kind(kind), size, path, fate)

    def relative(self, file: StoredFile) -> str:
        """Return where a file lies, relative to the root."""
        return self._seal.open(file.path)

    def _recognised(self, path: bytes, size: int, kind: str, record: bytes) -> Recognised:
        return record_text.read(self._seal.open_bytes(record), self._found(path, size), Kind(kind))

    def _found(self, path: bytes, size: int, inode: tuple[int, int] = (0, 0)) -> FoundFile:
        relative = self._seal.open(path)
        return FoundFile(f"{self._root}{relative}", relative, size, inode=inode)


def _cells(fate: Fate) -> tuple[object, ...]:
    return fate.status, fate.code, fate.reason, fate.retryable, fate.study_key, fate.series_key, fate.series


def _fate(problem: FileProblem) -> Fate:
    return Fate(problem.severity, problem.code, problem.reason, problem.retryable)


def _about(keyring: Keyring, folder: Path) -> dict[str, str]:
    """Return what a store must be about to be of use: this form of records, this folder, this secret."""
    return {"form": f"{__version__} {record_text.FORM}", "folder": keyring.file(str(folder.resolve()))}


def _read_about(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            return dict(base.execute("SELECT name, value FROM about").fetchall())
    except sqlite3.Error:
        return {}


def _fits(path: Path, about: dict[str, str]) -> bool:
    """Say whether a store can be gone on with; a damaged one cannot."""
    if _read_about(path) != about:
        return False
    with closing(sqlite3.connect(path)) as base:
        try:
            return bool(base.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.Error:
            return False
