"""The loss of several labels side by side, each of which may be missing.

    labels of the training samples, settings -> weights of each label's two values -> LabelLoss(logits, target)

Binary cross-entropy, or focal loss, of every label that is known, averaged over those. A label that a study lacks is
masked: it adds nothing to the loss, and its logit gets a gradient of exactly 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medmllm.errors import ConfigError
from medmllm.records import Sample
from medmllm.training_config import TrainingSettings

EFFECTIVE_BETA = 0.999
"""The n-th study of a class counts as this to the power of n - 1: 1,000 count as 632, 100 as 95."""

_SMALLEST = 1e-12  # a power below 1 has no slope at 0


@dataclass(frozen=True, slots=True, eq=False)
class LabelLoss:
    """Masked binary cross-entropy, or focal loss where gamma is not 0; the mean over the labels that are known."""

    weights: Tensor  # (labels, 2): of 0 and of 1
    gamma: float

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            logits: Shape (batch, labels).
            target: 1, 0 or UNKNOWN; shape (batch, labels).
        """
        known, truth = target >= 0, target.clamp(min=0)
        each = functional.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
        if self.gamma:
            each = (-torch.expm1(-each)).clamp(min=_SMALLEST) ** self.gamma * each
        own = self.weights[torch.arange(target.shape[1], device=target.device), truth]
        return torch.where(known, own * each, 0.0).sum() / self.divisor(target)

    def divisor(self, target: Tensor) -> Tensor | float:
        """Return the number of labels that are known."""
        return (target >= 0).sum().clamp(min=1)


def make_label_loss(train: Sequence[Sample], settings: TrainingSettings, device: torch.device) -> LabelLoss:
    """Return the loss for these samples, the values of each label weighted as asked.

    Raises:
        ConfigError: As of `check_label_settings`.
    """
    check_label_settings(settings)
    targets = torch.tensor([sample.target for sample in train])
    counts = torch.stack([(targets == value).sum(dim=0) for value in (0, 1)], dim=1).double().clamp(min=1)
    each = torch.ones_like(counts)
    if settings.class_weights == "balanced":
        each = 1 / counts
    elif settings.class_weights == "effective_number":
        each = 1 / (1 - EFFECTIVE_BETA**counts)
    weights = each * counts.sum(dim=1, keepdim=True) / (each * counts).sum(dim=1, keepdim=True)
    return LabelLoss(weights.float().to(device), settings.focal_gamma if settings.loss == "focal" else 0.0)


def check_label_settings(settings: TrainingSettings) -> None:
    """Refuse settings that only make sense for one target.

    Raises:
        ConfigError: Weights by class, or classes drawn alike.
    """
    if not isinstance(settings.class_weights, str):
        raise ConfigError(
            "[training] class_weights lists weights of one target's classes, and several targets were given: take "
            '"balanced", which weighs each label on its own, or "none"'
        )
    if settings.sampling != "shuffle":
        raise ConfigError(
            '[training] sampling = "balanced" draws by the classes of one target, and several were given: take '
            '"shuffle", and class_weights = "balanced" against imbalance'
        )
