"""`medmllm score` where something goes wrong: one study costs itself alone, misuse and damage stop the run."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from medmllm.csv_tables import read_table
from medmllm.ingest.dicom_regrid import Regrid
from medmllm.models.classifier import StudyClassifier
from medmllm.records import SeriesReference, Volume
from medmllm.result_documents import ScoringSummary
from medmllm.table_rows import ProblemRow
from medmllm.training import cohort
from tests.pipelines.runs import (
    EXPLAINED,
    KEYRING,
    Outcome,
    Trained,
    found_in_files,
    score,
)
from tests.pipelines.scored import BROKEN, ledger, predictions

# --- what goes wrong with one study ---------------------------------------------------------


def test_an_unforeseen_error_costs_its_study_alone_and_its_message_is_kept_back(
    nifti_scored: tuple[Path, Outcome],
    nifti_folder: Path,
    nifti_run: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = KEYRING.study("next-case-001-0")
    image = nifti_folder / "next-case-001-0" / "image.nii.gz"

    def read(reference: SeriesReference, *, regrid: Regrid) -> Volume:
        if image in reference.files:
            raise ZeroDivisionError("patient Huber")
        return READ_VOLUME(reference, regrid=regrid)

    monkeypatch.setattr(cohort, "read_volume", read)
    outcome = score(nifti_folder, nifti_run.run / "model", tmp_path / "out")
    refused = {row.study_key: row for row in ledger(tmp_path / "out")}
    assert refused.keys() == {victim, KEYRING.study(BROKEN)}
    assert (refused[victim].stage, refused[victim].code) == ("read", "unforeseen")
    assert "ZeroDivisionError" in refused[victim].reason
    others = [row for row in predictions(nifti_scored[0]) if row.study_key != victim]
    assert [row.study_key for row in predictions(tmp_path / "out")] == [row.study_key for row in others]
    assert outcome.code == 3
    assert victim in outcome.log
    assert "Huber" not in outcome.said
    assert found_in_files(tmp_path / "out", ["Huber"]) == []


READ_VOLUME = cohort.read_volume


def test_a_batch_that_fails_as_a_whole_costs_its_culprit_alone(
    nifti_scored: tuple[Path, Outcome],
    nifti_folder: Path,
    nifti_run: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    culprit = KEYRING.study("next-case-002-0")
    forward = StudyClassifier.forward

    def failing(self: StudyClassifier, batch: Any, *more: Any, **named: Any) -> Any:
        if culprit in batch.study_keys:
            raise RuntimeError("out of memory at Huber")
        return forward(self, batch, *more, **named)

    monkeypatch.setattr(StudyClassifier, "forward", failing)
    outcome = score(nifti_folder, nifti_run.run / "model", tmp_path / "out", "--batch-size", 16)
    refused = {row.study_key: (row.stage, row.code, row.retryable) for row in ledger(tmp_path / "out")}
    assert refused[culprit] == ("predict", "unforeseen", True)
    assert len(refused) == 2
    rows = {row.study_key: row.probability for row in predictions(tmp_path / "out")}
    expected = {row.study_key: row.probability for row in predictions(nifti_scored[0]) if row.study_key != culprit}
    assert rows == pytest.approx(expected, rel=1e-5)
    assert "Huber" not in outcome.said


def test_a_failing_explanation_leaves_the_score_and_is_told_in_the_report(
    nifti_folder: Path, nifti_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(nifti_folder / "next-case-000-0", tmp_path / "studies" / "one")

    def fail(*args: Any, **named: Any) -> None:
        raise ValueError("Huber")

    monkeypatch.setattr("medmllm.scoring.study_folder.explain_study", fail)
    outcome = score(tmp_path / "studies", nifti_run.run / "model", tmp_path / "out", *EXPLAINED)
    assert outcome.code == 0
    assert "Huber" not in outcome.said
    (row,) = predictions(tmp_path / "out")
    home = tmp_path / "out" / "studies" / row.study_key
    assert {path.name for path in home.iterdir()} == {"prediction.json", "report.html"}
    assert "ValueError" in (home / "report.html").read_text()
    assert ScoringSummary.read(tmp_path / "out" / "summary.json").explained == 0


# --- misuse and damage ----------------------------------------------------------------------


def test_results_are_written_over_only_when_asked_and_nothing_of_before_remains(
    nifti_folder: Path, nifti_run: Trained, tmp_path: Path
) -> None:
    for name in ("next-case-000-0", "next-case-001-0"):
        shutil.copytree(nifti_folder / name, tmp_path / "studies" / name)
    model, out = nifti_run.run / "model", tmp_path / "out"
    assert score(tmp_path / "studies", model, out, *EXPLAINED).code == 0
    again = score(tmp_path / "studies", model, out)
    assert again.code == 2
    assert "already holds predictions.csv" in again.stderr
    shutil.rmtree(tmp_path / "studies" / "next-case-001-0")
    assert score(tmp_path / "studies", model, out, "--overwrite").code == 0
    (row,) = predictions(out)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        "predictions.csv", "ledger.csv", "quality.csv", "problems.csv", "summary.json", "index.html",
        f"studies/{row.study_key}/prediction.json",
    }  # fmt: skip


@pytest.mark.parametrize("what", ["model", "studies", "device", "key"])
def test_misuse_exits_2_with_one_line_and_no_result(
    what: str, nifti_folder: Path, nifti_run: Trained, tmp_path: Path
) -> None:
    model = tmp_path / "absent" if what == "model" else nifti_run.run / "model"
    studies = tmp_path / "absent" if what == "studies" else nifti_folder
    more = {"device": ("--device", "tpu"), "key": ("--set", "batchsize=3")}.get(what, ())
    outcome = score(studies, model, tmp_path / "out", *more)
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.splitlines()[-1].startswith("medmllm: ")
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_changed_weights_are_refused_before_any_study_is_read(
    nifti_folder: Path, nifti_run: Trained, tmp_path: Path
) -> None:
    shutil.copytree(nifti_run.run / "model", tmp_path / "model")
    weights = tmp_path / "model" / "fold_1.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    outcome = score(nifti_folder, tmp_path / "model", tmp_path / "out")
    assert outcome.code == 1
    assert "fold_1.safetensors of the model package was changed" in outcome.stderr
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_a_folder_without_any_study_fails_and_says_what_is_there_instead(nifti_run: Trained, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "remarks.xyz").write_text("no image")
    outcome = score(tmp_path / "studies", nifti_run.run / "model", tmp_path / "out")
    assert outcome.code == 1
    assert "holds no study" in outcome.stderr
    assert len(read_table(tmp_path / "out" / "problems.csv", ProblemRow)) == 1
