"""What a study's prediction says of several targets, and which of them leads.

Prediction, ModelCard -> the class of each target at its operating point; the one that is shown first and explained
"""

from collections.abc import Sequence

import numpy as np

from medmllm.errors import MisuseError
from medmllm.evaluation.ordinal import median_class
from medmllm.model_documents import ModelCard, Place, Task


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
    """Return the predicted classes that are told in short: of binary targets the positive ones, of a time none.

    Args:
        predicted: As of `predicted_labels`.
        card: Gives the targets.
    """
    own = zip(card.task.places, predicted, strict=True)
    return tuple(card.task.classes[label] for place, label in own if _counts(place, label))


def leading_label(probabilities: Sequence[float], card: ModelCard) -> int:
    """Return the class that is shown first: the likeliest of those told in short.

    Where none is told, every target with classes is binary and negative: then the likeliest of their positive classes.
    A time to an event never leads: half of the studies are at higher risk, however low it is.

    Args:
        probabilities: One per class.
        card: Gives targets and operating points.
    """
    own = list(zip(card.task.places, predicted_labels(probabilities, card), strict=True))
    told = [label for place, label in own if _counts(place, label)]
    told = told or [place.classes.stop - 1 for place, _ in own if place.task.survival is None]
    return max(told, key=lambda label: probabilities[label])


def check_target(name: str, task: Task) -> None:
    """Refuse to explain a target that a model was not trained for; an empty name is none.

    Raises:
        MisuseError: Names those that it was trained for.
    """
    names = task.names or (task.target,)
    if name and name not in names:
        raise MisuseError(f"[explain] target = {name!r} is none that the model was trained for: {', '.join(names)}")


def class_shown(target: str, probabilities: Sequence[float], card: ModelCard) -> int:
    """Return the class of one of several targets that is shown: the positive one or the event, else the predicted one.

    Args:
        target: Its name.
        probabilities: One per class.
        card: Gives targets and operating points.
    """
    number = card.task.names.index(target)
    place = card.task.places[number]
    return place.classes.stop - 1 if place.task.outputs == 1 else predicted_labels(probabilities, card)[number]


def _counts(place: Place, label: int) -> bool:
    """Return whether a predicted class is told in short."""
    if place.task.survival is not None:
        return False
    return place.task.kind != "binary" or label > place.classes.start
