"""Pretrained weights: what fits is loaded value by value, the rest is reported, and nothing in the file runs."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from monai.networks.nets import EfficientNetBN, ResNet, SwinUNETR, resnet10
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import conv3d

from medmllm.errors import ConfigError
from medmllm.models.image_encoder import ImageEncoder
from medmllm.models.image_weights import Mismatch, adapt_channels, load_image_weights, read_weights
from tests.models.small import PARTS


def small_resnet(*, width: int = 4, channels: int = 1, seed: int = 8) -> ResNet:
    """MONAI's own resnet10, small, with its classifier."""
    torch.manual_seed(seed)
    network = ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[width, 2 * width, 4 * width, 8 * width],
        n_input_channels=channels,
        conv1_t_size=3,
        bias_downsample=False,
        num_classes=2,
    )
    for parameter in network.parameters():  # norms start at 1 and 0 in every network: make them tell
        nn.init.normal_(parameter)
    return network


def fresh(channels: int = 1, **parts: object) -> nn.Module:
    torch.manual_seed(1)
    return ImageEncoder(PARTS.model_copy(update=parts), channels).network


def as_medicalnet(state: Mapping[str, Tensor]) -> dict[str, object]:
    """As MedicalNet's train.py saves: beside the epoch, and from a network within DataParallel."""
    return {"epoch": 180, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}


def copy_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("kind", ["safetensors", "plain.pth", "plain.pt", "medicalnet.pth"])
def test_every_tensor_of_a_monai_resnet_arrives_and_its_classifier_is_reported_unused(
    tmp_path: Path, kind: str
) -> None:
    given, file = small_resnet().state_dict(), tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(given, file)
    else:
        torch.save(as_medicalnet(given) if kind == "medicalnet.pth" else given, file)
    network = fresh()
    report = load_image_weights(network, file)
    own = network.state_dict()
    assert set(report.loaded) == own.keys()
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    assert (report.adapted, report.missing, report.mismatched) == ((), (), ())
    for name, tensor in own.items():
        torch.testing.assert_close(tensor, given[name], rtol=0, atol=0)


def test_the_published_width_fits_monais_resnet10(tmp_path: Path) -> None:
    # 64 channels, kernel 7: what MONAI builds for MedicalNet's resnet_10; its shortcuts have a bias unless told not to.
    given, file = resnet10(n_input_channels=1, num_classes=1).state_dict(), tmp_path / "resnet_10.pth"
    torch.save(as_medicalnet(given), file)
    network = fresh(image_width=64, image_stem_kernel=7)
    report = load_image_weights(network, file)
    assert (report.missing, report.mismatched, report.adapted) == ((), (), ())
    assert {name for name in report.unused if not name.startswith("fc.")} == {
        f"layer{k}.0.downsample.0.bias" for k in (2, 3, 4)
    }
    torch.testing.assert_close(network.state_dict()["conv1.weight"], given["conv1.weight"], rtol=0, atol=0)


def a_swin(**parts: object) -> nn.Module:
    return fresh(1, image_encoder="swin_unetr", image_width=12, **parts)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_encoder_of_a_whole_swin_unetr_arrives_and_its_decoder_is_reported_unused(
    tmp_path: Path, prefix: str
) -> None:
    torch.manual_seed(8)
    given, file = SwinUNETR(in_channels=1, out_channels=2, feature_size=12).state_dict(), tmp_path / "swin_unetr.pt"
    torch.save({"state_dict": {f"{prefix}{name}": tensor for name, tensor in given.items()}}, file)
    network = a_swin()
    report = load_image_weights(network, file)
    own = network.state_dict()
    assert set(report.loaded) == own.keys()
    assert (report.adapted, report.missing, report.mismatched) == ((), (), ())
    assert set(report.unused) == {name for name in given if not name.startswith("swinViT.")}
    assert any(name.startswith("decoder1.") for name in report.unused)
    assert all(torch.equal(tensor, given[f"swinViT.{name}"]) for name, tensor in own.items())


