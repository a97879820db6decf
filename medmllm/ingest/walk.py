"""Find every file under a folder, in the same order each time, without leaving it.

root -> regular files, sorted; and a problem for each link, pipe, device and closed folder
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medmllm.errors import MisuseError

Severity = Literal["ignored", "warning", "refused"]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One regular file under the root."""

    path: Path = field(repr=False)
    relative: str = field(repr=False)  # to the root, with forward slashes
    size: int  # bytes

    @property
    def name(self) -> str:
        """The file name without its folders."""
        return self.relative.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """The folder it lies in, relative to the root; empty for the root itself."""
        return self.relative.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Why one file, or folder, is not part of any study, or deserves a look."""

    relative: str = field(repr=False)
    severity: Severity
    code: str
    reason: str
    retryable: bool = False


def walk(root: Path) -> tuple[list[FoundFile], list[FileProblem]]:
    """Return the regular files under a folder, sorted by path, and what was passed over.

    Symbolic links are passed over: they may lead out of the folder, to a file twice, or in a circle. The root itself
    may be one.

    Raises:
        MisuseError: The root is no folder or cannot be listed.
    """
    if not root.is_dir():
        raise MisuseError("the folder of studies is not there, or is not a folder")
    files: list[FoundFile] = []
    problems: list[FileProblem] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise MisuseError(f"the folder of studies cannot be listed: {error.strerror}") from None
            reason = f"the folder cannot be listed: {error.strerror}"
            problems.append(FileProblem(folder, "refused", "unreadable_folder", reason, retryable=True))
            continue
        for entry in listed:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            found = _look(entry, relative)
            if isinstance(found, FoundFile):
                files.append(found)
            elif isinstance(found, FileProblem):
                problems.append(found)
            else:
                waiting.append(relative)
    files.sort(key=lambda found: found.relative)
    return files, problems


def _look(entry: os.DirEntry[str], relative: str) -> FoundFile | FileProblem | None:
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
    return FoundFile(Path(entry.path), relative, status.st_size)
