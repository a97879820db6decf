"""Tell whether times to an event are told alike for all groups of patients.

    one arm out of fold, each study's group -> metrics per group -> the largest gap of each, with its interval

Harrell's C within the group, and by horizon the Brier score and the share of events that came beyond that predicted.
Censoring is taken to be that of the group. Gaps are of the C-index, and of the other two at the largest horizon.

A C-index rests on the patients with the event, as the earlier of two times must have ended with it: where they are few
in a group, or no two of its studies can be compared, it is named, not measured. Nor is a horizon in a group that ends
before it with a censored study. All else is as in `group_gaps`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medmllm.evaluation.concordance import weighted_harrell
from medmllm.evaluation.discrimination import BoolArray
from medmllm.evaluation.group_gaps import Measured, Subgroups, compare_groups
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.repeats import mean_measure
from medmllm.evaluation.resampling import Measure, within
from medmllm.evaluation.survival import SurvivalOutOfFold, horizon_measures

GAPS = ("c_index_gap", "brier_gap", "calibration_gap")
"""Gaps between groups of times to an event."""

FEW = "patients with the event, or followed so long,"
"""What a group has too few of where a metric is not measured in it."""


def metrics_of_gaps(horizon: str) -> dict[str, str]:
    """Return gap -> the metric whose largest difference between groups it is; `horizon` is the largest by name.

    >>> metrics_of_gaps("365 days")["brier_gap"]
    'brier[365 days]'
    """
    return dict(zip(GAPS, ("c_index", f"brier[{horizon}]", f"risk_excess[{horizon}]"), strict=True))


def evaluate_survival_groups(
    arm: SurvivalOutOfFold,
    groups: Sequence[str | None],
    *,
    column: str,
    names: Sequence[str] | None,
    followed: Followed,
    horizons: Mapping[str, float],
    patients: Sequence[str],
    fewest_patients: int,
    confidence: float,
    samples: int,
    seed: int,
    more: Sequence[SurvivalOutOfFold] = (),
) -> Subgroups:
    """Return how an arm does per group, and the largest gaps; `class_counts` are events and censored studies.

    Args:
        arm: Its out-of-fold predictions.
        groups: Group of each study; None where it is not known.
        column: What the groups are of.
        names: All groups in the order of the report; None: those of the studies, by their names.
        followed: Time and event of each study.
        horizons: Name -> time, rising.
        patients: Patient of each study.
        fewest_patients: A group with fewer is named, not measured; nor is its C-index with fewer with the event.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
        more: What the same arm said in further repeats of the cross-validation.

    Raises:
        EvaluationError: Not one group per study.
    """
    owner = np.array(patients)

    def measured_in(inside: BoolArray) -> Measured:
        own = Followed(followed.time[inside], followed.event[inside])
        each = [_measures(repeat, own, inside, horizons) for repeat in (arm, *more)]
        measures = {name: mean_measure([found[name] for found in each]) for name in each[0]}
        lacking = [
            f"{metric}[{name}]"
            for name, horizon in horizons.items()
            if _ends_before(own, horizon)
            for metric in ("brier", "risk_excess")
        ]
        everyone = np.ones((1, len(own.time)))
        with_event = len(set(owner[inside & followed.event]))
        if with_event < fewest_patients or np.isnan(weighted_harrell(own, own.time, everyone)[0]):
            lacking.append("c_index")
        return Measured(measures, lacking, (int(own.event.sum()), int((~own.event).sum())))

    return compare_groups(
        groups,
        measured_in,
        metrics_of_gaps(list(horizons)[-1]),
        column=column,
        names=names,
        strata=followed.event.astype(np.int64),
        patients=patients,
        fewest_patients=fewest_patients,
        confidence=confidence,
        samples=samples,
        seed=seed,
    )


def _measures(
    arm: SurvivalOutOfFold, own: Followed, inside: BoolArray, horizons: Mapping[str, float]
) -> dict[str, Measure]:
    """Return name -> measure of the weights of all studies that looks at a group alone.

    Args:
        arm: One arm in one repeat.
        own: The group's times.
        inside: Which studies are of it; shape (studies,).
        horizons: Name -> time.
    """
    risk, event_free = arm.log_hazard[inside], arm.event_free[inside]
    found: dict[str, Measure] = {"c_index": lambda weights: weighted_harrell(own, risk, weights)}
    for number, (name, horizon) in enumerate(horizons.items()):
        at = horizon_measures(own, event_free[:, number], horizon, name)
        found |= {f"{metric}[{group}]": measure for (metric, group), measure in at.items()}
    return {name: within(inside, measure) for name, measure in found.items()}


def _ends_before(own: Followed, horizon: float) -> bool:
    """Say whether nothing is known of a horizon: the last of a group's studies was censored before it."""
    last = own.time.max()
    return bool(last < horizon and not own.event[own.time == last].all())
