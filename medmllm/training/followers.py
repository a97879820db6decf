"""Who trains together: processes that this one starts, or that were started beside it, kept from training to training.

    crew_of(processes, device) -> the others are there, or are started -> follow the block -> wait for the next one

Starting takes longer than many an epoch, so within `followers_stay` those who are there once stay. All that are started
here run on this machine; networks and samples go to them through memory, never through a file. Those of torchrun:
launched.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Protocol

import torch
import torch.multiprocessing
from torch import distributed

from medmllm.errors import ConfigError, MedmllmError
from medmllm.training.processes import ALONE, LONGEST_WAIT, Crew, device_of, keep_to_this_machine

Follow = Callable[..., None]
GRACE_S = 5.0  # a connection may break well before the process that is to blame is gone


class Followers(Protocol):
    """The other processes, waiting for what to do."""

    size: int  # with this one

    def led(self, device: torch.device, follow: Follow, work: Sequence[Any]) -> AbstractContextManager[Crew]:
        """Let each of them do `follow(Crew, *work)` while the block lasts."""

    def close(self) -> None:
        """Let them end."""


_STAYING: ContextVar[list[Followers] | None] = ContextVar("_STAYING", default=None)


@contextmanager
def followers_stay(there: Followers | None = None) -> Iterator[None]:
    """Keep the processes that one training starts for those after it, until the block ends; a block within stays too.

    Args:
        there: Those that are there already; None: the first training starts them.
    """
    if _STAYING.get() is not None:
        yield
        return
    staying = [] if there is None else [there]
    token = _STAYING.set(staying)
    try:
        yield
    finally:
        _STAYING.reset(token)
        for followers in staying:
            followers.close()


@contextmanager
def crew_of(size: int, device: torch.device, follow: Follow, work: Sequence[Any]) -> Iterator[Crew]:
    """Lead several processes for as long as the block lasts.

    Args:
        size: Processes, this one included; 1 starts none.
        device: As of `Machine.of`; its type counts.
        follow: What each of the others does: called with its Crew and `work`; importable by name.
        work: What they get to see.

    Raises:
        ConfigError: There are fewer GPUs than processes, or another number of processes stays.
        MedmllmError: `process_lost`: one of them ended before its time.
    """
    if size == 1:
        yield ALONE
        return
    with followers_stay():
        staying = _STAYING.get()
        assert staying is not None
        if not staying:
            staying.append(Spawned(size))
        if staying[0].size != size:
            raise ConfigError(f"[training] processes = {size}, but {staying[0].size} train together here")
        with staying[0].led(device, follow, work) as crew:
            yield crew


class Spawned:
    """Processes that this one starts when they are first needed, and again when some were lost."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._others: list[Any] = []
        self._lines: list[Any] = []
        self._folder: TemporaryDirectory[str] | None = None  # where they meet; NCCL meets again at its first sum

    @contextmanager
    def led(self, device: torch.device, follow: Follow, work: Sequence[Any]) -> Iterator[Crew]:
        """Let each of them do `follow(Crew, *work)` while the block lasts.

        Raises:
            ConfigError: There are fewer GPUs than processes.
            MedmllmError: `process_lost`: one of them ended before its time.
        """
        own, threads = device_of(0, self.size, device), torch.get_num_threads()
        done = False
        try:
            if not self._others:
                self._start(device)
            each = max(1, threads // self.size)
            torch.set_num_threads(each)
            for line in self._lines:
                line.send((device, each, follow, tuple(work)))
            yield Crew(0, self.size, own)
            done = True
        except (RuntimeError, ConnectionError) as error:  # also torch's own, of a connection that broke
            until = time.monotonic() + GRACE_S
            while all(other.is_alive() for other in self._others):
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            raise _lost(self._others) from error
        finally:
            torch.set_num_threads(threads)
            if not done:  # they are in the midst of what this one has left
                self._end(at_once=True)

    def close(self) -> None:
        """Let them end."""
        self._end(at_once=False)

    def _start(self, device: torch.device) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._folder = TemporaryDirectory()
        folder = Path(self._folder.name)
        for rank in range(1, self.size):
            line, end = context.Pipe()
            other = context.Process(target=_join, args=(rank, self.size, device, folder, end), daemon=True)
            self._lines.append(line)
            self._others.append(other)
            other.start()
            end.close()
        _wait_for(self._others, folder)
        _meet(0, self.size, device_of(0, self.size, device), folder)

    def _end(self, *, at_once: bool) -> None:
        for line, other in zip(self._lines, self._others, strict=True):
            if not at_once:
                with suppress(ConnectionError):
                    line.send(None)
                    other.join(10.0)
            line.close()
            other.kill()
        self._lines, self._others = [], []
        if distributed.is_initialized():
            distributed.destroy_process_group()
        if self._folder is not None:
            self._folder.cleanup()


def _wait_for(others: Sequence[Any], folder: Path) -> None:
    while len(list(folder.glob("ready-*"))) < len(others):
        if any(other.exitcode is not None for other in others):
            raise _lost(others)
        time.sleep(0.02)


def _lost(others: Sequence[Any]) -> MedmllmError:
    codes = ", ".join(str(other.exitcode) for other in others if other.exitcode is not None)
    return MedmllmError(
        f"a process of [training] processes = {len(others) + 1} ended before its time (exit code {codes}): it may have "
        "been killed for its memory. Go on with --resume, or with fewer processes.",
        code="process_lost",
    )


def _meet(rank: int, size: int, device: torch.device, folder: Path) -> None:
    keep_to_this_machine()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=size,
        timeout=LONGEST_WAIT,
    )


def _join(rank: int, size: int, device: torch.device, folder: Path, line: Any) -> None:
    """Follow the leader from one training to the next, until it is done, or gone."""
    Thread(target=_end_with_the_leader, daemon=True).start()
    own = device_of(rank, size, device)
    (folder / f"ready-{rank}").touch()
    _meet(rank, size, own, folder)
    while (job := line.recv()) is not None:
        given, threads, follow, work = job
        torch.set_num_threads(threads)
        follow(Crew(rank, size, device_of(rank, size, given)), *work)
        del job, work
    distributed.destroy_process_group()


def _end_with_the_leader() -> None:
    """Wait for the leader's end, and end this process with it, whatever it waits for."""
    leader = parent_process()
    assert leader is not None
    leader.join()
    os._exit(1)
