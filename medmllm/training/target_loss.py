"""The loss of several targets side by side, each of which a study may lack.

    targets of the training samples, settings -> weights of targets and of their classes -> TargetLoss(logits, target)

Cross-entropy, or focal loss, of each target on the studies where it is known; over the training studies, the loss is
the mean over the targets of each one's mean, weighted as asked. So that it holds for batches in which a target is
seldom known, and is the same in batches that are added up, a known target counts by how seldom it is known. A target
that a study lacks is masked: it adds nothing, and its logits get a gradient of exactly 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medmllm.errors import ConfigError
from medmllm.model_documents import Task
from medmllm.records import Sample
from medmllm.training_config import TrainingSettings

EFFECTIVE_BETA = 0.999
"""The n-th study of a class counts as this to the power of n - 1: 1,000 count as 632, 100 as 95."""

_SMALLEST = 1e-12  # a power below 1 has no slope at 0


@dataclass(frozen=True, slots=True, eq=False)
class TargetPart:
    """What one target adds to the loss."""

    outputs: slice
    weights: Tensor  # (classes,); 1 on average over the training studies where the target is known
    factor: float  # what a study counts where the target is known


@dataclass(frozen=True, slots=True, eq=False)
class TargetLoss:
    """Masked cross-entropy, or focal loss where gamma is not 0; the mean over what is known, weighted by target."""

    parts: tuple[TargetPart, ...]
    gamma: float

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            logits: Shape (batch, outputs).
            target: Class index of each target, or UNKNOWN; shape (batch, targets).
        """
        known, truth = target >= 0, target.clamp(min=0)
        total = logits.new_zeros(())
        for number, part in enumerate(self.parts):
            own = logits[:, part.outputs]
            scores = own if own.shape[1] > 1 else torch.cat([torch.zeros_like(own), own], dim=1)
            each = functional.cross_entropy(scores, truth[:, number], reduction="none")
            if self.gamma:
                each = (-torch.expm1(-each)).clamp(min=_SMALLEST) ** self.gamma * each
            each = part.weights[truth[:, number]] * each
            total = total + part.factor * torch.where(known[:, number], each, 0.0).sum()
        return total / self.divisor(target)

    def divisor(self, target: Tensor) -> Tensor | float:
        """Return how many targets are known, each counted by its factor."""
        factors = torch.tensor([part.factor for part in self.parts], device=target.device)
        return ((target >= 0) * factors).sum().clamp(min=_SMALLEST)


def make_target_loss(
    train: Sequence[Sample], settings: TrainingSettings, task: Task, device: torch.device
) -> TargetLoss:
    """Return the loss for these samples, targets and their classes weighted as asked.

    Raises:
        ConfigError: As of `check_target_settings`.
    """
    check_target_settings(settings, task)
    targets = torch.tensor([sample.target for sample in train])
    parts = []
    for number, (place, weights) in enumerate(zip(task.places, known_weights(train, settings, task), strict=True)):
        own = targets[:, number]
        known = own[own >= 0]
        parts.append(
            TargetPart(
                outputs=place.outputs,
                weights=weights.to(device),
                factor=settings.target_weights.get(place.task.target, 1.0) * len(own) / max(len(known), 1),
            )
        )
    return TargetLoss(tuple(parts), settings.focal_gamma if settings.loss == "focal" else 0.0)


def known_weights(train: Sequence[Sample], settings: TrainingSettings, task: Task) -> list[Tensor]:
    """Return the weights of the classes of each of several targets, by the studies where it is known."""
    targets = torch.tensor([sample.target for sample in train])
    return [
        _weights(own[own >= 0], len(place.task.classes), settings)
        for own, place in zip(targets.T, task.places, strict=True)
    ]


def _weights(known: Tensor, classes: int, settings: TrainingSettings) -> Tensor:
    """Return the weight of each class of one target, float32."""
    counts = torch.bincount(known, minlength=classes).double().clamp(min=1)
    each = torch.ones_like(counts)
    if settings.class_weights == "balanced":
        each = 1 / counts
    elif settings.class_weights == "effective_number":
        each = 1 / (1 - EFFECTIVE_BETA**counts)
    return (each * counts.sum() / (each * counts).sum()).float()


def check_target_settings(settings: TrainingSettings, task: Task) -> None:
    """Refuse settings that only make sense for one target, or are of a target that is none.

    Raises:
        ConfigError: Weights by class, classes drawn alike, or the weight of an unknown target.
    """
    for name in settings.target_weights:
        if name not in task.names:
            raise ConfigError(
                f"[training.target_weights] names {name!r}, which is none of several targets"
                + (f"; these are {', '.join(task.names)}" if task.several else "")
            )
    if not task.several:
        return
    if not isinstance(settings.class_weights, str):
        raise ConfigError(
            "[training] class_weights lists weights of one target's classes, and several targets were given: take "
            '"balanced", which weighs the classes of each target on its own, or "none"'
        )
    if settings.sampling != "shuffle":
        raise ConfigError(
            '[training] sampling = "balanced" draws by the classes of one target, and several were given: take '
            '"shuffle", and class_weights = "balanced" against imbalance'
        )
