"""Have the next batches on the device while the network works on one.

    batches -> device -> batches there

On the processor nothing is gained by this, and each batch is brought when its turn comes. For CUDA a thread beside the
training collates the next ones, pins their memory and copies them on a stream of their own, so that neither the
training nor the GPU waits for them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medmllm.records import Batch

AHEAD = 2
"""Batches on the device beside the one in work."""


def feed(batches: Iterator[Batch], bring: Callable[[Batch], Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches, in order, brought to the device.

    Args:
        batches: In the processor's memory.
        bring: Moves one to the device.
        device: Where it brings them.
    """
    if device.type == "cpu":
        yield from map(bring, batches)
        return
    side = torch.cuda.Stream(device)

    def next_one() -> tuple[Batch, torch.cuda.Event] | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(side):
            brought = bring(_each(batch, Tensor.pin_memory))
            return brought, side.record_event()

    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next_one) for _ in range(AHEAD))
        while (found := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next_one))
            batch, copied = found
            working = torch.cuda.current_stream(device)
            working.wait_event(copied)
            # Else the memory of a batch counts as free as soon as its copy is, and the next copy may take it.
            yield _each(batch, partial(_use_on, working))


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return the batch with each of its tensors changed."""
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    changed: dict[str, Any] = {name: change(value) for name, value in found.items() if isinstance(value, Tensor)}
    return replace(batch, **changed)


def _use_on(stream: torch.cuda.Stream, tensor: Tensor) -> Tensor:
    tensor.record_stream(stream)
    return tensor
