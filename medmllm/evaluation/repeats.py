"""Average measures over repeats of a cross-validation, and tell how far the repeats lie apart.

    what an arm said in each repeat -> a measure that is the mean over them; lowest and highest estimate

Every repeat tests the same studies of the same patients on other folds. One weighting of the patients goes to all
repeats at once, so a resample is drawn once and the mean is taken within it: several repeats are never more patients.
Lowest and highest are of networks and folds, not of patients: they are no interval, and fall short of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.resampling import Measure
from medmllm.records import FloatArray

Said = TypeVar("Said")


@dataclass(frozen=True, slots=True, eq=False)
class Repeat(Generic[Said]):
    """What all arms said out of fold in one repeat."""

    arms: Sequence[Said]  # in the order of the first repeat
    folds: IntArray  # (studies,) that tested each study


def mean_measure(each: Sequence[Measure]) -> Measure:
    """Return the mean of several measures, each of the same weights; NaN where one of them is."""
    return lambda weights: np.mean([measure(weights) for measure in each], axis=0)


def on_all(each: Sequence[Measure], n: int) -> FloatArray:
    """Return each measure on the whole cohort; shape (measures,).

    Args:
        each: Of one repeat each.
        n: Studies.
    """
    return np.array([float(measure(np.ones((1, n)))[0]) for measure in each])


def spread(estimates: FloatArray) -> tuple[float | None, float | None]:
    """Return the lowest and highest of several repeats; None of a single one, or where one is not defined.

    >>> spread(np.array([0.75, 0.5, 0.625]))
    (0.5, 0.75)
    >>> spread(np.array([0.75]))
    (None, None)
    """
    if len(estimates) < 2 or np.isnan(estimates).any():
        return None, None
    return float(estimates.min()), float(estimates.max())