def test_monais_self_supervised_swin_file_arrives_under_its_own_names(tmp_path: Path) -> None:
    torch.manual_seed(8)
    whole, file = SwinUNETR(in_channels=1, out_channels=2, feature_size=12), tmp_path / "model_swinvit.pt"
    # The names that SwinUNETR.load_from reads, and a head of the pretraining.
    inside = {name.replace(".mlp.linear", ".mlp.fc"): t for name, t in whole.swinViT.state_dict().items()}
    torch.save(as_medicalnet(inside | {"rotation_head.weight": torch.ones(4, 192)}), file)
    network = a_swin()
    report = load_image_weights(network, file)
    expected = SwinUNETR(in_channels=1, out_channels=2, feature_size=12)
    expected.load_from(torch.load(file, weights_only=True))
    assert (report.missing, report.mismatched, report.unused) == ((), (), ("rotation_head.weight",))
    assert "layers4.0.blocks.1.mlp.linear2.weight" in report.loaded
    for name, tensor in expected.swinViT.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_swin_of_another_width_is_refused_with_the_shapes_of_both(tmp_path: Path) -> None:
    file = tmp_path / "swin.safetensors"
    given = SwinUNETR(in_channels=1, out_channels=2, feature_size=24).swinViT.state_dict()
    save_file({f"swinViT.{name}": t.contiguous() for name, t in given.items() if "relative_position" not in name}, file)
    with pytest.raises(ConfigError, match=r"patch_embed\.proj\.weight \[24, 1, 2, 2, 2\], here \[12, 1, 2, 2, 2\]"):
        load_image_weights(a_swin(), file)


def test_monais_efficientnet_arrives_and_its_first_convolution_is_adapted_to_two_channels(tmp_path: Path) -> None:
    file = tmp_path / "efficientnet.pth"
    given = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1).state_dict()
    torch.save(given, file)
    network = fresh(2, image_encoder="efficientnet_b0", image_width=32)
    report = load_image_weights(network, file)
    assert (report.adapted, report.missing, report.mismatched) == (("_conv_stem.weight",), (), ())
    assert set(report.unused) == {"_fc.weight", "_fc.bias"}
    name = "_blocks.3.5._depthwise_conv.weight"
    assert torch.equal(network.state_dict()[name], given[name])


@pytest.mark.parametrize(("theirs", "ours"), [(1, 3), (3, 1), (3, 2)])
def test_an_adapted_convolution_answers_equal_channels_as_the_one_of_the_file(
    tmp_path: Path, theirs: int, ours: int
) -> None:
    given, file = small_resnet(channels=theirs).state_dict(), tmp_path / "weights.safetensors"
    save_file(given, file)
    network = fresh(ours)
    report = load_image_weights(network, file)
    assert report.adapted == ("conv1.weight",)
    assert "conv1.weight" not in report.loaded
    image = torch.randn(1, 1, 7, 6, 8, generator=torch.Generator().manual_seed(2))
    weight = network.state_dict()["conv1.weight"]
    assert weight.shape[1] == ours
    before = conv3d(image.expand(-1, theirs, -1, -1, -1), given["conv1.weight"])
    torch.testing.assert_close(conv3d(image.expand(-1, ours, -1, -1, -1), weight), before, rtol=1e-4, atol=1e-4)


def test_every_channel_of_an_adapted_convolution_weighs_the_same() -> None:
    weight = torch.tensor([[1.0, 2.0, 6.0]]).reshape(1, 3, 1, 1, 1)  # mean 3, of 3 channels: 9 in all, over 2 channels
    assert adapt_channels(weight, 2).flatten().tolist() == [4.5, 4.5]


