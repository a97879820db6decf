"""EfficientNet-B0 in three dimensions, for grids of any size.

    image (batch, channels, x, y, z) -> last map (batch, 1280 at full width, x / 32, y / 32, z / 32), rounded up

The blocks are MONAI's (Tan and Le, ICML 2019, arXiv:1905.11946, table 1). MONAI reckons the padding of each convolution
once, for a cube of 224 voxels an edge, which halves evenly down to 7: maps with odd edges would round down, and one of
a single voxel could not be read at all. Here padding follows what comes in, as TensorFlow's "SAME" does, and edges
round up.
"""

import math

from monai.networks.nets import EfficientNet
from torch import Tensor, nn
from torch.nn import functional

from medmllm.models.batch_norm import EarlyNorm

FULL_WIDTH = 32  # channels of the first convolution of B0; other widths scale all stages, to multiples of 8
BLOCKS = (  # as MONAI writes them: repeats, kernel, stride, expansion, channels in and out, squeeze
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)


class SamePadding(nn.Module):
    """Pad a map so that a convolution gives ceil(edge / stride) along each axis; the odd voxel goes behind."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.kernel_size, self.stride = convolution.kernel_size, convolution.stride

    def forward(self, features: Tensor) -> Tensor:
        """Return the padded map."""
        sides: list[int] = []
        for edge, kernel, stride in zip(features.shape[2:], self.kernel_size, self.stride, strict=True):
            lacking = max((math.ceil(edge / stride) - 1) * stride + kernel - edge, 0)
            sides = [lacking // 2, lacking - lacking // 2, *sides]  # torch names the last axis first
        return functional.pad(features, sides) if any(sides) else features


class EfficientNetMap(EfficientNet):
    """EfficientNet-B0 that ends with its last map, before pooling; parameters are named as MONAI's.

    Args:
        channels: Of the image.
        width: Channels of the first convolution, a multiple of 8; 32 is B0.
        stem_stride: Stride of the first convolution; 2 in the paper.
        dropout: Chance that a study skips the last block while training (stochastic depth); less for earlier blocks.
    """

    def __init__(self, channels: int, *, width: int, stem_stride: int, dropout: float) -> None:
        super().__init__(
            blocks_args_str=list(BLOCKS),
            spatial_dims=3,
            in_channels=channels,
            num_classes=1,
            width_coefficient=width / FULL_WIDTH,
            # MONAI's momentum of 0.01 averages over hundreds of batches: all of a small training.
            norm=("batch", {"eps": 1e-3, "momentum": 0.1}),
            drop_connect_rate=dropout,
        )
        del self._fc, self._dropout, self._avg_pooling
        self._conv_stem.stride = (stem_stride,) * 3
        for module in list(self.modules()):
            if isinstance(module, nn.BatchNorm3d):
                module.__class__ = EarlyNorm  # the same weights under the same names
            for name, layer in list(module.named_children()):
                if isinstance(layer, nn.Conv3d) and max(layer.kernel_size) > 1:
                    setattr(module, f"{name}_padding", SamePadding(layer))
                    # As in the authors' code, where each channel of a depthwise convolution has a fan-out of its own.
                    # MONAI counts all channels, and values fade from block to block.
                    fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
                    nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
        self.map_channels = int(self._conv_head.out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last map, (batch, map_channels, x', y', z')."""
        stem = self._swish(self._bn0(self._conv_stem(self._conv_stem_padding(inputs))))
        last: Tensor = self._swish(self._bn1(self._conv_head(self._blocks(stem))))
        return last
