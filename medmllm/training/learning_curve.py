"""Write what smaller trainings came to as the learning curve of evaluation.json.

arm with its smaller trainings, folds -> LearningCurveDocument, a remark in plain words, a line for the terminal
"""

from collections.abc import Sequence

import numpy as np

from medmllm.config import TrainConfig
from medmllm.evaluation.learning_curve import LearningPoint, learning_points
from medmllm.evaluation.resampling import Interval
from medmllm.training.cohort import Cohort
from medmllm.training.cross_validation import ArmResult
from medmllm.training.repeats import repeats_of
from medmllm.training.splits import FoldSplit, SplitPlan, outer_folds
from medmllm.trust_documents import EstimateDocument, LearningCurveDocument, LearningPointDocument


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
    patients = [member.sample.patient_key for member in cohort.members]
    found = learning_points(
        [[own.out_of_fold.probabilities for own in step] for step in steps],
        [draw.out_of_fold.probabilities for draw in arm.draws],
        targets=np.array(cohort.targets),
        patients=patients,
        confidence=config.evaluation.confidence,
        samples=config.evaluation.bootstrap_samples,
        seed=config.training.seed,
        ordered=ordered,
    )
    trained = [(step[0].fraction, [own.folds for own in step]) for step in steps] + [(1.0, [*repeats_of(plan)])]
    return LearningCurveDocument(
        arm=arm.arm,
        points=tuple(
            _point(fraction, own, patients, point) for (fraction, own), point in zip(trained, found, strict=True)
        ),
    )


def _point(
    fraction: float, repeats: Sequence[Sequence[FoldSplit]], patients: Sequence[str], point: LearningPoint
) -> LearningPointDocument:
    learnt = [{k for split in own for k in split.train.tolist()} for folds in repeats for own in outer_folds(folds)]
    return LearningPointDocument(
        fraction=fraction,
        training_patients=tuple(len({patients[k] for k in own}) for own in learnt),
        training_studies=tuple(map(len, learnt)),
        auroc=_estimate(point.auroc),
        behind=None if fraction == 1 else _estimate(point.behind),
    )


def _estimate(found: Interval) -> EstimateDocument:
    return EstimateDocument(estimate=found.estimate, low=found.low, high=found.high)


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
    step = f"from {before.mean_patients:.0f} to {last.mean_patients:.0f} training patients"
    numbers = f"{gain.estimate:+.3f}, {100 * confidence:g} % interval {gain.low:+.3f} to {gain.high:+.3f}"
    if gain.low > 0:
        return (f"The AUROC of the {curve.arm} model still rises {step} ({numbers}): more patients may help.",)
    return (f"It is not shown that the AUROC of the {curve.arm} model rises {step} ({numbers}).",)


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
    return f"{curve.arm} AUROC by training patients: {steps}" + (" (synthetic)" if synthetic else "")


def learning_metrics(curve: LearningCurveDocument | None) -> dict[str, float]:
    """Return the AUROC of each smaller training by `ARM_auroc_at_FRACTION`, for tracking."""
    points = () if curve is None else curve.points[:-1]
    arm = "" if curve is None else curve.arm
    return {f"{arm}_auroc_at_{p.fraction}": p.auroc.estimate for p in points if p.auroc.estimate is not None}
