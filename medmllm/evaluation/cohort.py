"""Evaluate all arms of a cross-validation on the same studies, patients and resamples.

    out-of-fold probabilities, logits and predicted classes of each arm -> CohortEvaluation

Binary: auroc, auroc_within_folds (only studies predicted by the same fold model are compared; far from `auroc`
when the fold models differ in scale), auprc, brier, ece, calibration_slope, calibration_intercept,
balanced_accuracy, sensitivity, specificity. Multiclass: auroc (macro one-versus-rest), accuracy,
balanced_accuracy, brier (summed over classes), ece (of the top class), log_loss. Ordered classes: see `ordinal`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import (
    squared_error,
    surprise,
    weighted_ece,
    weighted_intercept,
    weighted_slope,
)
from medmllm.evaluation.discrimination import (
    BoolArray,
    IntArray,
    weighted_accuracy,
    weighted_auprc,
    weighted_auroc,
    weighted_auroc_within,
    weighted_balanced_accuracy,
    weighted_macro_auroc,
    weighted_recall,
)
from medmllm.evaluation.ordinal import ordinal_measures
from medmllm.evaluation.repeats import Repeat, RepeatedMeasures, resample_repeats
from medmllm.evaluation.resampling import Measure
from medmllm.records import ArmEvaluation, CohortEvaluation, FloatArray, Metric

COMPARED_METRIC = "auroc"
COMPARED_ARM = "fused"


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """What one arm said of every study, each by the fold model that never saw the patient."""

    arm: str  # image, text or fused
    probabilities: FloatArray = field(repr=False)  # (studies, classes), calibrated
    logits: FloatArray = field(repr=False)  # calibrated; (studies,) when binary, else (studies, classes)
    predicted: IntArray = field(repr=False)  # (studies,) class index at the fold's operating point
    sets: BoolArray | None = field(default=None, repr=False)  # (studies, classes): in the fold's conformal set


def evaluate_arms(
    arms: Sequence[OutOfFold],
    *,
    targets: IntArray,
    patients: Sequence[str],
    folds: IntArray,
    classes: Sequence[str],
    confidence: float,
    samples: int,
    seed: int,
    ordered: bool = False,
    more: Sequence[Repeat[OutOfFold]] = (),
) -> CohortEvaluation:
    """Return every arm's metrics, and the fused arm's AUROC minus that of each other arm.

    All arms and differences share the same resamples of patients, so differences are paired. With several repeats of
    the cross-validation each is the mean over them, and lowest and highest tell how far they lie apart.

    Args:
        arms: Out-of-fold predictions of each arm on the same studies in the same order.
        targets: Class index of each study; shape (studies,).
        patients: Patient of each study.
        folds: Fold that tested each study; shape (studies,).
        classes: Class names; binary: negative first.
        confidence: Level of the intervals, e.g. 0.95.
        samples: Number of bootstrap resamples.
        seed: Of the resamples.
        ordered: The classes stand in an order, lowest first.
        more: Further repeats, with the same arms.

    Raises:
        EvaluationError: Shapes do not fit, a number is not finite, a probability lies outside 0 to 1, an arm is
            there twice, or a patient was tested in two folds.
    """
    target = np.asarray(targets)
    each = _measures((Repeat(arms, np.asarray(folds)), *more), target, patients, classes, ordered=ordered)
    found = resample_repeats(each, strata=target, patients=patients, confidence=confidence, samples=samples, seed=seed)
    names = [arm.arm for arm in arms]
    return CohortEvaluation(
        classes=tuple(classes),
        n=target.size,
        patients=found.patients,
        class_counts=tuple(np.bincount(target, minlength=len(classes)).tolist()),
        class_patients=tuple(
            len({patient for patient, own in zip(patients, target, strict=True) if own == label})
            for label in range(len(classes))
        ),
        arms=arm_metrics(found, names),
        differences=fused_differences(found, names, COMPARED_METRIC),
        resamples_lacking_a_class=found.drawn.lacking_a_class,
    )


def _measures(
    repeats: Sequence[Repeat[OutOfFold]],
    targets: IntArray,
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    ordered: bool,
) -> dict[str, list[Measure]]:
    """Return "ARM METRIC" -> its measure in each repeat."""
    found: dict[str, list[Measure]] = {}
    names = [arm.arm for arm in repeats[0].arms]
    for repeat in repeats:
        _check_cohort(targets, patients, repeat.folds, classes)
        if len(set(names)) != len(names) or [arm.arm for arm in repeat.arms] != names:
            raise EvaluationError(f"an arm is given twice among {', '.join(names)}, or not in every repeat")
        for arm in repeat.arms:
            _check_arm(arm, targets.size, len(classes))
            for name, measure in measures_of(arm, targets, repeat.folds, classes, ordered=ordered).items():
                found.setdefault(f"{arm.arm} {name}", []).append(measure)
    return found


def measures_of(
    arm: OutOfFold, targets: IntArray, folds: IntArray, classes: Sequence[str], *, ordered: bool
) -> Mapping[str, Measure]:
    """Return name -> measure of weighted studies for the kind of task, in the order of the report.

    Args:
        arm: One arm.
        targets: Class index; shape (studies,).
        folds: Fold that tested each study; shape (studies,).
        classes: Class names.
        ordered: They stand in an order, lowest first.
    """
    if ordered:
        return ordinal_measures(targets, arm.probabilities, arm.predicted, classes)
    return binary_measures(arm, targets, folds) if len(classes) == 2 else multiclass_measures(arm, targets)


def auroc_measure(targets: IntArray, probabilities: FloatArray, *, ordered: bool) -> Measure:
    """Return the AUROC of the kind of task, as `measures_of` has it.

    Args:
        targets: Class index; shape (studies,).
        probabilities: Shape (studies, classes).
        ordered: The classes stand in an order, lowest first.
    """
    count = probabilities.shape[1]
    if ordered:
        return ordinal_measures(targets, probabilities, probabilities.argmax(axis=1), [*map(str, range(count))])[
            "auroc"
        ]
    if count == 2:
        return lambda weights: weighted_auroc(targets == 1, probabilities[:, 1], weights)
    return lambda weights: weighted_macro_auroc(targets, probabilities, weights)


def binary_measures(arm: OutOfFold, targets: IntArray, folds: IntArray) -> Mapping[str, Measure]:
    """Return name -> measure of weighted studies for a binary task, in the order of the report.

    Args:
        arm: One arm; class 1 is the event.
        targets: 0 or 1; shape (studies,).
        folds: Fold that tested each study; shape (studies,).
    """
    event, chance, logit, predicted = targets == 1, arm.probabilities[:, 1], arm.logits, arm.predicted
    errors = squared_error(targets, chance)
    return {
        "auroc": lambda weights: weighted_auroc(event, chance, weights),
        "auroc_within_folds": lambda weights: weighted_auroc_within(folds, event, chance, weights),
        "auprc": lambda weights: weighted_auprc(event, chance, weights),
        "brier": lambda weights: weights @ errors / weights.sum(axis=1),
        "ece": lambda weights: weighted_ece(event, chance, weights),
        "calibration_slope": lambda weights: weighted_slope(targets, logit, weights),
        "calibration_intercept": lambda weights: weighted_intercept(targets, logit, weights),
        "balanced_accuracy": lambda weights: weighted_balanced_accuracy(targets, predicted, 2, weights),
        "sensitivity": lambda weights: weighted_recall(targets, predicted, 1, weights),
        "specificity": lambda weights: weighted_recall(targets, predicted, 0, weights),
    }


def multiclass_measures(arm: OutOfFold, targets: IntArray) -> Mapping[str, Measure]:
    """Return name -> measure of weighted studies for more than two classes, in the order of the report.

    Args:
        arm: One arm.
        targets: Class index; shape (studies,).
    """
    chances, predicted = arm.probabilities, arm.predicted
    errors, surprises = squared_error(targets, chances), surprise(targets, chances)
    top, right = chances.max(axis=1), chances.argmax(axis=1) == targets
    return {
        "auroc": lambda weights: weighted_macro_auroc(targets, chances, weights),
        "accuracy": lambda weights: weighted_accuracy(targets, predicted, weights),
        "balanced_accuracy": lambda weights: weighted_balanced_accuracy(targets, predicted, chances.shape[1], weights),
        "brier": lambda weights: weights @ errors / weights.sum(axis=1),
        "ece": lambda weights: weighted_ece(right, top, weights),
        "log_loss": lambda weights: weights @ surprises / weights.sum(axis=1),
    }


def arm_metrics(found: RepeatedMeasures, arms: Sequence[str]) -> tuple[ArmEvaluation, ...]:
    """Return the metrics of each arm, in the order of the measures, which are named "ARM METRIC"."""
    named = [(*key.split(" ", 1), key) for key in found.each]
    return tuple(
        ArmEvaluation(arm, tuple(found.metric(key, name) for own, name, key in named if own == arm)) for arm in arms
    )


def fused_differences(found: RepeatedMeasures, arms: Sequence[str], measure: str) -> tuple[Metric, ...]:
    """Return by how much the fused arm lies above each other one; nothing without a fused arm.

    Args:
        found: With measures named "ARM MEASURE".
        arms: Their names.
        measure: By which arms are compared; its first word is the metric.
    """
    if COMPARED_ARM not in arms:
        return ()
    name = measure.partition(" ")[0]
    return tuple(
        found.difference(f"{COMPARED_ARM} {measure}", f"{arm} {measure}", name, arm)
        for arm in arms
        if arm != COMPARED_ARM
    )


def _check_cohort(target: IntArray, patients: Sequence[str], fold: IntArray, classes: Sequence[str]) -> None:
    if not target.size or not target.size == len(patients) == fold.size:
        raise EvaluationError(
            f"{target.size} targets, {len(patients)} patients and {fold.size} folds: one each per study, at least one"
        )
    if len(classes) < 2 or target.min() < 0 or target.max() >= len(classes):
        raise EvaluationError(f"targets from {target.min()} to {target.max()} do not fit {len(classes)} classes")
    tested_in = dict(zip(patients, fold, strict=True))
    strays = {patient for patient, own in zip(patients, fold, strict=True) if tested_in[patient] != own}
    if strays:
        raise EvaluationError(
            f"{len(strays)} patients were tested in two folds, so one fold trained on them: split by patient"
        )


def _check_arm(arm: OutOfFold, n: int, classes: int) -> None:
    logit_shape = (n,) if classes == 2 else (n, classes)
    for name, array, shape in (
        ("probabilities", arm.probabilities, (n, classes)),
        ("logits", arm.logits, logit_shape),
        ("predicted classes", arm.predicted, (n,)),
    ):
        if array.shape != shape:
            raise EvaluationError(f"the {name} of arm {arm.arm} have shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            raise EvaluationError(
                f"{(~np.isfinite(array)).sum()} {name} of arm {arm.arm} are not finite: its training diverged"
            )
    if arm.probabilities.min() < 0 or np.abs(arm.probabilities.sum(axis=1) - 1).max() > 1e-4:
        raise EvaluationError(f"the probabilities of arm {arm.arm} do not lie between 0 and 1 with sum 1 per study")
