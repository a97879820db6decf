"""Start an image encoder from pretrained weights in a local file.

    .safetensors, or a state dict in .pth / .pt -> the network's tensors, and a report of every key

State dicts are read as weights alone (torch.load with weights_only): a file that would run code is refused.
MedicalNet's files (Chen et al., 2019, arXiv:1904.00625) keep theirs under `state_dict`, each key behind the `module.`
of DataParallel; MONAI's ResNets have the same names. A Swin UNETR keeps its encoder behind `swinViT.`, and MONAI's
self-supervised file calls the layers `linear1` and `linear2` of it `fc1` and `fc2`. Where the number of image channels
differs, the first convolution is adapted: the mean over the file's channels, repeated and scaled so that equal channels
are answered as before, as Carreira and Zisserman (2017, arXiv:1705.07750) repeat filters along time. Nothing else of
another shape is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medmllm.errors import ConfigError

STATE_DICTS = (".pth", ".pt")
SHOWN = 3  # keys of either side that an error names


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One tensor that is there on both sides with different shapes, and was not loaded."""

    name: str
    in_file: tuple[int, ...]
    in_network: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What became of every key of the file and of the network."""

    loaded: tuple[str, ...]  # equal to the file's
    adapted: tuple[str, ...]  # first convolution, to another number of channels
    missing: tuple[str, ...]  # not in the file: these start at random
    unused: tuple[str, ...]  # in the file only
    mismatched: tuple[Mismatch, ...]  # these start at random too

    @property
    def line(self) -> str:
        """The report for the log."""
        return (
            f"image weights: {len(self.loaded)} tensors loaded, {len(self.adapted)} adapted; at random start "
            f"{len(self.missing)} that the file lacks and {len(self.mismatched)} of another shape; "
            f"{len(self.unused)} of the file unused"
        )


def load_image_weights(network: nn.Module, file: Path) -> WeightsReport:
    """Load what fits of a file into a network, and return what became of every key.

    Args:
        network: Changed in place; left as it is when an error is raised.
        file: .safetensors, .pth or .pt.

    Raises:
        ConfigError: The file cannot be read as weights alone, holds values that are not finite, or no learnt tensor
            of it fits.
    """
    own = network.state_dict()
    given = _by_our_names(read_weights(file), own)
    first = _first_convolution(network)
    fitting: dict[str, Tensor] = {}
    adapted: list[str] = []
    mismatched: list[Mismatch] = []
    for name in [name for name in own if name in given]:
        tensor, shape = given[name], own[name].shape
        if name == first and tensor.shape != shape and _differs_in_channels_alone(tensor.shape, shape):
            fitting[name] = adapt_channels(tensor, shape[1])
            adapted.append(name)
        elif tensor.shape == shape:
            fitting[name] = tensor
        else:
            mismatched.append(Mismatch(name, tuple(tensor.shape), tuple(shape)))
    report = WeightsReport(
        loaded=tuple(name for name in fitting if name not in adapted),
        adapted=tuple(adapted),
        missing=tuple(name for name in own if name not in given),
        unused=tuple(name for name in given if name not in own),
        mismatched=tuple(mismatched),
    )
    if not fitting.keys() & {name for name, _ in network.named_parameters()}:  # counters alone are no weights
        raise ConfigError(_nothing_fits(file, given, own, report))
    _check_finite(file, fitting)
    network.load_state_dict(fitting, strict=False)
    return report


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weight for another number of input channels.

    An image whose channels are all equal gets the answer that the given weight has for such an image.

    Args:
        weight: Shape (out, in, x, y, z).
        channels: Input channels wanted.

    >>> adapt_channels(torch.tensor([3.0, 1.0]).reshape(1, 2, 1, 1, 1), 4).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return weight.float().sum(1, keepdim=True).repeat(1, channels, *[1] * (weight.ndim - 2)) / channels


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, `state_dict` opened and `module.` taken off.

    Raises:
        ConfigError: No such file, another kind of file, or one that holds more than weights.
    """
    if not file.is_file():
        raise ConfigError(
            f"[model] image_weights: there is no file {file.name!r} at this path. Give the path of a .safetensors, "
            '.pth or .pt file, or "" for a random start.'
        )
    if file.suffix == ".safetensors":
        found: object = _read_safetensors(file)
    elif file.suffix in STATE_DICTS:
        found = _read_state_dict(file)
    else:
        raise ConfigError(f"[model] image_weights = {file.name!r}: read are .safetensors, {' and '.join(STATE_DICTS)}")
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    tensors = found if isinstance(found, Mapping) else {}
    named = {str(name).removeprefix("module."): value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not named:
        raise ConfigError(f"[model] image_weights = {file.name!r} holds no tensors by name: save a state_dict()")
    return named


def _by_our_names(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with a Swin UNETR's other names turned into the network's; all others keep their names."""
    named = dict(given)
    for name in given:
        ours = name.removeprefix("swinViT.").replace(".mlp.fc", ".mlp.linear")
        if ours in own and ours not in given:
            named[ours] = named.pop(name)
    return named


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"[model] image_weights = {file.name!r} cannot be read as safetensors: {error}") from None


def _read_state_dict(file: Path) -> object:
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    # Its message is not passed on: it advises to read without weights_only, which would run what the file says.
    except Exception:  # noqa: BLE001 - what torch raises depends on where the file is damaged
        raise ConfigError(
            f"[model] image_weights = {file.name!r} cannot be read as weights alone: it is damaged, or holds more than "
            "tensors, which could run code. Save the network's state_dict() again, best as .safetensors."
        ) from None


def _first_convolution(network: nn.Module) -> str | None:
    names = (f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv3d))
    return next(names, None)


def _differs_in_channels_alone(given: torch.Size, own: torch.Size) -> bool:
    return len(given) == len(own) and given[0] == own[0] and given[2:] == own[2:] and given[1] > 0


def _check_finite(file: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ConfigError(f"[model] image_weights = {file.name!r}: {name} holds NaN or infinity: take another file")


def _nothing_fits(file: Path, given: Mapping[str, Tensor], own: Mapping[str, Tensor], report: WeightsReport) -> str:
    start = f"[model] image_weights = {file.name!r}: no weight of it fits the network. "
    if report.mismatched:
        shapes = (f"{m.name} {list(m.in_file)}, here {list(m.in_network)}" for m in report.mismatched[:SHOWN])
        return start + f"The file has {'; '.join(shapes)}: set image_width and image_stem_kernel to the file's."
    return (
        start + f"The file has {', '.join(list(given)[:SHOWN])} ...; the network {', '.join(list(own)[:SHOWN])} ...: "
        "set image_encoder to the file's, or rename its keys."
    )
