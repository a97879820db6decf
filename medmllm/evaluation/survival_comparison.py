"""Compare runs that predict times to an event, on the same studies and resamples of patients.

    risks and event-free shares of each run -> C-indices, by horizon Brier score and calibration, paired differences

What is told of a run is what its out-of-fold table holds. That table has no whole curves, so the integrated Brier score
is not among it. All else is as in `comparison`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medmllm.evaluation.comparison import Comparison, compare_measured
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.repeats import Repeat
from medmllm.evaluation.resampling import Measure
from medmllm.evaluation.survival import horizon_measures, order_measures
from medmllm.records import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class TimesOutOfFold:
    """What one run said of every study."""

    arm: str  # the run's name
    log_hazard: FloatArray = field(repr=False)  # (studies,), of the cumulative hazard at the largest horizon
    event_free: FloatArray = field(repr=False)  # (studies, horizons), probability of no event until each


def compare_times(
    runs: Sequence[TimesOutOfFold],
    *,
    followed: Followed,
    patients: Sequence[str],
    folds: IntArray,
    horizons: Mapping[str, float],
    confidence: float,
    samples: int,
    seed: int,
    more: Sequence[Repeat[TimesOutOfFold]] = (),
) -> Comparison:
    """Return every run's metrics and the paired differences of every two, the mean over repeats where there are more.

    Args:
        runs: Two or more; the same studies in the same order.
        followed: Time and event of each study.
        patients: Patient of each study.
        folds: Fold that tested each study, the same in all runs; shape (studies,).
        horizons: Name -> time, rising.
        confidence: Level of the intervals, e.g. 0.95.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
        more: What the same runs said in further repeats of the cross-validation.

    Raises:
        EvaluationError: Fewer than two runs, or two of the same name.
    """
    return compare_measured(
        [run.arm for run in runs],
        [
            [_measures(run, followed, repeat.folds, horizons) for run in repeat.arms]
            for repeat in (Repeat(runs, folds), *more)
        ],
        strata=followed.event.astype(np.int64),
        patients=patients,
        confidence=confidence,
        samples=samples,
        seed=seed,
    )


def _measures(
    run: TimesOutOfFold, followed: Followed, folds: IntArray, horizons: Mapping[str, float]
) -> dict[str, Measure]:
    found = order_measures(followed, run.log_hazard, folds, max(horizons.values()))
    for number, (name, horizon) in enumerate(horizons.items()):
        at = horizon_measures(followed, run.event_free[:, number], horizon, name)
        found |= {f"{metric}[{group}]": measure for (metric, group), measure in at.items()}
    return found
