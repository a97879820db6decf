"""`medmllm train` says which modality its fused model ignores: on what the note alone tells, and on what needs both."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from medmllm.records import Volume
from medmllm.result_documents import EvaluationDocument
from tests.factories import write_nifti_study
from tests.pipelines.runs import UNTRACKED, Outcome, train

LEARNT = (*UNTRACKED, "--set", "evaluation.permutations=5", "--set", 'training.arms=["fused"]',
          "--set", "training.epochs=14", "--set", "training.patience=14", "--set", "training.batch_size=8",
          "--set", "training.text_learning_rate=5e-3",
          "--set", "image.size=[4, 5, 3]", "--set", "image.intensity=window", "--set", "image.window=[-100, 100]",
          "--set", "model.fusion_width=32", "--set", "model.text_batch_norm=true", "--set", "model.dropout=0.0",
          "--set", "model.modality_dropout=0.0")  # fmt: skip


def write_cohort(folder: Path, *, studies: int = 48) -> Path:
    """Image bright or dark, note with one of two words, independent; `note_alone` is the word, `both` their XOR."""
    rng, rows = np.random.default_rng(3), []
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    for k in range(studies):
        bright, marked = k % 2, k // 2 % 2
        voxels = rng.normal(40.0 if bright else -40.0, 10.0, (6, 5, 4)).astype(np.float32)
        note = f"HISTORY: {'marked cough and nodule' if marked else 'clear lungs and no cough'}.\n"
        write_nifti_study(
            folder / "studies" / f"case-{k:03d}", {"image": Volume(voxels, affine, None, None)}, note=note
        )
        rows.append((f"P{k:03d}", f"case-{k:03d}", marked, bright ^ marked))
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("patient_id", "study_id", "note_alone", "both"), *rows])
    return folder / "studies"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def trained(studies: Path, run: Path, target: str, *more: str) -> tuple[Outcome, EvaluationDocument]:
    outcome = train(studies, studies.parent / "labels.csv", run, *LEARNT, "--target", target, *more)
    assert outcome.code == 0, outcome.stderr
    return outcome, EvaluationDocument.read(run / "evaluation.json")


def test_a_model_that_goes_by_the_note_alone_is_said_to_ignore_the_image(cohort: Path, tmp_path: Path) -> None:
    outcome, evaluation = trained(cohort, tmp_path / "run", "note_alone")
    image, text = evaluation.modality_use
    assert (image.modality, image.verdict, text.modality, text.verdict) == ("image", "ignored", "text", "used")
    assert (image.n, image.patients, image.permutations, image.bound) == (48, 48, 5, 0.02)
    sentence = "The fused model ignores the image: given another patient's, its AUROC falls by"
    assert sentence in outcome.stdout
    assert any(remark.startswith(sentence) for remark in evaluation.remarks)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "The fused model ignores the image" in page
    assert "Which modalities a model uses" in page
    assert "ignores the note" not in outcome.stdout


def test_a_model_that_needs_both_is_said_to_ignore_neither(cohort: Path, tmp_path: Path) -> None:
    outcome, evaluation = trained(cohort, tmp_path / "run", "both")
    assert [(use.modality, use.verdict) for use in evaluation.modality_use] == [("image", "used"), ("text", "used")]
    for use in evaluation.modality_use:  # without either there is nothing to go by
        assert use.permuted.estimate == pytest.approx(0.5, abs=0.15)
    assert "ignores" not in outcome.stdout


def test_folds_that_were_kept_bring_their_permuted_predictions_along(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("--set", "training.epochs=1")
    _, whole = trained(cohort, tmp_path / "whole", "both", *quick)
    data, run = cohort.parent, tmp_path / "run"

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medmllm.pipelines.train.write_run", cut)
        train(cohort, data / "labels.csv", run, *LEARNT, "--target", "both", *quick)
    monkeypatch.setattr("medmllm.training.fold.fit", cut)  # nothing is trained again
    _, resumed = trained(cohort, run, "both", *quick, "--resume")
    assert len(resumed.modality_use) == 2
    assert resumed.modality_use == whole.modality_use


def test_no_permutations_no_verdict(cohort: Path, tmp_path: Path) -> None:
    outcome, evaluation = trained(
        cohort, tmp_path / "run", "both", "--set", "training.epochs=1", "--set", "evaluation.permutations=0"
    )
    assert evaluation.modality_use == ()
    assert "model uses" not in outcome.stdout
    assert "Which modalities a model uses" not in (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["evaluation"]["permutations"] == 0


def test_an_arm_with_one_modality_is_not_asked(cohort: Path, tmp_path: Path) -> None:
    _, evaluation = trained(
        cohort, tmp_path / "run", "both", "--set", "training.epochs=1", "--set", 'training.arms=["text"]'
    )
    assert evaluation.modality_use == ()
