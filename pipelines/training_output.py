"""What a training leaves in its folder, written once all folds are trained.

Trained -> RUN/: model*/, out_of_fold.csv, report.html, evaluation.json
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medmllm.evaluation.cohort import OutOfFold, evaluate_arms
from medmllm.reporting.cohort import write_training_report
from medmllm.result_documents import EvaluationDocument
from medmllm.training.cross_validation import main_arm
from medmllm.training.label_run import evaluate_label_arms, write_labels_out_of_fold
from medmllm.training.resuming import forget
from medmllm.training.run import Trained, evaluation_document, write_out_of_fold, write_package
from medmllm.training.trust import Trust, assess

TABLE = "out_of_fold.csv"


def write_run(trained: Trained, out: Path, said: Sequence[str]) -> EvaluationDocument:
    """Write the packages, the out-of-fold table, the evaluation and its report."""
    config, targets = trained.config, np.array(trained.cohort.targets)
    cards = {arm.arm: write_package(trained, arm) for arm in trained.arms}
    arms = [arm.out_of_fold for arm in trained.arms if isinstance(arm.out_of_fold, OutOfFold)]
    if trained.cohort.labels:
        write_labels_out_of_fold(out / TABLE, trained)
        evaluation = evaluation_document(trained, evaluate_label_arms(trained), Trust((), ()), more=said)
    else:
        write_out_of_fold(out / TABLE, trained)
        evaluation = _evaluate(trained, arms, said)
    card, page = cards[main_arm(list(cards))], out / "report.html"
    write_training_report(page, evaluation=evaluation, arms=arms, targets=targets, card=card, settings=config)
    evaluation.write(out / "evaluation.json")  # last: it marks the run as whole
    forget(out)
    return evaluation


def _evaluate(trained: Trained, arms: Sequence[OutOfFold], said: Sequence[str]) -> EvaluationDocument:
    config = trained.config
    found = evaluate_arms(
        arms,
        targets=np.array(trained.cohort.targets),
        patients=trained.patients,
        folds=trained.plan.test_fold,
        classes=trained.task.classes,
        confidence=config.evaluation.confidence,
        samples=config.evaluation.bootstrap_samples,
        seed=config.training.seed,
        ordered=config.task.ordered,
    )
    trust = assess(
        trained.arms,
        targets=trained.cohort.targets,
        patients=trained.patients,
        settings=config.evaluation,
        seed=config.training.seed,
    )
    return evaluation_document(trained, found, trust, more=said)
