"""Ask of a finished cross-validation what it can be trusted for, and write the answers as documents.

arms, groups -> use of modalities, groups and gaps, DeLong's differences, decision curves
    -> documents for evaluation.json, remarks in plain words
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from medmllm.config import TrainConfig
from medmllm.evaluation.cohort import COMPARED_ARM, OutOfFold
from medmllm.evaluation.decision_curve import decision_curve
from medmllm.evaluation.delong import compare_aurocs
from medmllm.evaluation.fairness import evaluate_groups
from medmllm.evaluation.group_gaps import Subgroups, gap_remarks
from medmllm.evaluation.modality_use import ModalityUse, Probed, evaluate_use, use_remarks
from medmllm.evaluation.resampling import Interval
from medmllm.model_documents import Task
from medmllm.records import FloatArray
from medmllm.training.arms import main_arm
from medmllm.training.cohort import Cohort
from medmllm.training.cross_validation import ArmResult
from medmllm.training.groups import Groups, band_names
from medmllm.trust_documents import (
    AurocDifferenceDocument,
    DecisionCurveDocument,
    EstimateDocument,
    GapDocument,
    GroupDocument,
    ModalityUseDocument,
    SubgroupDocument,
)


@dataclass(frozen=True, slots=True)
class Trust:
    """What evaluation.json says beside the metrics."""

    modality_use: tuple[ModalityUseDocument, ...] = ()
    subgroups: tuple[SubgroupDocument, ...] = ()  # of the packaged arm
    delong: tuple[AurocDifferenceDocument, ...] = ()  # fused minus each other arm
    decision_curves: tuple[DecisionCurveDocument, ...] = ()
    remarks: tuple[str, ...] = ()


def assess(
    arms: tuple[ArmResult, ...],
    cohort: Cohort,
    groups: Groups,
    *,
    task: Task,
    config: TrainConfig,
) -> Trust:
    """Return what the arms can be trusted for.

    Args:
        arms: Cross-validated.
        cohort: Its studies, with targets and patients.
        groups: As of `read_groups`.
        task: One target, its classes and kind.
        config: Bounds, intervals, seed of the resamples.
    """
    settings = config.evaluation
    uses = _uses(arms, cohort, config, ordered=task.ordered)
    found = _subgroups(packaged_arm(arms), cohort, groups, config, ordered=task.ordered)
    gaps = (
        line for own in found for line in gap_remarks(own, arm=packaged_arm(arms).arm, confidence=settings.confidence)
    )
    return Trust(
        modality_use=tuple(map(use_document, uses)),
        subgroups=tuple(subgroup_document(own, packaged_arm(arms).arm, task.classes) for own in found),
        delong=tuple(_delong(arms, cohort, config)),
        decision_curves=tuple(_decision_curves(arms, cohort, config)),
        remarks=(*use_remarks(uses, confidence=settings.confidence), *gaps),
    )


def _delong(arms: Sequence[ArmResult], cohort: Cohort, config: TrainConfig) -> Iterator[AurocDifferenceDocument]:
    """Yield DeLong's differences where the task is binary and every patient has one study."""
    patients, targets = cohort.patients, np.array(cohort.targets)
    found: dict[str, FloatArray] = {
        arm.arm: arm.out_of_fold.probabilities for arm in arms if isinstance(arm.out_of_fold, OutOfFold)
    }
    fused = found.pop(COMPARED_ARM, None)
    if fused is None or fused.shape[1] != 2 or len(set(patients)) < len(patients) or np.bincount(targets).min() < 2:
        return
    for name, other in found.items():
        own = compare_aurocs(targets, fused[:, 1], other[:, 1], confidence=config.evaluation.confidence)
        yield AurocDifferenceDocument(first=COMPARED_ARM, second=name, **asdict(own))


def repeats_of_arm(arm: ArmResult) -> list[OutOfFold]:
    """Return what an arm said in each repeat but the first."""
    return [own.out_of_fold for own in arm.repeated if isinstance(own.out_of_fold, OutOfFold)]


