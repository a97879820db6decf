"""Keep what training has reached, so that a killed run goes on to the result it would have had.

    after each epoch:   network, optimizer, schedule, random states, best weights -> ARM_fold_K.safetensors
    after each network: its best epoch, its tuning and test logits -> ARM_fold_K.done.safetensors

They lie in RUN/checkpoints until the run is whole. One file per state: tensors, and the rest as JSON in the header, so
that one rename replaces all of it. No pickle. Each file carries the digests of the settings, the split and the cohort
it belongs to; under others it is refused. Weights that do not learn, of a frozen encoder or below adapters, are not
written: they are taken from where the training started, and refused if their digest is another.
"""

import hashlib
import json
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from medmllm.errors import MedmllmError, MisuseError

FOLDER = "checkpoints"
OTHERS = {"settings": "other settings", "split": "another split", "cohort": "another cohort"}


@dataclass(frozen=True, slots=True)
class Origin:
    """What a checkpoint belongs to, as digests."""

    settings: str
    split: str
    cohort: str


@dataclass(slots=True, eq=False)
class FitState:
    """How far one fold's training has come; changed in place, epoch by epoch."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    generator: torch.Generator  # of the order of samples and of augmentation
    epoch: int = 0  # the last whole one, from 1
    best_epoch: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    fixed: str = ""  # digest of the weights that do not learn


@dataclass(slots=True)
class Checkpoint:
    """The file of one fold's state."""

    path: Path
    origin: Origin
    pause_s: float = 0.0  # so long nothing is written again: a shorter training is sooner done anew
    saved_s: float = field(default_factory=time.monotonic, init=False)

    def save(self, state: FitState) -> None:
        """Write the state, in place of the one before."""
        if time.monotonic() - self.saved_s < self.pause_s:
            return
        self._write(state)
        self.saved_s = time.monotonic()

    def _write(self, state: FitState) -> None:
        optimizer, numpy_state = state.optimizer.state_dict(), np.random.get_state(legacy=False)  # noqa: NPY002
        tensors = {f"network/{name}": value for name, value in learned(state.network).items()}
        tensors |= {f"best/{name}": value for name, value in state.best_weights.items()}
        for index, values in optimizer["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in values.items()}
        tensors |= {"random/torch": torch.get_rng_state(), "random/order": state.generator.get_state()}
        if torch.cuda.is_available():
            tensors |= {f"random/cuda/{k}": one for k, one in enumerate(torch.cuda.get_rng_state_all())}
        rest = {
            "fixed": state.fixed,
            "epoch": state.epoch,
            "best_epoch": state.best_epoch,
            "best_loss": state.best_loss,
            "groups": optimizer["param_groups"],
            "schedule": state.schedule.state_dict(),
            "python": random.getstate(),
            "numpy": numpy_state | {"state": {k: np.asarray(v).tolist() for k, v in numpy_state["state"].items()}},
        }
        write_state(self.path, tensors, rest, self.origin)

    def load(self, state: FitState) -> bool:
        """Bring a fresh state to where the file left off; False where there is no file.

        Raises:
            MisuseError: The file is of other settings, another split or another cohort, or of other fixed weights.
            MedmllmError: `damaged_checkpoint`.
        """
        if not self.path.exists():
            return False
        tensors, rest = read_state(self.path, self.origin)
        if rest["fixed"] != state.fixed:
            raise MisuseError(
                f"cannot resume: {FOLDER}/{self.path.name} was trained on other weights of the text encoder than those "
                "that [text] encoder names now. Bring them back, or start anew with --overwrite."
            )
        restore(state.network, _under("network/", tensors))
        state.best_weights = _under("best/", tensors)
        state.epoch, state.best_epoch, state.best_loss = rest["epoch"], rest["best_epoch"], rest["best_loss"]
        _load_optimizer(state.optimizer, rest["groups"], _under("optimizer/", tensors))
        state.schedule.load_state_dict(rest["schedule"])
        state.generator.set_state(tensors["random/order"])
        torch.set_rng_state(tensors["random/torch"])
        cuda = _under("random/cuda/", tensors)
        if len(cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([cuda[str(k)] for k in range(len(cuda))])
        version, internal, gauss = rest["python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(rest["numpy"])  # noqa: NPY002
        return True

    def remove(self) -> None:
        """Delete the file, once the fold is done."""
        self.path.unlink(missing_ok=True)


def learned(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network without the weights that do not learn."""
    fixed = _fixed(network)
    return {name: value for name, value in network.state_dict().items() if name not in fixed}


def restore(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load what `learned` returned; the weights that do not learn stay."""
    network.load_state_dict({**{name: value.data for name, value in _fixed(network).items()}, **weights})


def fixed_digest(network: nn.Module) -> str:
    """Return the sha256 of the weights that do not learn; empty where all do."""
    fixed, digest = _fixed(network), hashlib.sha256()
    for name in sorted(fixed):
        digest.update(name.encode())
        digest.update(fixed[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest() if fixed else ""


def _fixed(network: nn.Module) -> dict[str, nn.Parameter]:
    named = network.named_parameters(remove_duplicate=False)
    return {name: parameter for name, parameter in named if not parameter.requires_grad}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], flat: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split("/")
        parameter, restored = parameters[int(index)], value
        if value.shape == parameter.shape and value.ndim:
            # The fused step walks the memory of parameter and moments alike: they must share one layout.
            restored = torch.empty_like(parameter, requires_grad=False).copy_(value)
        found.setdefault(int(index), {})[key] = restored
    optimizer.load_state_dict({"state": found, "param_groups": groups})


def write_state(path: Path, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], origin: Origin) -> None:
    """Write tensors and a JSON header so that a kill or a power cut leaves the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(whole, partial, metadata={"origin": json.dumps(asdict(origin)), "state": json.dumps(rest)})
    for target in (partial, path.parent):
        opened = os.open(target, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
        if target is partial:
            os.replace(partial, path)


def read_state(path: Path, origin: Origin) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON part of a state file.

    Raises:
        MisuseError: It is of other settings, another split or another cohort.
        MedmllmError: `damaged_checkpoint`.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            found, rest = json.loads(header["origin"]), json.loads(header["state"])
            changed = [name for name, digest in asdict(origin).items() if found.get(name) != digest]
            tensors = {} if changed else {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise MedmllmError(
            f"{FOLDER}/{path.name} cannot be read ({type(error).__name__}). Delete it and --resume: "
            "its fold starts anew.",
            code="damaged_checkpoint",
        ) from None
    if changed:
        raise another_origin(f"{FOLDER}/{path.name} was", changed)
    return tensors, rest


def read_origin(path: Path) -> Origin | None:
    """Return what a state file belongs to; None where it cannot be read: `read_state` says so when it is wanted."""
    try:
        with safe_open(path, framework="pt") as opened:
            return Origin(**json.loads((opened.metadata() or {})["origin"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None


def another_origin(what: str, changed: Sequence[str]) -> MisuseError:
    """Return the refusal of state files that belong to something else; `what` says which, with its verb."""
    others = " and ".join(OTHERS[name] for name in changed)
    return MisuseError(
        f"cannot resume: {what} trained with {others}. Resume with the settings, labels and studies of the interrupted "
        "run, or start anew with --overwrite."
    )
