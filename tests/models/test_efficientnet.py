"""EfficientNet-B0 is MONAI's where MONAI's padding fits, and reads grids of any size besides."""

import pytest
import torch
from monai.networks.nets import EfficientNetBN
from torch import nn
from torch.nn import functional

from medmllm.models.efficientnet import EfficientNetMap, SamePadding


def small(*, stem_stride: int = 2, dropout: float = 0.0) -> EfficientNetMap:
    torch.manual_seed(3)
    return EfficientNetMap(1, width=8, stem_stride=stem_stride, dropout=dropout)


def test_at_full_width_it_is_monais_efficientnet_b0_on_grids_that_halve_evenly() -> None:
    torch.manual_seed(2)
    theirs = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=2, num_classes=3).eval()
    for name, buffer in theirs.named_buffers():  # not 0 and 1, as in every fresh network
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.1)
    ours = EfficientNetMap(2, width=32, stem_stride=2, dropout=0.2).eval()
    given = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("_fc.")}
    ours.load_state_dict(given)  # strict: the same names and shapes
    seen: list[torch.Tensor] = []
    theirs._avg_pooling.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 2, 32, 64, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        theirs(image)
        found = ours(image)
    assert found.shape == (1, ours.map_channels, 1, 2, 1) == (1, 1280, 1, 2, 1)
    torch.testing.assert_close(found, seen[0])


@pytest.mark.parametrize(("stride", "shape"), [(2, (2, 1, 3)), (1, (3, 1, 5))])
def test_odd_and_tiny_edges_round_up(stride: int, shape: tuple[int, int, int]) -> None:
    network = small(stem_stride=stride).eval()
    with torch.no_grad():
        found = network(torch.randn(1, 1, 33, 1, 70))
    assert found.shape == (1, network.map_channels, *shape)  # ceil(edge / 32), or / 16
    assert found.isfinite().all()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_lets_each_axis_round_up_and_puts_the_odd_voxel_behind(kernel: int, stride: int) -> None:
    convolution = nn.Conv3d(1, 1, kernel, stride, bias=False)
    pad = SamePadding(convolution)
    for x, y, z in ((1, 2, 3), (4, 7, 8), (9, 6, 5)):
        padded = pad(torch.ones(1, 1, x, y, z))
        assert tuple(convolution(padded).shape[2:]) == tuple(-(-edge // stride) for edge in (x, y, z))
        for axis, edge in enumerate((x, y, z)):
            line = padded[0, 0].amax([other for other in range(3) if other != axis])
            before = int(line.nonzero()[0])
            assert line.sum() == edge
            assert len(line) - edge - before - before in (0, 1)


def test_padding_is_that_of_torch_where_torch_knows_it() -> None:
    convolution = nn.Conv3d(1, 2, 5, bias=False)
    image = torch.randn(1, 1, 6, 7, 4)
    expected = functional.conv3d(image, convolution.weight, padding="same")
    torch.testing.assert_close(convolution(SamePadding(convolution)(image)), expected)


def test_dropout_skips_whole_blocks_of_single_studies_while_training() -> None:
    image = torch.randn(1, 1, 20, 9, 12).expand(16, -1, -1, -1, -1)
    for dropout, alike in ((0.0, True), (0.5, False)):
        network = small(dropout=dropout).train()
        with torch.no_grad():
            found = network(image)
        assert torch.allclose(found[0], found[1:], atol=1e-5) == alike
    with torch.no_grad():
        found = network.eval()(image)
    torch.testing.assert_close(found[1:], found[:-1])


def test_evaluation_knows_what_training_saw_from_the_first_batch_on() -> None:
    network, image, seen = small(), torch.randn(6, 1, 20, 17, 18, generator=torch.Generator().manual_seed(1)), []
    network._blocks[4].register_forward_hook(lambda *given: seen.append(given[2].detach().flatten()))
    for training in (True, False):
        network.train(training)(image)
    # What differs is Bessel's correction of the running variances, in 34 layers.
    assert torch.corrcoef(torch.stack(seen))[0, 1] > 0.9
    assert float(seen[1].std() / seen[0].std()) == pytest.approx(1, abs=0.3)


def test_depthwise_convolutions_start_by_their_own_fan_out() -> None:
    network = EfficientNetMap(1, width=32, stem_stride=2, dropout=0.0)
    for edge, stage in ((3, 6), (5, 5)):
        weight = network._blocks[stage][-1]._depthwise_conv.weight  # one filter of edge^3 per channel
        assert float(weight.detach().std()) == pytest.approx((2 / edge**3) ** 0.5, rel=0.05)
