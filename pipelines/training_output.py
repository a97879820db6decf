"""What a training leaves in its folder, written once all folds are trained.

Trained -> RUN/: model*/, out_of_fold.csv, report.html, evaluation.json
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medmllm.evaluation.cohort import evaluate_arms
from medmllm.records import MODALITIES
from medmllm.reporting.cohort import write_training_report
from medmllm.result_documents import EvaluationDocument
from medmllm.training.policy import judge
from medmllm.training.resuming import forget
from medmllm.training.run import Trained, evaluation_document, write_out_of_fold, write_package
from medmllm.training.trust import assess, packaged_arm


def write_run(trained: Trained, out: Path, said: Sequence[str]) -> EvaluationDocument:
    """Write the packages, the out-of-fold table, the evaluation and its report."""
    config, targets = trained.config, np.array(trained.cohort.targets)
    arms = [arm.out_of_fold for arm in trained.arms]
    cards = {arm.arm: write_package(trained, arm) for arm in trained.arms}
    write_out_of_fold(out / "out_of_fold.csv", trained)
    found = evaluate_arms(
        arms,
        targets=targets,
        patients=trained.patients,
        folds=trained.plan.test_fold,
        classes=trained.task.classes,
        confidence=config.evaluation.confidence,
        samples=config.evaluation.bootstrap_samples,
        seed=config.training.seed,
        ordered=config.task.ordered,
    )
    trust = assess(trained.arms, trained.cohort, trained.groups, classes=trained.task.classes, config=config)
    packaged = packaged_arm(trained.arms)
    own = next(arm for arm in found.arms if arm.arm == packaged.arm)
    reads = [name for name in MODALITIES if getattr(packaged.contract, name) is not None]
    rules = judge(config.policy, own, reads=reads, subgroups=trust.subgroups, uses=trust.modality_use)
    evaluation = evaluation_document(trained, found, trust, rules, more=said)
    card, page = cards[packaged.arm], out / "report.html"
    write_training_report(page, evaluation=evaluation, arms=arms, targets=targets, card=card, settings=config)
    evaluation.write(out / "evaluation.json")  # last: it marks the run as whole
    forget(out)
    return evaluation
