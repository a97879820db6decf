"""Evaluate predicted times to an event, all arms on the same studies, patients and resamples.

    log cumulative hazards and event-free shares of each arm, times -> CohortEvaluation

Over all studies: c_index (Harrell), c_index_within_folds (only studies predicted by the same fold model are compared),
c_index_uno and integrated_brier up to the largest horizon. By horizon, which is the metric's group: brier, and
risk_excess, the share of events that came minus that predicted. Chance is a C of 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medmllm.errors import EvaluationError
from medmllm.evaluation.cohort import fused_differences
from medmllm.evaluation.concordance import weighted_harrell, weighted_uno
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.repeats import Repeat, resample_repeats
from medmllm.evaluation.resampling import Measure
from medmllm.evaluation.survival_curve import GRID, horizon_chances, median_times, risks, time_grid
from medmllm.evaluation.survival_scores import weighted_brier, weighted_excess, weighted_integrated_brier
from medmllm.records import ArmEvaluation, CohortEvaluation, FloatArray

COMPARED_METRIC = "c_index"
OVERALL = ("c_index", "c_index_within_folds", "c_index_uno", "integrated_brier")
"""Metrics over all studies and times."""


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalOutOfFold:
    """What one arm said of every study, each by the fold model that never saw the patient."""

    arm: str
    horizons: tuple[float, ...]
    logits: FloatArray = field(repr=False)  # (studies, times): log cumulative hazards at `shared_times`, calibrated
    predicted: IntArray = field(repr=False)  # (studies,) 1: at or above the median risk of the fold's tuning part

    @property
    def log_hazard(self) -> FloatArray:
        """Of the cumulative hazard at the largest horizon; shape (studies,)."""
        return self.logits[:, len(self.horizons) - 1]

    @property
    def probabilities(self) -> FloatArray:
        """Of no event by the largest horizon, and of the event by then; shape (studies, 2)."""
        return horizon_chances(self.logits, len(self.horizons))

    @property
    def event_free(self) -> FloatArray:
        """Probability of no event until each horizon; shape (studies, horizons)."""
        return 1 - risks(self.logits[:, : len(self.horizons)])

    @property
    def curve(self) -> FloatArray:
        """The same until 0 and each time of the grid; shape (studies, 1 + GRID)."""
        rest = 1 - risks(self.logits[:, len(self.horizons) :])
        return np.concatenate([np.ones((len(rest), 1)), rest], axis=1)

    @property
    def median(self) -> FloatArray:
        """Time by which half have had the event; NaN where that is after the largest horizon; shape (studies,)."""
        return median_times(self.logits[:, len(self.horizons) :], time_grid(self.horizons[-1]))


def evaluate_survival(
    arms: Sequence[SurvivalOutOfFold],
    *,
    followed: Followed,
    patients: Sequence[str],
    folds: IntArray,
    horizons: Mapping[str, float],
    event: str,
    confidence: float,
    samples: int,
    seed: int,
    more: Sequence[Repeat[SurvivalOutOfFold]] = (),
) -> CohortEvaluation:
    """Return every arm's metrics, and the fused arm's C minus that of each other arm.

    Args:
        arms: Out-of-fold predictions of each arm on the same studies in the same order.
        followed: Time and event of each study.
        patients: Patient of each study.
        folds: Fold that tested each study; shape (studies,).
        horizons: Name -> time, rising.
        event: What the event is called.
        confidence: Level of the intervals, e.g. 0.95.
        samples: Number of bootstrap resamples.
        seed: Of the resamples.
        more: Further repeats of the cross-validation, with the same arms: all is then the mean over repeats.

    Raises:
        EvaluationError: Shapes do not fit, or a number is not finite.
    """
    each: dict[str, list[Measure]] = {}
    named: dict[str, dict[str, tuple[str, str]]] = {arm.arm: {} for arm in arms}
    for repeat in (Repeat(arms, folds), *more):
        _check(repeat.arms, followed, patients, horizons)
        for arm in repeat.arms:
            for (name, group), measure in survival_measures(arm, followed, repeat.folds, horizons).items():
                named[arm.arm][f"{arm.arm} {name} {group}"] = (name, group)
                each.setdefault(f"{arm.arm} {name} {group}", []).append(measure)
    came = followed.event.astype(np.int64)
    found = resample_repeats(each, strata=came, patients=patients, confidence=confidence, samples=samples, seed=seed)
    return CohortEvaluation(
        classes=(event, "censored"),
        n=found.n,
        patients=found.patients,
        class_counts=(int(came.sum()), int((1 - came).sum())),
        arms=tuple(
            ArmEvaluation(arm, tuple(found.metric(key, *what) for key, what in own.items()))
            for arm, own in named.items()
        ),
        differences=fused_differences(found, list(named), f"{COMPARED_METRIC} all"),
        # How many are censored limits nothing by itself.
        class_patients=(len(set(np.array(patients)[followed.event])),),
        resamples_lacking_a_class=found.drawn.lacking_a_class,
    )


def survival_measures(
    arm: SurvivalOutOfFold, followed: Followed, folds: IntArray, horizons: Mapping[str, float]
) -> dict[tuple[str, str], Measure]:
    """Return (name, group) -> measure of weighted studies, in the order of the report.

    Args:
        arm: One arm.
        followed: Time and event of each study.
        folds: Fold that tested each study; shape (studies,).
        horizons: Name -> time, rising.
    """
    last, risk = max(horizons.values()), arm.log_hazard
    found = {(name, "all"): measure for name, measure in order_measures(followed, risk, folds, last).items()}
    found["integrated_brier", "all"] = lambda weights: weighted_integrated_brier(
        followed, arm.curve, np.append(0.0, time_grid(last)), weights
    )
    for number, (name, horizon) in enumerate(horizons.items()):
        found |= horizon_measures(followed, arm.event_free[:, number], horizon, name)
    return found


def order_measures(followed: Followed, risk: FloatArray, folds: IntArray, last: float) -> dict[str, Measure]:
    """Return the C-indices as measures of weighted studies.

    Args:
        followed: Time and event of each study.
        risk: Higher: sooner; shape (studies,).
        folds: Fold that tested each study; shape (studies,).
        last: The largest horizon.
    """
    return {
        "c_index": c_index_measure(followed, risk),
        "c_index_within_folds": lambda weights: weighted_harrell(followed, risk, weights, folds=folds),
        "c_index_uno": lambda weights: weighted_uno(followed, risk, weights, last=last),
    }


def horizon_measures(
    followed: Followed, event_free: FloatArray, horizon: float, name: str
) -> dict[tuple[str, str], Measure]:
    """Return (metric, name) -> measure of weighted studies at one horizon.

    Args:
        followed: Time and event of each study.
        event_free: Predicted probability of no event until then; shape (studies,).
        horizon: The time.
        name: Of the horizon.
    """
    return {
        ("brier", name): lambda weights: weighted_brier(followed, event_free[:, None], np.array([horizon]), weights)[
            :, 0
        ],
        ("risk_excess", name): lambda weights: weighted_excess(followed, event_free, horizon, weights),
    }


def c_index_measure(followed: Followed, risk: FloatArray) -> Measure:
    """Return Harrell's C as a measure of weighted studies; risk of shape (studies,)."""
    return lambda weights: weighted_harrell(followed, risk, weights)


def _check(
    arms: Sequence[SurvivalOutOfFold], followed: Followed, patients: Sequence[str], horizons: Mapping[str, float]
) -> None:
    shape = (len(patients), len(horizons) + GRID)
    for arm in arms:
        if followed.time.shape != shape[:1] or arm.logits.shape != shape:
            raise EvaluationError(f"what the arm {arm.arm} says has the shape {arm.logits.shape}, expected {shape}")
        if not np.isfinite(arm.logits).all():
            raise EvaluationError(f"some risks of the arm {arm.arm} are not finite: its training diverged")
