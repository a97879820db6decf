"""What a training leaves in its folder, written once all folds are trained.

Trained -> RUN/: model*/, out_of_fold.csv, figures/, report.html, evaluation.json
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medmllm.evaluation.cohort import OutOfFold, evaluate_arms
from medmllm.records import MODALITIES, CohortEvaluation
from medmllm.reporting.cohort import write_training_report
from medmllm.reporting.training_figures import FIGURES, draw_figures, write_figures
from medmllm.result_documents import EvaluationDocument
from medmllm.training.label_run import evaluate_label_arms, write_labels_out_of_fold
from medmllm.training.policy import judge
from medmllm.training.resuming import forget
from medmllm.training.run import Trained, evaluation_document, write_out_of_fold, write_package
from medmllm.training.survival_run import (
    assess_survival,
    evaluate_survival_arms,
    survival_documents,
    write_survival_out_of_fold,
)
from medmllm.training.trust import Trust, assess, packaged_arm

TABLE = "out_of_fold.csv"


def write_run(trained: Trained, out: Path, said: Sequence[str]) -> EvaluationDocument:
    """Write the packages, the out-of-fold table, the evaluation and its report."""
    config, targets = trained.config, np.array(trained.cohort.targets)
    arms = [arm.out_of_fold for arm in trained.arms if isinstance(arm.out_of_fold, OutOfFold)]
    cards = {arm.arm: write_package(trained, arm) for arm in trained.arms}
    packaged = packaged_arm(trained.arms)
    if trained.task.labels:
        write_labels_out_of_fold(out / TABLE, trained)
        found, trust = evaluate_label_arms(trained), Trust()
    elif trained.task.survival is not None:
        write_survival_out_of_fold(out / TABLE, trained)
        found, trust = evaluate_survival_arms(trained), assess_survival(trained)
    else:
        write_out_of_fold(out / TABLE, trained)
        found = _evaluate(trained, arms)
        trust = assess(trained.arms, trained.cohort, trained.groups, classes=trained.task.classes, config=config)
    own = next(arm for arm in found.arms if arm.arm == packaged.arm)
    reads = [name for name in MODALITIES if getattr(packaged.contract, name) is not None]
    rules = judge(config.policy, own, reads=reads, subgroups=trust.subgroups, uses=trust.modality_use)
    survival = survival_documents(trained) if trained.task.survival is not None else ()
    evaluation = evaluation_document(trained, found, trust, rules, more=said, survival=survival)
    card, page = cards[packaged.arm], out / "report.html"
    figures = draw_figures(evaluation, arms, targets)
    write_figures(out / FIGURES, figures, synthetic=evaluation.synthetic)
    write_training_report(page, evaluation=evaluation, figures=figures, card=card, settings=config)
    evaluation.write(out / "evaluation.json")  # last: it marks the run as whole
    forget(out)
    return evaluation


def _evaluate(trained: Trained, arms: Sequence[OutOfFold]) -> CohortEvaluation:
    """Return every arm's metrics for one target."""
    return evaluate_arms(
        arms,
        targets=np.array(trained.cohort.targets),
        patients=trained.patients,
        folds=trained.plan.test_fold,
        classes=trained.task.classes,
        confidence=trained.config.evaluation.confidence,
        samples=trained.config.evaluation.bootstrap_samples,
        seed=trained.config.training.seed,
        ordered=trained.config.task.ordered,
    )
