"""Batch normalisation where a batch, or a whole training, is small, or where several processes share a batch.

map (batch, channels, x, y, z) -> normalised map; the weights and buffers are those of torch's BatchNorm3d
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from medmllm.models.shared_statistics import moments_over_all


class LoneNorm(_BatchNorm):
    """Batch normalisation for batches of which one study alone has what is normalised.

    One value per channel has no spread: it is measured by the running statistics, which it does not enter.
    """

    shared = False  # whether the statistics are of what all processes hold: see share_statistics

    def forward(self, input: Tensor) -> Tensor:
        """Return what is normalised, in the shape it came in."""
        if self.training and self.shared:
            return self._over_all(input)
        if not self.training or input.numel() > input.shape[1]:
            return self._normalise(input)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _normalise(self, input: Tensor) -> Tensor:
        return super().forward(input)

    def _over_all(self, input: Tensor) -> Tensor:
        """Normalise by mean and variance over all processes; of one value among all of them, by the running ones."""
        assert self.running_mean is not None and self.running_var is not None
        values = input.float()
        if not values.requires_grad:
            values = values.detach().requires_grad_()
        mean, variance, count = moments_over_all(values)
        several = count > 1
        with torch.no_grad():
            # Chosen by numbers: to ask for the count would make the processor wait for the GPU, in every layer.
            self._remember(mean, variance * count / (count - 1).clamp(min=1), several)
        mean = torch.where(several, mean, self.running_mean)
        scale = (torch.where(several, variance, self.running_var) + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            # Times 1, for a gradient of its own. Of one value there is nothing to add up, and two norms whose sum goes
            # on would get one and the same tensor as gradients of their biases: what clips it would clip it twice.
            shift = shift + 1 * self.bias
        shape = (1, -1, *([1] * (values.ndim - 2)))
        return (values * scale.view(shape) + shift.view(shape)).to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, several: Tensor | bool) -> None:
        """Let mean and unbiased variance of a batch enter the running statistics, where they are of several values."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(several)
        share = self._share() * several
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _share(self) -> Tensor:
        """Return how much the batch that was counted last weighs in the running statistics."""
        assert self.momentum is not None and self.running_mean is not None
        return self.running_mean.new_tensor(self.momentum)


class LoneValueNorm(LoneNorm, nn.BatchNorm3d):
    """Of maps: where a grid has shrunk to one voxel, the only image of a batch leaves one value per channel."""


class LoneRowNorm(LoneNorm, nn.BatchNorm1d):
    """Of features, (batch, channels)."""


class EarlyNorm(LoneValueNorm):
    """Batch normalisation whose running statistics hold nothing but what was seen, from the first batch on.

    Torch lets a mean of 0 and a variance of 1 fade from them, a tenth per batch. In a network of many layers, each a
    little too small in evaluation, what is left of a study after some dozens of batches is nothing. Here the running
    average is divided by the weight of what was seen, as Adam does (Kingma and Ba, 2015, section 3).
    """

    def _normalise(self, input: Tensor) -> Tensor:
        if not self.training:
            return super()._normalise(input)
        assert self.running_mean is not None and self.running_var is not None
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        normal = functional.batch_norm(  # a momentum of 1: `mean` and `variance` become those of this batch
            input, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        self._remember(mean, variance, True)
        return normal

    def _share(self) -> Tensor:
        assert self.momentum is not None and self.running_mean is not None and self.num_batches_tracked is not None
        seen = self.num_batches_tracked.to(self.running_mean.dtype).clamp(min=1)
        return self.momentum / (1 - (1 - self.momentum) ** seen)


def share_statistics(network: nn.Module | None, shared: bool) -> bool:
    """Let every batch norm look at what all processes hold, or at this one's part; return whether there is one.

    Args:
        network: Where processes share them, each runs it on every batch, on an empty one as well; None has no norm.
        shared: Over all processes.
    """
    norms = [] if network is None else [module for module in network.modules() if isinstance(module, LoneNorm)]
    for norm in norms:
        norm.shared = shared
    return bool(norms)
