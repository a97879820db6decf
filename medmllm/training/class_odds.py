"""Take back what training did to the odds of classes, so that probabilities are those of the cohort.

    targets of each network's training samples, settings -> log-odds to add to each target's calibrated logits

A network that is trained with weighted classes, or with classes drawn alike, learns probabilities of a cohort in which
they are as frequent as they were weighted: of one with a tenth of positives, about half (van den Goorbergh et al.,
JAMIA 2022). It is known by how much, so the odds are divided by the weights again (Elkan, IJCAI 2001). No temperature
could do that, as it draws towards even odds; it is fitted with the offsets in place. Exact for cross-entropy; focal
loss bends probabilities besides.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from medmllm.model_documents import Task
from medmllm.records import Sample
from medmllm.training.losses import class_weights
from medmllm.training.survival_strata import coarse_labels
from medmllm.training.target_loss import known_weights
from medmllm.training_config import TrainingSettings

Offsets = tuple[float, ...] | None
"""Of one target, one per logit; None: its classes counted as often as they came."""


def offsets_of(parts: Sequence[Sequence[Sample]], settings: TrainingSettings, task: Task) -> tuple[Offsets, ...]:
    """Return what is to be added to the logits of each target; one where there is one.

    Args:
        parts: What each network of a fold learnt from. Each was weighted by its own part: of the effective number the
            weights hang on how many studies there are, so parts are not counted together. The mean of their logs holds.
        settings: How classes were weighted and drawn.
        task: Classes, or a time to an event, which has none.
    """
    if task.survival is not None:
        return (None,)
    each = zip(*(_weights(train, settings, task) for train in parts), strict=True)
    return tuple(_offsets(torch.stack(own), place.task) for own, place in zip(each, task.places, strict=True))


def _weights(train: Sequence[Sample], settings: TrainingSettings, task: Task) -> list[Tensor]:
    """Return the weights of the classes of each target, as one network learnt by them."""
    if task.several:
        labels = [coarse_labels(sample.target) for sample in train if sample.target is not None]
        return known_weights(labels, settings, task)
    drawn_alike = settings.model_copy(update={"class_weights": "balanced"})
    return [class_weights(train, drawn_alike if settings.sampling == "balanced" else settings, len(task.classes))]


def _offsets(weights: Tensor, task: Task) -> Offsets:
    """Return the offsets of one target; `weights` are of each network, shape (networks, classes)."""
    if torch.all(weights == weights[:, :1]):
        return None
    taken = -weights.double().log().mean(dim=0)
    if task.outputs == 1:
        return (float(taken[1] - taken[0]),)
    return tuple((taken - taken.mean()).tolist())
