"""Look at files: what each of them is, sealed for the store. This is what worker processes do.

FoundFile -> recognise -> record as text -> sealed; and, in the open, what says where it belongs
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from medmllm.ingest import record_text
from medmllm.ingest.keys import Keyring
from medmllm.ingest.recognise import Kind, Recognised, recognise
from medmllm.ingest.sealing import Seal
from medmllm.ingest.walk import FileProblem, FoundFile

PURPOSE = "file store"
_KINDS = {kind.value: kind for kind in Kind}
StoredRow = tuple[int, bytes, int, str, bytes]
"""Of the store: its number, sealed path, size, kind, sealed record."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker tells of a file."""

    kind: Kind
    path: bytes  # sealed, relative to the root
    record: bytes  # sealed, as of `record_text`
    uids: tuple[str | None, str | None] = field(default=(None, None), repr=False)  # StudyInstanceUID, PatientID
    twin: str | None = field(default=None, repr=False)  # files with the same may be copies
    problem: FileProblem | None = None


def look_at(files: Sequence[FoundFile], keyring: Keyring) -> list[Seen]:
    """Return what each file is."""
    seal = Seal.of(keyring.secret, PURPOSE)
    return [_look_at(found, seal) for found in files]


_of_file = attrgetter(*(field.name for field in fields(FoundFile)))
_of_seen = attrgetter(*(field.name for field in fields(Seen)))


def bare_files(files: Sequence[FoundFile]) -> list[tuple[Any, ...]]:
    """Return files as tuples, which cross to another process in a fraction of the time."""
    return [_of_file(found) for found in files]


def look_at_bare(files: Sequence[tuple[Any, ...]], keyring: Keyring) -> list[tuple[Any, ...]]:
    """Return what each of `bare_files` is, for `seen_of`."""
    return [_of_seen(seen) for seen in look_at([FoundFile(*each) for each in files], keyring)]


def seen_of(bare: Sequence[tuple[Any, ...]]) -> list[Seen]:
    """Return what `look_at_bare` told."""
    return [Seen(*each) for each in bare]


def _look_at(found: FoundFile, seal: Seal) -> Seen:
    item = recognise(found)
    first = item.dicom[0] if item.dicom else None
    return Seen(
        kind=item.kind,
        path=seal.close(found.relative),
        record=seal.close_bytes(record_text.write(item)),
        uids=(first.study_uid, first.patient_id) if first else (None, None),
        twin=f"{first.sop_uid} {first.position}" if first else None,
        problem=item.problem,
    )


def recognised_of(rows: Iterable[StoredRow], seal: Seal, root: Path) -> list[Recognised]:
    """Return what files were recognised as, from their rows in the store.

    Args:
        rows: In any order.
        seal: What they were sealed with.
        root: The folder that their paths are relative to.
    """
    around = os.path.join(root, "")
    found = []
    for _, path, size, kind, record in rows:
        relative = seal.open(path)
        file = FoundFile(f"{around}{relative}", relative, size)
        found.append(record_text.read(seal.open_bytes(record), file, _KINDS[kind]))
    return found
