"""Tell whether a model does alike for all groups of patients.

    one arm out of fold, each study's group -> metrics per group -> the largest gap of each, with its interval

Binary: auroc, sensitivity and specificity at the fold's operating point, ece, calibration_excess (events minus what the
probabilities add up to, per study). More classes, ordered or not: auroc, accuracy, ece, calibration_excess (of the
likeliest class). Times to an event: see `survival_fairness`. Of several repeats of the cross-validation each is the
mean over them, and so is a gap (see `group_gaps`).

A group's AUROC, sensitivity or specificity is not told where few of its patients are of a class that it is told of: of
one patient every resample says the same, and the interval would leave out how much hangs on that one.
Equal opportunity (true-positive rates): Hardt et al., NeurIPS 2016. Calibration in the large by group: Van Calster et
al., J Clin Epidemiol 2016.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medmllm.evaluation.calibration import weighted_ece
from medmllm.evaluation.cohort import OutOfFold, auroc_measure
from medmllm.evaluation.discrimination import BoolArray, IntArray, weighted_accuracy, weighted_recall
from medmllm.evaluation.group_gaps import Measured, Subgroups, compare_groups
from medmllm.evaluation.repeats import mean_measure
from medmllm.evaluation.resampling import Measure, within

GAPS = {
    "auroc_gap": "auroc",
    "true_positive_rate_gap": "sensitivity",
    "true_negative_rate_gap": "specificity",
    "accuracy_gap": "accuracy",
    "calibration_gap": "calibration_excess",
}
"""Gap -> the metric whose largest difference between groups it is."""


def rests_on(metric: str, classes: int, *, ordered: bool) -> tuple[int, ...]:
    """Return the classes that a group must have enough patients of for a metric to be measured in it.

    The AUROC of ordered classes is of cuts, whose sides lack patients only where the lowest or the highest class does.

    >>> rests_on("sensitivity", 2, ordered=False), rests_on("auroc", 3, ordered=False)
    ((1,), (0, 1, 2))
    """
    if metric == "auroc":
        return (0, classes - 1) if ordered else tuple(range(classes))
    return {"sensitivity": (1,), "specificity": (0,)}.get(metric, ())


def evaluate_groups(
    arm: OutOfFold,
    groups: Sequence[str | None],
    *,
    column: str,
    names: Sequence[str] | None = None,
    targets: IntArray,
    patients: Sequence[str],
    fewest_patients: int,
    confidence: float,
    samples: int,
    seed: int,
    ordered: bool = False,
    more: Sequence[OutOfFold] = (),
) -> Subgroups:
    """Return how an arm does per group, and the largest gaps.

    Args:
        arm: Its out-of-fold predictions.
        groups: Group of each study; None where it is not known.
        column: What the groups are of.
        names: All groups in the order of the report; None: those of the studies, by their names.
        targets: Class index of each study; shape (studies,).
        patients: Patient of each study.
        fewest_patients: A group with fewer is named, not measured; nor is a metric in a group with fewer of a class
            that it `rests_on`.
        confidence: Level of the intervals.
        samples: Number of bootstrap resamples of patients.
        seed: Of the resamples.
        ordered: The classes stand in an order, lowest first.
        more: What the same arm said in further repeats of the cross-validation.

    Raises:
        EvaluationError: Not one group per study.
    """
    owner, classes = np.array(patients), arm.probabilities.shape[1]

    def measured_in(inside: BoolArray) -> Measured:
        measures = _mean_over((arm, *more), targets, inside, ordered=ordered)
        few = {k for k in range(classes) if len(set(owner[inside & (targets == k)])) < fewest_patients}
        lacking = [metric for metric in measures if few & set(rests_on(metric, classes, ordered=ordered))]
        return Measured(measures, lacking, tuple(np.bincount(targets[inside], minlength=classes).tolist()))

    return compare_groups(
        groups,
        measured_in,
        GAPS,
        column=column,
        names=names,
        strata=targets,
        patients=patients,
        fewest_patients=fewest_patients,
        confidence=confidence,
        samples=samples,
        seed=seed,
    )


def _mean_over(
    repeats: Sequence[OutOfFold], targets: IntArray, inside: BoolArray, *, ordered: bool
) -> Mapping[str, Measure]:
    """Return name -> mean over the repeats of the measure of one group."""
    each = [group_measures(own, targets, inside, ordered=ordered) for own in repeats]
    return {name: mean_measure([own[name] for own in each]) for name in each[0]}


def group_measures(arm: OutOfFold, targets: IntArray, inside: BoolArray, *, ordered: bool) -> Mapping[str, Measure]:
    """Return name -> measure of the weighted studies of one group, in the order of the report.

    Args:
        arm: One arm.
        targets: Class index of all studies; shape (studies,).
        inside: Which of them are of the group; shape (studies,).
        ordered: The classes stand in an order, lowest first.
    """
    target, chances, predicted = targets[inside], arm.probabilities[inside], arm.predicted[inside]
    binary = chances.shape[1] == 2
    event = target == 1 if binary else chances.argmax(axis=1) == target
    chance = chances[:, 1] if binary else chances.max(axis=1)
    excess = event - chance
    calibration: dict[str, Measure] = {
        "ece": lambda weights: weighted_ece(event, chance, weights),
        "calibration_excess": lambda weights: weights @ excess / weights.sum(axis=1),
    }
    auroc = auroc_measure(target, chances, ordered=ordered)
    found: dict[str, Measure]
    if binary:
        found = {
            "auroc": auroc,
            "sensitivity": lambda weights: weighted_recall(target, predicted, 1, weights),
            "specificity": lambda weights: weighted_recall(target, predicted, 0, weights),
        }
    else:
        found = {
            "auroc": auroc,
            "accuracy": lambda weights: weighted_accuracy(target, predicted, weights),
        }
    return {name: within(inside, measure) for name, measure in (found | calibration).items()}
