"""Tell how the AUROC grows with the number of training patients.

    out-of-fold probabilities of the same studies after smaller and whole trainings -> AUROC of each, paired differences

All points share the same resamples of patients, so that what the whole training part adds is a paired difference. The
training patients are not drawn again: the intervals tell how far the tested patients leave the numbers open, not how
much another choice of training patients would change them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medmllm.evaluation.cohort import auroc_measure
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.resampling import Interval, resample
from medmllm.records import FloatArray


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """How well the networks of one size of training part do."""

    auroc: Interval
    behind: Interval  # AUROC of the whole training part minus this one, paired


def learning_points(
    smaller: Sequence[FloatArray],
    whole: FloatArray,
    *,
    targets: IntArray,
    patients: Sequence[str],
    confidence: float,
    samples: int,
    seed: int,
    ordered: bool = False,
) -> tuple[LearningPoint, ...]:
    """Return one point per smaller training, in their order, and last that of the whole one.

    Args:
        smaller: Probabilities out of fold of each smaller training; shape (studies, classes).
        whole: Those of the whole training.
        targets: Class index; shape (studies,).
        patients: Patient of each study.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples.
        seed: Of the resamples.
        ordered: The classes stand in an order, lowest first.
    """
    steps = [*smaller, whole]
    measures = {str(k): auroc_measure(targets, step, ordered=ordered) for k, step in enumerate(steps)}
    drawn = resample(measures, targets=targets, patients=patients, samples=samples, seed=seed)
    last = str(len(smaller))
    return tuple(LearningPoint(drawn.interval(k, confidence), drawn.difference(last, k, confidence)) for k in measures)
