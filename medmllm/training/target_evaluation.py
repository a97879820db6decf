"""Evaluate one target of a finished run: metrics, conformal sets, trust, learning curve, rules of the policy.

Trained of one target -> TargetEvaluation for evaluation.json, rules of the policy judged, remarks in plain words
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from medmllm.evaluation.cohort import OutOfFold, evaluate_arms
from medmllm.evaluation.conformal import SetEvaluation, evaluate_sets, missed_remarks, too_few_remarks
from medmllm.evaluation.remarks import remarks
from medmllm.evaluation.repeats import Repeat, Said
from medmllm.evaluation.several import SeveralOutOfFold, evaluate_means
from medmllm.model_documents import group_folds
from medmllm.records import MODALITIES, CohortEvaluation, Metric
from medmllm.result_documents import (
    ArmDocument,
    ClassCoverageDocument,
    ConformalDocument,
    MetricDocument,
    TargetEvaluation,
)
from medmllm.training.learning_curve import learning_remark, trace_learning
from medmllm.training.policy import judge, rules_of
from medmllm.training.repeats import folds_by_draw
from medmllm.training.run import Trained
from medmllm.training.trust import assess, packaged_arm
from medmllm.trust_documents import RuleDocument


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of one target, or of the means over several."""

    document: TargetEvaluation
    rules: tuple[RuleDocument, ...] = ()  # of the policy
    remarks: tuple[str, ...] = ()


def tell_target(trained: Trained) -> Told:
    """Return what is told of a run of one target."""
    settings, packaged = trained.config.evaluation, packaged_arm(trained.arms)
    found = _evaluate(trained)
    trust = assess(trained.arms, trained.cohort, trained.groups, task=trained.task, config=trained.config)
    curve = trace_learning(packaged, trained.plan, trained.cohort, trained.config, ordered=trained.task.ordered)
    sets = _evaluate_sets(trained)
    rules = judge(
        rules_of(trained.config.policy, trained.task.target),
        next(arm for arm in found.arms if arm.arm == packaged.arm),
        reads=[name for name in MODALITIES if getattr(packaged.contract, name) is not None],
        subgroups=trust.subgroups,
        uses=trust.modality_use,
    )
    said = trust.remarks + learning_remark(curve, confidence=settings.confidence)
    said += remarks(found, confidence=settings.confidence, samples=settings.bootstrap_samples)
    said += tuple(line for arm, own in sets.items() for line in missed_remarks(arm, own))
    folds = group_folds(trained.arms[0].folds)
    thresholds = [own[0].conformal_thresholds for own in folds if own[0].conformal_thresholds]
    said += tuple(too_few_remarks(trained.task.classes, thresholds, coverage=settings.coverage))
    document = target_document(trained, found, sets).model_copy(
        update={
            "delong": trust.delong,
            "decision_curves": trust.decision_curves,
            "modality_use": trust.modality_use,
            "subgroups": trust.subgroups,
            "learning_curve": curve,
        }
    )
    return Told(document, rules, said)


def tell_means(trained: Trained) -> Told:
    """Return what is told of the means over several targets."""
    settings = trained.config.evaluation
    found = evaluate_means(
        [arm.out_of_fold for arm in trained.arms if isinstance(arm.out_of_fold, SeveralOutOfFold)],
        targets=np.array(trained.cohort.labels),
        patients=trained.patients,
        folds=trained.plan.test_fold,
        task=trained.task,
        confidence=settings.confidence,
        samples=settings.bootstrap_samples,
        seed=trained.config.training.seed,
        more=repeats_said(trained, SeveralOutOfFold),
    )
    said = remarks(found, confidence=settings.confidence, samples=settings.bootstrap_samples)
    lines = tuple(f"Mean over the targets: {line}" for line in said)
    return Told(target_document(trained, found, {}), remarks=lines)


def of_target(told: Told) -> Told:
    """Return what is told of one of several targets, with its name before every remark and in every rule."""
    name = told.document.task.target
    return replace(
        told,
        rules=tuple(
            rule.model_copy(update={"rule": f"{rule.rule}[{name}]", "said": f"{name}: {rule.said}"})
            for rule in told.rules
        ),
        remarks=tuple(f"{name}: {line}" for line in told.remarks),
    )


def _evaluate(trained: Trained) -> CohortEvaluation:
    return evaluate_arms(
        [arm.out_of_fold for arm in trained.arms if isinstance(arm.out_of_fold, OutOfFold)],
        targets=np.array(trained.cohort.targets),
        patients=trained.patients,
        folds=trained.plan.test_fold,
        classes=trained.task.classes,
        confidence=trained.config.evaluation.confidence,
        samples=trained.config.evaluation.bootstrap_samples,
        seed=trained.config.training.seed,
        ordered=trained.task.ordered,
        more=repeats_said(trained, OutOfFold),
    )


def repeats_said(trained: Trained, kind: type[Said]) -> list[Repeat[Said]]:
    """Return what the arms said in each repeat but the first."""
    said = [[own.out_of_fold for own in arm.repeated if isinstance(own.out_of_fold, kind)] for arm in trained.arms]
    return [Repeat([own[k] for own in said], folds) for k, folds in enumerate(folds_by_draw(trained.plan)[1:])]


def _evaluate_sets(trained: Trained) -> dict[str, SetEvaluation]:
    settings = trained.config.evaluation
    return {
        arm.arm: evaluate_sets(
            arm.out_of_fold.sets,
            np.array(trained.cohort.targets),
            trained.task.classes,
            coverage=settings.coverage,
            confidence=settings.confidence,
        )
        for arm in trained.arms
        if isinstance(arm.out_of_fold, OutOfFold) and arm.out_of_fold.sets is not None
    }


def target_document(trained: Trained, found: CohortEvaluation, sets: dict[str, SetEvaluation]) -> TargetEvaluation:
    """Return the metrics of one target as written to evaluation.json."""
    return TargetEvaluation(
        task=trained.task,
        n=found.n,
        patients=found.patients,
        class_counts=dict(zip(found.classes, found.class_counts, strict=True)),
        arms=tuple(
            ArmDocument(arm=arm.arm, metrics=_metrics(arm.metrics), conformal=_conformal(sets.get(arm.arm)))
            for arm in found.arms
        ),
        differences=_metrics(found.differences),
    )


def _conformal(found: SetEvaluation | None) -> ConformalDocument | None:
    if found is None:
        return None
    return ConformalDocument(
        asked=found.asked,
        classes=tuple(ClassCoverageDocument(**asdict(own)) for own in found.classes),
        set_sizes=found.set_sizes,
        abstained=found.abstained,
    )


def _metrics(metrics: Sequence[Metric]) -> tuple[MetricDocument, ...]:
    return tuple(MetricDocument(**asdict(metric)) for metric in metrics)
