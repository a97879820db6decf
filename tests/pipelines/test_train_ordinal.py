"""A training for grades, from the label table to scored and explained studies."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, roc_auc_score

from medmllm.model_documents import ModelCard
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import EXPLAINED, UNTRACKED, Trained, invoke, rename_studies, score, site_key, train

GRADES = ("clear", "marked", "severe")  # in the order of the alphabet by chance, so the other one is declared
ORDER = ("severe", "marked", "clear")


@pytest.fixture(scope="module")
def graded_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("graded_run")
    labels = write_nifti_cohort(folder / "data", classes=3)
    table = pd.read_csv(labels, dtype=str)
    table["severity"] = [GRADES[int(outcome)] for outcome in table["outcome"]]
    table.to_csv(labels, index=False)
    studies = folder / "data" / "studies"
    with site_key(folder):
        outcome = train(studies, labels, folder / "run", *UNTRACKED, *ordinal(ORDER), "--target", "severity")
        yield Trained(studies, labels, folder / "run", outcome)


def ordinal(order: tuple[str, ...] = ()) -> tuple[str, ...]:
    return ("--set", "task.kind=ordinal", "--set", f"task.order={json.dumps(order)}")


def test_the_declared_order_is_that_of_the_card_and_the_tables(graded_run: Trained) -> None:
    assert graded_run.outcome.code == 0, graded_run.outcome.stderr
    card = ModelCard.read(graded_run.run / "model" / "model.json")
    assert (card.task.kind, card.task.classes) == ("ordinal", ORDER)
    columns = pd.read_csv(graded_run.run / "out_of_fold.csv").columns
    assert [name for name in columns if name.startswith("prob")] == [f"probabilities[{name}]" for name in ORDER]


def test_the_evaluation_is_that_of_scikit_learn_on_the_table_beside_it(graded_run: Trained) -> None:
    rows = pd.read_csv(graded_run.run / "out_of_fold.csv").query("arm == 'fused'")
    chances = rows[[f"probabilities[{name}]" for name in ORDER]].to_numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    truth, predicted = ([ORDER.index(name) for name in rows[column]] for column in ("target", "predicted"))
    np.testing.assert_array_equal(predicted, (chances.cumsum(axis=1) >= 0.5).argmax(axis=1))
    arms = json.loads((graded_run.run / "evaluation.json").read_text())["arms"]
    found = {m["name"]: m["estimate"] for arm in arms if arm["arm"] == "fused" for m in arm["metrics"]}
    assert found["quadratic_kappa"] == pytest.approx(cohen_kappa_score(truth, predicted, weights="quadratic"))
    assert found["mean_absolute_error"] == pytest.approx(mean_absolute_error(truth, predicted))
    upper = roc_auc_score(np.array(truth) == 2, chances[:, 2])
    assert found["auroc[>=clear]"] == pytest.approx(upper)
    assert found["auroc"] == pytest.approx((roc_auc_score(np.array(truth) >= 1, 1 - chances[:, 0]) + upper) / 2)


def test_the_report_names_the_cuts_and_what_its_curves_are(graded_run: Trained) -> None:
    page = (graded_run.run / "report.html").read_text()
    assert "AUROC [&gt;=marked]" in page
    assert "Quadratic kappa" in page
    assert "mean of the curves of all cuts" in page


def test_the_package_scores_and_explains_new_studies_by_their_median_grade(graded_run: Trained, tmp_path: Path) -> None:
    write_nifti_cohort(tmp_path, patients=3, classes=3, seed=9)
    rename_studies(tmp_path / "studies", "new-")
    outcome = score(tmp_path / "studies", graded_run.run / "model", tmp_path / "out", *EXPLAINED)
    assert outcome.code == 0, outcome.stderr
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    chances = rows[[f"probabilities[{name}]" for name in ORDER]].to_numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    median = (chances.cumsum(axis=1) >= 0.5).argmax(axis=1)
    assert rows["predicted"].tolist() == [ORDER[k] for k in median]
    np.testing.assert_allclose(rows["probability"], chances[np.arange(len(rows)), median])
    assert (rows["interval_low"] <= rows["interval_high"]).all()
    explained = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("studies/*/explanation.json")]
    assert len(explained) == len(rows)
    assert max(one["completeness_error"] for one in explained) < 0.01


def test_graded_runs_are_compared_by_ordinal_measures(graded_run: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other"
    done = train(
        graded_run.studies, graded_run.labels, other, *UNTRACKED, *ordinal(ORDER), "--target", "severity",
        "--set", "training.loss=focal", "--set", 'training.arms=["text"]',
    )  # fmt: skip
    assert done.code == 0, done.stderr
    outcome = invoke("compare", graded_run.run, other, "--arm", "text", "--out", tmp_path / "compared")
    assert outcome.code == 0, outcome.stderr
    assert {"quadratic_kappa", "auroc[>=clear]"} <= set(pd.read_csv(tmp_path / "compared" / "comparison.csv")["metric"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--target", "severity"), "no numbers, so their order is not known"),
        (("--target", "grade>=2"), "is a comparison"),
        (("--target", "severity", "--set", 'task.order=["clear", "severe"]'), "lacks 1 of the classes"),
        (("--target", "severity", "--set", "task.kind=grades"), "Input should be 'classes', 'ordinal' or 'survival'"),
        (("--target", "severity", "--set", "task.kind=classes", "--set", 'task.order=["clear"]'), "only an ordinal"),
    ],
)
def test_an_order_that_does_not_fit_exits_2_before_a_study_is_read(
    graded_run: Trained, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    outcome = train(graded_run.studies, graded_run.labels, tmp_path / "run", *UNTRACKED, *ordinal(), *more)
    assert outcome.code == 2
    assert message in outcome.stderr
    assert not (tmp_path / "run" / "training_ledger.csv").exists()
