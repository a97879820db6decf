"""Which folds of a run are done, and may it go on: the folder RUN/checkpoints.

    settings, split, cohort -> Origin; RUN/checkpoints -> per arm and network: what it said, its state, or nothing

A fold's network counts as done only while its weights and tokenizer are, byte for byte, those it was finished with.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from medmllm.config import TrainConfig
from medmllm.errors import MisuseError
from medmllm.models.package import codes_name, network_name, tokenizer_name, weights_name
from medmllm.preprocessing.stored_image import load_image, voxel_digest
from medmllm.provenance import file_digest, text_digest
from medmllm.records import FloatArray, StoredImage
from medmllm.training.checkpoint import FOLDER, Checkpoint, Origin, read_state, write_state
from medmllm.training.cohort import Cohort
from medmllm.training.image_cache import RUN_FOLDER
from medmllm.training.modality_test import FoldDeprived
from medmllm.training.starting_weights import weights_input
from medmllm.training_config import Arm

UNTRAINED: Mapping[str, bool | set[str]] = {
    "tracking": True, "intended_use": True, "policy": True, "training": {"cache", "learning_curve"},
    "evaluation": {"bootstrap_samples", "confidence", "ignored_below", "subgroups", "calibration", "coverage"},
}  # fmt: skip
"""Settings that no network depends on: what is kept of one is its weights and raw logits."""

PAUSE_S = 30.0
"""Between two states of a candidate of a search; a run that is killed loses no more of it."""


def origin_of(config: TrainConfig, split: str, cohort: Cohort) -> Origin:
    """Return what checkpoints of this training belong to; the cohort's digest covers all that a network reads."""
    settings = config.model_dump_json(exclude=UNTRAINED)
    start = weights_input(config).values()  # other weights under the same name are another training
    parts = []
    for member in cohort.members:
        sample = member.sample
        image = "" if sample.image is None else _digest(sample.image)
        # Whose a study is decides whose words a vocabulary may hold, and what may be exchanged.
        parts += [sample.study_key, sample.patient_key, str(sample.target), str(sample.channel_present)]
        parts += ["" if member.note is None else member.note.text, image]
        parts += [] if member.learnable is None else [member.learnable.text, *sorted(member.learnable.names)]
        parts += [_digest(spectrum) for spectrum in sample.recording or ()]
        parts += [] if member.values is None else [repr(sorted(member.values.items()))]
    return Origin(text_digest([settings, *start]), split, text_digest(parts))


def _digest(image: Tensor | StoredImage) -> str:
    return image.voxels if isinstance(image, StoredImage) else voxel_digest(load_image(image))


def trained_folders(out: Path) -> list[Path]:
    """Return the folders that a training deletes before it begins: checkpoints, and the packages of all arms."""
    return [out / name for name in (FOLDER, "model", *(f"model_{arm}" for arm in get_args(Arm)))]


def check_unfinished(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to train over an interrupted run unless told whether to go on or to start anew.

    What an interrupted run reached stays until training begins: the new run may still be refused.

    Raises:
        MisuseError: OUT holds checkpoints and neither was asked for, or both were.
    """
    if resume and overwrite:
        raise MisuseError("--resume keeps what is there, --overwrite does not: give one of them")
    if not resume and not overwrite and any((out / FOLDER).glob("*.safetensors")):
        raise MisuseError(
            "the output folder holds an interrupted run: add --resume to go on, or --overwrite to start anew"
        )


def forget(out: Path) -> None:
    """Delete checkpoints and prepared images of a run that is whole."""
    for folder in (FOLDER, RUN_FOLDER):
        shutil.rmtree(out / folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkResult:
    """What one trained network says, before anything is decided on it."""

    best_epoch: int  # on its tuning part, from 1
    tune: FloatArray  # (studies of its tuning part, outputs), raw logits
    test: FloatArray  # (studies of its test part, outputs), raw logits
    deprived: FoldDeprived  # raw logits of its test part, with each modality taken away


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run keeps of one network of one arm."""

    out: Path
    folder: Path  # the arm's package
    origin: Origin
    arm: str
    fold: int
    inner: int | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The state of a network in training."""
        return Checkpoint(self._file("safetensors"), self.origin)

    @property
    def _done(self) -> Path:
        return self._file("done.safetensors")

    def _file(self, suffix: str) -> Path:
        return self.out / FOLDER / f"{self.arm}_{network_name(self.fold, self.inner)}.{suffix}"

    def finish(self, own: NetworkResult) -> None:
        """Note that a network is done: its weights are written, and what it says is known."""
        rest = {"best_epoch": own.best_epoch, "files": self._digests()}
        found = {"tune": own.tune, "test": own.test}
        found |= {f"permuted/{name}": values for name, values in own.deprived.permuted.items()}
        found |= {f"absent/{name}": values for name, values in own.deprived.absent.items()}
        write_state(self._done, {name: torch.from_numpy(values) for name, values in found.items()}, rest, self.origin)
        self.checkpoint.remove()

    def finished(self) -> NetworkResult | None:
        """Return what a network said, or None when it is to be trained."""
        if not self._done.exists():
            return None
        tensors, rest = read_state(self._done, self.origin)
        if self._digests() != rest["files"]:
            return None
        found = {name: value.numpy().astype(np.float64) for name, value in tensors.items()}
        deprived = FoldDeprived(permuted=_under("permuted/", found), absent=_under("absent/", found))
        return NetworkResult(rest["best_epoch"], found["tune"], found["test"], deprived)

    def _digests(self) -> dict[str, str]:
        own = self.fold, self.inner
        files = [self.folder / name for name in (weights_name(*own), codes_name(*own))]
        files += [*(self.folder / tokenizer_name(*own)).rglob("*")]
        return {p.relative_to(self.folder).as_posix(): file_digest(p) for p in sorted(files) if p.is_file()}

    def of_candidate(self, number: int) -> "KeptCandidate":
        """Return what is kept of the same network as a candidate of a search trains it."""
        return KeptCandidate(
            self.out / FOLDER, f"{self.arm}_{network_name(self.fold, self.inner)}", self.origin, number
        )


@dataclass(frozen=True, slots=True)
class KeptCandidate:
    """What a run keeps of one network as a candidate trains it: what it said of its tuning part, and no weights."""

    folder: Path  # RUN/checkpoints
    network: str
    origin: Origin
    number: int

    @property
    def checkpoint(self) -> Checkpoint:
        """Its state every now and then, while it is trained: most candidates are trained in less time."""
        return Checkpoint(self._file("safetensors"), self.origin, pause_s=PAUSE_S)

    @property
    def _done(self) -> Path:
        return self._file("tuned.safetensors")

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.network}.candidate_{self.number}.{suffix}"

    def finish(self, tune: FloatArray | None) -> None:
        """Note that it is trained, and what it said; None: the training diverged."""
        said = {} if tune is None else {"tune": torch.from_numpy(tune)}
        write_state(self._done, said, {}, self.origin)
        self.checkpoint.remove()

    def finished(self) -> tuple[FloatArray | None] | None:
        """Return what it said, in a tuple, or None when it is to be trained."""
        if not self._done.exists():
            return None
        tensors, _ = read_state(self._done, self.origin)
        return (tensors["tune"].numpy().astype(np.float64) if "tune" in tensors else None,)


def _under(prefix: str, found: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    return {name.removeprefix(prefix): values for name, values in found.items() if name.startswith(prefix)}
