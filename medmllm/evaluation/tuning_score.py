"""Judge raw logits on a tuning part: what candidates of a search are compared by.

    raw logits of the tuning part, truth -> log loss after temperature scaling, or AUROC

The loss that a network learns by is no common measure: candidates may differ in loss and class weights. What is wrong
with the scale of logits, or with the odds of classes, is mended afterwards by temperature and offsets, so it is taken
off first; one number fitted on the tuning part favours no candidate.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medmllm.evaluation.calibration import fit_temperature, log_loss, to_probabilities
from medmllm.evaluation.cohort import auroc_measure
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.fold_decisions import plain
from medmllm.evaluation.isotonic import calibrate
from medmllm.evaluation.survival_curve import fit_hazard_temperature, hazard_surprise
from medmllm.model_documents import Task
from medmllm.records import FloatArray
from medmllm.tuning_documents import FoldSurvival

LARGER_IS_BETTER: Mapping[str, bool] = {"log_loss": False, "auroc": True}


def tuning_score(
    name: str, logits: FloatArray, truth: IntArray, task: Task, *, offsets: Sequence[float] | None
) -> float | None:
    """Return the score of one target on a tuning part; None where it is not defined, as the AUROC of one class.

    Args:
        name: A key of LARGER_IS_BETTER.
        logits: Raw, shape (studies, outputs).
        truth: Class index of each study; shape (studies,).
        task: Of this target.
        offsets: Added to the logits after the temperature; None: nothing.
    """
    raw = plain(logits)
    chances = to_probabilities(plain(calibrate(logits, fit_temperature(raw, truth, offsets=offsets), None, offsets)))
    if name == "log_loss":
        return log_loss(truth, chances)
    score = float(auroc_measure(truth, chances, ordered=task.ordered)(np.ones((1, len(truth))))[0])
    return score if np.isfinite(score) else None


def hazard_score(logits: FloatArray, at_risk: IntArray, fold: FoldSurvival) -> float:
    """Return the log loss of times to an event: the mean negative log-likelihood of a study's intervals, in nats.

    Args:
        logits: Raw, of the hazards; shape (studies, intervals).
        at_risk: Intervals at risk, and whether the event came in the last of them; shape (studies, 2).
        fold: What the temperature draws towards.
    """
    temperature = fit_hazard_temperature(logits, at_risk, fold.everybody)
    return hazard_surprise(logits, at_risk, fold.everybody, temperature) / len(logits)
