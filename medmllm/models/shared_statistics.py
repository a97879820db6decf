"""Mean and variance over what several processes hold, with the gradient of their sum of losses.

    values of this process -> sums over all processes -> mean, variance, count, the same for all

Torch's own SyncBatchNorm runs on CUDA alone. Here the sums travel by whatever the processes talk with, gloo or NCCL,
and autograd does the rest: the gradient of a sum over processes is the sum of their gradients. Every process must come
here, one that holds nothing as well, or the others would wait for it.
"""

from typing import Any

import torch
from torch import Tensor, distributed


class _SumOverAll(torch.autograd.Function):
    """The sum over all processes, of values on the way there and of gradients on the way back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def moments_over_all(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each channel's mean and variance (biased) over all processes, and how many values a channel has.

    Args:
        values: What this process holds, (batch, channels, ...), float32; requires a gradient, on every process: else
            some would come back here for theirs and others not. The batch may be empty.
    """
    axes = [0, *range(2, values.ndim)]
    here = values.numel() // values.shape[1]
    if here:
        variance, mean = torch.var_mean(values, axes, correction=0)
    else:
        variance = mean = values.sum(axes)  # zeros that still ask for a gradient
    sums: Tensor = _SumOverAll.apply(torch.cat([here * mean, mean.new_tensor([here])]))
    count = sums[-1].detach()
    whole = sums[:-1] / count.clamp(min=1)
    squares: Tensor = _SumOverAll.apply(here * (variance + (mean - whole) ** 2))
    return whole, squares / count.clamp(min=1), count


def anywhere(rows: Tensor) -> bool:
    """Return whether any process has rows."""
    some = torch.tensor(len(rows), device=rows.device)
    distributed.all_reduce(some)
    return bool(some)
