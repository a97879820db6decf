"""Cross-validate models on a folder of studies, and write the model and what it can do.

STUDIES + LABELS -> index -> read once -> splits -> audit of leakage -> an arm per modality and one fused, on the same
folds -> RUN/: model/, out_of_fold.csv, evaluation.json, report.html, ledger, quality.csv, splits.json, settings.json;
MLflow
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from medmllm.config import TrainConfig, flatten
from medmllm.csv_tables import check_writable, write_table
from medmllm.documents import Task
from medmllm.ingest.ordering import order_classes
from medmllm.ingest.study_folder import folder_of
from medmllm.ingest.table_inputs import check_inputs, settle_columns
from medmllm.ingest.tables import assign_targets, parse_target
from medmllm.pipelines.index import label_file, read_index
from medmllm.pipelines.linkage_table import write_linkage
from medmllm.pipelines.progress import progress_bar
from medmllm.pipelines.training_output import write_run
from medmllm.provenance import file_digest, stamp
from medmllm.quality.gate import log_warnings
from medmllm.result_documents import EvaluationDocument
from medmllm.scoring.mlflow_model import save_mlflow_model
from medmllm.table_rows import LedgerRow, QualityRow
from medmllm.training.cohort import Cohort, draft_contract, read_cohort
from medmllm.training.cross_validation import cross_validate, usable_arms
from medmllm.training.groups import read_groups
from medmllm.training.losses import check_weights
from medmllm.training.planning import look_ahead, settle_folds
from medmllm.training.policy import check_policy, unmet
from medmllm.training.resuming import check_unfinished
from medmllm.training.run import (
    Trained,
    left_out,
    summary,
    track_result,
)
from medmllm.training.starting_weights import check_start, weights_input
from medmllm.training.tracking import parent_run


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How the training went."""

    evaluation: EvaluationDocument
    refused: int  # labelled studies that could not be used
    summary: str  # a few lines for the terminal
    unmet: tuple[str, ...]  # rules of the policy, in words


def run(
    studies: Path,
    *,
    labels: Path | None,
    target: str,
    out: Path,
    config: TrainConfig,
    linkage: Path | None = None,
    overwrite: bool = False,
    splits: Path | None = None,
    resume: bool = False,
    synthetic: bool = False,
) -> TrainResult:
    """Train, evaluate out of fold, and write RUN.

    Args:
        studies: Folder of DICOM or NIfTI studies, or a list of them.
        labels: Label table; None takes the list of studies, or the table in its folder.
        target: Column, or a threshold on one.
        out: RUN.
        config: Resolved settings.
        linkage: Where to write key -> original identifier; None writes none.
        overwrite: Write over an earlier run.
        splits: File with the folds; None makes them.
        resume: Go on with an interrupted run in `out`; where there is none, start.
        synthetic: The cohort is synthetic; every file and page says so.

    Raises:
        MisuseError: Settings, labels or split cannot be used.
        MedmllmError: The run failed.
    """
    cores = os.cpu_count() or 1
    torch.set_num_threads(config.training.threads or cores)
    check_policy(config)
    check_start(config)  # a wrong device or file of weights should not cost an index
    parsed, source = parse_target(target), labels or label_file(studies)
    check_inputs(config.table, parsed)
    check_writable(out, overwrite=overwrite, marker="evaluation.json", studies=folder_of(studies))
    check_unfinished(out, resume=resume, overwrite=overwrite)
    index = read_index(studies, labels=labels)
    if linkage is not None:
        write_linkage(linkage, index, out=out)
    found = assign_targets(index.studies, parsed)
    if config.task.ordered:
        found = order_classes(found, parsed, config.task.order)
    check_weights(config.training, len(found.classes))
    labelled = [study for study in index.studies if study.study_key in found.by_study]
    groups = read_groups(labelled, config.evaluation.subgroups)
    given = look_ahead(index.studies, found.by_study, config.training, splits)
    task = Task.of(parsed.expression, found.classes, ordered=config.task.ordered)
    draft = draft_contract(config.image, config.text.reading, settle_columns(labelled, config.table))
    with progress_bar("Preparing studies", len(found.by_study)) as more:
        cohort = read_cohort(index.studies, found.by_study, draft, policy=config.quality, workers=cores, advance=more)
    _tell_what_was_read(cohort, out)
    config.write(out / "settings.json")
    arms, said = usable_arms(cohort, config)
    plan, leaks = settle_folds(cohort, config.training, given, out)
    said += [*left_out(index, found, parsed.expression, synthetic=synthetic), *leaks]
    provenance = stamp(
        f"medmllm train --studies STUDIES --labels LABELS --target '{parsed.expression}' --out RUN",
        seed=config.training.seed,
        inputs={"labels": file_digest(source), "split": plan.digest} | weights_input(config.model),
    )
    with parent_run(config.tracking, folder=out, name=parsed.expression, save_model=save_mlflow_model) as tracked:
        named = {"target": task.target, "split_digest": plan.digest}
        tracked.log_params(flatten(config.model_dump(mode="json")) | named)
        tracked.log_tags(named)
        with progress_bar("Training fold models", len(arms) * len(plan.folds)) as more:
            done = cross_validate(
                arms, cohort, plan, config, task.classes, out=out, tracked=tracked, advance=more, resume=resume
            )
        trained = Trained(task, cohort, plan, done, config, provenance, synthetic, groups)
        evaluation = write_run(trained, out, said)
        track_result(tracked, evaluation, out, register_as=config.tracking.register_as)
    return TrainResult(evaluation, len(cohort.refused), summary(evaluation, out), unmet(evaluation.policy))


def _tell_what_was_read(cohort: Cohort, out: Path) -> None:
    ledger = [LedgerRow.of(study.study_key, study.patient_key, refusal) for study, refusal in cohort.refused]
    write_table(out / "training_ledger.csv", LedgerRow, ledger)
    write_table(out / "quality.csv", QualityRow, (QualityRow.of(key, finding) for key, finding in cohort.findings))
    log_warnings(Counter(finding.code for _, finding in cohort.findings if finding.severity == "warn"))
