"""A training for three labels, some of them missing, from the label table to scored and explained studies."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.model_documents import ModelCard
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import EXPLAINED, UNTRACKED, Outcome, Trained, invoke, rename_studies, score, site_key, train

LABELS = ("outcome", "effusion", "grade>=4")
TARGETS = [word for name in LABELS for word in ("--target", name)]


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """24 patients with 32 studies; one study has no label at all."""
    folder = tmp_path_factory.mktemp("labelled_run")
    labels = write_nifti_cohort(folder / "data", patients=24)
    table = pd.read_csv(labels, dtype=str)
    number = table["patient_id"].str[1:].astype(int)
    table["effusion"] = np.where(number % 5 == 0, "", (number // 2 % 2).astype(str))
    table.loc[number == 7, ["outcome", "effusion", "grade"]] = ""
    table.loc[number == 8, "grade"] = "n/a"
    table.to_csv(labels, index=False)
    with site_key(folder):
        outcome = train(folder / "data" / "studies", labels, folder / "run", *UNTRACKED, *TARGETS)
        yield Trained(folder / "data" / "studies", labels, folder / "run", outcome)


def out_of_fold(trained: Trained, arm: str = "fused") -> pd.DataFrame:
    return pd.read_csv(trained.run / "out_of_fold.csv").query("arm == @arm").reset_index(drop=True)


def test_the_card_holds_the_labels_with_a_temperature_and_an_operating_point_each(labelled_run: Trained) -> None:
    assert labelled_run.outcome.code == 0, labelled_run.outcome.stderr
    card = ModelCard.read(labelled_run.run / "model" / "model.json")
    assert (card.task.kind, card.task.classes) == ("multilabel", LABELS)
    assert card.operating_points is not None
    for k, name in enumerate(LABELS):
        thresholds = [fold.labels[k].threshold for fold in card.folds if fold.labels is not None]
        assert len(thresholds) == 2
        assert card.operating_points[name] == pytest.approx(np.mean(thresholds))
    assert card.conformal_coverage is None


def test_the_table_has_a_column_per_label_and_empty_cells_where_it_is_missing(labelled_run: Trained) -> None:
    rows = out_of_fold(labelled_run)
    assert len(rows) == 31  # of 32 studies, less the one without any label
    given = pd.read_csv(labelled_run.labels)
    for name, column in (("outcome", "outcome"), ("effusion", "effusion"), ("grade>=4", "grade")):
        assert rows[f"target[{name}]"].notna().sum() == given[column].notna().sum()
        chances = 1 / (1 + np.exp(-rows[f"logits[{name}]"]))
        np.testing.assert_allclose(rows[f"probabilities[{name}]"], chances)


def test_the_evaluation_is_that_of_scikit_learn_on_the_table_beside_it(labelled_run: Trained) -> None:
    rows = out_of_fold(labelled_run)
    evaluation = json.loads((labelled_run.run / "evaluation.json").read_text())
    metrics = next(arm["metrics"] for arm in evaluation["arms"] if arm["arm"] == "fused")
    found = {m["group"]: m for m in metrics if m["name"] == "auroc"}
    expected = {}
    for name in LABELS:
        known = rows[f"target[{name}]"].notna()
        truth = rows.loc[known, f"target[{name}]"].astype(bool)
        expected[name] = roc_auc_score(truth, rows.loc[known, f"probabilities[{name}]"])
        assert (found[name]["estimate"], found[name]["n"]) == (pytest.approx(expected[name]), known.sum())
        assert evaluation["class_counts"][name] == truth.sum()
    assert found["all"]["estimate"] == pytest.approx(np.mean(list(expected.values())))
    assert "1 studies have no value for outcome, effusion, grade>=4" in " ".join(evaluation["remarks"])


def test_the_report_tells_of_each_label(labelled_run: Trained) -> None:
    page = (labelled_run.run / "report.html").read_text()
    assert "By label, of the studies where it is known" in page
    assert "grade&gt;=4" in page
    assert "ROC" not in page.replace("AUROC", "")  # curves are of one target


def test_the_package_scores_and_explains_new_studies_label_by_label(labelled_run: Trained, tmp_path: Path) -> None:
    write_nifti_cohort(tmp_path, patients=3, seed=9)
    rename_studies(tmp_path / "studies", "new-")
    outcome = score(tmp_path / "studies", labelled_run.run / "model", tmp_path / "out", *EXPLAINED)
    assert outcome.code == 0, outcome.stderr
    points = ModelCard.read(labelled_run.run / "model" / "model.json").operating_points
    assert points is not None
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False)
    for _, row in rows.iterrows():
        chances = {name: row[f"probabilities[{name}]"] for name in LABELS}
        reached = [name for name in LABELS if chances[name] >= points[name]]
        assert row["predicted"] == ("; ".join(reached) or "none")
        assert row["probability"] == max(chances[name] for name in reached or LABELS)
        assert row["interval_low"] <= row["interval_high"]
        folder = tmp_path / "out" / "studies" / row["study_key"]
        explained = json.loads((folder / "explanation.json").read_text())
        said = json.loads((folder / "prediction.json").read_text())
        assert chances[explained["explained_class"]] == row["probability"]
        assert said["probability_of"] == explained["explained_class"]
        assert explained["completeness_error"] < 0.01
        calibrated = dict(zip(LABELS, said["logits"], strict=True))[explained["explained_class"]]
        assert explained["logit"] == pytest.approx(calibrated, abs=1e-4)
        assert "Probability of each label" in (folder / "report.html").read_text()
    assert "the label that leads" in (tmp_path / "out" / "index.html").read_text()


def trained_again(labelled_run: Trained, out: Path, *more: object) -> Outcome:
    return train(labelled_run.studies, labelled_run.labels, out, *UNTRACKED, "--set", 'training.arms=["text"]', *more)


def test_the_runs_own_folds_are_trained_on_again(labelled_run: Trained, tmp_path: Path) -> None:
    outcome = trained_again(labelled_run, tmp_path / "run", *TARGETS, "--splits", labelled_run.run / "splits.json")
    assert outcome.code == 0, outcome.stderr
    digests = [json.loads((run / "splits.json").read_text())["digest"] for run in (labelled_run.run, tmp_path / "run")]
    assert digests[0] == digests[1]


def test_one_site_after_the_other_is_left_out(labelled_run: Trained, tmp_path: Path) -> None:
    table = pd.read_csv(labelled_run.labels, dtype=str)
    table["site"] = (table["patient_id"].str[1:].astype(int) // 8).astype(str)
    labels = tmp_path / "labels.csv"
    table.to_csv(labels, index=False)
    more = (*TARGETS, "--set", "training.group_out=site", "--set", 'training.arms=["text"]')
    outcome = train(labelled_run.studies, labels, tmp_path / "run", *UNTRACKED, *more)
    assert outcome.code == 0, outcome.stderr
    assert len(json.loads((tmp_path / "run" / "splits.json").read_text())["folds"]) == 3


def test_a_policy_judges_the_means_over_the_labels(labelled_run: Trained, tmp_path: Path) -> None:
    outcome = trained_again(labelled_run, tmp_path / "run", *TARGETS, "--set", "policy.least.auroc=0.999")
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    (rule,) = evaluation["policy"]
    means = [m for m in evaluation["arms"][0]["metrics"] if (m["name"], m["group"]) == ("auroc", "all")]
    assert rule["value"] == means[0]["estimate"]
    assert outcome.code == (0 if rule["met"] else 4)


def test_several_labels_are_not_compared(labelled_run: Trained, tmp_path: Path) -> None:
    outcome = invoke("compare", labelled_run.run, labelled_run.run.parent, "--out", tmp_path)
    assert outcome.code == 2
    assert "was trained for several labels" in outcome.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--target", "outcome", "--target", "grade"), "'grade' is a label of two classes, and its column has 5"),
        ((*TARGETS, "--set", "task.kind=ordinal"), "labels of two classes each, without an order"),
        ((*TARGETS, "--set", "training.class_weights=[1, 2]"), "weights of one target's classes"),
        ((*TARGETS, "--set", 'table.columns=["effusion"]'), "names 'effusion', which the target 'effusion' is made of"),
        ((*TARGETS, "--set", 'evaluation.subgroups.columns=["grade"]'), "groups are told of one target"),
        ((*TARGETS, "--set", 'policy.may_not_ignore=["image"]'), "tested for one target"),
        ((*TARGETS, "--set", "evaluation.calibration=isotonic"), "is what several labels can have"),
        ((*TARGETS, "--set", "training.folds=20"), "fewer than the 20 folds"),
    ],
)
def test_labels_that_cannot_be_learnt_exit_2_before_a_study_is_read(
    labelled_run: Trained, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    outcome = trained_again(labelled_run, tmp_path / "run", *more)
    assert outcome.code == 2
    assert message in outcome.stderr
    assert not (tmp_path / "run" / "training_ledger.csv").exists()
