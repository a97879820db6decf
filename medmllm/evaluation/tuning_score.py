"""Judge raw logits on a tuning part: what candidates of a search are compared by.

    raw logits of the tuning part, truth -> log loss after temperature scaling, or AUROC

The loss that a network learns by is no common measure: candidates may differ in loss and class weights. What is wrong
with the scale of logits alone is mended afterwards by the temperature, so it is taken off first; one number fitted on
the tuning part favours no candidate. Of several targets the score is the mean over them, each on the studies where it
is known.
"""

from collections.abc import Callable, Mapping

import numpy as np

from medmllm.evaluation.calibration import fit_temperature, log_loss, to_probabilities
from medmllm.evaluation.cohort import auroc_measure
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.fold_decisions import plain
from medmllm.evaluation.survival_curve import fit_hazard_temperature, hazard_surprise
from medmllm.model_documents import FoldSurvival, Task
from medmllm.records import UNKNOWN, FloatArray

LARGER_IS_BETTER: Mapping[str, bool] = {"log_loss": False, "auroc": True}


def tuning_score(name: str, logits: FloatArray, truth: IntArray, task: Task) -> float | None:
    """Return the score of a tuning part; None where it is not defined, as the AUROC of one class.

    Args:
        name: A key of LARGER_IS_BETTER.
        logits: Raw, shape (studies, outputs).
        truth: Class index of each study; of several targets one each, or UNKNOWN, shape (studies, targets).
        task: Says which outputs are whose.
    """
    score_of: Callable[[FloatArray, IntArray, Task], float] = {"log_loss": _log_loss, "auroc": _auroc}[name]
    found = []
    for place, own in zip(task.places, np.reshape(truth, (len(truth), -1)).T, strict=True):
        known = own != UNKNOWN
        found.append(score_of(logits[known, place.outputs], own[known], place.task) if known.any() else np.nan)
    mean = float(np.mean(found))
    return mean if np.isfinite(mean) else None


def hazard_score(logits: FloatArray, at_risk: IntArray, fold: FoldSurvival) -> float:
    """Return the log loss of times to an event: the mean negative log-likelihood of a study's intervals, in nats.

    Args:
        logits: Raw, of the hazards; shape (studies, intervals).
        at_risk: Intervals at risk, and whether the event came in the last of them; shape (studies, 2).
        fold: What the temperature draws towards.
    """
    temperature = fit_hazard_temperature(logits, at_risk, fold.everybody)
    return hazard_surprise(logits, at_risk, fold.everybody, temperature) / len(logits)


def _log_loss(logits: FloatArray, truth: IntArray, task: Task) -> float:
    raw = plain(logits)
    return log_loss(truth, to_probabilities(raw / fit_temperature(raw, truth)))


def _auroc(logits: FloatArray, truth: IntArray, task: Task) -> float:
    measure = auroc_measure(truth, to_probabilities(plain(logits)), ordered=task.ordered)
    return float(measure(np.ones((1, len(truth))))[0])
