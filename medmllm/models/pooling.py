"""Pool feature maps in three dimensions with the same bits each time, where torch's own pooling cannot.

MaxPool3d, AvgPool3d -> the same, with gradients that `torch.use_deterministic_algorithms` lets pass on CUDA

On CUDA, torch has no deterministic gradient of either and stops a training that asks for one. Both are separable: the
largest (or mean) of a cube is that along z of those along y of those along x, which is strided slices and an
element-wise operation. That is slower, so it is done only where it is asked for.
"""

from collections.abc import Callable
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class SteadyMaxPool3d(nn.MaxPool3d):
    """MaxPool3d; an element that several cubes or equals share gets its part of each gradient."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the map of maxima, (batch, channels, x', y', z')."""
        return steady_max(input, self) if _steady(input) else super().forward(input)


class SteadyAvgPool3d(nn.AvgPool3d):
    """AvgPool3d."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the map of means, (batch, channels, x', y', z')."""
        return steady_mean(input, self) if _steady(input) else super().forward(input)


def _steady(features: Tensor) -> bool:
    return features.is_cuda and torch.are_deterministic_algorithms_enabled()


def steady_max(features: Tensor, pool: nn.MaxPool3d) -> Tensor:
    """Return what a MaxPool3d does, bit for bit, by slices."""
    return _by_slices(features, pool, -torch.inf, torch.maximum)


def steady_mean(features: Tensor, pool: nn.AvgPool3d) -> Tensor:
    """Return what an AvgPool3d does, but for rounding, by slices."""
    edges = cast(tuple[int, int, int], _three(pool.kernel_size))
    return _by_slices(features, pool, 0.0, torch.add) / (edges[0] * edges[1] * edges[2])


def _three(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def _by_slices(
    features: Tensor, pool: nn.MaxPool3d | nn.AvgPool3d, outside: float, join: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    edges, steps, margins = (_three(value) for value in (pool.kernel_size, pool.stride, pool.padding))
    for axis, (edge, step, margin) in enumerate(zip(edges, steps, margins, strict=True), start=2):
        sides = [0, 0] * (4 - axis) + [margin, margin]
        padded = functional.pad(features, sides, value=outside) if margin else features
        count = (padded.shape[axis] - edge) // step + 1
        last = step * (count - 1) + 1
        windows = [padded.narrow(axis, start, last) for start in range(edge)]
        every = (slice(None),) * axis + (slice(None, None, step),)
        features = reduce(join, [window[every] for window in windows])
    return features


def make_steady(network: nn.Module) -> None:
    """Let every MaxPool3d and AvgPool3d of a network pool steadily; they have no weights, and keep their names.

    What none of our networks uses, dilation and rounding up, is not done by slices: the tests compare every network.
    """
    steady = {nn.MaxPool3d: SteadyMaxPool3d, nn.AvgPool3d: SteadyAvgPool3d}
    for module in network.modules():
        if type(module) in steady:
            module.__class__ = steady[type(module)]
