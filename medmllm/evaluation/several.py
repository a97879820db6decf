"""Lay what an arm says of several targets side by side, and evaluate their means.

    calibrated logits, decisions and sets of all targets -> an OutOfFold of each target -> the means over the targets

Each target is evaluated on its own, as the only one of a run would be, on the studies where it is known. Here are the
means over them (macro), which count every target alike, however rare, on one set of resamples of patients. A resample
in which a target has one class only says nothing of the mean. The means are of targets with classes: a time to an event
has no AUROC, and its C-index stands under its own name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import to_probabilities
from medmllm.evaluation.cohort import COMPARED_METRIC, OutOfFold, arm_metrics, fused_differences, measures_of
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.fold_decisions import plain
from medmllm.evaluation.repeats import Repeat, mean_measure, resample_repeats
from medmllm.evaluation.resampling import Measure, within
from medmllm.evaluation.survival import SurvivalOutOfFold
from medmllm.model_documents import Place, Task
from medmllm.records import UNKNOWN, CohortEvaluation, FloatArray

Of = TypeVar("Of", bound=OutOfFold | SurvivalOutOfFold)

MEANS = ("auroc", "auprc", "brier", "ece", "balanced_accuracy", "sensitivity", "specificity")
"""Metrics whose mean over binary targets is told."""

MEANS_OF_KINDS = ("auroc", "balanced_accuracy")
"""Those that mean the same for targets of every kind: a Brier score reaches 1 when binary, else 2."""


@dataclass(frozen=True, slots=True, eq=False)
class SeveralOutOfFold:
    """What one arm said of every study, target by target."""

    arm: str  # image, text or fused
    targets: tuple[OutOfFold | SurvivalOutOfFold, ...] = field(repr=False)  # of all studies, also where not known

    @property
    def probabilities(self) -> FloatArray:
        """Those of all classes, each target's in turn; shape (studies, classes)."""
        return np.concatenate([own.probabilities for own in self.targets], axis=1)

    @property
    def logits(self) -> FloatArray:
        """Those of all outputs, each target's in turn, of a time the one that is explained; (studies, outputs)."""
        shown = [own.log_hazard if isinstance(own, SurvivalOutOfFold) else own.logits for own in self.targets]
        return np.concatenate([np.reshape(own, (len(own), -1)) for own in shown], axis=1)


def out_of_fold(
    arm: str, logits: FloatArray, predicted: IntArray, sets: BoolArray | None, task: Task
) -> OutOfFold | SeveralOutOfFold | SurvivalOutOfFold:
    """Return what an arm said, for each target where there are several.

    Args:
        arm: Its name.
        logits: Calibrated; shape (studies, outputs).
        predicted: Class index; shape (studies, targets).
        sets: In the conformal set; shape (studies, classes). None: there are none.
        task: Says which outputs and classes are whose.
    """

    def of(number: int, place: Place) -> OutOfFold | SurvivalOutOfFold:
        if place.task.survival is not None:
            return SurvivalOutOfFold(arm, place.task.survival.horizons, logits[:, place.outputs], predicted[:, number])
        own = plain(logits[:, place.outputs])
        return OutOfFold(
            arm, to_probabilities(own), own, predicted[:, number], None if sets is None else sets[:, place.classes]
        )

    each = tuple(of(number, place) for number, place in enumerate(task.places_in(logits.shape[1])))
    return SeveralOutOfFold(arm, each) if task.several else each[0]


def of_studies(found: Of, inside: BoolArray) -> Of:
    """Return what an arm said of some of the studies.

    Args:
        found: Of all.
        inside: Which; shape (studies,).
    """
    if isinstance(found, SurvivalOutOfFold):
        return replace(found, logits=found.logits[inside], predicted=found.predicted[inside])
    sets = None if found.sets is None else found.sets[inside]
    return replace(
        found,
        probabilities=found.probabilities[inside],
        logits=found.logits[inside],
        predicted=found.predicted[inside],
        sets=sets,
    )


