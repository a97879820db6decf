"""Train with the processes that torchrun, or whoever sets its variables, has started: on one machine or several.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT -> they meet
    -> the first does what was asked for; the others wait for its trainings, and take part in them

Only the first one reads studies, writes, logs and tracks. The others get networks and samples from it, and prepared
images from its files: several machines need a file system that they share. What goes between them is not encrypted and
is believed, as in all of torch.distributed: they must be alone in their network.
"""

import atexit
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, TypeVar

import torch
from torch import distributed

from medmllm.errors import ConfigError, MedmllmError, MisuseError
from medmllm.training.followers import Follow, followers_stay
from medmllm.training.processes import LONGEST_WAIT, Crew, keep_to_this_machine

T = TypeVar("T")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
CPU = torch.device("cpu")
GRACE_S = 5.0  # who loses the connection ends after the one that is to blame: torchrun tells of the first alone


@dataclass(frozen=True, slots=True)
class Place:
    """This process among all, and among those of its machine."""

    rank: int  # 0 is the first
    size: int
    local_rank: int
    local_size: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Place":
        """Return the place that the environment tells.

        Raises:
            MisuseError: It tells only a part of it, or something that is no number.
        """
        absent = [name for name in VARIABLES if not environment.get(name)]
        if absent:
            raise MisuseError(
                f"RANK and WORLD_SIZE are set, as torchrun does, but not {', '.join(absent)}: start with torchrun, set "
                "them too, or unset WORLD_SIZE."
            )
        size = environment["WORLD_SIZE"]
        texts = (environment["RANK"], size, environment["LOCAL_RANK"], environment.get("LOCAL_WORLD_SIZE", size))
        try:
            rank, all_of_them, local_rank, local_size = map(int, texts)
        except ValueError:
            raise MisuseError(f"RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE are no numbers: {texts}") from None
        return cls(rank, all_of_them, local_rank, local_size)

    def device(self, asked: torch.device) -> torch.device:
        """Return this process's own device.

        Raises:
            ConfigError: Its machine has too few GPUs.
        """
        if asked.type == "cpu":
            return asked
        if str(asked) != "cuda" or torch.cuda.device_count() <= self.local_rank:
            raise ConfigError(
                f"{self.local_size} processes on this machine want a GPU each, and device = 'cuda'; here are "
                f"{torch.cuda.device_count()}, and device = '{asked}'"
            )
        return torch.device("cuda", self.local_rank)


class Launched:
    """The processes that were started beside this one, as seen by the first of them."""

    def __init__(self, place: Place) -> None:
        self.size = place.size
        self._place = place
        self._in_step = True

    @contextmanager
    def led(self, device: torch.device, follow: Follow, work: Sequence[Any]) -> Iterator[Crew]:
        """Let each of them do `follow(Crew, *work)` while the block lasts.

        Raises:
            ConfigError: There are fewer GPUs than processes.
            MedmllmError: `process_lost`: one of them ended before its time.
        """
        own, threads = self._place.device(device), torch.get_num_threads()
        each = max(1, threads // self._place.local_size)
        self._in_step = False
        try:
            torch.set_num_threads(each)
            distributed.broadcast_object_list([(device, each, follow, tuple(work))], src=0, device=CPU)
            yield Crew(0, self.size, own)
            self._in_step = True
        except RuntimeError as error:
            if not _broke(error):
                raise
            raise MedmllmError(
                f"one of the {self.size} processes ended before its time; what it, or who started it, says tells why. "
                "Go on with --resume.",
                code="process_lost",
            ) from error
        finally:
            torch.set_num_threads(threads)

    def close(self) -> None:
        """Let them end; those in the midst of a training do so by themselves when they lose the connection."""
        if self._in_step:
            with suppress(RuntimeError):  # one that is gone already
                distributed.broadcast_object_list([None], src=0, device=CPU)
                distributed.destroy_process_group()
                return
        leaving = Leaving()
        # Not before all is said: the others end when the connection does, and torchrun ends this process then.
        atexit.register(leaving.go)


class Leaving:
    """Leave a group that is out of step, whose other processes may never answer: wait for a moment, not for ever.

    The group has threads of its own; left at the end, they would abort the process, whatever its exit code was.
    """

    def __init__(self) -> None:
        self._now = Event()
        self._thread = Thread(target=self._leave, daemon=True)
        self._thread.start()  # not in `go`: while Python ends, none can be started

    def go(self) -> None:
        """Leave."""
        self._now.set()
        self._thread.join(GRACE_S)

    def _leave(self) -> None:
        self._now.wait()
        distributed.destroy_process_group()


def take_part(environment: Mapping[str, str], first: Callable[[], T]) -> T | None:
    """Do what the first process is to do, and return what that returns; or follow it to its end, and return None.

    Args:
        environment: Tells which of the processes this is.
        first: What to do if it is the first; only its trainings are shared.

    Raises:
        MisuseError: The environment tells only a part.
        MedmllmError: `leader_lost`: the first process, or another, ended in the midst of a training.
    """
    place = Place.of(environment)
    if place.local_size == place.size:
        keep_to_this_machine()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, rank=place.rank, world_size=place.size, timeout=LONGEST_WAIT)
    if place.rank > 0:
        _follow(place)
        return None
    with followers_stay(Launched(place)):
        return first()


def _follow(place: Place) -> None:
    logging.getLogger("medmllm").setLevel(logging.ERROR)  # the first one says it
    try:
        while True:
            received: list[Any] = [None]
            distributed.broadcast_object_list(received, src=0, device=CPU)
            if received[0] is None:
                break
            device, threads, follow, work = received.pop()
            torch.set_num_threads(threads)
            own = place.device(device)
            if own.type == "cuda":
                torch.cuda.set_device(own)
            follow(Crew(place.rank, place.size, own), *work)
        distributed.destroy_process_group()
    except RuntimeError as error:
        if not _broke(error):
            raise
        time.sleep(GRACE_S)
        Leaving().go()
        raise MedmllmError("another process has ended in the midst of a training", code="leader_lost") from None


def _broke(error: RuntimeError) -> bool:
    """Return whether an error is of a connection; gloo raises plain ones, which name it."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
