"""Tell how the AUROC, or the C-index of times to an event, grows with the number of training patients.

    out-of-fold probabilities of the same studies after smaller and whole trainings -> AUROC of each, paired differences

All points share the same resamples of patients, so that what the whole training part adds is a paired difference. The
training patients are not drawn again: the intervals tell how far the tested patients leave the numbers open, not how
much another choice of training patients would change them. Of several repeats of the cross-validation each point is
the mean over them, each with training patients of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmllm.evaluation.cohort import auroc_measure
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.repeats import mean_measure
from medmllm.evaluation.resampling import Interval, Measure, resample
from medmllm.evaluation.survival import c_index_measure
from medmllm.records import FloatArray


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """How well the networks of one size of training part do."""

    auroc: Interval  # or C-index
    behind: Interval  # that of the whole training part minus this one, paired


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
    steps = [mean_measure([auroc_measure(targets, own, ordered=ordered) for own in step]) for step in (*smaller, whole)]
    return measured_points(steps, strata=targets, patients=patients, confidence=confidence, samples=samples, seed=seed)


def time_points(
    smaller: Sequence[Sequence[FloatArray]],
    whole: Sequence[FloatArray],
    *,
    followed: Followed,
    patients: Sequence[str],
    confidence: float,
    samples: int,
    seed: int,
) -> tuple[LearningPoint, ...]:
    """Return the points of times to an event, by Harrell's C.

    Args:
        smaller: Of each smaller training the risks out of fold in each repeat; shape (studies,).
        whole: Those of the whole training.
        followed: Time and event of each study.
        patients: Patient of each study.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples.
        seed: Of the resamples.
    """
    steps = [mean_measure([c_index_measure(followed, own) for own in step]) for step in (*smaller, whole)]
    came = followed.event.astype(np.int64)
    return measured_points(steps, strata=came, patients=patients, confidence=confidence, samples=samples, seed=seed)


def measured_points(
    steps: Sequence[Measure],
    *,
    strata: IntArray,
    patients: Sequence[str],
    confidence: float,
    samples: int,
    seed: int,
) -> tuple[LearningPoint, ...]:
    """Return one point per training, all on the same resamples of patients.

    Args:
        steps: What is measured of each; the whole training last.
        strata: What every resample holds all of; shape (studies,).
        patients: Patient of each study.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples.
        seed: Of the resamples.
    """
    measures = {str(k): step for k, step in enumerate(steps)}
    drawn = resample(measures, targets=strata, patients=patients, samples=samples, seed=seed)
    last = str(len(steps) - 1)
    return tuple(LearningPoint(drawn.interval(k, confidence), drawn.difference(last, k, confidence)) for k in measures)
