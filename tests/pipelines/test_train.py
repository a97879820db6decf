"""`medmllm train` end to end: files, folds, ledger, tracking, the same again, and nothing in them that names anyone."""

import csv
import json
import re
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.config import TrainConfig
from medmllm.csv_tables import read_table
from medmllm.ingest.study_folder import index_folder
from medmllm.ingest.tables import read_label_table
from medmllm.model_documents import ModelCard
from medmllm.models.package import check_package, key_digest, load_package
from medmllm.preprocessing.sample import collate, prepare_sample
from medmllm.result_documents import EvaluationDocument
from medmllm.table_rows import LedgerRow
from medmllm.training.cohort import read_parts
from tests.factories import write_nifti_cohort
from tests.pipelines import runs
from tests.pipelines.conftest import SECRET_WORD
from tests.pipelines.runs import KEYRING, UNTRACKED, Trained, found_in_files, train
from tests.pipelines.trained import ARMS, labels_of, out_of_fold

# --- what is written ------------------------------------------------------------------------


def test_a_run_holds_the_packages_the_tables_the_report_and_the_tracking(nifti_run: Trained) -> None:
    assert {path.name for path in nifti_run.run.iterdir()} == {
        "model", "model_image", "model_text", "out_of_fold.csv", "evaluation.json", "report.html", "figures",
        "training_ledger.csv", "quality.csv", "settings.json", "splits.json", "splits_final.json",
        "leaks.csv", "mlflow.db", "mlflow_artifacts",
    }  # fmt: skip
    for folder, arm in (("model", "fused"), ("model_image", "image"), ("model_text", "text")):
        card = ModelCard.read(nifti_run.run / folder / "model.json")
        check_package(nifti_run.run / folder, card)
        assert card.arm == arm
        assert [fold.fold for fold in card.folds] == [0, 1]
        assert (card.contract.image is None) == (arm == "text")
        assert (card.contract.text is None) == (arm == "image")
    settings = TrainConfig.read(nifti_run.run / "settings.json")
    assert (settings.training.folds, settings.model.image_width, settings.training.weight_decay) == (2, 4, 1e-2)


def test_every_study_is_predicted_once_per_arm_by_the_fold_that_never_saw_its_patient(nifti_run: Trained) -> None:
    rows = out_of_fold(nifti_run.run)
    labels = labels_of(nifti_run)
    usable = labels.keys() - {KEYRING.study("case-003-1")}
    assert Counter((row.study_key, row.arm) for row in rows) == {(key, arm): 1 for key in usable for arm in ARMS}
    assert {row.target == labels[row.study_key]["outcome"] for row in rows} == {True}
    folds: dict[str, set[int]] = {}
    for row in rows:
        assert row.patient_key == KEYRING.patient(labels[row.study_key]["patient_id"])
        folds.setdefault(row.patient_key, set()).add(row.fold)
    # One fold per patient, the same in all arms: the other fold's model never trained on the patient.
    assert {len(found) for found in folds.values()} == {1}
    assert set.union(*folds.values()) == {0, 1}


def test_out_of_fold_logits_are_those_of_the_fold_model_in_the_package(ct_run: Trained) -> None:
    # The tuning and test parts share nothing, so the package's fold model must give the table's number again.
    package = load_package(ct_run.run / "model")
    rows = {row.study_key: row for row in out_of_fold(ct_run.run) if row.arm == "fused"}
    studies = index_folder(ct_run.studies, keyring=KEYRING, table=read_label_table(ct_run.labels)).studies
    assert {study.study_key for study in studies} == rows.keys()
    for study in studies:
        row = rows[study.study_key]
        member, contract = package.folds[row.fold], package.card.contract
        parts = read_parts(study, contract)
        sample = prepare_sample(study, parts.volumes, parts.note, contract, member.tokenizer)
        logit = member.network(collate([sample], contract, pad_token_id=member.pad_token_id)).item()
        fold = package.card.folds[row.fold]
        (offset,) = fold.offsets or (0.0,)
        assert row.logits["1"] == pytest.approx(logit / fold.temperature + offset, rel=1e-4, abs=1e-5)
        assert row.probabilities["1"] == pytest.approx(1 / (1 + np.exp(-row.logits["1"])))
        threshold = package.card.folds[row.fold].threshold
        assert row.predicted == str(int(row.probabilities["1"] >= threshold))


