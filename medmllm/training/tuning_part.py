"""What a fold's tuning part decides beside the epoch: calibration, operating point, conformal thresholds.

raw logits and targets of the tuning part -> TuningDecisions

The test part has no say in any of them.
"""

from dataclasses import dataclass

import numpy as np

from medmllm.evaluation.calibration import fit_temperature, to_probabilities
from medmllm.evaluation.conformal import class_thresholds
from medmllm.evaluation.discrimination import IntArray, choose_threshold
from medmllm.evaluation.isotonic import calibrate, fit_isotonic
from medmllm.evaluation.survival_curve import log_hazards
from medmllm.model_documents import FoldSurvival, IsotonicMap, LabelDecision
from medmllm.records import FloatArray
from medmllm.training.label_fold import calibrate_labels, decide_labels
from medmllm.training_config import EvaluationSettings


@dataclass(frozen=True, slots=True)
class TuningDecisions:
    """Numbers that go into the fold's entry in the model card."""

    temperature: float
    isotonic: tuple[IsotonicMap, ...] | None  # None: the temperature alone
    threshold: float  # on the positive class's probability; 0.5, and not read, when multiclass
    conformal_thresholds: tuple[float, ...] | None  # per class; None for several labels
    labels: tuple[LabelDecision, ...] | None = None  # of several labels, in place of temperature and threshold
    survival: FoldSurvival | None = None  # of a time to an event, whose logits become log cumulative hazards
    times: tuple[float, ...] = ()  # at these

    def calibrate(self, logits: FloatArray) -> FloatArray:
        """Return raw logits, shape (studies, outputs), calibrated: each label by its own temperature."""
        if self.survival is not None:
            return log_hazards(logits, self.temperature, self.survival, np.array(self.times))
        if self.labels is not None:
            return calibrate_labels(logits, self.labels)
        return calibrate(logits, self.temperature, self.isotonic)


def decide_on_tuning(logits: FloatArray, truth: IntArray, settings: EvaluationSettings) -> TuningDecisions:
    """Return what the tuning part decides.

    Args:
        logits: Raw, shape (studies, outputs); one output is a binary task.
        truth: Class index of each study; of several labels 1, 0 or UNKNOWN, shape (studies, labels).
        settings: Kind of calibration; coverage asked of the conformal sets, per class.
    """
    if truth.ndim == 2:
        return TuningDecisions(1.0, None, 0.5, None, decide_labels(logits, truth))
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
