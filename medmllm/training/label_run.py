"""The result of a cross-validation of several labels, as far as it differs from that of one target.

arms -> CohortEvaluation, RUN/out_of_fold.csv with the label's truth, decision, probability and logit in columns
"""

from pathlib import Path

import numpy as np

from medmllm.csv_tables import write_table
from medmllm.evaluation.multilabel import LabelsOutOfFold, evaluate_labels
from medmllm.records import UNKNOWN, CohortEvaluation
from medmllm.table_rows import LabelsOutOfFoldRow
from medmllm.training.run import Trained


def evaluate_label_arms(trained: Trained) -> CohortEvaluation:
    """Return every arm's metrics, label by label and their means."""
    config = trained.config
    return evaluate_labels(
        _arms(trained),
        targets=np.array(trained.cohort.labels),
        patients=trained.patients,
        folds=trained.plan.test_fold,
        labels=trained.task.classes,
        confidence=config.evaluation.confidence,
        samples=config.evaluation.bootstrap_samples,
        seed=config.training.seed,
    )


def write_labels_out_of_fold(path: Path, trained: Trained) -> None:
    """Write one row per study and arm; a label that a study lacks has an empty cell in `target[LABEL]`."""
    names = trained.task.classes

    def row(arm: LabelsOutOfFold, k: int, fold: int) -> LabelsOutOfFoldRow:
        sample = trained.cohort.members[k].sample
        truth = trained.cohort.labels[k]
        return LabelsOutOfFoldRow(
            study_key=sample.study_key,
            patient_key=sample.patient_key,
            arm=arm.arm,
            fold=fold,
            target={name: label == 1 for name, label in zip(names, truth, strict=True) if label != UNKNOWN},
            predicted=dict(zip(names, map(bool, arm.predicted[k]), strict=True)),
            probabilities=dict(zip(names, map(float, arm.probabilities[k]), strict=True)),
            logits=dict(zip(names, map(float, arm.logits[k]), strict=True)),
        )

    rows = (row(arm, k, int(fold)) for arm in _arms(trained) for k, fold in enumerate(trained.plan.test_fold))
    write_table(path, LabelsOutOfFoldRow, rows, classes=names)


def _arms(trained: Trained) -> list[LabelsOutOfFold]:
    return [arm.out_of_fold for arm in trained.arms if isinstance(arm.out_of_fold, LabelsOutOfFold)]