def test_the_evaluation_counts_the_cohort_and_scores_the_table_that_lies_beside_it(nifti_run: Trained) -> None:
    evaluation = EvaluationDocument.read(nifti_run.run / "evaluation.json")
    assert (evaluation.n, evaluation.patients, evaluation.excluded, evaluation.synthetic) == (15, 12, 1, False)
    assert sum(evaluation.class_counts.values()) == 15
    rows = out_of_fold(nifti_run.run)
    for arm in evaluation.arms:
        own = [row for row in rows if row.arm == arm.arm]
        expected = roc_auc_score([row.target == "1" for row in own], [row.probabilities["1"] for row in own])
        found = next(metric for metric in arm.metrics if metric.name == "auroc")
        assert found.estimate == pytest.approx(expected)
        assert f"{arm.arm:6s} AUROC {expected:.3f}" in nifti_run.outcome.stdout
    assert sum(fold.test_studies for fold in evaluation.folds) == 15
    assert all(f.training_studies + f.tuning_studies + f.test_studies == 15 for f in evaluation.folds)
    assert [arm.arm for arm in evaluation.arms] == list(ARMS)


def test_sets_follow_the_packaged_thresholds_and_the_evaluation_counts_them(nifti_run: Trained) -> None:
    evaluation = EvaluationDocument.read(nifti_run.run / "evaluation.json")
    for arm in evaluation.arms:
        folder = "model" if arm.arm == "fused" else f"model_{arm.arm}"
        card = ModelCard.read(nifti_run.run / folder / "model.json")
        rows = [row for row in out_of_fold(nifti_run.run) if row.arm == arm.arm]
        for row in rows:
            thresholds = card.folds[row.fold].conformal_thresholds
            assert thresholds is not None
            limits = dict(zip(card.task.classes, thresholds, strict=True))
            assert row.conformal_set == {name: 1 - row.probabilities[name] <= limits[name] for name in limits}
            assert row.abstained == (sum(row.conformal_set.values()) != 1)
        assert arm.conformal is not None
        assert arm.conformal.asked == card.conformal_coverage == 0.9
        assert {own.name: (own.n, own.covered) for own in arm.conformal.classes} == {
            name: (
                sum(row.target == name for row in rows),
                sum(row.target == name and row.conformal_set[name] for row in rows),
            )
            for name in card.task.classes
        }
        assert arm.conformal.abstained == pytest.approx(sum(bool(row.abstained) for row in rows) / len(rows))


def test_a_study_that_cannot_be_read_is_left_out_and_listed(nifti_run: Trained) -> None:
    assert nifti_run.outcome.code == 3
    ledger = nifti_run.run / "training_ledger.csv"
    assert f"1 labelled study was refused: {ledger} lists it" in nifti_run.outcome.stdout
    (row,) = read_table(nifti_run.run / "training_ledger.csv", LedgerRow)
    assert (row.study_key, row.patient_key) == (KEYRING.study("case-003-1"), KEYRING.patient("P003"))
    assert (row.stage, row.code) == ("read", "nifti_unreadable")
    assert "cannot be read" in row.reason


def test_a_cohort_without_faults_leaves_an_empty_ledger_and_exits_0(ct_run: Trained) -> None:
    assert ct_run.outcome.code == 0
    assert read_table(ct_run.run / "training_ledger.csv", LedgerRow) == []
    assert not (ct_run.run / "mlflow.db").exists()  # tracking.enabled = false


def test_the_package_remembers_patients_and_studies_by_digest_alone(nifti_run: Trained) -> None:
    card = ModelCard.read(nifti_run.run / "model" / "model.json")
    rows = out_of_fold(nifti_run.run)
    assert set(card.training_patients) == {key_digest(row.patient_key) for row in rows}
    assert set(card.training_studies) == {key_digest(row.study_key) for row in rows}
    text = (nifti_run.run / "model" / "model.json").read_text()
    assert [row.study_key for row in rows if row.study_key in text or row.patient_key in text] == []
    reference = pd.read_parquet(nifti_run.run / "model" / "reference.parquet")
    assert len(reference) == 15
    assert not re.search(r"(pt|st|se)-[0-9a-f]{16}", reference.to_csv())
    pd.testing.assert_frame_equal(reference, reference.sort_values(list(reference.columns), ignore_index=True))


def test_the_model_accepts_what_the_cohort_was_like_and_half_as_much_more(ct_run: Trained) -> None:
    accepted = ModelCard.read(ct_run.run / "model" / "model.json").contract.accepted["ct"]
    assert accepted.modalities == ("CT",)
    for axis, spacing in enumerate((9.0, 9.0, 12.0)):  # of the small cohort; acceptance_margin = 0.5
        assert accepted.spacing_mm[axis].low == pytest.approx(spacing / 1.5)
        assert accepted.spacing_mm[axis].high == pytest.approx(spacing * 1.5)


# --- tracking -------------------------------------------------------------------------------


