"""What a training leaves in its folder, written once all folds are trained.

Trained -> RUN/: model*/, out_of_fold.csv, figures/, report.html, evaluation.json
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medmllm.evaluation.cohort import OutOfFold
from medmllm.reporting.cohort import write_training_report
from medmllm.reporting.survival_figures import draw_survival
from medmllm.reporting.training_figures import FIGURES, draw_figures, write_figures
from medmllm.result_documents import EvaluationDocument
from medmllm.told_settings import told_contract
from medmllm.training.one_target import one_by_one
from medmllm.training.out_of_fold_table import write_out_of_fold
from medmllm.training.policy import unmet
from medmllm.training.repeats import repeat_remarks, repeats_of
from medmllm.training.resuming import forget
from medmllm.training.run import SEARCH, WHOLE, Trained, write_package
from medmllm.training.search_result import search_remarks, tell_search, write_search
from medmllm.training.splits import count_folds
from medmllm.training.survival_run import tell_survival
from medmllm.training.target_evaluation import Told, of_target, repeats_said, tell_means, tell_target
from medmllm.training.trust import packaged_arm

TABLE = "out_of_fold.csv"


def write_run(trained: Trained, out: Path, said: Sequence[str]) -> EvaluationDocument:
    """Write the packages, the out-of-fold table, the evaluation and its report."""
    cards = {arm.arm: write_package(trained, arm) for arm in trained.arms}
    write_out_of_fold(out / TABLE, trained)
    each = one_by_one(trained)
    told_each = [tell_target(one) if one.task.survival is None else tell_survival(one) for one in each]
    evaluation = _evaluation(trained, told_each, said)
    write_search(out / SEARCH, evaluation.search)
    figures = [
        draw_survival(told, confidence=evaluation.confidence, repeats=evaluation.repeats)
        if one.task.survival is not None
        else draw_figures(
            told,
            [arm.out_of_fold for arm in one.arms if isinstance(arm.out_of_fold, OutOfFold)],
            np.array(one.cohort.targets),
            one.patients,
            confidence=evaluation.confidence,
            synthetic=evaluation.synthetic,
            more=[repeat.arms for repeat in repeats_said(one, OutOfFold)],
        )
        for told, one in zip(evaluation.each, each, strict=True)
    ]
    if trained.task.several:
        figures = [own.named(f"_{number}") for number, own in enumerate(figures, start=1)]
    write_figures(out / FIGURES, figures, synthetic=evaluation.synthetic)
    card, page = cards[packaged_arm(trained.arms).arm], out / "report.html"
    write_training_report(page, evaluation=evaluation, figures=figures, card=card, settings=trained.config)
    evaluation.write(out / WHOLE)
    forget(out)
    return evaluation


def _evaluation(trained: Trained, each: Sequence[Told], more: Sequence[str]) -> EvaluationDocument:
    """Return the evaluation as written to RUN/evaluation.json; `more` are remarks of the pipeline's own."""
    whole, targets = each[0], list[Told]()
    if trained.task.several:
        whole, targets = tell_means(trained), [of_target(told) for told in each]
    every = (whole, *targets)
    rules, search = tuple(rule for told in every for rule in told.rules), tell_search(trained)
    return EvaluationDocument(
        **dict(whole.document),
        targets=tuple(told.document for told in targets),
        policy=rules,
        synthetic=trained.synthetic,
        excluded=len(trained.cohort.refused),
        confidence=trained.config.evaluation.confidence,
        bootstrap_samples=trained.config.evaluation.bootstrap_samples,
        folds=count_folds(trained.plan, trained.patients),
        repeats=len(repeats_of(trained.plan)),
        search=search,
        split_digest=trained.plan.digest,
        contract_fingerprint=told_contract(trained.arms[-1].contract).fingerprint,
        remarks=(
            *more,
            *repeat_remarks(trained.plan, trained.task, learning=bool(trained.config.training.learning_curve)),
            *search_remarks(search),
            *unmet(rules),
            *(line for told in every for line in told.remarks),
        ),
        provenance=trained.provenance,
    )
