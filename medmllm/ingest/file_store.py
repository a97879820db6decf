"""Keep what is known of every file on disk, so that memory does not grow and a second run reads only what changed.

    file -> key, size, times, kind; sealed: path, study, what its header says -> SQLite
                                                     -> the files of one study at a time, in order of their paths

Whatever may name a patient is sealed with the site's secret (see sealing); keys and codes stand open. One row per file,
kept from run to run while size and times of the file are the same; and one, in a table of its own, for what became of
it, so that settling it does not write the large rows anew.
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
from medmllm.ingest.fate import Fate
from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import Place
from medmllm.ingest.looking import PURPOSE, Seen, StoredRow, recognised_of
from medmllm.ingest.recognise import OWN_FILE, Kind, Recognised
from medmllm.ingest.sealing import Seal
from medmllm.ingest.walk import FileProblem, FoundFile

STORE = "headers.sqlite"
ROWS_AT_ONCE = 500
REMEMBERED = 4096
TAG_BYTES = 16  # of sealed bytes or of a digest: enough to tell one from another
LAYOUT = 5  # of the tables and what is in them; a store of another one is made anew
_CREATE = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE file (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE, run INTEGER, seq INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER,
    device INTEGER, inode INTEGER, kind TEXT, path BLOB, study BLOB, place BLOB, twin BLOB, record BLOB
);
CREATE TABLE fate (
    id INTEGER PRIMARY KEY, own INTEGER, status TEXT, code TEXT, reason TEXT, retryable INTEGER, study_key TEXT,
    series_key TEXT, series INTEGER
);
"""
_FINISH = (
    "CREATE INDEX IF NOT EXISTS by_study ON file (study, seq)",
    "CREATE INDEX IF NOT EXISTS by_twin ON file (twin) WHERE twin IS NOT NULL",
)
_PUT_FILE = f"INSERT OR REPLACE INTO file VALUES ({','.join('?' * 15)})"
_PUT_FATE = f"INSERT OR REPLACE INTO fate VALUES (?, ?, {','.join('?' * len(Fate._fields))})"
_UNSETTLED = "NOT EXISTS (SELECT 1 FROM fate WHERE fate.id = file.id)"


