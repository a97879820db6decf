"""Encode a 3D image of several channels, as a map of features or as one vector, with MONAI's networks.

    image (batch, channels, x, y, z), channel_present (batch, channels)
        -> feature map (batch, map_channels, x', y', z') -> mean and maximum of it (batch, width)

A missing channel is replaced by a learned value before the network sees it: what is stored in its
place is never read.
"""

from contextlib import nullcontext
from typing import Literal, Protocol

import torch
from monai.networks.nets import DenseNet, ResNet
from torch import Tensor, nn

from medmllm.errors import ConfigError
from medmllm.model_documents import ModelSettings
from medmllm.models.batch_norm import LoneValueNorm
from medmllm.models.cells import CELL_MEANS, LOG_TONES
from medmllm.models.efficientnet import EfficientNetMap
from medmllm.models.linear_reader import LinearReader, Reading
from medmllm.models.measures import LOG_MEASURES
from medmllm.models.pooling import make_steady
from medmllm.models.prefix import octants
from medmllm.models.swin import SwinMap


class _Backbone(Protocol):
    def __call__(self, channels: int, settings: ModelSettings) -> tuple[nn.Module, int]:
        """Return a network whose output is a map, (batch, map channels, x, y, z), and the number of its channels."""


class MeanAndMax(nn.Module):
    """Pool a feature map by its mean and its maximum, side by side.

    The mean alone dilutes a small lesion by the whole field of view.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, 2 * channels) for features (batch, channels, x, y, z)."""
        return torch.cat([features.mean((2, 3, 4)), features.amax((2, 3, 4))], dim=1)


class _ResNetMap(ResNet):
    """A ResNet that ends with the map of its last stage: MONAI's own pools it, and flattens."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the last stage's map, (batch, channels, x, y, z)."""
        x = self.act(self.bn1(self.conv1(x)))
        if not self.no_max_pool:
            x = self.maxpool(x)
        last: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return last


def _resnet(block: Literal["basic", "bottleneck"], layers: list[int]) -> _Backbone:
    def build(channels: int, settings: ModelSettings) -> tuple[nn.Module, int]:
        width = settings.image_width
        network = _ResNetMap(
            block=block,
            layers=layers,
            block_inplanes=[width, 2 * width, 4 * width, 8 * width],
            spatial_dims=3,
            n_input_channels=channels,
            conv1_t_size=settings.image_stem_kernel,
            conv1_t_stride=settings.image_stem_stride,
            no_max_pool=not settings.image_stem_pool,
            feed_forward=False,
            bias_downsample=False,
        )
        return network, 8 * width * (4 if block == "bottleneck" else 1)

    return build


