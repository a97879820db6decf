"""Take back what training did to the odds of classes, so that probabilities are those of the cohort.

    targets of the training samples, settings -> log-odds to add to each target's calibrated logits

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


def offsets_of(train: Sequence[Sample], settings: TrainingSettings, task: Task) -> tuple[Offsets, ...]:
    """Return what is to be added to the logits of each target; one where there is one.

    Args:
        train: What was learnt from; a study may come several times, as in inner folds.
        settings: How classes were weighted and drawn.
        task: Classes, or a time to an event, which has none.
    """
    if task.survival is not None:
        return (None,)
    if task.several:
        labels = [coarse_labels(sample.target) for sample in train if sample.target is not None]
        weights = known_weights(labels, settings, task)
    else:
        drawn_alike = settings.model_copy(update={"class_weights": "balanced"})
        as_weighted = drawn_alike if settings.sampling == "balanced" else settings
        weights = [class_weights(train, as_weighted, len(task.classes))]
    return tuple(_offsets(own, place.task) for own, place in zip(weights, task.places, strict=True))


def _offsets(weights: Tensor, task: Task) -> Offsets:
    if torch.all(weights == weights[0]):
        return None
    taken = -weights.double().log()
    if task.outputs == 1:
        return (float(taken[1] - taken[0]),)
    return tuple((taken - taken.mean()).tolist())
