"""The loss of several targets side by side, each of which a study may lack.

    targets of the training samples, settings -> weights of targets and of their classes -> TargetLoss(logits, target)

Cross-entropy, or focal loss, of each target on the studies where it is known, and of a time to an event its likelihood
(`survival_loss`); over the training studies, the loss is the mean over the targets of each one's mean, weighted as
asked. The same mean over the tuning part chooses the epoch. So that it holds for batches in which a target is seldom
known, and is the same in batches that are added up, a known target counts by how seldom it is known; of Cox, whose mean
is over events, an event by how seldom there is one. A target that a study lacks is masked: it adds nothing, and its
logits get a gradient of exactly 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medmllm.errors import ConfigError
from medmllm.model_documents import Task
from medmllm.records import Sample
from medmllm.training.survival_loss import CoxLoss, HazardLoss
from medmllm.training_config import TrainingSettings

EFFECTIVE_BETA = 0.999
"""The n-th study of a class counts as this to the power of n - 1: 1,000 count as 632, 100 as 95."""

_SMALLEST = 1e-12  # a power below 1 has no slope at 0


@dataclass(frozen=True, slots=True, eq=False)
class ClassPart:
    """Masked cross-entropy of one target, or focal loss where gamma is not 0."""

    weights: Tensor  # (classes,); 1 on average over the training studies where the target is known
    gamma: float

    def summed(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the sum over the studies where it is known.

        Args:
            logits: Of this target; shape (batch, outputs).
            target: Class index, or UNKNOWN; shape (batch, 1).
        """
        truth = target[:, 0].clamp(min=0)
        scores = logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)
        each = functional.cross_entropy(scores, truth, reduction="none")
        if self.gamma:
            each = (-torch.expm1(-each)).clamp(min=_SMALLEST) ** self.gamma * each
        return torch.where(self.counted(target), self.weights[truth] * each, 0.0).sum()

    def counted(self, target: Tensor) -> Tensor:
        """Return which studies the mean is over; bool, shape (batch,)."""
        return target[:, 0] >= 0


@dataclass(frozen=True, slots=True, eq=False)
class TargetPart:
    """What one target adds to the loss."""

    columns: slice  # of the targets' table: one, or the two of a time to an event
    factor: float  # what a study counts where the target is known
    of_part: ClassPart | HazardLoss | CoxLoss


@dataclass(frozen=True, slots=True, eq=False)
class TargetLoss:
    """Masked losses of all targets; the mean over what is known, weighted by target."""

    task: Task
    parts: tuple[TargetPart, ...]

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            logits: Shape (batch, outputs).
            target: Class index of each target, or UNKNOWN, a time in two columns as `Timeline.code` leaves it; shape
                (batch, columns).
        """
        total = logits.new_zeros(())
        for part, place in zip(self.parts, self.task.places_in(logits.shape[1]), strict=True):
            total = total + part.factor * part.of_part.summed(logits[:, place.outputs], target[:, part.columns])
        return total / self.divisor(target)

    def divisor(self, target: Tensor) -> Tensor | float:
        """Return how many targets are known, each counted by its factor."""
        counted = [part.of_part.counted(target[:, part.columns]) for part in self.parts]
        factors = torch.tensor([part.factor for part in self.parts], device=target.device)
        return (torch.stack(counted, dim=1) * factors).sum().clamp(min=_SMALLEST)


def make_target_loss(
    train: Sequence[Sample], settings: TrainingSettings, task: Task, device: torch.device
) -> TargetLoss:
    """Return the loss for these samples, targets and their classes weighted as asked.

    Raises:
        ConfigError: As of `check_target_settings`.
    """
    check_target_settings(settings, task)
    targets = torch.tensor([sample.target for sample in train])
    parts, column = list[TargetPart](), 0
    for own in task.parts:
        columns = slice(column, column + (1 if own.survival is None else 2))
        of_part = _loss_of(own, targets[:, columns], settings, device)
        counted = int(of_part.counted(targets[:, columns]).sum())
        factor = settings.target_weights.get(own.target, 1.0) * len(targets) / max(counted, 1)
        parts.append(TargetPart(columns, factor, of_part))
        column = columns.stop
    return TargetLoss(task, tuple(parts))


def _loss_of(
    task: Task, targets: Tensor, settings: TrainingSettings, device: torch.device
) -> ClassPart | HazardLoss | CoxLoss:
    """Return the loss of one target; `targets` are its columns."""
    if task.survival is not None:
        return CoxLoss() if task.survival.model == "cox" else HazardLoss()
    known = targets[targets[:, 0] >= 0, 0]
    weights = _weights(known, len(task.classes), settings).to(device)
    return ClassPart(weights, settings.focal_gamma if settings.loss == "focal" else 0.0)


def known_weights(labels: Sequence[Sequence[int]], settings: TrainingSettings, task: Task) -> list[Tensor]:
    """Return the weights of the classes of each of several targets, by the studies where it is known.

    Args:
        labels: As of `coarse_labels`; a time to an event has no weights but 1.
        settings: How classes are weighted.
        task: The targets.
    """
    columns = torch.tensor(labels).T
    return [
        torch.ones(2) if part.survival is not None else _weights(own[own >= 0], len(part.classes), settings)
        for own, part in zip(columns, task.parts, strict=True)
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