def test_mlflow_holds_one_parent_and_a_child_per_arm_and_fold(nifti_run: Trained) -> None:
    with sqlite3.connect(nifti_run.run / "mlflow.db") as base:
        runs = dict(base.execute("select run_uuid, name from runs").fetchall())
        parents = dict(base.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'").fetchall())
        states = {state for (state,) in base.execute("select status from runs")}
        metrics = base.execute("select run_uuid, key from metrics").fetchall()
        params = dict(base.execute("select key, value from params").fetchall())
    (parent,) = set(runs) - set(parents)
    assert runs[parent] == "outcome"
    assert set(parents.values()) == {parent}
    assert sorted(runs[child] for child in parents) == sorted(f"{arm} fold {k}" for arm in ARMS for k in (0, 1))
    assert states == {"FINISHED"}
    for child in parents:
        kept = {name for run, name in metrics if run == child}
        assert kept == {"train_loss", "tuning_loss", "temperature", "threshold"}
    assert {f"{arm}_auroc" for arm in ARMS} <= {name for run, name in metrics if run == parent}
    assert (params["training.folds"], params["target"]) == ("2", "outcome")


def test_mlflow_holds_the_figures_of_the_report_as_files(nifti_run: Trained) -> None:
    names = {"roc.svg", "decision_curve.svg", *(f"reliability_{arm}.svg" for arm in ARMS)}
    [kept] = (nifti_run.run / "mlflow_artifacts").glob("*/artifacts/figures")
    for folder in (nifti_run.run / "figures", kept):
        assert {path.name for path in folder.iterdir()} == names
    with sqlite3.connect(nifti_run.run / "mlflow.db") as base:
        children = {run for (run,) in base.execute("select run_uuid from tags where key = 'mlflow.parentRunId'")}
    assert kept.parents[1].name not in children  # of the parent run


# --- no one is named ------------------------------------------------------------------------


def test_nothing_that_names_anyone_is_written_or_said(nifti_run: Trained) -> None:
    with nifti_run.labels.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    words = {SECRET_WORD, SECRET_WORD.lower(), "image.nii", str(nifti_run.studies), *(r["study_id"] for r in rows)}
    assert found_in_files(nifti_run.run, words) == []
    assert [word for word in words if word in nifti_run.outcome.said] == []
    patients = re.compile(r"\bP0\d\d\b")
    texts = [file for file in nifti_run.run.rglob("*") if file.suffix in (".csv", ".json", ".toml")]
    assert len(texts) > 10
    assert [file.name for file in texts if patients.search(file.read_text())] == []
    assert not patients.search(nifti_run.outcome.said)
    assert "Preparing studies" in nifti_run.outcome.stderr


def test_the_dicom_run_names_no_one_either(ct_run: Trained) -> None:
    with ct_run.labels.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    words = {"SYN-0", "SYNTHETIC^PHANTOM", *(row["study_id"] for row in rows)}
    assert found_in_files(ct_run.run, words) == []
    assert [word for word in words if word in ct_run.outcome.said] == []


# --- the same again -------------------------------------------------------------------------


def test_the_same_cohort_and_seed_give_the_same_numbers_whatever_the_secret(tmp_path: Path, nifti_run: Trained) -> None:
    def numbers(run: Path) -> list[tuple[object, ...]]:
        rows = [row for row in out_of_fold(run) if row.arm == "fused"]
        return [(row.fold, row.target, row.logits["1"]) for row in rows]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SECRET", "0f" * 32 + "\n")
        with runs.site_key(tmp_path):
            train(nifti_run.studies, nifti_run.labels, tmp_path / "run", *UNTRACKED)
    assert numbers(tmp_path / "run") == numbers(nifti_run.run)
    keys = {row.study_key for row in out_of_fold(tmp_path / "run")}
    assert not keys & {row.study_key for row in out_of_fold(nifti_run.run)}


def test_a_finished_run_is_written_over_only_when_asked_and_keeps_nothing_of_before(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=8)
    studies, arms = tmp_path / "data" / "studies", ("--set", 'training.arms=["text"]')
    assert train(studies, labels, tmp_path / "run", *UNTRACKED, "--set", "training.folds=3").code == 0
    assert (tmp_path / "run" / "model_image").is_dir()
    before = (tmp_path / "run" / "evaluation.json").read_bytes()
    again = train(studies, labels, tmp_path / "run", *UNTRACKED, *arms)
    assert again.code == 2
    assert "already holds evaluation.json" in again.stderr
    assert (tmp_path / "run" / "evaluation.json").read_bytes() == before
    assert train(studies, labels, tmp_path / "run", *UNTRACKED, *arms, "--overwrite").code == 0
    assert not list((tmp_path / "run").glob("model_*"))
    assert not (tmp_path / "run" / "model" / "fold_2.safetensors").exists()
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["training"]["folds"] == 2
