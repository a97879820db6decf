"""The loss that training lessens.

targets of the training samples, settings -> Loss(logits, target)
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from medmllm.records import Sample
from medmllm.training_config import TrainingSettings


class Loss(Protocol):
    """Mean loss of a batch."""

    def __call__(self, logits: Tensor, target: Tensor | None) -> Tensor: ...


def make_loss(train: Sequence[Sample], settings: TrainingSettings, outputs: int, device: torch.device) -> Loss:
    """Return the cross-entropy for these samples, weighted by inverse class frequency when asked."""
    targets = torch.tensor([s.target for s in train if s.target is not None])
    counts = torch.bincount(targets, minlength=max(2, outputs)).float().clamp(min=1)
    weights = counts.sum() / (len(counts) * counts) if settings.class_weights == "balanced" else torch.ones(len(counts))
    weights = weights.to(device)

    def loss(logits: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        if outputs > 1:
            return functional.cross_entropy(logits, target, weight=weights)
        return functional.binary_cross_entropy_with_logits(logits[:, 0], target.float(), weight=weights[target])

    return loss