def evaluate_means(
    arms: Sequence[SeveralOutOfFold],
    *,
    targets: IntArray,
    patients: Sequence[str],
    folds: IntArray,
    task: Task,
    confidence: float,
    samples: int,
    seed: int,
    more: Sequence[Repeat[SeveralOutOfFold]] = (),
) -> CohortEvaluation:
    """Return the means over the targets of every arm, and the fused arm's mean AUROC minus that of each other arm.

    Args:
        arms: Out-of-fold predictions of each arm on the same studies in the same order.
        targets: Class index of each target, or UNKNOWN; shape (studies, targets). Of a time 1 with the event, else 0.
        patients: Patient of each study.
        folds: Fold that tested each study; shape (studies,).
        task: The targets, with their classes.
        confidence: Level of the intervals, e.g. 0.95.
        samples: Number of bootstrap resamples.
        seed: Of the resamples.
        more: Further repeats of the cross-validation, with the same arms: all is then the mean over repeats, too.

    Raises:
        EvaluationError: Shapes do not fit, or a number is not finite.
    """
    each = _measures((Repeat(arms, folds), *more), targets, len(patients), task)
    one = np.zeros(len(patients), dtype=np.int64)  # what a resample lacks is a matter of each target
    found = resample_repeats(each, strata=one, patients=patients, confidence=confidence, samples=samples, seed=seed)
    names = [arm.arm for arm in arms]
    return CohortEvaluation(
        classes=tuple(name for part in task.parts for name in _counted(part)),
        n=found.n,
        patients=found.patients,
        class_counts=tuple(
            int((targets[:, k] == label).sum())
            for k, part in enumerate(task.parts)
            for label in range(len(_counted(part)))
        ),
        arms=arm_metrics(found, names),
        differences=fused_differences(found, names, COMPARED_METRIC),
    )


def _counted(part: Task) -> tuple[str, ...]:
    """Return what the studies of a target are counted by: its classes, or whether the event came."""
    if part.survival is None:
        return part.classes
    return f"{part.target}: censored", f"{part.target}: {part.survival.event}"


def _measures(
    repeats: Sequence[Repeat[SeveralOutOfFold]], targets: IntArray, n: int, task: Task
) -> dict[str, list[Measure]]:
    """Return "ARM METRIC" -> its mean over the targets, as a measure of each repeat."""
    shape, found = (n, len(task.parts)), dict[str, list[Measure]]()
    of_classes = [k for k, part in enumerate(task.parts) if part.survival is None]
    shared = MEANS if all(task.parts[k].kind == "binary" for k in of_classes) else MEANS_OF_KINDS
    for repeat in repeats:
        for arm in repeat.arms:
            fits = all(len(own.predicted) == n for own in arm.targets) and len(arm.targets) == shape[1]
            if targets.shape != shape or not fits or not np.isfinite(arm.logits).all():
                raise EvaluationError(
                    f"targets or predictions of arm {arm.arm} are not finite, or not of shape {shape}"
                )
            own = [_of_target(arm, k, targets, repeat.folds, task.parts[k]) for k in of_classes]
            for name in shared:
                found.setdefault(f"{arm.arm} {name}", []).append(mean_measure([one[name] for one in own]))
    return found


def _of_target(
    arm: SeveralOutOfFold, number: int, targets: IntArray, folds: IntArray, part: Task
) -> Mapping[str, Measure]:
    """Return the measures of one target, of weights of all studies."""
    inside, said = targets[:, number] != UNKNOWN, arm.targets[number]
    assert isinstance(said, OutOfFold)  # of a target with classes
    own = measures_of(
        of_studies(said, inside),
        targets[inside, number],
        folds[inside],
        part.classes,
        ordered=part.kind == "ordinal",
    )
    return {name: within(inside, measure) for name, measure in own.items()}
