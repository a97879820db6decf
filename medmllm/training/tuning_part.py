"""What a fold's tuning part decides beside the epoch: temperature, operating point, conformal thresholds.

raw logits and targets of the tuning part -> TuningDecisions

The test part has no say in any of them.
"""

from dataclasses import dataclass

from medmllm.evaluation.calibration import apply_temperature, fit_temperature, to_probabilities
from medmllm.evaluation.conformal import class_thresholds
from medmllm.evaluation.discrimination import IntArray, choose_threshold
from medmllm.records import FloatArray


@dataclass(frozen=True, slots=True)
class TuningDecisions:
    """Numbers that go into the fold's entry in the model card."""

    temperature: float
    threshold: float  # on the positive class's probability; 0.5, and not read, when multiclass
    conformal_thresholds: tuple[float, ...]  # per class


def decide_on_tuning(logits: FloatArray, truth: IntArray, *, coverage: float) -> TuningDecisions:
    """Return what the tuning part decides.

    Args:
        logits: Raw, shape (studies, outputs); one output is a binary task.
        truth: Class index of each study.
        coverage: Per class, asked of the conformal sets.
    """
    binary = logits.shape[1] == 1
    raw = logits[:, 0] if binary else logits
    temperature = fit_temperature(raw, truth)
    chances = to_probabilities(apply_temperature(raw, temperature))
    return TuningDecisions(
        temperature=temperature,
        threshold=choose_threshold(truth, chances[:, 1]) if binary else 0.5,
        conformal_thresholds=class_thresholds(chances, truth, coverage=coverage),
    )
