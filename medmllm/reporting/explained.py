"""Say in words what the number is that an explanation divides among voxels, words and cells.

    model card, class that is explained -> one to three sentences

It is called the logit throughout a report, as in `explanation.json`, and is another thing for every kind of target.
"""

from medmllm.errors import MedmllmError
from medmllm.model_documents import ModelCard

MEANINGS = {
    "binary": "The logit is the logarithm of the odds: +0.7 about doubles them.",
    "multiclass": "The logit is that of one of several classes, before softmax: +0.7 about doubles the odds of this "
    "class against each other one whose logit stays.",
    "ordinal": "The logit is here the logarithm of the probability of this class, divided by the temperature. One "
    "score moves all the ordered classes at once: what raises one in the middle may lower those above or below it.",
    "survival": "The logit is here the logarithm of the cumulative hazard until {horizon}: +0.7 about doubles the "
    "hazard, and so squares the probability of no event until then.",
}
"""Kind of one target -> what the explained number is."""
CURVED = (
    " That holds before the isotonic curve of the calibration: the probability that is shown moves by more where the "
    "curve is steep, and not at all where it is flat."
)
"""Said of a target whose probabilities follow a curve: explained is what goes into it."""


def meaning_of_logit(card: ModelCard, explained_class: str) -> str:
    """Return what the explained number of a class is.

    Args:
        card: Of a model of one target or several.
        explained_class: One of its classes.

    Raises:
        MedmllmError: It is none (code `report_mismatch`).
    """
    task = card.task
    if explained_class not in task.classes:
        raise MedmllmError("the explained class is none of the task's", code="report_mismatch")
    place = task.place_of(task.classes.index(explained_class))
    own, number = place.task, task.places.index(place)
    curved = any(fold.decisions(task)[number].isotonic is not None for fold in card.folds)
    horizon = "" if own.survival is None else own.survival.horizon_names[-1]
    return MEANINGS[own.kind].format(horizon=horizon) + (CURVED if curved else "")