def test_another_shape_is_not_loaded_and_stands_in_the_report_with_both_shapes(tmp_path: Path) -> None:
    given, file = small_resnet().state_dict(), tmp_path / "weights.safetensors"
    given["layer4.0.conv1.weight"] = torch.zeros(32, 16, 1, 1, 1)
    del given["layer1.0.bn2.bias"]
    save_file(given, file)
    network = fresh()
    before = copy_of(network)
    report = load_image_weights(network, file)
    assert report.mismatched == (Mismatch("layer4.0.conv1.weight", (32, 16, 1, 1, 1), (32, 16, 3, 3, 3)),)
    assert report.missing == ("layer1.0.bn2.bias",)
    for name in ("layer4.0.conv1.weight", "layer1.0.bn2.bias"):
        assert name not in report.loaded
        torch.testing.assert_close(network.state_dict()[name], before[name], rtol=0, atol=0)


def test_another_kernel_of_the_first_convolution_is_a_mismatch_not_an_adaptation(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(small_resnet().state_dict(), file)
    report = load_image_weights(fresh(2, image_stem_kernel=5), file)
    assert report.adapted == ()
    assert report.mismatched == (Mismatch("conv1.weight", (4, 1, 3, 3, 3), (4, 2, 5, 5, 5)),)


def test_counters_alone_are_no_weights_the_error_names_shapes_of_both_sides_and_nothing_changes(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(small_resnet(width=8).state_dict() | {"bn1.num_batches_tracked": torch.tensor(7)}, file)
    network = fresh()
    before = copy_of(network)
    with pytest.raises(ConfigError, match=r"conv1\.weight \[8, 1, 3, 3, 3\], here \[4, 1, 3, 3, 3\].* image_width"):
        load_image_weights(network, file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_file_of_another_network_is_refused_with_keys_of_both_sides(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"vit.patch.weight": torch.ones(3)}, file)
    with pytest.raises(ConfigError, match=r"The file has vit\.patch\.weight .*the network conv1\.weight"):
        load_image_weights(fresh(), file)


def test_weights_that_are_not_finite_are_refused_by_name_and_nothing_changes(tmp_path: Path) -> None:
    given, file = small_resnet().state_dict(), tmp_path / "weights.safetensors"
    given["layer3.0.conv2.weight"][0, 0, 0, 0, 0] = float("nan")
    save_file(given, file)
    network = fresh()
    before = copy_of(network)
    with pytest.raises(ConfigError, match=r"layer3\.0\.conv2\.weight holds NaN"):
        load_image_weights(network, file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Runs:
    """What a hostile file holds: reading it whole calls `touch`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark, file = tmp_path / "it_ran", tmp_path / "weights.pth"
    torch.save({"state_dict": small_resnet().state_dict(), "more": Runs(mark)}, file)
    with pytest.raises(ConfigError, match=r"'weights\.pth' cannot be read as weights alone.*could run code") as caught:
        read_weights(file)
    assert "weights_only" not in str(caught.value), "no advice to read it anyway"
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists(), "the file would have run"


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "empty.pt", "empty.safetensors"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    whole, file = tmp_path / "whole", tmp_path / name
    given = small_resnet().state_dict()
    if name.endswith("pth"):
        torch.save(given, whole)
    else:
        save_file(given, whole)
    file.write_bytes(whole.read_bytes()[:2000] if name.startswith("cut") else b"")
    with pytest.raises(ConfigError, match=re.escape(repr(name)) + " cannot be read"):
        read_weights(file)


def test_other_files_are_refused_by_what_is_wrong_with_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file 'absent\.pth'"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(ConfigError, match=r"there is no file"):
        read_weights(tmp_path)
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ConfigError, match=r"'weights\.h5': read are \.safetensors, \.pth and \.pt"):
        read_weights(tmp_path / "weights.h5")
    for held in ({"epoch": 3}, [torch.ones(2)]):
        torch.save(held, tmp_path / "weights.pt")
        with pytest.raises(ConfigError, match=r"holds no tensors by name"):
            read_weights(tmp_path / "weights.pt")
