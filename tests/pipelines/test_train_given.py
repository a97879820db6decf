"""`medmllm train` on what it is given: cohorts that lack something, folds made elsewhere, copies, and misuse."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from medmllm.csv_tables import read_table
from medmllm.model_documents import ModelCard
from medmllm.table_rows import ProblemRow, StudyRow
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import KEYRING, UNTRACKED, Trained, invoke, train
from tests.pipelines.trained import labels_of, out_of_fold

# --- other cohorts --------------------------------------------------------------------------


def test_a_cohort_without_notes_trains_the_image_arm_alone_and_says_so(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=8, without_note=range(99))
    outcome = train(tmp_path / "data" / "studies", labels, tmp_path / "run", *UNTRACKED)
    assert outcome.code == 0
    assert {row.arm for row in out_of_fold(tmp_path / "run")} == {"image"}
    assert ModelCard.read(tmp_path / "run" / "model" / "model.json").arm == "image"
    assert not list((tmp_path / "run").glob("model_*"))
    for arm in ("text", "fused"):
        assert f"No {arm} arm" in outcome.stdout
        assert f"No {arm} arm" in (tmp_path / "run" / "evaluation.json").read_text()


def test_notes_without_images_train_the_text_arm_alone(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=8, without_image=range(99))
    outcome = train(tmp_path / "data" / "studies", labels, tmp_path / "run", *UNTRACKED)
    assert outcome.code == 0
    assert {row.arm for row in out_of_fold(tmp_path / "run")} == {"text"}
    assert ModelCard.read(tmp_path / "run" / "model" / "model.json").contract.accepted == {}


def test_a_threshold_on_a_grade_is_learnt_like_a_column_of_its_own(tmp_path: Path, nifti_run: Trained) -> None:
    arms = ("--set", 'training.arms=["image"]')
    outcome = train(nifti_run.studies, nifti_run.labels, tmp_path / "run", *UNTRACKED, *arms, "--target", "grade>=3")
    assert outcome.code == 3
    card = ModelCard.read(tmp_path / "run" / "model" / "model.json")
    assert card.task.classes == ("not grade>=3", "grade>=3")
    labels = labels_of(nifti_run)
    for row in out_of_fold(tmp_path / "run"):
        assert (row.target == "grade>=3") == (int(labels[row.study_key]["grade"]) >= 3)


def test_studies_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=12)
    lines = labels.read_text().splitlines()
    patient, study, _, grade = lines[3].split(",")
    mistyped = lines[4].split(",")[1]
    lines[4] = lines[4].replace(mistyped, f"{mistyped}x")
    labels.write_text("\n".join([*lines[:3], f"{patient},{study},,{grade}", *lines[4:]]) + "\n")
    arms = ("--set", 'training.arms=["text"]')
    outcome = train(tmp_path / "data" / "studies", labels, tmp_path / "run", *UNTRACKED, *arms)
    assert outcome.code == 0
    assert KEYRING.study(study) not in {row.study_key for row in out_of_fold(tmp_path / "run")}
    assert "2 studies have no value for outcome and were left out, 1 of them without a row" in outcome.stdout
    assert "1 row of the label table fits no study" in outcome.stdout
    # What the remarks send to: it names the line, the study without a row, and no other.
    assert outcome.stdout.count("`medmllm index STUDIES --labels TABLE --out INDEX`") == 2
    index = tmp_path / "index"
    assert invoke("index", tmp_path / "data" / "studies", "--labels", labels, "--out", index).code == 0
    reasons = {row.code: row.reason for row in read_table(index / "problems.csv", ProblemRow)}
    assert reasons == {"row_without_study": "line 5 of the label table fits no study"}
    unjoined = [row.study_key for row in read_table(index / "studies.csv", StudyRow) if not row.in_table]
    assert unjoined == [KEYRING.study(mistyped)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--target", "outcom"), "outcome"),
        (("--target", "patient_id"), "patient_id"),
        (("--set", "training.folds=13"), "12 patients cannot fill 13 folds"),
        (("--set", "training.fold=3"), "did you mean 'folds'"),
        (("--set", "training.device=tpu"), "none of auto, cpu, cuda"),
        (("--set", "training.class_weights=[1, 2, 3]"), "3 weights, the target has 2 classes"),
        (("--set", "model.image_encoder=resnet11"), "resnet"),
    ],
)
def test_misuse_exits_2_with_one_line_and_no_result(
    tmp_path: Path, nifti_run: Trained, more: tuple[str, ...], message: str
) -> None:
    outcome = train(nifti_run.studies, nifti_run.labels, tmp_path / "run", *UNTRACKED, *more)
    assert outcome.code == 2
    assert message in outcome.stderr
    assert outcome.stdout == ""
    assert not (tmp_path / "run" / "evaluation.json").exists()


# --- given folds and what leaks -------------------------------------------------------------


def nnunet_folds(labels: Path) -> list[dict[str, list[str]]]:
    """Two folds by study id: patients turn about within each class."""
    with labels.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    second = [(int(row["patient_id"][1:]) // 2) % 2 for row in rows]
    sides = [[row["study_id"] for row, side in zip(rows, second, strict=True) if side == s] for s in (0, 1)]
    return [{"train": sides[0], "val": sides[1]}, {"train": sides[1], "val": sides[0]}]


def test_nnunets_folds_are_trained_on_as_given_and_the_runs_own_file_gives_them_again(
    tmp_path: Path, nifti_run: Trained
) -> None:
    given = tmp_path / "splits_final.json"
    given.write_text(json.dumps(nnunet_folds(nifti_run.labels)))
    arm = ("--set", 'training.arms=["text"]')
    first = train(nifti_run.studies, nifti_run.labels, tmp_path / "a", *UNTRACKED, *arm, "--splits", given)
    assert first.code == 3, first.stderr  # one study cannot be read
    refused = KEYRING.study("case-003-1")
    expected = [{KEYRING.study(one) for one in fold["val"]} - {refused} for fold in nnunet_folds(nifti_run.labels)]
    tested = [{row.study_key for row in out_of_fold(tmp_path / "a") if row.fold == fold} for fold in (0, 1)]
    assert tested == expected
    own = tmp_path / "a" / "splits.json"
    # The study that was refused still has a label: it is in no test part of the run's own file.
    again = train(nifti_run.studies, nifti_run.labels, tmp_path / "b", *UNTRACKED, *arm, "--splits", own)
    assert again.code == 3, again.stderr
    assert (tmp_path / "b" / "splits.json").read_text() == own.read_text()


def test_a_patient_in_both_halves_of_a_given_fold_stops_the_run_before_a_study_is_read(
    tmp_path: Path, nifti_run: Trained
) -> None:
    folds = nnunet_folds(nifti_run.labels)
    moved = next(one for one in folds[0]["train"] if one == "case-000-1")  # its patient has a second study
    folds[0]["train"].remove(moved)
    folds[0]["val"].append(moved)
    given = tmp_path / "splits_final.json"
    given.write_text(json.dumps(folds))
    outcome = train(nifti_run.studies, nifti_run.labels, tmp_path / "run", *UNTRACKED, "--splits", given)
    assert outcome.code == 2
    assert "1 patient is on two sides of fold 0" in outcome.stderr
    assert KEYRING.patient("P000") in outcome.stderr
    assert "case-000" not in outcome.said
    assert not (tmp_path / "run" / "training_ledger.csv").exists()


def test_an_image_copied_under_another_patient_stops_the_run(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path)
    studies = tmp_path / "studies"
    copied = (studies / "case-001-0" / "image.nii.gz").read_bytes()
    for other in ("case-002-0", "case-004-0", "case-005-0", "case-007-0", "case-008-0"):
        (studies / other / "image.nii.gz").write_bytes(copied)
    outcome = train(studies, labels, tmp_path / "run", *UNTRACKED)
    assert outcome.code == 2
    assert "the same pixels under two patients" in outcome.stderr
    assert 'training.same_pixels="warn"' in outcome.stderr
    assert "case-00" not in outcome.said
    assert not (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("column", "cell", "target", "message"),
    [
        ("outcome", "1", "outcome", "class"),
        ("outcome", "NaN", "outcome", "outcome"),
        ("grade", "2", "absent", "absent"),
    ],
)
def test_labels_that_cannot_be_learnt_stop_the_run_before_a_study_is_read(
    tmp_path: Path, nifti_run: Trained, column: str, cell: str, target: str, message: str
) -> None:
    table = pd.read_csv(nifti_run.labels, dtype=str)
    table[column] = cell
    labels = tmp_path / "labels.csv"
    table.to_csv(labels, index=False)
    outcome = train(nifti_run.studies, labels, tmp_path / "run", *UNTRACKED, "--target", target)
    assert outcome.code == 2
    assert message in outcome.stderr
    assert not (tmp_path / "run" / "training_ledger.csv").exists()
