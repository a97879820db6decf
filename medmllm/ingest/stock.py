"""Bring the store up to date with the folder, opening only files that are new or changed.

    walk -> batches -> unchanged: the row is kept
                    -> new or changed: recognised, by threads or processes where that pays -> rows

Batches are written in the order of the walk, so that two runs give the same rows whatever the workers do.
"""

import gc
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from medmllm.ingest.file_store import FileStore
from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import Layouts, Place
from medmllm.ingest.looking import Seen, bare_files, look_at, look_at_bare, seen_of
from medmllm.ingest.recognise import Kind
from medmllm.ingest.walk import FileProblem, FoundFile

Given = TypeVar("Given")
Answer = TypeVar("Answer")

BATCH = 128  # files
THREADS = 8  # where reading headers mostly waits, for a network drive
SLOW, SLOW_S = 3, 0.2  # a batch that takes longer than this many times its work, and this more, is one that waits
MANY_BATCHES = 40  # from here on processes pay for their start


@dataclass(slots=True)
class _Batch:
    """Entries of the walk, and those of them that a worker looks at."""

    start: int  # place of the first in the walk
    entries: list[FoundFile | FileProblem]
    kept: dict[int, Kind]  # unchanged, by index
    read: list[int]
    seen: Future[list[tuple[Any, ...]]] | None = None

    @property
    def files(self) -> list[FoundFile]:
        """Those that a worker looks at."""
        return [entry for index in self.read if isinstance(entry := self.entries[index], FoundFile)]


class Workers(AbstractContextManager["Workers"]):
    """Look at files here while the disk answers at once, by threads where it is waited for, by processes where asked.

    Processes are forked when the context is entered, if this process has no other thread yet: enter it early. Else
    they are started afresh, once there is much to do. A process that dies costs no file: its files are looked at here.
    """

    def __init__(self, keyring: Keyring, processes: int = 0) -> None:
        self._keyring, self._processes = keyring, processes
        self._executor: Executor | None = None
        self._leaving: list[threading.Thread] = []
        self._submitted = 0
        self.ahead = 0  # batches that may wait for their results

    def __enter__(self) -> "Workers":
        alone = threading.active_count() == 1  # a fork copies the locks that other threads hold
        if self._processes > 1 and alone and "fork" in multiprocessing.get_all_start_methods():
            self._start_processes("fork")
        return self

    def _start_processes(self, method: str) -> None:
        executor = ProcessPoolExecutor(self._processes, multiprocessing.get_context(method))
        gc.freeze()  # forked processes share what is never looked through
        try:
            executor.submit(os.getpid)  # starts them
        finally:
            gc.unfreeze()
        self._start(executor, 4 * self._processes)

    def submit(self, batch: "_Batch") -> None:
        """Hand a batch to the workers, if there are any."""
        self._submitted += 1
        if self._processes > 1 and self._executor is None and self._submitted == MANY_BATCHES:
            self._start_processes("spawn")
        if self._executor is not None:
            try:
                batch.seen = self._executor.submit(look_at_bare, bare_files(batch.files), self._keyring)
            except BrokenProcessPool:
                self._start(None, 0)

    def result(self, batch: "_Batch") -> list[Seen]:
        """Return what the files of a batch are."""
        if not batch.read:
            return []
        if batch.seen is None:
            wall, busy = time.perf_counter(), time.thread_time()
            seen = look_at(batch.files, self._keyring)
            waited = time.perf_counter() - wall > SLOW * (time.thread_time() - busy) + SLOW_S
            if waited and self._executor is None:
                self._start(ThreadPoolExecutor(THREADS), 2 * THREADS)
            return seen
        try:
            return seen_of(batch.seen.result())
        except BrokenProcessPool:
            self._start(None, 0)
            return look_at(batch.files, self._keyring)

    def ask(self, work: Callable[[Given], Answer], given: Given) -> Callable[[], Answer]:
        """Return what waits for an answer: of a process where there are any, else worked out when it is asked for."""
        if not isinstance(self._executor, ProcessPoolExecutor):
            return partial(work, given)
        try:
            future = self._executor.submit(work, given)
        except BrokenProcessPool:
            self._start(None, 0)
            return partial(work, given)
        return partial(self._answer, future, work, given)

    def _answer(self, future: Future[Answer], work: Callable[[Given], Answer], given: Given) -> Answer:
        try:
            return future.result()
        except BrokenProcessPool:
            self._start(None, 0)
            return work(given)

    def dismiss(self) -> None:
        """Let processes end while this one goes on with something else; ask nothing any more."""
        self._let_go(cancel=True)

    def _start(self, executor: Executor | None, ahead: int) -> None:
        self._let_go(cancel=False)
        self._executor, self.ahead = executor, ahead

    def _let_go(self, *, cancel: bool) -> None:
        """Let an executor end by itself, in a thread that can be waited for.

        One that was told not to wait cannot be waited for later: it may then close its pipe in the moment in which
        Python, on its way out, writes to it.
        """
        if self._executor is not None:
            self._leaving.append(threading.Thread(target=self._executor.shutdown, kwargs={"cancel_futures": cancel}))
            self._leaving[-1].start()
        self._executor, self.ahead = None, 0

    def __exit__(self, *exception: object) -> None:
        self._let_go(cancel=True)
        for leaving in self._leaving:
            leaving.join()


def take_stock(
    entries: Iterable[FoundFile | FileProblem],
    store: FileStore,
    layouts: Layouts,
    *,
    workers: Workers,
    advance: Callable[[int], None],
) -> int:
    """Write a row for every entry of a walk and return how many there are.

    Args:
        entries: Files and problems in order.
        store: Where the rows go.
        layouts: Says which study an image belongs to.
        workers: Look at what is new.
        advance: Called with the number of files just dealt with.
    """
    total = 0
    waiting: deque[_Batch] = deque()
    for batch in _batches(entries, store):
        if batch.read:
            workers.submit(batch)
        waiting.append(batch)
        total = batch.start + len(batch.entries)
        while len(waiting) > workers.ahead:
            _write(waiting.popleft(), store, layouts, workers, advance)
    while waiting:
        _write(waiting.popleft(), store, layouts, workers, advance)
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


def _write(batch: _Batch, store: FileStore, layouts: Layouts, workers: Workers, advance: Callable[[int], None]) -> None:
    seen = dict(zip(batch.read, workers.result(batch), strict=True))
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
            store.put(seq, entry, what, fate)
    advance(sum(isinstance(entry, FoundFile) for entry in batch.entries))
