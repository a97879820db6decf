"""Bring the store up to date with the folder, opening only files that are new or changed.

    walk -> batches -> unchanged: the row is kept
                    -> new or changed: recognised, by threads or processes where that pays -> rows

Batches are written in the order of the walk, so that two runs give the same rows whatever the workers do.
"""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice

from medmllm.ingest import record_text
from medmllm.ingest.file_store import FileStore
from medmllm.ingest.layouts import Layouts, Place
from medmllm.ingest.recognise import Kind, recognise
from medmllm.ingest.walk import FileProblem, FoundFile

BATCH = 64  # files
THREADS = 8  # where reading headers mostly waits, for a network drive
SLOW, SLOW_S = 3, 0.2  # a batch that takes longer than this many times its work, and this more, is one that waits
MANY_BATCHES = 80  # from here on processes pay for their start


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker tells of a file."""

    kind: Kind
    text: str
    uids: tuple[str | None, str | None]  # StudyInstanceUID, PatientID
    twin: str | None  # files with the same may be copies
    problem: FileProblem | None


@dataclass(slots=True)
class _Batch:
    """Entries of the walk, and those of them that a worker looks at."""

    start: int  # place of the first in the walk
    entries: list[FoundFile | FileProblem]
    kept: dict[int, Kind]  # unchanged, by index
    read: list[int]
    seen: Future[list[Seen]] | None = None

    @property
    def files(self) -> list[FoundFile]:
        """Those that a worker looks at."""
        return [entry for index in self.read if isinstance(entry := self.entries[index], FoundFile)]


def take_stock(
    entries: Iterable[FoundFile | FileProblem],
    store: FileStore,
    layouts: Layouts,
    *,
    workers: int,
    advance: Callable[[int], None],
) -> int:
    """Write a row for every entry of a walk and return how many there are.

    Args:
        entries: Files and problems in order.
        store: Where the rows go.
        layouts: Says which study an image belongs to.
        workers: Processes to use where many files are new; 0 uses threads alone.
        advance: Called with the number of files just dealt with.
    """
    total = 0
    waiting: deque[_Batch] = deque()
    with _Pool(workers) as pool:
        for batch in _batches(entries, store):
            if batch.read:
                pool.submit(batch)
            waiting.append(batch)
            total = batch.start + len(batch.entries)
            while len(waiting) > pool.ahead:
                _write(waiting.popleft(), store, layouts, pool, advance)
        while waiting:
            _write(waiting.popleft(), store, layouts, pool, advance)
    store.finish()
    return total


def _batches(entries: Iterable[FoundFile | FileProblem], store: FileStore) -> Iterator[_Batch]:
    start, rest = 0, iter(entries)
    while part := list(islice(rest, BATCH)):
        places = [i for i, entry in enumerate(part) if isinstance(entry, FoundFile)]
        known = store.known([entry for entry in part if isinstance(entry, FoundFile)])
        kept = {i: old.kind for i, old in zip(places, known, strict=True) if old and old.same}
        yield _Batch(start, part, kept, [i for i in places if i not in kept])
        start += len(part)


def _write(batch: _Batch, store: FileStore, layouts: Layouts, pool: "_Pool", advance: Callable[[int], None]) -> None:
    seen = dict(zip(batch.read, pool.result(batch), strict=True))
    for index, entry in enumerate(batch.entries):
        seq = batch.start + index
        if isinstance(entry, FileProblem):
            store.put_problem(seq, entry)
        elif index in batch.kept:
            kind = batch.kept[index]
            # A DICOM file says itself where it belongs; the others go by their neighbours, which may have changed.
            placed = kind is not Kind.DICOM and kind is not Kind.OTHER
            store.keep(seq, entry, layouts.place(entry, kind) if placed else None, placed=placed)
        else:
            what = seen[index]
            fate: FileProblem | Place | None = what.problem or layouts.place(entry, what.kind, what.uids)
            store.put(seq, entry, what.kind, what.text, what.twin, fate, own=what.problem is not None)
    advance(sum(isinstance(entry, FoundFile) for entry in batch.entries))


def look_at(files: Sequence[FoundFile]) -> list[Seen]:
    """Return what each file is; runs in a worker."""
    return [_look_at(found) for found in files]


def _look_at(found: FoundFile) -> Seen:
    item = recognise(found)
    first = item.dicom[0] if item.dicom else None
    twin = f"{found.size} {first.sop_uid} {first.position}" if first else None
    uids = (first.study_uid, first.patient_id) if first else (None, None)
    return Seen(item.kind, record_text.write(item), uids, twin, item.problem)


class _Pool(AbstractContextManager["_Pool"]):
    """Looks at files here while the disk answers at once, by threads where it is waited for, by processes for many.

    A process that dies costs no file: what it had is looked at here.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._executor: Executor | None = None
        self._submitted = 0
        self.ahead = 0  # batches that may wait for their results

    def submit(self, batch: _Batch) -> None:
        """Hand a batch to the workers, if there are any."""
        self._submitted += 1
        if self._workers > 1 and self._submitted == MANY_BATCHES:
            context = multiprocessing.get_context("spawn")  # a fork would copy the locks of our threads
            self._start(ProcessPoolExecutor(self._workers, context), 4 * self._workers)
        if self._executor is not None:
            try:
                batch.seen = self._executor.submit(look_at, batch.files)
            except BrokenProcessPool:
                self._start(None, 0)

    def result(self, batch: _Batch) -> list[Seen]:
        """Return what the files of a batch are."""
        if batch.seen is None:
            wall, busy = time.perf_counter(), time.thread_time()
            seen = look_at(batch.files)
            waited = time.perf_counter() - wall > SLOW * (time.thread_time() - busy) + SLOW_S
            if waited and self._executor is None:
                self._start(ThreadPoolExecutor(THREADS), 2 * THREADS)
            return seen
        try:
            return batch.seen.result()
        except BrokenProcessPool:
            self._start(None, 0)
            return look_at(batch.files)

    def _start(self, executor: Executor | None, ahead: int) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self._executor, self.ahead = executor, ahead

    def __exit__(self, *exception: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
