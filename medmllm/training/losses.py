"""The loss that training lessens.

    targets of the training samples, settings -> weights of the classes -> Loss(logits, target)

Cross-entropy, or focal loss (Lin et al., ICCV 2017). Class weights: inverse frequency, or the effective number of
studies (Cui et al., CVPR 2019), both scaled so that the training studies weigh 1 on average; or as given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from medmllm.errors import ConfigError
from medmllm.model_documents import Task
from medmllm.records import Sample
from medmllm.training.survival_loss import CoxLoss, HazardLoss
from medmllm.training.target_loss import EFFECTIVE_BETA, make_target_loss
from medmllm.training_config import TrainingSettings

_SMALLEST = 1e-12  # a power below 1 has no slope at 0


class Loss(Protocol):
    """Mean loss of a batch."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor: ...

    def divisor(self, target: Tensor) -> Tensor | float:
        """Return what the sum over a batch was divided by: means of several batches are joined by it."""


def make_loss(train: Sequence[Sample], settings: TrainingSettings, task: Task, device: torch.device) -> Loss:
    """Return the loss for these samples, its classes weighted and its studies focused on as asked.

    Of several targets see target_loss, of times to an event survival_loss.

    Raises:
        ConfigError: Weights are given for another number of classes.
    """
    if task.survival is not None:
        return CoxLoss() if task.survival.model == "cox" else HazardLoss()
    if task.several:
        return make_target_loss(train, settings, task, device)
    weights = class_weights(train, settings, len(task.classes)).to(device)
    return ClassLoss(weights, task.outputs, settings.focal_gamma if settings.loss == "focal" else 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class ClassLoss:
    """Cross-entropy, or focal loss where gamma is not 0; the mean is a weighted one if multiclass, as in torch."""

    weights: Tensor  # (classes,)
    outputs: int
    gamma: float

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss; logits (batch, outputs), target (batch,)."""
        if self.gamma:
            return _focal(logits, target, self.weights, self.gamma)
        if self.outputs > 1:
            return functional.cross_entropy(logits, target, weight=self.weights)
        weights = self.weights[target]
        return functional.binary_cross_entropy_with_logits(logits[:, 0], target.float(), weight=weights)

    def divisor(self, target: Tensor) -> Tensor | float:
        """Return the number of studies when binary, else the sum of their classes' weights."""
        return self.weights[target].sum() if self.outputs > 1 else float(len(target))


def class_weights(train: Sequence[Sample], settings: TrainingSettings, classes: int) -> Tensor:
    """Return the weight of each class, float32, shape (classes,).

    Raises:
        ConfigError: Weights are given for another number of classes.
    """
    asked = settings.class_weights
    if not isinstance(asked, str):
        check_weights(settings, classes)
        return torch.tensor(asked)
    targets = torch.tensor([s.target for s in train if s.target is not None])
    counts = torch.bincount(targets, minlength=classes).float().clamp(min=1)
    if asked == "balanced":
        return counts.sum() / (len(counts) * counts)
    if asked == "effective_number":
        each = 1 / (1 - EFFECTIVE_BETA ** counts.double())
        return (each * counts.sum() / (each * counts).sum()).float()
    return torch.ones(len(counts))


def check_weights(settings: TrainingSettings, classes: int) -> None:
    """Refuse class weights that are given for another number of classes.

    Raises:
        ConfigError: Says how many of each there are.
    """
    asked = settings.class_weights
    if not isinstance(asked, str) and len(asked) != classes:
        raise ConfigError(
            f"[training] class_weights has {len(asked)} weights, the target has {classes} classes: give one each, in "
            'the order of the classes, or "balanced"'
        )


def _focal(logits: Tensor, target: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Return the mean of (1 - p) ** gamma * -log(p), p of the true class, weighted as cross-entropy weighs."""
    scores = logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)
    surprise = functional.cross_entropy(scores, target, reduction="none")
    missed = -torch.expm1(-surprise)  # 1 - p
    own = weights[target]
    summed = (own * missed.clamp(min=_SMALLEST) ** gamma * surprise).sum()
    # As torch does: the mean over the batch when binary, over the weights when multiclass.
    return summed / (own.sum() if logits.shape[1] > 1 else len(target))
