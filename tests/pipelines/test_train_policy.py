"""A model that does worse for one group breaks the policy: everything is written, and the exit code is 4."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import recall_score

from medmllm.csv_tables import read_table
from medmllm.ingest.keys import Keyring
from medmllm.result_documents import EvaluationDocument
from medmllm.table_rows import OutOfFoldRow
from tests.factories import write_nifti_study
from tests.pipelines.runs import SECRET, UNTRACKED, Outcome, train

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))
LEARNT = (*UNTRACKED, "--set", 'training.arms=["text"]', "--set", "training.epochs=12", "--set", "training.patience=12",
          "--set", "training.batch_size=8", "--set", "training.text_learning_rate=5e-3", "--set",
          "model.text_batch_norm=true")  # fmt: skip
GROUPS = ("--set", 'evaluation.subgroups.columns=["site", "age"]', "--set", "evaluation.subgroups.bands.age=[50]",
          "--set", "evaluation.subgroups.fewest_patients=8")  # fmt: skip
POLICY = ("--set", "policy.gap.auroc_gap=0.2")


def write_cohort(folder: Path, *, studies: int = 48) -> Path:
    """Notes only. `fair` is what the note says; so is `biased`, but at site B it is tossed. One study is at C."""
    rng, rows = np.random.default_rng(6), []
    for k in range(studies):
        marked, site = k % 2, "AB"[k // 2 % 2]
        note = f"HISTORY: {'marked cough and nodule' if marked else 'clear lungs and no cough'}.\n"
        write_nifti_study(folder / "studies" / f"case-{k:03d}", {}, note=note)
        biased = int(rng.integers(0, 2)) if site == "B" else marked
        rows.append((f"P{k:03d}", f"case-{k:03d}", marked, biased, "C" if k == 0 else site, 30 + 40 * (k // 4 % 2)))
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("patient_id", "study_id", "fair", "biased", "site", "age"), *rows])
    return folder / "studies"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def trained(studies: Path, run: Path, target: str, *more: str) -> Outcome:
    return train(studies, studies.parent / "labels.csv", run, *LEARNT, "--target", target, *more)


def test_a_biased_cohort_breaks_the_policy_and_a_fair_one_meets_it(cohort: Path, tmp_path: Path) -> None:
    outcome = trained(cohort, tmp_path / "biased", "biased", *GROUPS, *POLICY)
    assert outcome.code == 4, outcome.stderr
    assert "Policy not met (policy.gap.auroc_gap): auroc_gap between groups of site (A against B) is" in outcome.stdout
    assert "the policy asks for at most 0.2." in outcome.stdout
    evaluation = EvaluationDocument.read(tmp_path / "biased" / "evaluation.json")
    assert [(rule.rule, rule.met) for rule in evaluation.policy][:1] == [("policy.gap.auroc_gap", False)]
    written = {path.name for path in (tmp_path / "biased").iterdir()}
    assert {"model", "out_of_fold.csv", "report.html", "evaluation.json", "splits.json"} <= written
    assert "checkpoints" not in written
    assert "Policy: not met" in (tmp_path / "biased" / "report.html").read_text()

    fair = trained(cohort, tmp_path / "fair", "fair", *GROUPS, *POLICY)
    assert fair.code == 0, fair.stderr
    assert "Policy not met" not in fair.stdout
    assert "Policy: met" in (tmp_path / "fair" / "report.html").read_text()


def test_groups_are_measured_on_their_own_rows_of_the_out_of_fold_table(cohort: Path, tmp_path: Path) -> None:
    outcome = trained(cohort, tmp_path / "run", "biased", *GROUPS, "--set", "training.epochs=2")
    assert outcome.code == 0, "without a policy nothing is asked"
    evaluation = EvaluationDocument.read(tmp_path / "run" / "evaluation.json")
    site, age = evaluation.subgroups
    assert ([group.name for group in site.groups], site.too_small) == (["A", "B"], {"C": 1})
    assert [group.name for group in age.groups] == ["below 50", "50 and above"]
    with (cohort.parent / "labels.csv").open(newline="") as stream:
        site_of = {KEYRING.study(row["study_id"]): row["site"] for row in csv.DictReader(stream)}
    table = read_table(tmp_path / "run" / "out_of_fold.csv", OutOfFoldRow)
    for group in site.groups:
        rows = [row for row in table if site_of[row.study_key] == group.name]
        found = recall_score([row.target == "1" for row in rows], [row.predicted == "1" for row in rows])
        assert group.n == len(rows)
        assert group.metrics["sensitivity"].estimate == pytest.approx(found)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Groups of patients" in page
    assert '<h2 id="policy">' not in page


def test_a_rule_without_a_number_stops_the_run_before_it_starts(cohort: Path, tmp_path: Path) -> None:
    for more, message in (
        (POLICY, "columns names none"),
        (("--set", 'evaluation.subgroups.columns=["sex"]'), "'sex'"),
        (("--set", "policy.least.auroc=7"), "auroc = 7 lies outside"),
        (("--set", "policy.least.quadratic_kappa=0.5"), "quadratic_kappa is not measured"),
        (
            (*GROUPS, *POLICY, "--set", "evaluation.subgroups.fewest_patients=40"),
            "0 of its 3 have 40 patients of",
        ),
    ):
        outcome = trained(cohort, tmp_path / "run", "fair", *more)
        assert outcome.code == 2
        assert message in outcome.stderr
        assert not (tmp_path / "run" / "quality.csv").exists()