def _densenet(layers: tuple[int, ...]) -> _Backbone:
    def build(channels: int, settings: ModelSettings) -> tuple[nn.Module, int]:
        width = settings.image_width
        network = DenseNet(
            spatial_dims=3,
            in_channels=channels,
            out_channels=1,
            init_features=width,
            growth_rate=max(1, width // 2),
            block_config=layers,
        )
        features = int(network.class_layers.out.in_features)
        network.class_layers = nn.ReLU()
        network.features.conv0.stride = (settings.image_stem_stride,) * 3
        if not settings.image_stem_pool:
            network.features.pool0 = nn.Identity()
        return network, features

    return build


def _efficientnet(channels: int, settings: ModelSettings) -> tuple[nn.Module, int]:
    network = EfficientNetMap(
        channels, width=settings.image_width, stem_stride=settings.image_stem_stride, dropout=settings.dropout
    )
    return network, network.map_channels


def _swin(channels: int, settings: ModelSettings) -> tuple[nn.Module, int]:
    network = SwinMap(channels, width=settings.image_width, dropout=settings.dropout)
    return network, network.map_channels


def _reader(*readings: Reading) -> _Backbone:
    def build(channels: int, settings: ModelSettings) -> tuple[nn.Module, int]:
        width = settings.image_width
        return LinearReader(*readings, channels=channels, width=width, dropout=settings.dropout), width

    return build


IMAGE_ENCODERS: dict[str, _Backbone] = {
    "resnet10": _resnet("basic", [1, 1, 1, 1]),
    "resnet18": _resnet("basic", [2, 2, 2, 2]),
    "resnet34": _resnet("basic", [3, 4, 6, 3]),
    "resnet50": _resnet("bottleneck", [3, 4, 6, 3]),
    "densenet121": _densenet((6, 12, 24, 16)),
    "densenet169": _densenet((6, 12, 32, 32)),
    "efficientnet_b0": _efficientnet,
    "swin_unetr": _swin,
    "cells": _reader(CELL_MEANS),
    "cells_tones": _reader(CELL_MEANS, LOG_TONES),
    "measures": _reader(LOG_MEASURES),
    "cells_measures": _reader(CELL_MEANS, LOG_MEASURES),
}
"""Name -> builder of (network that ends with its last feature map, channels of that map)."""

WIDTHS = {
    "efficientnet_b0": (8, "its stages scale in steps of 8; 32 is B0"),
    "swin_unetr": (12, "its attention heads share it; published weights have 48"),
}
"""Name -> what image_width must be a multiple of, and why; the other networks take any."""

STEMS: dict[str, tuple[str, ...]] = {
    "image_stem_kernel": ("resnet",),
    "image_stem_stride": ("resnet", "densenet", "efficientnet"),
    "image_stem_pool": ("resnet", "densenet"),
}
"""Setting of the stem -> how the names begin of the networks that it changes."""


def check_encoder(settings: ModelSettings) -> None:
    """Refuse an unknown network, or a width that it cannot have.

    Raises:
        ConfigError: Names what there is, or the nearest width.
    """
    name, width = settings.image_encoder, settings.image_width
    if name not in IMAGE_ENCODERS:
        raise ConfigError(f"[model] image_encoder = {name!r} is none of {', '.join(IMAGE_ENCODERS)}")
    step, why = WIDTHS.get(name, (1, ""))
    if width % step:
        raise ConfigError(
            f"[model] image_width = {width}: {name} wants a multiple of {step} ({why}). "
            f"Set image_width = {max(1, round(width / step)) * step}."
        )


def check_grid(settings: ModelSettings, size: tuple[int, int, int]) -> None:
    """Refuse a grid that a network's strides shrink to nothing.

    Args:
        settings: `image_encoder` and its stem.
        size: Voxels along x, y, z.

    Raises:
        ConfigError: Names the smallest edge that will do. All but DenseNets take any, as they round up.
    """
    least = 7 * settings.image_stem_stride * (2 if settings.image_stem_pool else 1) + 1
    if settings.image_encoder.startswith("densenet") and min(size) < least:
        halving = {
            "image_stem_pool = false": settings.image_stem_pool,
            "image_stem_stride = 1": settings.image_stem_stride > 1,
        }
        fewer = " and ".join(name for name, asked in halving.items() if asked)
        raise ConfigError(
            f"[image] size = {list(size)} is too small for {settings.image_encoder}, which halves it three times after "
            f"its stem: every edge must have {least} voxels or more"
            + (f"; with {fewer} in [model] fewer will do." if fewer else ", or take another image_encoder.")
        )


class ImageEncoder(nn.Module):
    """A MONAI network by name, with learned values for missing channels.

    Args:
        settings: `image_encoder`, `image_width`, the stem, and `dropout` where whole blocks are skipped.
        channels: Number of image channels.

    Raises:
        ConfigError: The name is not one of IMAGE_ENCODERS, or it cannot have this width.
    """

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        super().__init__()
        check_encoder(settings)
        self.network, self.map_channels = IMAGE_ENCODERS[settings.image_encoder](channels, settings)
        make_steady(self.network)
        for module in self.network.modules():
            if type(module) is nn.BatchNorm3d:
                module.__class__ = LoneValueNorm  # the same weights under the same names
        self.pool = MeanAndMax()
        self.width = 2 * self.map_channels
        self.token_width = self.map_channels + 3
        # The one channel of an image is there, or there is no image: then nothing stands in for it, and no gradient is
        # computed towards the voxels, which through the first convolution costs more than all of a small network.
        self.missing_channel = nn.Parameter(torch.zeros(channels)) if channels > 1 else None

    def feature_map(self, image: Tensor, channel_present: Tensor) -> Tensor:
        """Return the network's last feature map, (batch, map_channels, x', y', z'), for (batch, channels, x, y, z)."""
        filled = image
        if self.missing_channel is not None:
            stand_in = self.missing_channel[None, :, None, None, None].to(image.dtype)
            filled = torch.where(channel_present[:, :, None, None, None], image, stand_in)
        # On the CPU, gradients of bfloat16 3D convolutions are wrong, often NaN, where a feature map is 2 or 3 voxels
        # wide (oneDNN in torch 2.13; pytorch issue 169688 is the like of it): there it stays in single precision.
        with torch.autocast("cpu", enabled=False) if image.device.type == "cpu" else nullcontext():
            features: Tensor = self.network(filled)
        return features

    def tokens(self, image: Tensor, channel_present: Tensor) -> Tensor:
        """Return the feature map place by place, shape (batch, places, token_width).

        To each place's features its coordinates are added, from -1 to 1 along each axis: convolutions hardly tell
        where they are (Liu et al., NeurIPS 2018).
        """
        found = self.feature_map(image, channel_present)
        axes = [torch.linspace(-1, 1, n, device=found.device) if n > 1 else found.new_zeros(1) for n in found.shape[2:]]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(found.dtype).expand(len(found), -1, -1, -1, -1)
        return torch.cat([found, places], dim=1).flatten(2).transpose(1, 2)

    def octants(self, image: Tensor, channel_present: Tensor) -> Tensor:
        """Return mean and maximum over each octant of the feature map, shape (batch, 8, width)."""
        return torch.stack([self.pool(part) for part in octants(self.feature_map(image, channel_present))], dim=1)

    def forward(self, image: Tensor, channel_present: Tensor) -> Tensor:
        """Return features, shape (batch, width), for image (batch, channels, x, y, z)."""
        pooled: Tensor = self.pool(self.feature_map(image, channel_present))
        return pooled