def _decision_curves(arms: Sequence[ArmResult], cohort: Cohort, config: TrainConfig) -> Iterator[DecisionCurveDocument]:
    for arm in arms:
        if not isinstance(arm.out_of_fold, OutOfFold) or arm.out_of_fold.probabilities.shape[1] != 2:
            continue
        found = decision_curve(
            arm.arm,
            np.array(cohort.targets),
            arm.out_of_fold.probabilities[:, 1],
            cohort.patients,
            confidence=config.evaluation.confidence,
            samples=config.evaluation.bootstrap_samples,
            seed=config.training.seed,
            more=[own.probabilities[:, 1] for own in repeats_of_arm(arm)],
        )
        yield DecisionCurveDocument(
            arm=found.arm,
            thresholds=found.thresholds,
            net_benefit=tuple(map(estimate_document, found.net_benefit)),
            treat_all=found.treat_all,
            repeats=found.repeats,
        )


def packaged_arm(arms: Sequence[ArmResult]) -> ArmResult:
    """Return the arm whose package is RUN/model."""
    name = main_arm([arm.arm for arm in arms])
    return next(arm for arm in arms if arm.arm == name)


def _uses(arms: Sequence[ArmResult], cohort: Cohort, config: TrainConfig, *, ordered: bool) -> tuple[ModalityUse, ...]:
    return tuple(
        use
        for arm in arms
        if isinstance(arm.out_of_fold, OutOfFold)
        for use in evaluate_use(
            arm.out_of_fold,
            arm.deprived,
            targets=np.array(cohort.targets),
            patients=cohort.patients,
            bound=config.evaluation.ignored_below,
            confidence=config.evaluation.confidence,
            samples=config.evaluation.bootstrap_samples,
            seed=config.training.seed,
            ordered=ordered,
            more=[Probed(own.out_of_fold.probabilities, own.deprived) for own in arm.repeated],
        )
    )


def _subgroups(
    arm: ArmResult, cohort: Cohort, groups: Groups, config: TrainConfig, *, ordered: bool
) -> tuple[Subgroups, ...]:
    bands = config.evaluation.subgroups.bands
    return tuple(
        evaluate_groups(
            arm.out_of_fold,
            [of[member.sample.study_key] for member in cohort.members],
            column=column,
            names=band_names(bands[column]) if column in bands else None,
            targets=np.array(cohort.targets),
            patients=cohort.patients,
            fewest_patients=config.evaluation.subgroups.fewest_patients,
            confidence=config.evaluation.confidence,
            samples=config.evaluation.bootstrap_samples,
            seed=config.training.seed,
            ordered=ordered,
            more=repeats_of_arm(arm),
        )
        for column, of in groups.items()
        if isinstance(arm.out_of_fold, OutOfFold)
    )


def subgroup_document(found: Subgroups, arm: str, classes: tuple[str, ...]) -> SubgroupDocument:
    """Return the groups of one column as written to evaluation.json; `classes` are what studies are counted by."""
    return SubgroupDocument(
        column=found.column,
        arm=arm,
        groups=tuple(
            GroupDocument(
                name=group.name,
                n=group.n,
                patients=group.patients,
                class_counts=dict(zip(classes, group.class_counts, strict=True)),
                metrics={name: estimate_document(value) for name, value in group.metrics.items()},
            )
            for group in found.groups
        ),
        gaps=tuple(
            GapDocument(
                name=gap.name, highest=gap.highest, lowest=gap.lowest, difference=estimate_document(gap.difference)
            )
            for gap in found.gaps
        ),
        too_small=dict(found.too_small),
        too_few=dict(found.too_few),
        unknown=found.unknown,
    )


def use_document(found: ModalityUse) -> ModalityUseDocument:
    """Return what an arm takes from a modality as written to evaluation.json."""
    return ModalityUseDocument(
        arm=found.arm,
        modality=found.modality,
        n=found.n,
        patients=found.patients,
        permutations=found.permutations,
        auroc=estimate_document(found.auroc),
        permuted=estimate_document(found.permuted),
        fall=estimate_document(found.fall),
        fall_absent=estimate_document(found.fall_absent),
        bound=found.bound,
        verdict=found.verdict,
        metric=found.metric,
    )


def estimate_document(found: Interval) -> EstimateDocument:
    """Return an estimate with its interval as written to evaluation.json."""
    return EstimateDocument(estimate=found.estimate, low=found.low, high=found.high)
