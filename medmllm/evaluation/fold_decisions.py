"""Tell what one fold's model says of studies: its raw logits, and what its tuning part decided.

    raw logits, FoldModel, Task -> calibrated logits -> probabilities, predicted classes, conformal sets

Of several targets each has a calibration, operating point and conformal thresholds of its own. Probabilities and sets
have a column for each class, those of each target in turn.
"""

import numpy as np

from medmllm.evaluation.calibration import to_probabilities
from medmllm.evaluation.conformal import conformal_sets
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.isotonic import calibrate
from medmllm.evaluation.ordinal import median_class
from medmllm.evaluation.survival_curve import horizon_chances, log_hazards, shared_times
from medmllm.model_documents import FoldModel, Task
from medmllm.records import FloatArray
from medmllm.tuning_documents import TuningDecisions


def calibrate_fold(raw: FloatArray, fold: FoldModel, task: Task) -> FloatArray:
    """Return calibrated logits, of the same shape (studies, outputs).

    Of a time to an event these are log cumulative hazards at times that all folds share, a column for each time.

    Args:
        raw: As the network gives them.
        fold: Gives temperatures, offsets and curves.
        task: Says which outputs are whose.
    """
    own = zip(task.places_in(raw.shape[1]), fold.decisions(task), strict=True)
    return np.concatenate([_calibrate(raw[:, place.outputs], one, place.task) for place, one in own], axis=1)


def _calibrate(raw: FloatArray, decided: TuningDecisions, task: Task) -> FloatArray:
    """Return the calibrated logits of one target."""
    if task.survival is not None and decided.survival is not None:
        return log_hazards(raw, decided.temperature, decided.survival, shared_times(task.survival.horizons))
    return calibrate(raw, decided.temperature, decided.isotonic, decided.offsets)


def class_probabilities(logits: FloatArray, task: Task) -> FloatArray:
    """Return the probability of each class, shape (studies, classes); those of each target sum to 1.

    Args:
        logits: Calibrated; shape (studies, outputs).
        task: Says which outputs are whose.
    """
    places = task.places_in(logits.shape[1])
    return np.concatenate([_chances(logits[:, place.outputs], place.task) for place in places], axis=1)


def _chances(logits: FloatArray, task: Task) -> FloatArray:
    """Return the probability of each class of one target."""
    if task.survival is not None:
        return horizon_chances(logits, len(task.survival.horizons))
    return to_probabilities(plain(logits))


def plain(logits: FloatArray) -> FloatArray:
    """Return a target's logits as they are evaluated: of shape (studies,) where there is one output."""
    return logits[:, 0] if logits.shape[1] == 1 else logits


def predicted_classes(logits: FloatArray, fold: FoldModel, task: Task) -> IntArray:
    """Return the class index of each study for each target, shape (studies, targets).

    Args:
        logits: Calibrated; shape (studies, outputs).
        fold: Gives the operating points.
        task: Says which outputs are whose.
    """
    own = zip(task.places_in(logits.shape[1]), fold.decisions(task), strict=True)
    return np.stack([_predict(logits[:, place.outputs], one, place.task) for place, one in own], axis=1)


def _predict(logits: FloatArray, decided: TuningDecisions, task: Task) -> IntArray:
    """Return the class index of each study for one target; of a time to an event, 1 at higher risk."""
    if task.survival is not None:
        return (_chances(logits, task)[:, 1] >= decided.threshold).astype(np.int64)
    return decide(logits, decided.threshold, ordered=task.kind == "ordinal")


def decide(logits: FloatArray, threshold: float, *, ordered: bool = False) -> IntArray:
    """Return the class index of each study: at the threshold when binary, the median when ordered, else the likeliest.

    Args:
        logits: Of one target; shape (studies, outputs), calibrated.
        threshold: On the positive class's probability; read only when there is one output.
        ordered: The classes have an order.
    """
    if ordered:
        return median_class(to_probabilities(logits))
    if logits.shape[1] == 1:
        return (to_probabilities(logits[:, 0])[:, 1] >= threshold).astype(np.int64)
    return logits.argmax(axis=1)


def fold_sets(probabilities: FloatArray, fold: FoldModel, task: Task) -> BoolArray | None:
    """Return whether each class cannot be ruled out, shape (studies, classes); None where a threshold is lacking.

    A time to an event beside other targets has no set, which stands as False here.

    Args:
        probabilities: By this fold's own calibration, as of `class_probabilities`.
        fold: Gives the thresholds.
        task: Says which classes are whose.
    """
    found = []
    for place, own in zip(task.places, fold.decisions(task), strict=True):
        if task.several and place.task.survival is not None:
            found.append(np.zeros((len(probabilities), len(place.task.classes)), dtype=bool))
            continue
        if own.conformal_thresholds is None:
            return None
        found.append(conformal_sets(probabilities[:, place.classes], own.conformal_thresholds))
    return np.concatenate(found, axis=1)
