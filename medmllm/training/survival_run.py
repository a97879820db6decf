"""The result of a cross-validation of times to an event, as far as it differs from that of classes.

Trained of one time to an event -> what is told of it
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np

from medmllm.config import TrainConfig
from medmllm.evaluation.group_gaps import Subgroups, gap_remarks
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.modality_use import ModalityUse, Probed, evaluate_use_by, use_remarks
from medmllm.evaluation.remarks import remarks
from medmllm.evaluation.resampling import Measure
from medmllm.evaluation.survival import SurvivalOutOfFold, c_index_measure, evaluate_survival
from medmllm.evaluation.survival_fairness import FEW, evaluate_survival_groups
from medmllm.evaluation.survival_groups import calibration_quarters, logrank_p, risk_groups
from medmllm.model_documents import SurvivalTask
from medmllm.records import MODALITIES, CohortEvaluation, FloatArray
from medmllm.survival_documents import (
    CalibrationGroupDocument,
    HorizonCalibrationDocument,
    RiskGroupDocument,
    SurvivalArmDocument,
)
from medmllm.training.cross_validation import ArmResult
from medmllm.training.groups import band_names
from medmllm.training.learning_curve import learning_remark, trace_learning
from medmllm.training.policy import judge, rules_of
from medmllm.training.run import Trained
from medmllm.training.target_evaluation import Told, repeats_said, target_document
from medmllm.training.trust import packaged_arm, subgroup_document, use_document

FEWEST_FOLLOWED = 10
COX_BATCH = 16


def tell_survival(trained: Trained) -> Told:
    """Return what is told of a run of times to an event."""
    settings, packaged = trained.config.evaluation, packaged_arm(trained.arms)
    found, uses = evaluate_survival_arms(trained), survival_uses(trained)
    documents, groups = tuple(map(use_document, uses)), survival_subgroups(trained)
    counted = (_task(trained).event, "censored")
    curve = trace_learning(packaged, trained.plan, trained.cohort, trained.config, ordered=False)
    subgroups = tuple(subgroup_document(own, packaged.arm, counted) for own in groups)
    rules = judge(
        rules_of(trained.config.policy, trained.task.target),
        next(arm for arm in found.arms if arm.arm == packaged.arm),
        reads=[name for name in MODALITIES if getattr(packaged.contract, name) is not None],
        subgroups=subgroups,
        uses=documents,
    )
    said = (
        *use_remarks(uses, confidence=settings.confidence),
        *(
            line
            for own in groups
            for line in gap_remarks(own, arm=packaged.arm, confidence=settings.confidence, few=FEW)
        ),
        *learning_remark(curve, confidence=settings.confidence),
        *remarks(found, confidence=settings.confidence, samples=settings.bootstrap_samples),
        *cautions(_task(trained), followed_of(trained), compared=fewest_compared(trained.arms, trained.config)),
    )
    told: dict[str, object] = {"modality_use": documents, "subgroups": subgroups, "learning_curve": curve}
    told["survival"] = survival_documents(trained)
    return Told(target_document(trained, found, {}).model_copy(update=told), rules, said)


def cautions(task: SurvivalTask, followed: Followed, *, compared: int) -> Iterator[str]:
    """Yield what makes numbers rough: few studies followed until a horizon, few compared with each other by Cox."""
    for name, horizon in zip(task.horizon_names, task.horizons, strict=True):
        left = int((followed.time >= horizon).sum())
        if left < FEWEST_FOLLOWED:
            some = {0: "No study was", 1: "1 study was"}.get(left, f"{left} studies were")
            yield f"{some} followed for {name} without the event: what is told of this horizon is rough."
    if task.model == "cox" and compared < COX_BATCH:
        yield (
            f"Cox compared {compared} studies at a time, and {COX_BATCH} or more are wanted: set [training] batch_size "
            "higher, or processes, which share a batch and compare each its own part, lower."
        )


def fewest_compared(arms: Sequence[ArmResult], config: TrainConfig) -> int:
    """Return how many studies Cox compared with each other at least: those of a batch, or of a process's part of it.

    Where the batch size is searched, each fold has its own.
    """
    chosen = [choice.best.config.training.batch_size for arm in arms for choice in arm.choices]
    return min(chosen, default=config.training.batch_size) // config.training.processes


def evaluate_survival_arms(trained: Trained) -> CohortEvaluation:
    """Return every arm's metrics."""
    config, task = trained.config, _task(trained)
    return evaluate_survival(
        _arms(trained),
        followed=followed_of(trained),
        patients=trained.patients,
        folds=trained.plan.test_fold,
        horizons=dict(zip(task.horizon_names, task.horizons, strict=True)),
        event=task.event,
        confidence=config.evaluation.confidence,
        samples=config.evaluation.bootstrap_samples,
        seed=config.training.seed,
        more=repeats_said(trained, SurvivalOutOfFold),
    )


