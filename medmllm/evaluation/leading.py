"""What a study's prediction says of several targets, and which of them leads.

Prediction, ModelCard -> the class of each target at its operating point; the one that is shown first and explained
"""

from collections.abc import Sequence

import numpy as np

from medmllm.evaluation.ordinal import median_class
from medmllm.model_documents import ModelCard, Place


def predicted_labels(probabilities: Sequence[float], card: ModelCard) -> tuple[int, ...]:
    """Return the class predicted for each target, as an index into the task's classes; one where there is one target.

    At the operating point when binary or a time to an event, the median when ordered, else the most probable.

    Args:
        probabilities: One per class.
        card: Gives targets and operating points.
    """
    return tuple(
        place.classes.start + _predicted(probabilities[place.classes], place, card) for place in card.task.places
    )


def _predicted(probabilities: Sequence[float], place: Place, card: ModelCard) -> int:
    if place.task.outputs == 1:
        points = card.operating_points or {}
        return int(probabilities[1] >= points.get(place.task.target, card.operating_point))
    if place.task.ordered:
        return int(median_class(np.array([probabilities]))[0])
    return int(np.argmax(probabilities))


def told_labels(predicted: Sequence[int], card: ModelCard) -> tuple[str, ...]:
    """Return the predicted classes that are told in short: of binary targets the positive ones alone.

    Args:
        predicted: As of `predicted_labels`.
        card: Gives the targets.
    """
    own = zip(card.task.places, predicted, strict=True)
    return tuple(card.task.classes[label] for place, label in own if _counts(place, label))


def leading_label(probabilities: Sequence[float], card: ModelCard) -> int:
    """Return the class that is shown first: the likeliest of those told in short.

    Where none is told, every target is binary and negative: then the likeliest of their positive classes.

    Args:
        probabilities: One per class.
        card: Gives targets and operating points.
    """
    own = list(zip(card.task.places, predicted_labels(probabilities, card), strict=True))
    told = [label for place, label in own if _counts(place, label)] or [place.classes.stop - 1 for place, _ in own]
    return max(told, key=lambda label: probabilities[label])


def _counts(place: Place, label: int) -> bool:
    """Return whether a predicted class is told in short."""
    return place.task.kind != "binary" or label > place.classes.start
