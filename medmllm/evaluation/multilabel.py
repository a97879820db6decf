"""Evaluate several labels, each a binary task of its own on the studies where it is known, and their means.

    out-of-fold probabilities, logits and decisions per label -> CohortEvaluation; a label's metrics have it as group

The mean over labels (macro) counts every label alike, however rare. All labels and arms share the same resamples of
patients; a resample in which a label has one value only says nothing of that label, nor of the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import LEANS_UPWARDS
from medmllm.evaluation.cohort import COMPARED_ARM, COMPARED_METRIC, OutOfFold, binary_measures
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.resampling import Interval, Measure, Resamples, resample
from medmllm.records import UNKNOWN, ArmEvaluation, CohortEvaluation, FloatArray, Metric

MEANS = ("auroc", "auprc", "brier", "ece", "balanced_accuracy", "sensitivity", "specificity")
"""Metrics whose mean over the labels is told."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelsOutOfFold:
    """What one arm said of every study, each by the fold model that never saw the patient."""

    arm: str  # image, text or fused
    probabilities: FloatArray = field(repr=False)  # (studies, labels), calibrated
    logits: FloatArray = field(repr=False)  # (studies, labels), after temperature
    predicted: BoolArray = field(repr=False)  # (studies, labels), at the fold's operating points

    def of(self, label: int, inside: BoolArray) -> OutOfFold:
        """Return one label as a binary task, on some of the studies."""
        chance = self.probabilities[inside, label]
        predicted = self.predicted[inside, label].astype(np.int64)
        return OutOfFold(self.arm, np.stack([1 - chance, chance], axis=1), self.logits[inside, label], predicted)


def evaluate_labels(
    arms: Sequence[LabelsOutOfFold],
    *,
    targets: IntArray,
    patients: Sequence[str],
    folds: IntArray,
    labels: Sequence[str],
    confidence: float,
    samples: int,
    seed: int,
) -> CohortEvaluation:
    """Return every arm's metrics, of the mean over labels (group `all`) and of each label (group: its name).

    Args:
        arms: Out-of-fold predictions of each arm on the same studies in the same order.
        targets: 1, 0 or UNKNOWN; shape (studies, labels).
        patients: Patient of each study.
        folds: Fold that tested each study; shape (studies,).
        labels: Names of the labels.
        confidence: Level of the intervals, e.g. 0.95.
        samples: Number of bootstrap resamples.
        seed: Of the resamples.

    Raises:
        EvaluationError: Shapes do not fit, or a number is not finite.
    """
    shape = (len(patients), len(labels))
    for arm in arms:
        if targets.shape != shape or arm.probabilities.shape != shape or not np.isfinite(arm.logits).all():
            raise EvaluationError(f"targets or predictions of arm {arm.arm} are not finite, or not of shape {shape}")
    known = targets != UNKNOWN
    owners = np.array(patients)
    measures: dict[str, Measure] = {}
    for arm in arms:
        own = [_of_label(arm, label, targets, known, folds) for label in range(len(labels))]
        for label, found in enumerate(own):
            measures |= {f"{arm.arm} {label} {name}": measure for name, measure in found.items()}
        measures |= {f"{arm.arm} all {name}": _mean([found[name] for found in own]) for name in MEANS}
    one = np.zeros(len(patients), dtype=np.int64)  # what a resample lacks is a matter of each label
    drawn = resample(measures, targets=one, patients=patients, samples=samples, seed=seed)

    def metrics(arm: str) -> tuple[Metric, ...]:
        found = []
        for group, inside, name in [("all", known.any(axis=1), "all")] + [
            (str(label), known[:, label], name) for label, name in enumerate(labels)
        ]:
            start = f"{arm} {group} "
            n, count = int(inside.sum()), len(set(owners[inside]))
            for key in (key for key in measures if key.startswith(start)):
                metric = key.removeprefix(start)
                told = drawn.interval(key, confidence, leans_upwards=metric in LEANS_UPWARDS)
                found.append(Metric(metric, told.estimate, told.low, told.high, n, count, name))
        return tuple(found)

    return CohortEvaluation(
        classes=tuple(labels),
        n=len(patients),
        patients=len(set(patients)),
        class_counts=tuple((targets == 1).sum(axis=0).tolist()),
        arms=tuple(ArmEvaluation(arm.arm, metrics(arm.arm)) for arm in arms),
        differences=tuple(
            Metric(COMPARED_METRIC, gain.estimate, gain.low, gain.high, len(patients), len(set(patients)), arm)
            for arm, gain in _differences(drawn, [arm.arm for arm in arms], confidence)
        ),
        class_patients=tuple(
            min(len(set(owners[targets[:, label] == value])) for value in (0, 1)) for label in range(len(labels))
        ),
    )


def _of_label(
    arm: LabelsOutOfFold, label: int, targets: IntArray, known: BoolArray, folds: IntArray
) -> Mapping[str, Measure]:
    """Return the measures of one label, of weights of all studies."""
    inside = known[:, label]
    own = binary_measures(arm.of(label, inside), targets[inside, label], folds[inside])

    def of_known(measure: Measure) -> Measure:
        return lambda weights: _where_weighty(measure, weights[:, inside])

    return {name: of_known(measure) for name, measure in own.items()}


def _where_weighty(measure: Measure, weights: FloatArray) -> FloatArray:
    """Return a measure of each draw that holds any of its studies, NaN of the others."""
    found = np.full(len(weights), np.nan)
    some = weights.sum(axis=1) > 0
    if some.any():
        found[some] = measure(weights[some])
    return found


def _mean(measures: Sequence[Measure]) -> Measure:
    return lambda weights: np.mean([measure(weights) for measure in measures], axis=0)


def _differences(drawn: Resamples, arms: Sequence[str], confidence: float) -> list[tuple[str, Interval]]:
    if COMPARED_ARM not in arms:
        return []
    minuend = f"{COMPARED_ARM} all {COMPARED_METRIC}"
    return [
        (arm, drawn.difference(minuend, f"{arm} all {COMPARED_METRIC}", confidence))
        for arm in arms
        if arm != COMPARED_ARM
    ]
