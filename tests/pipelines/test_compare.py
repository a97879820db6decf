"""`medmllm compare` on runs that it may and may not compare: the tables, the page, and what it says to misuse."""

import csv
import shutil
from pathlib import Path

import pandas as pd
import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.csv_tables import read_table, write_table
from medmllm.reporting.comparison import ComparisonDocument, ComparisonRow, write_comparison
from medmllm.result_documents import EvaluationDocument
from medmllm.table_rows import OutOfFoldRow
from medmllm.told_settings import differing_settings
from tests.pipelines.runs import UNTRACKED, Trained, invoke, train
from tests.reporting.html_page import Page


@pytest.fixture(scope="module")
def shorter(nifti_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same studies and folds, trained for an epoch less."""
    run = tmp_path_factory.mktemp("shorter") / "run"
    train(nifti_run.studies, nifti_run.labels, run, *UNTRACKED, "--set", "training.epochs=1")
    return run


@pytest.fixture(scope="module")
def oracle(nifti_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first run with the truth in place of what its fused arm said."""
    run = tmp_path_factory.mktemp("oracle") / "run"
    shutil.copytree(nifti_run.run, run)
    classes = EvaluationDocument.read(run / "evaluation.json").task.classes
    rows = []
    for row in read_table(run / "out_of_fold.csv", OutOfFoldRow):
        if row.arm == "fused":
            sure = {name: 0.99 if name == row.target else 0.01 for name in classes}
            logits = {classes[1]: 4.6 if row.target == classes[1] else -4.6}
            row = row.model_copy(update={"probabilities": sure, "logits": logits, "predicted": row.target})
        rows.append(row)
    write_table(run / "out_of_fold.csv", OutOfFoldRow, rows, classes=classes)
    return run


@pytest.fixture(scope="module")
def compared(nifti_run: Trained, shorter: Path, oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "out"
    outcome = invoke("compare", nifti_run.run, shorter, oracle, "--out", out)
    assert outcome.code == 0
    return out


def test_every_run_has_the_numbers_of_its_own_evaluation(nifti_run: Trained, shorter: Path, compared: Path) -> None:
    # The same studies, patients, samples and seed: not one digit may differ from what the training wrote.
    comparison = ComparisonDocument.read(compared / "comparison.json")
    assert [(run.name, run.arm) for run in comparison.runs][:2] == [
        (str(nifti_run.run), "fused"),
        (str(shorter), "fused"),
    ]
    for run, folder in zip(comparison.runs, (nifti_run.run, shorter), strict=False):
        evaluation = EvaluationDocument.read(folder / "evaluation.json")
        [fused] = [arm for arm in evaluation.arms if arm.arm == "fused"]
        assert run.metrics == fused.metrics
        assert comparison.split_digest == evaluation.split_digest


def test_a_run_that_knows_the_truth_is_best_and_marked_so(compared: Path) -> None:
    comparison = ComparisonDocument.read(compared / "comparison.json")
    assert [bool(run.best_in) for run in comparison.runs] == [False, False, True]
    assert {"brier", "ece"} <= set(comparison.runs[2].best_in)
    best = {row.metric for row in read_table(compared / "comparison.csv", ComparisonRow) if row.best}
    assert best == set(comparison.runs[2].best_in)
    marks = [element for element in Page.read(compared / "comparison.html").all("strong") if element.line == "best"]
    assert len(marks) == 1 + len(best)  # the caption explains the word
    (caption,) = (
        one for one in Page.read(compared / "comparison.html").all("caption") if one.line.startswith("Estimate")
    )
    assert "never said of Calibration slope, Calibration intercept, Sensitivity, Specificity, which" in caption.line


def test_the_table_and_the_page_hold_the_numbers_of_the_document(compared: Path) -> None:
    comparison = ComparisonDocument.read(compared / "comparison.json")
    rows = read_table(compared / "comparison.csv", ComparisonRow)
    estimates = {(row.metric, row.run): (row.estimate, row.low, row.high) for row in rows if row.minus is None}
    assert estimates == {(m.name, r.name): (m.estimate, m.low, m.high) for r in comparison.runs for m in r.metrics}
    differences = {(r.metric, r.run, r.minus): (r.estimate, r.low, r.high) for r in rows if r.minus is not None}
    assert differences == {(d.metric, d.first, d.second): (d.estimate, d.low, d.high) for d in comparison.differences}
    with (compared / "comparison.csv").open(newline="") as stream:
        assert next(csv.reader(stream)) == ["metric", "run", "minus", "estimate", "low", "high", "best"]
    shown = {
        element.attributes["value"]
        for element in Page.read(compared / "comparison.html").elements
        if element.tag == "data"
    }
    numbers = [value for found in (*estimates.values(), *differences.values()) for value in found if value is not None]
    assert {repr(float(number)) for number in numbers} <= shown


def test_the_settings_that_differ_are_listed_and_no_others(compared: Path) -> None:
    comparison = ComparisonDocument.read(compared / "comparison.json")
    assert comparison.settings == {"training.epochs": ("2", "1", "2")}


def test_a_setting_that_is_empty_in_a_run_is_shown_as_empty(compared: Path, tmp_path: Path) -> None:
    comparison = ComparisonDocument.read(compared / "comparison.json")
    settings = {"training.group_out": ("", "scanner", "")}
    write_comparison(tmp_path, comparison.model_copy(update={"settings": settings}))
    rows = [row.line for row in Page.read(tmp_path / "comparison.html").all("tr")]
    assert "training.group_out (empty) scanner (empty)" in rows


def test_settings_that_name_folders_are_listed_by_the_folders_own_names() -> None:
    here, there, same = (
        load_config(TrainConfig, "train", overrides=[f"text.encoder=/{place}/bert", f"training.cache=/{place}/cache"])
        for place in ("home/mueller", "mnt", "mnt")
    )
    assert differing_settings([here, there], {"tracking": True}) == {
        "text.encoder": ("FOLDER/bert", "FOLDER/bert"), "training.cache": ("CACHE", "CACHE"),
    }  # fmt: skip
    assert differing_settings([there, same], {"tracking": True}) == {}


def test_the_page_says_that_many_comparisons_were_made_and_loads_nothing(compared: Path) -> None:
    page = Page.read(compared / "comparison.html")
    assert page.faults == []
    text = (compared / "comparison.html").read_text()
    assert "30 differences are shown, each with its own 95 % interval and no correction for their number" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert "<script" not in text


def test_equal_runs_have_no_difference_and_no_best(nifti_run: Trained, tmp_path: Path) -> None:
    shutil.copytree(nifti_run.run, tmp_path / "copy")
    rows = read_table(tmp_path / "copy" / "out_of_fold.csv", OutOfFoldRow)
    classes = EvaluationDocument.read(nifti_run.run / "evaluation.json").task.classes
    write_table(tmp_path / "copy" / "out_of_fold.csv", OutOfFoldRow, rows[::-1], classes=classes)  # order tells nothing
    outcome = invoke("compare", nifti_run.run, tmp_path / "copy", "--out", tmp_path / "out", "--arm", "text")
    assert outcome.code == 0
    comparison = ComparisonDocument.read(tmp_path / "out" / "comparison.json")
    assert [run.arm for run in comparison.runs] == ["text", "text"]
    assert {(d.estimate, d.low, d.high) for d in comparison.differences if d.metric == "auroc"} == {(0.0, 0.0, 0.0)}
    assert [run.best_in for run in comparison.runs] == [(), ()]
    assert comparison.settings == {}
    assert "No run is best" in outcome.stdout


def test_runs_of_another_split_are_misuse_with_both_digests(nifti_run: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other"
    seed = ("--set", "training.seed=21", "--set", 'training.arms=["text"]')
    train(nifti_run.studies, nifti_run.labels, other, *UNTRACKED, *seed)
    outcome = invoke("compare", nifti_run.run, other, "--out", tmp_path / "out")
    digests = [EvaluationDocument.read(run / "evaluation.json").split_digest for run in (nifti_run.run, other)]
    assert digests[0] != digests[1]
    assert outcome.code == 2
    assert [digest for digest in digests if digest not in outcome.stderr] == []
    assert "Train one of them again on the same studies and labels" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_runs_of_another_target_are_misuse(nifti_run: Trained, tmp_path: Path) -> None:
    evaluation = EvaluationDocument.read(nifti_run.run / "evaluation.json")
    other = tmp_path / "other"
    shutil.copytree(nifti_run.run, other)
    task = evaluation.task.model_copy(update={"target": "grade>=3"})
    evaluation.model_copy(update={"task": task}).write(other / "evaluation.json")
    outcome = invoke("compare", nifti_run.run, other, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "was trained for outcome" in outcome.stderr
    assert "for grade>=3" in outcome.stderr


def test_a_table_that_was_changed_after_training_is_refused(nifti_run: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(nifti_run.run, other)
    rows = read_table(other / "out_of_fold.csv", OutOfFoldRow)
    classes = EvaluationDocument.read(other / "evaluation.json").task.classes
    write_table(other / "out_of_fold.csv", OutOfFoldRow, rows[:-1], classes=classes)  # the last study of the fused arm
    outcome = invoke("compare", nifti_run.run, other, "--out", tmp_path / "out")
    assert outcome.code == 1
    assert "changed after training" in outcome.stderr


def test_a_run_of_a_version_without_repeats_has_to_be_trained_again(nifti_run: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(nifti_run.run, other)
    pd.read_csv(other / "out_of_fold.csv", dtype=str).drop(columns="repeat").to_csv(
        other / "out_of_fold.csv", index=False
    )
    outcome = invoke("compare", nifti_run.run, other, "--out", tmp_path / "out")
    assert outcome.code == 1
    assert "out_of_fold.csv has no column 'repeat': an earlier version of medmllm wrote it" in outcome.stderr
    assert f"(in {other}): train that run again" in " ".join(outcome.stderr.split())


def test_an_arm_that_a_run_lacks_is_misuse_and_names_those_it_has(
    nifti_run: Trained, shorter: Path, tmp_path: Path
) -> None:
    outcome = invoke("compare", nifti_run.run, shorter, "--out", tmp_path / "out", "--arm", "sound")
    assert outcome.code == 2
    assert "has no arm 'sound'; it has image, text, fused" in outcome.stderr


def test_one_run_alone_or_twice_and_folders_without_one_are_misuse(nifti_run: Trained, tmp_path: Path) -> None:
    for runs in ([nifti_run.run], [nifti_run.run, nifti_run.run]):
        outcome = invoke("compare", *runs, "--out", tmp_path / "out")
        assert (outcome.code, "two or more different RUN folders" in outcome.stderr) == (2, True)
    outcome = invoke("compare", nifti_run.run, tmp_path, "--out", tmp_path / "out")
    assert (outcome.code, "holds no evaluation.json" in outcome.stderr) == (2, True)


def test_an_earlier_comparison_is_written_over_only_when_asked(
    nifti_run: Trained, shorter: Path, tmp_path: Path
) -> None:
    command = ("compare", nifti_run.run, shorter, "--out", tmp_path / "out")
    assert [invoke(*command).code, invoke(*command).code, invoke(*command, "--overwrite").code] == [0, 2, 0]
