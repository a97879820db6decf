"""Train with several processes that share every batch.

    this process starts the others -> each takes its part of every batch -> gradients are added up -> one step for all

The one that starts them leads: it alone predicts the tuning part, chooses the epoch, writes and tracks; the others
follow. All run on one machine: on processors they talk by gloo over the loopback, on GPUs, one each, by NCCL. The sum
of the parts' gradients is that of the whole batch. Batch normalisation is over each part, its running statistics are
averaged after each epoch, unless that is shared too (see models.batch_norm). Samples and networks go to the others
through memory, never through a file.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.multiprocessing
from torch import Tensor, distributed, nn

from medmllm.errors import ConfigError, MedmllmError

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=12)  # the followers wait while the leader predicts the tuning part


@dataclass(frozen=True, slots=True)
class Crew:
    """This process among those that train together."""

    rank: int = 0  # 0 leads
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def part(self, batch: Sequence[T]) -> Sequence[T]:
        """Return this process's part of a batch."""
        return batch[self.rank :: self.size]

    def totals(self, *values: Tensor | float) -> tuple[Tensor | float, ...]:
        """Return numbers added up over all processes."""
        if self.size == 1:
            return values
        added = torch.stack([torch.as_tensor(value, device=self.device).double() for value in values])
        distributed.all_reduce(added)
        return tuple(added)

    def add_up(self, network: nn.Module) -> None:
        """Give every process the sum of all gradients; a weight that none of them used keeps none."""
        if self.size == 1:
            return
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in learning]
        used = torch.tensor([one.grad is not None for one in learning], dtype=gradients[0].dtype, device=self.device)
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), used])
        distributed.all_reduce(flat)
        *parts, counts = flat.split([*(one.numel() for one in learning), len(learning)])
        for parameter, gradient, part, count in zip(learning, gradients, parts, counts.tolist(), strict=True):
            # Copied into the gradient's own layout: the fused step walks the memory of weights and gradients alike.
            parameter.grad = gradient.copy_(part.view_as(gradient)) if count else None

    def average_statistics(self, network: nn.Module) -> None:
        """Give every process the mean of all running statistics."""
        if self.size == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= self.size

    def goes_on(self, decided: bool) -> bool:
        """Return what the leader decided."""
        if self.size == 1:
            return decided
        said = torch.tensor(int(decided), device=self.device)
        distributed.broadcast(said, src=0)
        return bool(said)


ALONE = Crew()


def device_of(rank: int, size: int, device: torch.device) -> torch.device:
    """Return the device of one of several processes.

    Raises:
        ConfigError: There are fewer GPUs than processes.
    """
    if size == 1 or device.type == "cpu":
        return device
    if str(device) != "cuda" or torch.cuda.device_count() < size:
        raise ConfigError(
            f"[training] processes = {size} wants {size} GPUs, one each, and device = 'cuda'; here are "
            f"{torch.cuda.device_count()}"
        )
    return torch.device("cuda", rank)


@contextmanager
def crew_of(size: int, device: torch.device, follow: Callable[..., None], work: Sequence[Any]) -> Iterator[Crew]:
    """Lead several processes for as long as the block lasts.

    Args:
        size: Processes, this one included; 1 starts none.
        device: As of `Machine.of`; its type counts.
        follow: What each of the others does: called with its Crew and `work`; importable by name.
        work: What they get to see.

    Raises:
        ConfigError: There are fewer GPUs than processes.
        MedmllmError: `process_lost`: one of them ended before its time.
    """
    if size == 1:
        yield ALONE
        return
    own, threads = device_of(0, size, device), torch.get_num_threads()
    each = max(1, threads // size)
    with TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_join, args=(rank, size, device, Path(folder), each, follow, work), daemon=True)
            for rank in range(1, size)
        ]
        try:
            for other in others:
                other.start()
            _wait_for(others, Path(folder))
            torch.set_num_threads(each)
            _meet(0, size, own, Path(folder))
            yield Crew(0, size, own)
            for other in others:
                other.join()
        except RuntimeError as error:  # also torch's own, of a connection that broke
            time.sleep(1.0)  # until the one that is to blame is gone
            if all(other.is_alive() for other in others):
                raise
            raise _lost(others) from error
        finally:
            torch.set_num_threads(threads)
            for other in others:
                other.kill()
            if distributed.is_initialized():
                distributed.destroy_process_group()


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
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody outside this machine may listen in
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=size,
        timeout=LONGEST_WAIT,
    )


def _join(
    rank: int,
    size: int,
    device: torch.device,
    folder: Path,
    threads: int,
    follow: Callable[..., None],
    work: Sequence[Any],
) -> None:
    """Follow the leader until it is done, or gone."""
    torch.set_num_threads(threads)
    own = device_of(rank, size, device)
    (folder / f"ready-{rank}").touch()
    try:
        _meet(rank, size, own, folder)
        follow(Crew(rank, size, own), *work)
        distributed.destroy_process_group()
    except RuntimeError:
        leader = parent_process()
        if leader is not None and leader.is_alive():
            raise
