"""Write what smaller trainings came to as the learning curve of evaluation.json.

arm with its smaller trainings, folds -> LearningCurveDocument, a remark in plain words, a line for the terminal
"""

from collections.abc import Sequence

import numpy as np

from medmllm.config import TrainConfig
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.learning_curve import LearningPoint, learning_points, time_points
from medmllm.evaluation.remarks import NAMES
from medmllm.evaluation.resampling import level
from medmllm.evaluation.several import SeveralOutOfFold
from medmllm.evaluation.survival import SurvivalOutOfFold
from medmllm.records import FloatArray
from medmllm.training.cohort import Cohort
from medmllm.training.cross_validation import ArmResult, SmallerTraining
from medmllm.training.repeats import repeats_of
from medmllm.training.splits import FoldSplit, SplitPlan, outer_folds
from medmllm.training.trust import estimate_document
from medmllm.trust_documents import LearningCurveDocument, LearningPointDocument


def trace_learning(
    arm: ArmResult, plan: SplitPlan, cohort: Cohort, config: TrainConfig, *, ordered: bool
) -> LearningCurveDocument | None:
    """Return the learning curve of an arm; None where it was not trained on less.

    Args:
        arm: Cross-validated, also on parts of its training patients.
        plan: Folds of each repeat, with their whole training parts.
        cohort: Its studies.
        config: Level of the intervals, resamples, seed.
        ordered: The classes stand in an order, lowest first.
    """
    if not arm.smaller:
        return None
    steps = list(zip(*(draw.smaller for draw in arm.draws), strict=True))  # of each fraction, by repeat
    patients = cohort.patients
    found = _points(steps, arm, cohort, config, ordered=ordered)
    trained = [(step[0].fraction, [own.folds for own in step]) for step in steps] + [(1.0, [*repeats_of(plan)])]
    return LearningCurveDocument(
        arm=arm.arm,
        metric="C-index" if cohort.survived else "AUROC",
        points=tuple(
            _point(fraction, own, patients, point) for (fraction, own), point in zip(trained, found, strict=True)
        ),
    )


def _points(
    steps: Sequence[Sequence[SmallerTraining]], arm: ArmResult, cohort: Cohort, config: TrainConfig, *, ordered: bool
) -> tuple[LearningPoint, ...]:
    """Return AUROC, or C-index, of each step, and last of the whole training."""
    patients = cohort.patients
    confidence, samples = config.evaluation.confidence, config.evaluation.bootstrap_samples
    seed, survived = config.training.seed, cohort.survived
    said, whole = ([own.out_of_fold for own in step] for step in steps), [draw.out_of_fold for draw in arm.draws]
    if survived:
        return time_points(
            [_risks(step) for step in said],
            _risks(whole),
            followed=Followed(np.array([own.time for own in survived]), np.array([own.event for own in survived])),
            patients=patients,
            confidence=confidence,
            samples=samples,
            seed=seed,
        )
    return learning_points(
        [[own.probabilities for own in step] for step in said],
        [own.probabilities for own in whole],
        targets=np.array(cohort.targets),
        patients=patients,
        confidence=confidence,
        samples=samples,
        seed=seed,
        ordered=ordered,
    )


def _risks(said: Sequence[OutOfFold | SeveralOutOfFold | SurvivalOutOfFold]) -> list[FloatArray]:
    return [own.log_hazard for own in said if isinstance(own, SurvivalOutOfFold)]


def _point(
    fraction: float, repeats: Sequence[Sequence[FoldSplit]], patients: Sequence[str], point: LearningPoint
) -> LearningPointDocument:
    learnt = [{k for split in own for k in split.train.tolist()} for folds in repeats for own in outer_folds(folds)]
    return LearningPointDocument(
        fraction=fraction,
        training_patients=tuple(len({patients[k] for k in own}) for own in learnt),
        training_studies=tuple(map(len, learnt)),
        auroc=estimate_document(point.auroc),
        behind=None if fraction == 1 else estimate_document(point.behind),
    )


def learning_remark(curve: LearningCurveDocument | None, *, confidence: float) -> tuple[str, ...]:
    """Return in plain words whether the last step of the curve still rises; nothing where that is not defined.

    Args:
        curve: As of `trace_learning`.
        confidence: Level of its intervals.
    """
    if curve is None:
        return ()
    before, last = curve.points[-2:]
    gain = before.behind
    if gain is None or gain.estimate is None or gain.low is None or gain.high is None:
        return ()
    if before.training_patients == last.training_patients:
        return (
            f"The learning curve tells nothing of more patients: {before.fraction:g} of the training patients are all "
            f"{last.mean_patients:.0f} of them. Take smaller fractions.",
        )
    digits = int(round(before.mean_patients) == round(last.mean_patients))
    step = f"from {before.mean_patients:.{digits}f} to {last.mean_patients:.{digits}f} training patients"
    numbers = f"{gain.estimate:+.3f}, {level(confidence)} interval {gain.low:+.3f} to {gain.high:+.3f}"
    if gain.low > 0:
        return (f"The {curve.metric} of the {curve.arm} model still rises {step} ({numbers}): more patients may help.",)
    return (f"It is not shown that the {curve.metric} of the {curve.arm} model rises {step} ({numbers}).",)


def learning_line(curve: LearningCurveDocument, *, synthetic: bool) -> str:
    """Return the curve as one line for the terminal.

    Args:
        curve: As of `trace_learning`.
        synthetic: The line says so.
    """
    steps = ", ".join(
        f"{'none' if p.auroc.estimate is None else format(p.auroc.estimate, '.3f')} from {p.mean_patients:.0f}"
        for p in curve.points
    )
    return f"{curve.arm} {curve.metric} by training patients: {steps}" + (" (synthetic)" if synthetic else "")


def learning_metrics(curve: LearningCurveDocument | None) -> dict[str, float]:
    """Return the AUROC of each smaller training by `ARM_auroc_at_FRACTION`, or C-index by `ARM_c_index_at_FRACTION`."""
    if curve is None:
        return {}
    start = f"{curve.arm}_{next(name for name, label in NAMES.items() if label == curve.metric)}_at_"
    return {f"{start}{p.fraction}": p.auroc.estimate for p in curve.points[:-1] if p.auroc.estimate is not None}
