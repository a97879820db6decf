"""The Swin encoder is the one within MONAI's Swin UNETR, and reads grids of any size."""

import pytest
import torch
from monai.networks.nets import SwinUNETR

from medmllm.models.swin import SwinMap


def test_it_is_the_encoder_within_monais_swin_unetr() -> None:
    torch.manual_seed(2)
    whole = SwinUNETR(in_channels=2, out_channels=3, feature_size=12).eval()
    ours = SwinMap(2, width=12, dropout=0.3).eval()
    ours.load_state_dict(whole.swinViT.state_dict())  # strict: the same names and shapes
    image = torch.randn(1, 2, 64, 32, 96, generator=torch.Generator().manual_seed(4))
    read: list[torch.Tensor] = []
    whole.encoder10.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        whole(image)
        found = ours(image)
    assert found.shape == (1, ours.map_channels, 2, 1, 3) == (1, 192, 2, 1, 3)
    torch.testing.assert_close(found, read[0])  # what the decoder begins with


@pytest.mark.parametrize("size", [(33, 1, 70), (9, 8, 10), (1, 1, 1)])
def test_odd_and_tiny_edges_round_up(size: tuple[int, int, int]) -> None:
    torch.manual_seed(2)
    network = SwinMap(1, width=12, dropout=0.0).eval()
    with torch.no_grad():
        found = network(torch.randn(2, 1, *size))
    assert found.shape == (2, 192, *(-(-edge // 32) for edge in size))
    assert found.isfinite().all()


def test_dropout_skips_whole_blocks_of_single_studies_while_training() -> None:
    image = torch.randn(1, 1, 20, 9, 12).expand(16, -1, -1, -1, -1)
    for dropout, alike in ((0.0, True), (0.5, False)):
        network = SwinMap(1, width=12, dropout=dropout).train()
        with torch.no_grad():
            found = network(image)
        assert torch.allclose(found[0], found[1:], atol=1e-5) == alike
