"""`[training] learning_curve`: what fewer training patients would have been worth, wherever results are told."""

import sqlite3
from pathlib import Path

import pytest

from medmllm.result_documents import EvaluationDocument
from medmllm.training import fold as one_fold
from medmllm.training.checkpoint import FOLDER
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import UNTRACKED, Outcome, train

CURVE = ("--set", 'training.arms=["text"]', "--set", "training.learning_curve=[0.5, 0.75]", "--set",
         "training.epochs=12", "--set", "training.text_learning_rate=5e-3")  # fmt: skip
FOLDS, STEPS = 2, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 studies of 24 patients; the note tells the outcome."""
    folder = tmp_path_factory.mktemp("learnable")
    write_nifti_cohort(folder, patients=24, without_image=range(32))
    return folder


def trained(data: Path, run: Path, *more: object) -> Outcome:
    return train(data / "studies", data / "labels.csv", run, *CURVE, *more)


def test_the_curve_of_a_cohort_that_can_be_learnt_stands_in_report_evaluation_terminal_and_mlflow(
    data: Path, tmp_path: Path
) -> None:
    outcome = trained(data, tmp_path / "run")
    assert outcome.code == 0, outcome.said
    run = tmp_path / "run"
    evaluation = EvaluationDocument.read(run / "evaluation.json")
    curve = evaluation.learning_curve
    assert curve is not None
    assert [point.fraction for point in curve.points] == [0.5, 0.75, 1.0]
    counts = [point.training_patients for point in curve.points]
    assert counts[-1] == tuple(fold.training_patients for fold in evaluation.folds)
    assert all(a < b < c for a, b, c in zip(*counts, strict=True))
    (auroc,) = (metric for metric in evaluation.arms[0].metrics if metric.name == "auroc")
    last = curve.points[-1].auroc
    assert (last.estimate, last.low, last.high) == (auroc.estimate, auroc.low, auroc.high)
    assert last.estimate is not None
    assert last.estimate > 0.9, "the note says it"
    assert "text AUROC by training patients: " in outcome.stdout
    assert "Learning curve" in (run / "report.html").read_text()
    assert any("training patients (" in remark for remark in evaluation.remarks)
    assert list((run / "mlflow_artifacts").glob("*/artifacts/figures/learning_curve.svg"))
    with sqlite3.connect(run / "mlflow.db") as base:
        tracked = dict(base.execute("select key, value from metrics where key like 'text_auroc_at_%'"))
    assert tracked == {f"text_auroc_at_{point.fraction}": point.auroc.estimate for point in curve.points[:-1]}
    # Of the smaller trainings nothing else is left.
    assert not (run / FOLDER).exists()
    assert len(list(run.rglob("fold_*.safetensors"))) == FOLDS + FOLDS  # of the package, here and in MLflow


def test_a_run_that_is_cut_off_within_the_curve_goes_on_there_to_the_same_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = (*UNTRACKED, "--set", "training.deterministic=true", "--set", "training.epochs=2")
    trained(data, tmp_path / "whole", *exact)
    fit, fitted = one_fold.fit, []

    def counted(*arguments: object, **named: object) -> object:
        fitted.append(1)
        if len(fitted) == FOLDS + 3:  # in the second fold of the second step
            raise KeyboardInterrupt
        return fit(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(one_fold, "fit", counted)
    trained(data, tmp_path / "cut", *exact)
    kept = {path.name for path in (tmp_path / "cut" / FOLDER).glob("*.done.safetensors")}
    assert kept == {f"text_{at}fold_{k}.done.safetensors" for at in ("", "at_0.5_") for k in range(FOLDS)}
    assert trained(data, tmp_path / "cut", *exact, "--resume").code == 0
    assert len(fitted) == FOLDS + 3 + 2  # what was done is not done again
    whole, again = (EvaluationDocument.read(tmp_path / run / "evaluation.json") for run in ("whole", "cut"))
    assert again.learning_curve == whole.learning_curve
    assert again.arms == whole.arms


def test_with_repeats_and_inner_folds_every_point_is_of_all_draws_and_networks(data: Path, tmp_path: Path) -> None:
    draws = (
        "--set",
        "training.repeats=2",
        "--set",
        "training.inner_folds=2",
        "--set",
        "training.learning_curve=[0.75]",
    )
    outcome = trained(data, tmp_path / "run", *UNTRACKED, "--set", "training.epochs=1", *draws)
    assert outcome.code == 0, outcome.said
    evaluation = EvaluationDocument.read(tmp_path / "run" / "evaluation.json")
    curve = evaluation.learning_curve
    assert curve is not None
    (auroc,) = (metric for metric in evaluation.arms[0].metrics if metric.name == "auroc")
    most, whole = curve.points
    assert (whole.auroc.estimate, whole.auroc.low) == (auroc.estimate, auroc.low)
    assert whole.training_patients == (12,) * 4  # 24 patients: all outside the test part, in two folds of two draws
    assert most.training_patients == (8,) * 4
    page = (tmp_path / "run" / "report.html").read_text()
    assert "training patients of a fold, on average; bars 95 % intervals, dashed: guessing; mean over 2 repeats" in page
    assert not (tmp_path / "run" / FOLDER).exists()


def test_parts_too_small_are_refused_before_anything_is_trained(data: Path, tmp_path: Path) -> None:
    outcome = trained(data, tmp_path / "run", *UNTRACKED, "--set", "training.learning_curve=[0.25]")
    assert outcome.code == 2
    assert "learning_curve: too few patients of class" in outcome.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_parts_with_too_few_patients_of_one_of_several_targets_are_refused(data: Path, tmp_path: Path) -> None:
    outcome = trained(data, tmp_path / "run", *UNTRACKED, "--target", "outcome", "--target", "grade>=4")
    assert outcome.code == 2
    assert "learning_curve: too few patients of class" in outcome.stderr
    assert not (tmp_path / "run" / "model").exists()
