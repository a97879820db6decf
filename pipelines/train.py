"""Cross-validate models on a folder of studies, and write the model and what it can do.

STUDIES + LABELS -> index -> read once -> splits -> audit of leakage -> an arm per modality and one fused, on the same
folds -> RUN/: model/, out_of_fold.csv, evaluation.json, report.html, search.csv, ledger, quality.csv, splits.json,
settings.json; MLflow
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medmllm.config import TrainConfig, flatten
from medmllm.csv_tables import check_writable
from medmllm.ingest.labels import assign_task
from medmllm.ingest.study_folder import folder_of
from medmllm.ingest.survival import event_columns
from medmllm.ingest.table_inputs import check_inputs
from medmllm.ingest.tables import parse_target
from medmllm.pipelines.index import label_file, read_index
from medmllm.pipelines.linkage_table import check_linkage, write_linkage
from medmllm.pipelines.progress import progress_bar
from medmllm.pipelines.training_input import read_and_split
from medmllm.pipelines.training_output import write_run
from medmllm.provenance import file_digest, stamp
from medmllm.result_documents import EvaluationDocument
from medmllm.scoring.mlflow_model import save_mlflow_model
from medmllm.told_settings import train_command, without_paths
from medmllm.training.arms import main_arm
from medmllm.training.candidates import count_epochs, doing
from medmllm.training.cross_validation import cross_validate
from medmllm.training.groups import read_groups
from medmllm.training.header_columns import with_headers
from medmllm.training.held import Called
from medmllm.training.planning import look_ahead
from medmllm.training.policy import check_gaps, check_policy, unmet
from medmllm.training.run import WHOLE, Trained, left_out, summary, track_result
from medmllm.training.same_run import check_run_folder
from medmllm.training.starting_weights import check_starts, report_weights, weights_input
from medmllm.training.task_checks import check_task
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
    targets: Sequence[str],
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
        targets: Column, or a threshold on one; several are learnt side by side.
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
    torch.set_num_threads(config.training.threads or os.cpu_count() or 1)
    check_policy(config)
    check_starts(config)  # a wrong device or file of weights should not cost an index
    parsed, source = [parse_target(target) for target in targets], labels or label_file(studies)
    for one in (*parsed, *event_columns(config.task)):
        check_inputs(config.table, one)
    check_writable(out, overwrite=overwrite, marker=WHOLE, studies=folder_of(studies))
    check_run_folder(out, config, resume=resume, overwrite=overwrite)
    check_linkage(linkage, out)
    index = read_index(studies, labels=labels)
    if linkage is not None:
        write_linkage(linkage, index)
    found = assign_task(index.studies, parsed, config.task)
    task = found.task
    check_task(config, task)
    told = with_headers(index.studies, config)
    labelled = [study for study in told if study.study_key in found.by_study]
    groups = read_groups(labelled, config.evaluation.subgroups)
    check_gaps(config, groups, labelled, task, found.by_study)
    called = Called.of(task)
    given = look_ahead(told, found.by_study, config.training, splits, called=called)
    ready = read_and_split(
        labelled, found.by_study, config, out, among=folder_of(studies), given=given, called=called, resume=resume
    )
    cohort, plan, arms, refused = ready.cohort, ready.plan, ready.arms, len(ready.cohort.refused)
    wanted = task.target if task.survival is None else f"{task.target} or {task.survival.event}"
    said = [*ready.lacking, *left_out(index, found.missing, wanted, synthetic=synthetic), *ready.leaks]
    provenance = stamp(
        train_command(config, targets, labels=labels is not None, splits=splits is not None),
        seed=config.training.seed,
        inputs={"labels": file_digest(source), "split": plan.digest} | weights_input(config),
    )
    report_weights(config, out, provenance, reads_images=cohort.has_images)
    with parent_run(config.tracking, folder=out, name=task.target, save_model=save_mlflow_model) as tracked:
        named = {"target": task.target, "split_digest": plan.digest}
        tracked.log_params(flatten(without_paths(config).model_dump(mode="json")) | named)
        tracked.log_tags(named)
        with progress_bar(doing(config, arms), count_epochs(config, arms, main_arm(arms), plan)) as more:
            done = cross_validate(
                arms, cohort, plan, config, task, out=out, tracked=tracked, advance=more, resume=resume
            )
        trained = Trained(task, cohort, plan, done, config, provenance, synthetic, groups)
        evaluation = write_run(trained, out, said)
        track_result(tracked, evaluation, out, config)
    return TrainResult(evaluation, refused, summary(evaluation, out, refused=refused), unmet(evaluation.policy))
