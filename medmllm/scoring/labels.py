"""What a study's prediction says of several labels, and which of them leads.

Prediction, ModelCard -> labels that reach their operating points; the one that is shown first and explained
"""

from collections.abc import Sequence

from medmllm.model_documents import ModelCard


def predicted_labels(probabilities: Sequence[float], card: ModelCard) -> tuple[str, ...]:
    """Return the labels that reach their operating points, in the order of the card.

    Args:
        probabilities: One per label.
        card: Gives labels and operating points.
    """
    points = card.operating_points or {}
    named = zip(card.task.classes, probabilities, strict=True)
    return tuple(name for name, chance in named if chance >= points[name])


def leading_label(probabilities: Sequence[float], card: ModelCard) -> int:
    """Return the index of the likeliest label that reaches its operating point; where none does, of the likeliest.

    Args:
        probabilities: One per label.
        card: Gives labels and operating points.
    """
    reached = {card.task.classes.index(name) for name in predicted_labels(probabilities, card)}
    return max(range(len(probabilities)), key=lambda label: (label in reached, probabilities[label]))
