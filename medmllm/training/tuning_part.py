"""What a fold's tuning part decides beside the epoch: calibration, operating point, conformal thresholds.

raw logits and targets of the tuning part -> TuningDecisions

The test part has no say in any of them.
"""

from dataclasses import dataclass

from medmllm.documents import IsotonicMap
from medmllm.evaluation.calibration import fit_temperature, to_probabilities
from medmllm.evaluation.conformal import class_thresholds
from medmllm.evaluation.discrimination import IntArray, choose_threshold
from medmllm.evaluation.isotonic import calibrate, fit_isotonic
from medmllm.records import FloatArray
from medmllm.training_config import EvaluationSettings


@dataclass(frozen=True, slots=True)
class TuningDecisions:
    """Numbers that go into the fold's entry in the model card."""

    temperature: float
    isotonic: tuple[IsotonicMap, ...] | None  # None: the temperature alone
    threshold: float  # on the positive class's probability; 0.5, and not read, when multiclass
    conformal_thresholds: tuple[float, ...]  # per class


def decide_on_tuning(logits: FloatArray, truth: IntArray, settings: EvaluationSettings) -> TuningDecisions:
    """Return what the tuning part decides.

    Args:
        logits: Raw, shape (studies, outputs); one output is a binary task.
        truth: Class index of each study.
        settings: Kind of calibration; coverage asked of the conformal sets, per class.
    """
    binary = logits.shape[1] == 1
    raw = logits[:, 0] if binary else logits
    temperature, maps = fit_temperature(raw, truth), None
    if settings.calibration == "isotonic":
        maps = fit_isotonic(to_probabilities(raw / temperature), truth)
    calibrated = calibrate(logits, temperature, maps)
    chances = to_probabilities(calibrated[:, 0] if binary else calibrated)
    return TuningDecisions(
        temperature=temperature,
        isotonic=maps,
        threshold=choose_threshold(truth, chances[:, 1]) if binary else 0.5,
        conformal_thresholds=class_thresholds(chances, truth, coverage=settings.coverage),
    )
