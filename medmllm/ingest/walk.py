"""Find every file under a folder, in the same order each time, without leaving it.

root -> regular files, in order of their paths; and a problem for each link, pipe, device and closed folder

One folder's listing is held at a time, so that millions of files take no more memory than a few.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from medmllm.errors import MisuseError

Severity = Literal["ignored", "warning", "refused"]
NOT_RAW = frozenset({"derivatives", "sourcedata", "code"})  # beside sub-* in a BIDS tree: not the raw images
BIDS_LABEL = r"(?:[^\W_]|[\u0300-\u036f])+"  # letters and digits; of any script, accents written apart too
_BIDS_SUBJECT = re.compile(f"sub-{BIDS_LABEL}")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One regular file under the root."""

    place: str = field(repr=False)  # its whole path; as text, since there are many
    relative: str = field(repr=False)  # to the root, with forward slashes
    size: int  # bytes
    changed: tuple[int, int] = (0, 0)  # times of the last change of content and of status, ns
    inode: tuple[int, int] = (0, 0)  # device and number: the same for hard links to one file

    @property
    def path(self) -> Path:
        """Where it lies."""
        return _path(self.place)

    @property
    def name(self) -> str:
        """The file name without its folders."""
        return self.relative.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The folder it lies in, relative to the root; empty for the root itself."""
        return self.relative.rpartition("/")[0]


@lru_cache(4096)
def _path(place: str) -> Path:
    return Path(place)


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Why one file, or folder, is not part of any study, or deserves a look."""

    relative: str = field(repr=False)
    severity: Severity
    code: str
    reason: str
    retryable: bool = False


def walk(root: Path) -> Iterator[FoundFile | FileProblem]:
    """Yield the regular files under a folder in order of their paths, and what is passed over.

    Symbolic links are passed over: they may lead out of the folder, to a file twice, or in a circle. The root itself
    may be one. In a BIDS tree, what lies in derivatives, sourcedata and code beside the subjects is passed over: its
    subjects are those of the raw images, and one patient would count as two.

    Raises:
        MisuseError: The root is no folder or cannot be listed.
    """
    if not root.is_dir():
        raise MisuseError("the folder of studies is not there, or is not a folder")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise MisuseError(f"the folder of studies cannot be listed: {error.strerror}") from None
    yield from walk_folder(root, "")


def walk_folder(root: Path, start: str) -> Iterator[FoundFile | FileProblem]:
    """Yield what lies in one folder of the root and below; `start` is relative to the root, empty for all of it."""
    waiting: list[Iterator[FoundFile | FileProblem | _Folder]] = [iter([_Folder(start, raw=True)])]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
        elif isinstance(found, _Folder):
            waiting.append(_list(root, found))
        else:
            yield found


def walk_listed(root: Path, listed: Iterable[str]) -> Iterator[FoundFile | FileProblem]:
    """Yield the files that a list names, relative to the root, and those in the folders it names; no others."""
    inside = root.resolve()
    for relative in sorted(set(listed)):
        path = root / relative
        if not os.path.lexists(path):
            reason = "the list names this file, and it is not there: put the list beside the data, or mend its path"
            yield FileProblem(relative, "refused", "listed_file_missing", reason, retryable=True)
        elif path.parent.resolve() != inside / path.parent.relative_to(root):
            yield FileProblem(relative, "refused", "symbolic_link", "the path leads through a symbolic link")
        else:
            found = look(path, relative)
            yield from walk_folder(root, relative) if found is None else [found]


@dataclass(frozen=True, slots=True)
class _Folder:
    relative: str
    raw: bool  # False beside the raw images of a BIDS tree


def _list(root: Path, folder: _Folder) -> Iterator["FoundFile | FileProblem | _Folder"]:
    """Yield what one folder holds, in order."""
    try:
        with os.scandir(root / folder.relative) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        reason = f"the folder cannot be listed: {error.strerror}"
        yield FileProblem(folder.relative, "refused", "unreadable_folder", reason, retryable=True)
        return
    bids = any(_is_subject(entry) for entry in listed)
    for entry in listed:
        relative = f"{folder.relative}/{entry.name}" if folder.relative else entry.name
        found = look(entry, relative)
        if found is None:
            yield _Folder(relative, raw=folder.raw and not (bids and entry.name in NOT_RAW))
        elif isinstance(found, FoundFile) and not folder.raw:
            reason = "beside the raw images of a BIDS tree: derivatives, source data or code"
            yield FileProblem(relative, "ignored", "bids_not_raw", reason)
        else:
            yield found


def _is_subject(entry: os.DirEntry[str]) -> bool:
    return _BIDS_SUBJECT.fullmatch(entry.name) is not None and entry.is_dir(follow_symlinks=False)


def look(entry: os.DirEntry[str] | Path, relative: str) -> FoundFile | FileProblem | None:
    """Return the file or the problem that a folder entry is; None for a folder to go into."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        reason = f"the file cannot be looked at: {error.strerror}"
        return FileProblem(relative, "refused", "unreadable", reason, retryable=True)
    if stat.S_ISDIR(status.st_mode):
        return None
    if stat.S_ISLNK(status.st_mode):
        return FileProblem(relative, "ignored", "symbolic_link", "symbolic links are not followed")
    if not stat.S_ISREG(status.st_mode):
        return FileProblem(relative, "ignored", "not_a_file", "this is a pipe, socket or device, not a regular file")
    changed = status.st_mtime_ns, status.st_ctime_ns
    return FoundFile(os.fspath(entry), relative, status.st_size, changed, (status.st_dev, status.st_ino))
