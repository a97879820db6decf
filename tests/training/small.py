"""Settings of seconds, a few samples that can be learnt, and trackers: one that remembers, one that kills."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from medmllm.config import TrainConfig, load_config
from medmllm.models.package import FoldNetwork
from medmllm.records import Sample
from medmllm.training.checkpoint import Checkpoint, Origin
from medmllm.training.loop import Fit, fit
from medmllm.training_config import TrainingSettings
from tests.models.small import a_member, a_sample, contract_of

THREE = ("low", "mid", "high")
WORDS = ("clear", "marked nodule", "spiculated")
ORIGIN = Origin("settings", "split", "cohort")


def settings(**changes: object) -> TrainingSettings:
    plain = {
        "folds": 2,
        "tuning_fraction": 0.2,
        "inner_folds": 1,
        "same_pixels": "refuse",
        "copied_notes": "warn",
        "group_out": "",
        "arms": ("fused",),
        "seed": 1,
        "epochs": 3,
        "patience": 3,
        "batch_size": 4,
        "accumulate": 1,
        "learning_rate": 3e-3,
        "text_learning_rate": 3e-3,
        "weight_decay": 0.0,
        "warmup_epochs": 0.0,
        "gradient_clip": 1.0,
        "loss": "cross_entropy",
        "focal_gamma": 2.0,
        "class_weights": "none",
        "target_weights": {},
        "sampling": "shuffle",
        "flips": False,
        "noise": 0.0,
        "shift_voxels": 0,
        "device": "cpu",
        "precision": "auto",
        "channels_last": False,
        "processes": 1,
        "sync_batch_norm": False,
        "cache": "",
        "threads": 1,
        "deterministic": False,
        "learning_curve": (),
    }
    packaged = load_config(TrainConfig, "train").training.model_dump()  # holds what these tests do not ask for
    return TrainingSettings.model_validate(packaged | plain | changes)


@dataclass
class Told:
    """What a tracker was told, epoch by epoch."""

    epochs: list[int] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)

    def log_epoch(self, epoch: int, metrics: Any) -> None:
        self.epochs.append(epoch)
        self.metrics.append(dict(metrics))

    @property
    def tuning(self) -> list[float]:
        return [metrics["tuning_loss"] for metrics in self.metrics]


def cohort(n: int, *, classes: int = 2, first: int = 0) -> list[Sample]:
    """Noise that is the brighter, and a note that names it, the higher the class; taken in turn."""
    made = []
    for number in range(first, first + n):
        target = number % classes
        sample = a_sample(number, note=WORDS[target], target=target)
        assert sample.image is not None
        made.append(replace(sample, image=sample.image + 1.5 * target))
    return made


class Killed(BaseException):
    """Stands for SIGKILL."""


class Killer(Told):
    """A tracker that ends the training in the middle of it."""

    def log_epoch(self, epoch: int, metrics: Any) -> None:
        super().log_epoch(epoch, metrics)
        if epoch == 3:
            raise Killed


def train(
    member: FoldNetwork,
    arm: str = "fused",
    n: int = 13,
    *,
    classes: int = 2,
    seed: int = 7,
    told: Told | None = None,
    checkpoint: Checkpoint | None = None,
    **changes: object,
) -> tuple[Fit, Told]:
    told = told or Told()
    done = fit(
        member,
        cohort(n, classes=classes),
        cohort(6, classes=classes, first=100),
        contract_of(arm),
        settings(**changes),
        seed=seed,
        tracker=told,
        checkpoint=checkpoint,
    )
    return done, told


def train_varied(
    told: Told, checkpoint: Checkpoint | None = None, **changes: object
) -> tuple[Fit, dict[str, torch.Tensor]]:
    """Fit with dropout, all augmentation and a schedule that changes in every step; return it and the weights."""
    member = a_member("fused", dropout=0.3, modality_dropout=0.3)
    plain: dict[str, object] = {
        "epochs": 6, "patience": 6, "warmup_epochs": 1.5, "noise": 0.1, "flips": True, "shift_voxels": 1
    }  # fmt: skip
    done, _ = train(member, told=told, checkpoint=checkpoint, **(plain | changes))
    return done, weights(member)


def weights(member: FoldNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in member.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def samples_of(counts: list[int]) -> list[Sample]:
    return [a_sample(k, note=None, target=target) for target, count in enumerate(counts) for k in range(count)]
