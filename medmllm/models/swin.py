"""The encoder of Swin UNETR: a Swin transformer in three dimensions, for grids of any size.

    image (batch, channels, x, y, z) -> last map (batch, 16 * width, x / 32, y / 32, z / 32), rounded up

MONAI's (Hatamizadeh et al., 2022, arXiv:2201.01266), as it is within `monai.networks.nets.SwinUNETR`: the names are
those of its `swinViT`, so that published weights fit. Edges that 32 divides are what Swin UNETR's decoder wants; its
encoder pads.
"""

from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor

HEADS = (
    3,
    6,
    12,
    24,
)  # of attention, per stage, whose channels double: the width is shared by 3, and Swin UNETR asks 12


class SwinMap(SwinTransformer):
    """A Swin transformer that ends with its last map, normalised over channels as Swin UNETR's decoder reads it.

    Args:
        channels: Of the image.
        width: Channels of the first stage, a multiple of 12; published weights have 48.
        dropout: Chance that a study skips the last block while training (stochastic depth); less for earlier blocks.
    """

    def __init__(self, channels: int, *, width: int, dropout: float) -> None:
        super().__init__(
            in_chans=channels,
            embed_dim=width,
            window_size=(7, 7, 7),
            patch_size=(2, 2, 2),
            depths=(2, 2, 2, 2),
            num_heads=HEADS,
            drop_path_rate=dropout,
        )
        self.map_channels = 16 * width

    def forward(self, x: Tensor) -> Tensor:
        """Return the last map, (batch, map_channels, x', y', z')."""
        last: Tensor = super().forward(x)[-1]
        return last
