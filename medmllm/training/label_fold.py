"""What a fold's tuning part decides for each label, and what its model then says.

    raw logits and labels of the tuning part -> LabelDecision per label -> calibrated logits -> labels predicted

Each label has a temperature and an operating point of its own, from the tuning studies where it is known. The test part
has no say in any of them. There are no conformal sets: they are of classes that exclude each other.
"""

from collections.abc import Sequence

import numpy as np

from medmllm.evaluation.calibration import apply_temperature, fit_temperature, to_probabilities
from medmllm.evaluation.discrimination import BoolArray, IntArray, choose_threshold
from medmllm.model_documents import LabelDecision
from medmllm.records import UNKNOWN, FloatArray


def decide_labels(logits: FloatArray, truth: IntArray) -> tuple[LabelDecision, ...]:
    """Return what the tuning part decides, label by label.

    Args:
        logits: Raw, shape (studies, labels).
        truth: 1, 0 or UNKNOWN; shape (studies, labels); both values of each label.
    """
    decided = []
    for label in range(logits.shape[1]):
        known = truth[:, label] != UNKNOWN
        raw, own = logits[known, label], truth[known, label]
        temperature = fit_temperature(raw, own)
        chances = to_probabilities(apply_temperature(raw, temperature))[:, 1]
        decided.append(LabelDecision(temperature=temperature, threshold=choose_threshold(own, chances)))
    return tuple(decided)


def calibrate_labels(logits: FloatArray, decided: Sequence[LabelDecision]) -> FloatArray:
    """Return logits divided by each label's temperature, of the same shape (studies, labels)."""
    columns = [apply_temperature(logits[:, k], one.temperature) for k, one in enumerate(decided)]
    return np.stack(columns, axis=1)


def label_probabilities(logits: FloatArray) -> FloatArray:
    """Return the probability of each label, of the same shape as its logit."""
    return to_probabilities(np.ravel(logits))[:, 1].reshape(logits.shape)


def labels_predicted(logits: FloatArray, decided: Sequence[LabelDecision]) -> BoolArray:
    """Return whether each label reaches its operating point.

    Args:
        logits: After temperature; shape (studies, labels).
        decided: Gives the operating points.
    """
    return label_probabilities(logits) >= np.array([one.threshold for one in decided])