@dataclass(frozen=True, slots=True)
class Known:
    """What the store holds of a file that is to be looked at."""

    same: bool  # size and times are as they were
    kind: Kind


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file, its key and its fate."""

    key: str
    path: bytes  # sealed; `FileStore.relative` opens it
    fate: Fate


class FileStore:
    """The files of one folder, on disk; use as a context."""

    def __init__(self, path: Path | None, keyring: Keyring, folder: Path) -> None:
        """Open or make a store; None makes one that lasts as long as the object.

        Raises:
            MedmllmError: The file cannot be opened or made.
        """
        self._keyring, self._folder, self._root = keyring, folder, os.path.join(folder, "")
        self._seal = Seal.of(keyring.secret, PURPOSE)
        self._nothing = self._seal.close("[[],null,null,null]")  # the record of what was not looked at
        # Asked again and again for the same few: a file while it is dealt with, the study of its neighbours.
        self.key_of = lru_cache(maxsize=REMEMBERED)(keyring.file)
        self._closed = lru_cache(maxsize=REMEMBERED)(self._close_texts)
        about = _about(keyring, folder)
        try:
            if path is not None and not _fits(path, about):
                path.unlink(missing_ok=True)
            self._base = sqlite3.connect(path or "")
            # Nothing is waited for: what a power cut damages is found so by `_fits`, and made anew.
            self._base.execute("PRAGMA synchronous = OFF")
            if not self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._base.executescript(_CREATE)
                self._base.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            if path is not None:
                path.chmod(0o600)
        except (sqlite3.Error, OSError) as error:
            raise MedmllmError(f"the store of headers cannot be opened ({type(error).__name__}): choose another --out",
                               code="cannot_write") from None  # fmt: skip
        self._run, self._last = self._base.execute(
            "SELECT 1 + ifnull(max(run), 0), ifnull(max(id), 0) FROM file"
        ).fetchone()
        if self._run > 1:
            self._base.execute("DELETE FROM fate WHERE NOT own")  # the others may have changed with the neighbours
            self._last = max(self._last, self._base.execute("SELECT ifnull(max(id), 0) FROM fate").fetchone()[0])
        self._rows: list[tuple[object, ...]] = []
        self._fates: list[tuple[object, ...]] = []
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
            "UPDATE file SET run=?, seq=?, device=?, inode=? WHERE key=?", (self._run, seq, *found.inode, key)
        )
        if placed:
            study, place = self._seal_place(fate if isinstance(fate, Place) else None)
            self._base.execute("UPDATE file SET study=?, place=? WHERE key=?", (study, place, key))
        if isinstance(fate, FileProblem):
            self.settle([(key, Fate.of(fate))])
        self.kept += 1

    def put(self, seq: int, found: FoundFile, seen: Seen, fate: FileProblem | Place | None) -> None:
        """Write the row of a file that was just looked at; a problem of its own holds until it changes."""
        key = self.key_of(found.relative)
        study, place = self._seal_place(fate if isinstance(fate, Place) else None)
        alike = None
        if seen.twin and study:
            alike = hmac.digest(self._keyring.secret, study + seen.twin.encode(), "sha256")[:TAG_BYTES]
        self._last += 1
        self._rows.append((
            self._last, key, self._run, seq, found.size, *found.changed, *found.inode, seen.kind.value, seen.path,
            study, place, alike, seen.record,
        ))  # fmt: skip
        if isinstance(fate, FileProblem):
            self._fates.append((self._last, seen.problem is not None, *Fate.of(fate)))
        self.read += found.inode != (0, 0)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._base.executemany(_PUT_FILE, self._rows)
        self._base.executemany(_PUT_FATE, self._fates)
        self._rows.clear()
        self._fates.clear()

    def put_problem(self, seq: int, problem: FileProblem) -> None:
        """Write the row of what was passed over unread."""
        found = FoundFile("", problem.relative, 0)
        seen = Seen(Kind.OTHER, self._seal.close(problem.relative), self._nothing)
        self.put(seq, found, seen, problem)

    def finish(self) -> None:
        """Forget files that are no longer there."""
        self._flush()
        if self._run > 1:
            self._base.execute("DELETE FROM file WHERE run<>?", (self._run,))
            self._base.execute("DELETE FROM fate WHERE id NOT IN (SELECT id FROM file)")
            self._base.execute("CREATE INDEX IF NOT EXISTS by_seq ON file (seq)")  # rows lie in its order before
        for statement in _FINISH:  # after the first rows, since that is quicker
            self._base.execute(statement)
        self._base.commit()

    def _seal_place(self, place: Place | None) -> tuple[bytes | None, bytes | None]:
        if place is None:
            return None, None
        return self._closed((place.layout, place.original))[:TAG_BYTES], self._closed(
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

    def of_study(self, study: bytes) -> list[StoredRow]:
        """Return the files of one study in order of their paths, without those already settled."""
        return self._base.execute(
            f"SELECT id, path, size, kind, record FROM file WHERE study=? AND {_UNSETTLED} ORDER BY seq", (study,)
        ).fetchall()

    def of_kinds(self, *kinds: Kind) -> Iterator[Recognised]:
        """Yield files of some kinds in order of their paths, without those already settled."""
        named = [kind.value for kind in kinds]
        rows = self._base.cursor().execute(
            f"SELECT id, path, size, kind, record FROM file WHERE kind IN ({','.join('?' * len(named))}) "
            f"AND {_UNSETTLED} ORDER BY seq",
            named,
        )
        for row in rows:
            yield from recognised_of([row], self._seal, self._folder)

    def study_without_images(self, original: str) -> bytes:
        """Return what a study of notes alone is known by."""
        return self._seal.close(json.dumps(["notes", original]))[:TAG_BYTES]

    def give(self, found: FoundFile, study: bytes) -> None:
        """Give a note or recording to a study."""
        self._base.execute("UPDATE file SET study=? WHERE key=?", (study, self._keyring.file(found.relative)))

    def twins(self) -> Iterator[list[tuple[str, FoundFile]]]:
        """Yield the (key, file) of images that may be copies: of one study, SOPInstanceUID and position."""
        alike = self._base.cursor().execute("SELECT twin FROM file WHERE twin NOT NULL GROUP BY twin HAVING count(*)>1")
        for (twin,) in alike.fetchall():
            rows = self._base.execute(
                f"SELECT key, path, size, device, inode FROM file WHERE twin=? AND {_UNSETTLED} ORDER BY seq", (twin,)
            )
            yield [
                (key, self._found(path, size, (device, inode))) for key, path, size, device, inode in rows.fetchall()
            ]

    def settle(self, fates: Iterable[tuple[str, Fate]]) -> None:
        """Say what became of files, by key."""
        self._base.executemany(
            f"INSERT OR REPLACE INTO fate SELECT id, 0, {','.join('?' * len(Fate._fields))} FROM file WHERE key=?",
            ((*fate, key) for key, fate in fates),
        )

    def settle_rows(self, rows: Iterable[StoredRow], fates: Iterable[Fate]) -> None:
        """Say what became of the files of some rows, in their order."""
        self._base.executemany(_PUT_FATE, [(row[0], False, *fate) for row, fate in zip(rows, fates, strict=True)])

    def problems(self) -> Iterator[StoredFile]:
        """Yield the files that have a problem and belong to no study, in order of their paths; none of our own."""
        rows = self._base.cursor().execute(
            "SELECT key, path, status, code, reason, retryable FROM fate JOIN file USING (id) "
            "WHERE status<>'used' AND study_key IS NULL AND code IS NOT ? ORDER BY seq",
            (OWN_FILE,),
        )
        for key, path, status, code, reason, retryable in rows:
            yield StoredFile(key, path, Fate(status, code, reason, bool(retryable)))

    def fates(self) -> Iterator[tuple[str, str, int, Fate]]:
        """Yield (key, kind, size, fate) of every file in order of its path."""
        order = "file.id" if self._run == 1 else "seq"
        rows = self._base.cursor().execute(
            "SELECT key, kind, size, status, code, reason, retryable, study_key, series_key, series "
            f"FROM file LEFT JOIN fate USING (id) ORDER BY {order}"
        )
        for key, kind, size, status, code, reason, retryable, *rest in rows:
            yield key, kind, size, Fate(status, code, reason, bool(retryable), *rest)

    def relative(self, file: StoredFile) -> str:
        """Return where a file lies, relative to the root."""
        return self._seal.open(file.path)

    def _found(self, path: bytes, size: int, inode: tuple[int, int] = (0, 0)) -> FoundFile:
        relative = self._seal.open(path)
        return FoundFile(f"{self._root}{relative}", relative, size, inode=inode)


def _about(keyring: Keyring, folder: Path) -> dict[str, str]:
    """Return what a store must be about to be of use: this form of records, this folder, this secret."""
    return {"form": f"{__version__} {LAYOUT} {record_text.FORM}", "folder": keyring.file(str(folder.resolve()))}


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
