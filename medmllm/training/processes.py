"""Share every batch between several processes.

    each process takes its part of a batch -> gradients are added up -> one step for all

One of them leads: it alone predicts the tuning part, chooses the epoch, writes and tracks; the others follow (see
followers). On processors they talk by gloo, on GPUs, one each, by NCCL. The sum of the parts' gradients is that of the
whole batch. Batch normalisation is over each part, its running statistics are averaged after each epoch, unless that is
shared too (see models.batch_norm).
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.multiprocessing
from torch import Tensor, distributed, nn

from medmllm.errors import ConfigError

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=7)  # the followers wait while the leader reads the studies, and predicts


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


def keep_to_this_machine() -> None:
    """Let processes of one machine talk by its loopback: nobody outside it may listen in."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
