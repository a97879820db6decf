import pytest
import torch
from torch import nn

from medmllm.errors import ConfigError
from medmllm.model_documents import ModelSettings
from medmllm.models.fusion import FUSIONS
from medmllm.models.image_encoder import IMAGE_ENCODERS, STEMS, ImageEncoder, MeanAndMax, check_grid
from tests.models.small import PARTS, SIZE, a_batch, a_member

# Mean and maximum of the last feature map. ResNet: 8 w channels, four times that with bottlenecks (He et al., 2016).
# DenseNet with growth g = w / 2, halved between its blocks: of 6, 12, 24 and 16 layers, or 6, 12, 32 and 32
# (Huang et al., 2017, table 1).
WIDTHS = {
    "resnet10": 2 * 8 * 4,
    "resnet18": 2 * 8 * 4,
    "resnet34": 2 * 8 * 4,
    "resnet50": 2 * 8 * 4 * 4,
    "densenet121": 2 * (((((4 + 6 * 2) // 2 + 12 * 2) // 2) + 24 * 2) // 2 + 16 * 2),
    "densenet169": 2 * (((((4 + 6 * 2) // 2 + 12 * 2) // 2) + 32 * 2) // 2 + 32 * 2),
    "efficientnet_b0": 2 * 1280 // 4,  # a quarter of the paper's
    "swin_unetr": 2 * 16 * 12,  # the first stage's, doubled by each of four
    "cells": 2 * 4,  # as asked for; of one place, mean and maximum are the same
    "cells_tones": 2 * 4,
    "measures": 2 * 4,
    "cells_measures": 2 * 4,
}
# Layers that learn a convolution, as counted by the names: all but the last, which classifies (shortcuts not counted).
# EfficientNet-B0: the first and the last, and in 16 blocks four of its own, with one more to expand in 15 (Tan and Le,
# 2019, table 1). Swin: the first, which cuts patches.
DEPTHS = {
    "resnet10": 9, "resnet18": 17, "resnet34": 33, "resnet50": 49, "densenet121": 120, "densenet169": 168,
    "efficientnet_b0": 2 + 16 * 4 + 15, "swin_unetr": 1,
    "cells": 0, "cells_tones": 0, "measures": 0, "cells_measures": 0,
}  # fmt: skip
SMALLEST = {"efficientnet_b0": 8, "swin_unetr": 12}  # widths, where 4 is none


def settings(name: str = "resnet10", **changes: object) -> ModelSettings:
    width = SMALLEST.get(name, PARTS.image_width)
    return PARTS.model_copy(update={"image_encoder": name, "image_width": width} | changes)


def images(channels: int = 2, seed: int = 1, size: tuple[int, int, int] = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(seed))
    return image, torch.ones(3, channels, dtype=torch.bool)


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_encoder_builds_and_gives_its_stated_width(name: str, channels: int) -> None:
    encoder = ImageEncoder(settings(name), channels).eval()
    with torch.no_grad():
        features = encoder(*images(channels))
    assert features.shape == (3, encoder.width)
    assert encoder.width == WIDTHS[name]
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_every_encoder_is_as_deep_as_its_name_says(name: str) -> None:
    found = [k for k, m in ImageEncoder(settings(name), 1).named_modules() if isinstance(m, nn.Conv3d)]
    assert len([k for k in found if "downsample" not in k]) == DEPTHS[name]


def test_an_unknown_encoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'vit' is none of resnet10, .*densenet121"):
        ImageEncoder(settings("vit"), 1)


@pytest.mark.parametrize(
    ("name", "width", "wanted"),
    [("efficientnet_b0", 20, r"multiple of 8 .*32 is B0.* image_width = 16\."),
     ("efficientnet_b0", 1, r"multiple of 8 .* image_width = 8\."),
     ("swin_unetr", 32, r"multiple of 12 .*weights have 48.* image_width = 36\.")],
)  # fmt: skip
def test_a_width_that_a_network_cannot_have_is_refused_with_the_nearest(name: str, width: int, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[model\] image_width = {width}: {name} wants a {wanted}"):
        ImageEncoder(settings(name, image_width=width), 1)


@pytest.mark.parametrize("name", ["resnet10", "densenet121"])
def test_stem_settings_keep_small_grids_large(name: str) -> None:
    def voxels_after_stem(**changes: object) -> tuple[int, ...]:
        encoder = ImageEncoder(settings(name, **changes), 1).eval()
        first_block = encoder.network.layer1 if name == "resnet10" else encoder.network.features.denseblock1
        seen = []
        first_block.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
        with torch.no_grad():
            encoder(torch.zeros(1, 1, 32, 30, 29), torch.ones(1, 1, dtype=torch.bool))
        return seen[0]

    assert voxels_after_stem(image_stem_stride=1, image_stem_pool=False) == (32, 30, 29)
    assert voxels_after_stem(image_stem_stride=2, image_stem_pool=False) == (16, 15, 15)
    assert voxels_after_stem(image_stem_stride=1, image_stem_pool=True) == (16, 15, 15)
    assert voxels_after_stem(image_stem_stride=2, image_stem_pool=True) == (8, 8, 8)


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_stem_settings_change_the_networks_that_they_are_said_to_change_and_no_other(name: str) -> None:
    def seen(**changes: object) -> torch.Tensor:
        torch.manual_seed(3)
        encoder = ImageEncoder(settings(name, **changes), 2).eval()
        with torch.no_grad():
            return encoder.feature_map(*(whole[:1] for whole in images(size=(30, 29, 29))))

    stem: dict[str, object] = {"image_stem_kernel": 3, "image_stem_stride": 1, "image_stem_pool": False}
    plain = seen(**stem)
    for setting, value in {"image_stem_kernel": 7, "image_stem_stride": 2, "image_stem_pool": True}.items():
        other = seen(**stem | {setting: value})
        alike = plain.shape == other.shape and torch.equal(plain, other)
        assert alike != name.startswith(STEMS[setting]), setting


def test_the_resnets_first_kernel_is_as_asked() -> None:
    sizes = [ImageEncoder(settings(image_stem_kernel=k), 1).network.conv1.kernel_size for k in (3, 5, 7)]
    assert sizes == [(3, 3, 3), (5, 5, 5), (7, 7, 7)]


@pytest.mark.parametrize("name", ["densenet121", "densenet169"])
@pytest.mark.parametrize(
    ("stride", "pool", "least", "way_out"),
    [
        (1, False, 8, r", or take another image_encoder"),
        (2, False, 15, r"; with image_stem_stride = 1 in \[model\]"),
        (2, True, 29, r"; with image_stem_pool = false and image_stem_stride = 1 in \[model\]"),
    ],
)
def test_the_smallest_grid_for_densenet_is_exact(name: str, stride: int, pool: bool, least: int, way_out: str) -> None:
    parts = settings(name, image_stem_stride=stride, image_stem_pool=pool)
    with pytest.raises(ConfigError, match=rf"too small for {name}, .* must have {least} voxels or more{way_out}"):
        check_grid(parts, (40, least - 1, 40))
    check_grid(parts, (least, least, least))
    encoder = ImageEncoder(parts, 1).eval()
    present = torch.ones(1, 1, dtype=torch.bool)
    with torch.no_grad():
        assert encoder(torch.zeros(1, 1, least, least, least), present).isfinite().all()
        with pytest.raises(RuntimeError, match="smaller than kernel"):
            encoder(torch.zeros(1, 1, least - 1, least - 1, least - 1), present)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "swin_unetr"])
def test_all_others_take_any_grid(name: str) -> None:
    parts = settings(name, image_stem_kernel=7, image_stem_stride=2, image_stem_pool=True)
    check_grid(parts, (3, 2, 1))
    with torch.no_grad():
        found = ImageEncoder(parts, 1).eval()(torch.zeros(1, 1, 3, 2, 1), torch.ones(1, 1, dtype=torch.bool))
    assert found.isfinite().all()


@pytest.mark.parametrize("name", ["resnet10", "densenet121", "efficientnet_b0", "swin_unetr"])
@pytest.mark.parametrize("training", [False, True])
def test_the_stored_value_of_a_missing_channel_is_never_read(name: str, training: bool) -> None:
    encoder = ImageEncoder(settings(name), 2).train(training)
    image, present = images()
    present[1, 0] = present[2, 1] = False
    other = image.clone()
    other[1, 0], other[2, 1] = float("nan"), 1e6
    assert torch.equal(encoder(image, present), encoder(other, present))
    other[1, 1] += 1  # a channel that is there
    assert not torch.equal(encoder(image, present), encoder(other, present))


def test_the_value_of_a_missing_channel_is_learnt() -> None:
    encoder = ImageEncoder(settings(), 2)
    image, present = images()
    present[1, 0] = False
    encoder(image, present).square().sum().backward()
    assert encoder.missing_channel is not None
    gradient = encoder.missing_channel.grad
    assert gradient is not None
    assert gradient[0] != 0
    assert gradient[1] == 0  # the second channel is always there


@pytest.mark.parametrize("channels", [1, 2])
def test_gradients_are_taken_towards_the_voxels_only_where_a_channel_can_be_missing(channels: int) -> None:
    encoder, asked = ImageEncoder(settings(), channels), []
    first = next(module for module in encoder.modules() if isinstance(module, torch.nn.Conv3d))
    first.register_forward_pre_hook(lambda module, given: asked.append(given[0].requires_grad))
    encoder(torch.randn(2, channels, 9, 8, 10), torch.ones(2, channels, dtype=torch.bool))
    assert asked == [channels > 1]


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_gradients_reach_every_weight(name: str) -> None:
    encoder = ImageEncoder(settings(name), 2)
    # Attention has something to weigh only where the last stage begins with more than one voxel.
    image, present = images(size=(33, 17, 20) if name == "swin_unetr" else SIZE)
    present[0, 0] = present[1, 1] = False
    encoder(image, present).square().sum().backward()
    assert [k for k, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_half_precision_on_the_cpu_does_not_spoil_gradients() -> None:
    # Feature maps end at 2 x 1 x 2, where oneDNN's bfloat16 weight gradients hold whatever the memory held before.
    encoder = ImageEncoder(settings(image_width=16), 2).eval()  # eval: no running means between the two passes
    image, present = images()
    found = []
    for half in (False, True):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = encoder(image, present)
        features.float().square().sum().backward()
        found.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=0.05 * float(expected.abs().max()), rtol=0.05)


@pytest.mark.parametrize(("name", "last"), [("resnet10", "layer4"), ("resnet50", "layer4"), ("densenet121", "norm5")])
def test_features_are_mean_and_maximum_of_the_map_that_the_last_stage_gives(name: str, last: str) -> None:
    encoder = ImageEncoder(settings(name), 1).eval()
    (stage,) = [module for where, module in encoder.network.named_modules() if where.split(".")[-1] == last]
    image, present, seen = torch.randn(2, 1, 24, 9, 17), torch.ones(2, 1, dtype=torch.bool), []
    stage.register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        found, features = encoder.feature_map(image, present), encoder(image, present)
    assert torch.equal(found, seen[0].relu())
    assert found.shape == (2, encoder.map_channels, *((3, 2, 3) if "resnet" in name else (3, 1, 2)))
    torch.testing.assert_close(features, torch.cat([found.flatten(2).mean(2), found.flatten(2).max(2)[0]], 1))


def test_tokens_are_the_places_of_the_feature_map_with_their_coordinates() -> None:
    encoder = ImageEncoder(settings(), 1).eval()
    image, present = torch.randn(2, 1, 24, 9, 33), torch.ones(2, 1, dtype=torch.bool)
    with torch.no_grad():
        found, tokens = encoder.feature_map(image, present), encoder.tokens(image, present)
    assert found.shape[2:] == (3, 2, 5)
    assert tokens.shape == (2, 30, encoder.token_width)
    place = (2 * 2 + 0) * 5 + 1  # at (2, 0, 1) of 3 x 2 x 5 places
    assert torch.equal(tokens[1, place, :-3], found[1, :, 2, 0, 1])
    assert tokens[1, place, -3:].tolist() == [1.0, -1.0, -0.5]


def test_octants_are_mean_and_maximum_of_the_maps_corners() -> None:
    encoder = ImageEncoder(settings(), 1).eval()
    image, present = torch.randn(2, 1, 24, 9, 33), torch.ones(2, 1, dtype=torch.bool)
    with torch.no_grad():
        found, eight = encoder.feature_map(image, present), encoder.octants(image, present)
    assert found.shape[2:] == (3, 2, 5)
    assert eight.shape == (2, 8, encoder.width)
    corner = found[:, :, 1:3, :1, 2:5].flatten(2)  # of 3 x 2 x 5 places: right, front, upper
    torch.testing.assert_close(eight[:, 0b101], torch.cat([corner.mean(2), corner.max(2)[0]], dim=1))


def test_the_only_place_along_an_axis_lies_in_the_middle() -> None:
    encoder = ImageEncoder(settings(), 1).eval()
    tokens = encoder.tokens(torch.randn(1, 1, 8, 9, 8), torch.ones(1, 1, dtype=torch.bool))
    assert tokens[0, :, -3:].tolist() == [[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]


def test_a_lone_image_shrunk_to_one_voxel_is_measured_by_the_batches_before_it() -> None:
    encoder = ImageEncoder(settings(image_stem_stride=2, image_stem_pool=True), 2)
    image, present = images()
    for _ in range(3):
        encoder(image, present)
    norm, seen = encoder.network.layer4[0].bn2, []
    norm.register_forward_hook(lambda *given: seen.append((given[1][0], given[2].clone())))
    before = [buffer.clone() for buffer in norm.buffers()]
    found = encoder(image[:1], present[:1])
    (given, answer), _ = seen[0], found.square().sum().backward()
    assert given.shape == (1, 32, 1, 1, 1)
    expected = (given - norm.running_mean.view(1, -1, 1, 1, 1)) / (norm.running_var.view(1, -1, 1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(answer, expected)  # weight 1 and bias 0, as it starts
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))
    assert norm.weight.grad is not None
    assert norm.weight.grad.any()


def test_pooling_lays_mean_and_maximum_side_by_side() -> None:
    features = torch.tensor([[1.0, 2.0, 6.0, 7.0], [0.0, -4.0, 0.0, 0.0]]).reshape(1, 2, 2, 1, 2)
    assert MeanAndMax()(features).tolist() == [[4.0, -1.0, 7.0, 0.0]]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", SMALLEST)
def test_every_fusion_learns_from_networks_of_every_kind(name: str, fusion: str) -> None:
    member = a_member("fused", image_encoder=name, image_width=SMALLEST[name], fusion=fusion)
    member.network.train()(a_batch()).square().sum().backward()
    assert [k for k, p in member.network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
