"""Tell how the AUROC grows with the number of training patients.

    out-of-fold probabilities of the same studies after smaller and whole trainings -> AUROC of each, paired differences

All points share the same resamples of patients, so that what the whole training part adds is a paired difference. The
training patients are not drawn again: the intervals tell how far the tested patients leave the numbers open, not how
much another choice of training patients would change them. Of several repeats of the cross-validation each point is
the mean over them, each with training patients of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medmllm.evaluation.cohort import auroc_measure
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.repeats import mean_measure
from medmllm.evaluation.resampling import Interval, resample
from medmllm.records import FloatArray


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """How well the networks of one size of training part do."""

    auroc: Interval
    behind: Interval  # AUROC of the whole training part minus this one, paired


def learning_points(
    smaller: Sequence[Sequence[FloatArray]],
    whole: Sequence[FloatArray],
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
        smaller: Of each smaller training the probabilities out of fold in each repeat; shape (studies, classes).
        whole: Those of the whole training.
        targets: Class index; shape (studies,).
        patients: Patient of each study.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples.
        seed: Of the resamples.
        ordered: The classes stand in an order, lowest first.
    """
    steps = [*smaller, whole]
    measures = {
        str(k): mean_measure([auroc_measure(targets, own, ordered=ordered) for own in step])
        for k, step in enumerate(steps)
    }
    drawn = resample(measures, targets=targets, patients=patients, samples=samples, seed=seed)
    last = str(len(smaller))
    return tuple(LearningPoint(drawn.interval(k, confidence), drawn.difference(last, k, confidence)) for k in measures)
