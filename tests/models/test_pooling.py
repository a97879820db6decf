"""Pooling by slices gives what torch's pooling gives; it is what CUDA does where the same bits are asked for."""

import pytest
import torch
from torch import Tensor, nn

from medmllm.models import pooling
from medmllm.models.image_encoder import IMAGE_ENCODERS, WIDTHS, ImageEncoder
from medmllm.models.pooling import SteadyAvgPool3d, SteadyMaxPool3d, steady_max, steady_mean
from tests.models.small import PARTS

POOLS = [(3, 2, 1), (2, 2, 0), ((3, 2, 1), (2, 1, 3), (1, 0, 0))]  # kernel, stride, padding


def gradient(pooled: Tensor, features: Tensor) -> Tensor:
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(5))
    (found,) = torch.autograd.grad((pooled * weights).sum(), features)
    return found


def a_map() -> Tensor:
    return torch.randn(2, 3, 7, 6, 9, generator=torch.Generator().manual_seed(4), requires_grad=True)


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_the_largest_of_slices_is_that_of_cubes(kernel: int, stride: int, padding: int) -> None:
    plain, features = nn.MaxPool3d(kernel, stride, padding), a_map()
    assert torch.equal(steady_max(features, plain), plain(features))
    torch.testing.assert_close(gradient(steady_max(features, plain), features), gradient(plain(features), features))


@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_the_mean_of_slices_is_that_of_cubes(kernel: int, stride: int, padding: int) -> None:
    plain, features = nn.AvgPool3d(kernel, stride, padding), a_map()
    torch.testing.assert_close(steady_mean(features, plain), plain(features))
    torch.testing.assert_close(gradient(steady_mean(features, plain), features), gradient(plain(features), features))


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_every_image_encoder_finds_the_same_by_slices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width = WIDTHS.get(name, (PARTS.image_width, ""))[0]
    settings = PARTS.model_copy(update={"image_encoder": name, "image_width": width, "image_stem_pool": True})
    torch.manual_seed(1)
    encoder = ImageEncoder(settings, 1).eval()
    pools = [module for module in encoder.modules() if isinstance(module, nn.MaxPool3d | nn.AvgPool3d)]
    assert {type(pool) for pool in pools} <= {SteadyMaxPool3d, SteadyAvgPool3d}
    image, present = torch.randn(2, 1, 17, 16, 18), torch.ones(2, 1, dtype=torch.bool)
    plain = encoder(image, present)
    asked: list[bool] = []
    monkeypatch.setattr(pooling, "_steady", lambda features: asked.append(True) or True)
    torch.testing.assert_close(encoder(image, present), plain, rtol=1e-4, atol=1e-4)
    assert bool(asked) == name.startswith(("resnet", "densenet")), "the others have no such pools"


def test_the_processor_pools_as_torch_does() -> None:
    features = a_map()
    torch.use_deterministic_algorithms(True)
    try:
        assert not pooling._steady(features)
    finally:
        torch.use_deterministic_algorithms(False)