def survival_uses(trained: Trained) -> list[ModalityUse]:
    """Return which modalities each arm uses, by its C-index."""
    config, followed = trained.config, followed_of(trained)

    def measure_of(inside: list[int], chances: FloatArray) -> Measure:
        return c_index_measure(Followed(followed.time[inside], followed.event[inside]), chances[:, 1])

    return [
        use
        for arm in trained.arms
        if isinstance(arm.out_of_fold, SurvivalOutOfFold)
        for use in evaluate_use_by(
            measure_of,
            arm.arm,
            [Probed(own.out_of_fold.probabilities, own.deprived) for own in arm.draws],
            metric="C-index",
            strata=followed.event.astype(np.int64),
            patients=trained.patients,
            bound=config.evaluation.ignored_below,
            confidence=config.evaluation.confidence,
            samples=config.evaluation.bootstrap_samples,
            seed=config.training.seed,
        )
    ]


def survival_subgroups(trained: Trained) -> list[Subgroups]:
    """Return how the packaged arm does in the groups of each column."""
    config, asked = trained.config, _task(trained)
    settings, arm = config.evaluation.subgroups, packaged_arm(trained.arms)
    said, *more = (own.out_of_fold for own in arm.draws if isinstance(own.out_of_fold, SurvivalOutOfFold))
    return [
        evaluate_survival_groups(
            said,
            [of[member.sample.study_key] for member in trained.cohort.members],
            column=column,
            names=band_names(settings.bands[column]) if column in settings.bands else None,
            followed=followed_of(trained),
            horizons=dict(zip(asked.horizon_names, asked.horizons, strict=True)),
            patients=trained.patients,
            fewest_patients=settings.fewest_patients,
            confidence=config.evaluation.confidence,
            samples=config.evaluation.bootstrap_samples,
            seed=config.training.seed,
            more=more,
        )
        for column, of in trained.groups.items()
    ]


def survival_documents(trained: Trained) -> tuple[SurvivalArmDocument, ...]:
    """Return calibration and curves of each arm, for evaluation.json."""
    followed, confidence = followed_of(trained), trained.config.evaluation.confidence
    found = []
    for arm in _arms(trained):
        higher = arm.predicted == 1
        calibration = tuple(
            HorizonCalibrationDocument(
                horizon=horizon,
                groups=tuple(
                    CalibrationGroupDocument(**asdict(own))
                    for own in calibration_quarters(followed, arm.event_free[:, k], horizon, confidence=confidence)
                ),
            )
            for k, horizon in enumerate(arm.horizons)
        )
        curves = tuple(RiskGroupDocument(**asdict(own)) for own in risk_groups(followed, higher, confidence=confidence))
        p = logrank_p(followed, higher)
        found.append(SurvivalArmDocument(arm=arm.arm, calibration=calibration, risk_groups=curves, logrank_p=p))
    return tuple(found)


def followed_of(trained: Trained) -> Followed:
    """Return the times and events of the cohort."""
    survived = trained.cohort.survived
    return Followed(np.array([one.time for one in survived]), np.array([one.event for one in survived]))


def _task(trained: Trained) -> SurvivalTask:
    assert trained.task.survival is not None  # asked for times to an event alone
    return trained.task.survival


def _arms(trained: Trained) -> list[SurvivalOutOfFold]:
    return [arm.out_of_fold for arm in trained.arms if isinstance(arm.out_of_fold, SurvivalOutOfFold)]
