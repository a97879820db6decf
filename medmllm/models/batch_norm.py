"""Batch normalisation where a batch, or a whole training, is small.

map (batch, channels, x, y, z) -> normalised map; the weights and buffers are those of torch's BatchNorm3d
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class LoneValueNorm(nn.BatchNorm3d):
    """Batch normalisation for batches of which one study alone has an image.

    Where a grid has shrunk to one voxel, such an image leaves one value per channel, which has no spread: it is
    measured by the running statistics, which it does not enter.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised map, of the same shape."""
        if not self.training or input.numel() > input.shape[1]:
            return self._normalise(input)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _normalise(self, input: Tensor) -> Tensor:
        return super().forward(input)


class EarlyNorm(LoneValueNorm):
    """Batch normalisation whose running statistics hold nothing but what was seen, from the first batch on.

    Torch lets a mean of 0 and a variance of 1 fade from them, a tenth per batch. In a network of many layers, each a
    little too small in evaluation, what is left of a study after some dozens of batches is nothing. Here the running
    average is divided by the weight of what was seen, as Adam does (Kingma and Ba, 2015, section 3).
    """

    def _normalise(self, input: Tensor) -> Tensor:
        if not self.training:
            return super()._normalise(input)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        normal = functional.batch_norm(  # a momentum of 1: `mean` and `variance` become those of this batch
            input, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        self.num_batches_tracked.add_(1)
        share = self.momentum / (1 - (1 - self.momentum) ** self.num_batches_tracked.to(mean.dtype))
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
        return normal
