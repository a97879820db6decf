"""`medmllm train` with sites left out: the folds are the sites, and their names stay in the label table."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from medmllm.config import TrainConfig
from medmllm.csv_tables import read_table
from medmllm.ingest.keys import Keyring
from medmllm.result_documents import EvaluationDocument
from medmllm.table_rows import OutOfFoldRow
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import SECRET, UNTRACKED, found_in_files, train

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))
SITES = ("Brackwater", "Ostermoor", "Quillhaven")
BY_SITE = (*UNTRACKED, "--set", 'training.arms=["text"]', "--set", "training.group_out=site")


def site_of(patient: int) -> str:
    """Patients 0, 6, ... with outcome 0 are at the third site, which has none of outcome 1."""
    return SITES[2] if patient % 6 == 0 else SITES[patient // 2 % 2]


def with_sites(folder: Path, name: Callable[[str], str] = lambda study: site_of(int(study[5:8]))) -> Path:
    """Write the cohort with a column of sites; `name`: study_id -> site."""
    labels = write_nifti_cohort(folder)
    with labels.open(newline="") as stream:
        rows = [row | {"site": name(row["study_id"])} for row in csv.DictReader(stream)]
    with labels.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return labels


def test_each_site_is_a_test_fold_and_its_name_is_in_nothing_that_is_written(tmp_path: Path) -> None:
    labels, run = with_sites(tmp_path / "data"), tmp_path / "run"
    outcome = train(labels.parent / "studies", labels, run, *BY_SITE)
    assert outcome.code == 0, outcome.stderr
    with labels.open(newline="") as stream:
        expected = {KEYRING.study(row["study_id"]): SITES.index(row["site"]) for row in csv.DictReader(stream)}
    rows = read_table(run / "out_of_fold.csv", OutOfFoldRow)
    assert {row.study_key: row.fold for row in rows} == expected  # sites in alphabetical order
    evaluation = EvaluationDocument.read(run / "evaluation.json")
    assert [fold.test_studies for fold in evaluation.folds] == [list(expected.values()).count(k) for k in range(3)]
    assert any("The site of fold 2 lacks a class" in remark for remark in evaluation.remarks)
    pooled = next(metric for metric in evaluation.arms[0].metrics if metric.name == "auroc").estimate
    assert pooled == pytest.approx(
        roc_auc_score([row.target == "1" for row in rows], [row.probabilities["1"] for row in rows])
    )
    assert TrainConfig.read(run / "settings.json").training.group_out == "site"
    assert found_in_files(run, SITES) == []
    assert [site for site in SITES if site in outcome.said] == []


def test_the_folds_of_sites_are_taken_again_from_the_runs_own_file(tmp_path: Path) -> None:
    labels = with_sites(tmp_path / "data")
    first = train(labels.parent / "studies", labels, tmp_path / "a", *BY_SITE)
    assert first.code == 0, first.stderr
    own = tmp_path / "a" / "splits.json"
    again = train(
        labels.parent / "studies", labels, tmp_path / "b", *BY_SITE, "--splits", own, "--set", "training.seed=9"
    )
    assert again.code == 0, again.stderr
    assert (tmp_path / "b" / "splits.json").read_text() == own.read_text()


def test_a_file_of_other_folds_is_refused_under_group_out(tmp_path: Path) -> None:
    labels = with_sites(tmp_path / "data")
    first = train(labels.parent / "studies", labels, tmp_path / "a", *BY_SITE, "--set", "training.group_out=")
    assert first.code == 0, first.stderr
    own = tmp_path / "a" / "splits.json"
    outcome = train(labels.parent / "studies", labels, tmp_path / "b", *BY_SITE, "--splits", own)
    assert outcome.code == 2
    assert "the folds of --splits do not each test one site" in " ".join(outcome.stderr.split())


def test_a_patient_at_two_sites_stops_the_run_before_a_study_is_read(tmp_path: Path) -> None:
    labels = with_sites(tmp_path / "data", lambda study: SITES[int(study[-1])] if "003" in study else SITES[2])
    outcome = train(labels.parent / "studies", labels, tmp_path / "run", *BY_SITE)
    assert outcome.code == 2
    assert "1 patients have studies at several sites" in " ".join(outcome.stderr.split())
    assert KEYRING.patient("P003") in outcome.stderr
    assert [word for word in (*SITES, "P003", "case-003") if word in outcome.said] == []
    assert not (tmp_path / "run" / "training_ledger.csv").exists()
