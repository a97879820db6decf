"""A time to an event learnt beside a binary target and grades, each missing in some studies, from table to score."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.model_documents import ModelCard
from medmllm.result_documents import EvaluationDocument
from medmllm.training.run import headline
from tests.pipelines.runs import EXPLAINED, UNTRACKED, Outcome, Trained, invoke, rename_studies, score, site_key, train
from tests.pipelines.survival_cohort import harrell, write_survival_cohort
from tests.pipelines.trained import evaluation, metric, table_of

TARGETS = ("marked", "grade", "days")
SETTINGS = (
    *UNTRACKED, *(word for name in TARGETS for word in ("--target", name)),
    "--set", "task.kinds.days=survival", "--set", "task.kinds.grade=ordinal", "--set", "task.event=death",
    "--set", "task.horizons=[200, 400]", "--set", "task.intervals=4", "--set", "evaluation.coverage=0.6",
    "--set", "training.batch_size=16", "--set", "training.epochs=6", "--set", 'training.arms=["text", "fused"]',
    "--set", "model.text_batch_norm=true", "--set", "image.intensity=window", "--set", "image.window=[-100, 200]",
)  # fmt: skip
PATIENTS = 90


def write_cohort(folder: Path) -> Path:
    """Write 90 patients: `marked` and `grade` follow the true risk; cells of all three columns are missing."""
    labels = write_survival_cohort(folder, patients=PATIENTS)
    table = pd.read_csv(labels, dtype={"days": str})
    number = np.arange(PATIENTS)
    table["marked"] = np.where(table["true_risk"] > 0, "yes", "no")
    table["grade"] = np.digitize(table["true_risk"], [-1.5, 1.5]).astype(str)
    table.loc[number % 5 == 0, "marked"] = ""
    table.loc[number % 7 == 3, "grade"] = ""
    table.loc[number % 6 == 1, "days"] = ""
    table.loc[number == 31, ["marked", "grade", "days"]] = ""
    table["ward"] = np.where(number % 2, "A", "B")
    table.to_csv(labels, index=False)
    return labels


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("beside")
    labels = write_cohort(folder / "data")
    with site_key(folder):
        outcome = train(folder / "data" / "studies", labels, folder / "run", *SETTINGS)
        yield Trained(folder / "data" / "studies", labels, folder / "run", outcome)


def target(trained: Trained, name: str) -> dict[str, Any]:
    return next(own for own in evaluation(trained)["targets"] if own["task"]["target"] == name)


def test_the_time_is_evaluated_as_the_only_target_would_be_where_it_is_known(beside: Trained) -> None:
    assert beside.outcome.code == 0, beside.outcome.stderr
    told, table = target(beside, "days"), table_of(beside)
    known = table[table["time[days]"].notna()]
    assert told["n"] == len(known) == pd.read_csv(beside.labels)["days"].notna().sum()
    found = harrell(known["time[days]"], known["event[days]"].astype(bool), known["logits[death by 400 days]"])
    c_index = metric(told, "fused", "c_index")
    assert c_index["estimate"] == pytest.approx(found)
    assert c_index["low"] > 0.6
    assert told["class_counts"] == {
        "death": (known["event[days]"].astype(bool)).sum(),
        "censored": (~known["event[days]"].astype(bool)).sum(),
    }
    assert [one["arm"] for one in told["survival"]] == ["text", "fused"]


def test_the_other_targets_are_evaluated_where_they_are_known_and_the_means_are_theirs(beside: Trained) -> None:
    table, told = table_of(beside), evaluation(beside)
    known = table[table["target[marked]"].notna()]
    marked = metric(target(beside, "marked"), "fused", "auroc")
    assert marked["n"] == len(known) < len(table) == PATIENTS - 1
    expected = roc_auc_score(known["target[marked]"] == "marked=yes", known["probabilities[marked=yes]"])
    assert marked["estimate"] == pytest.approx(expected)
    grade = metric(target(beside, "grade"), "fused", "auroc")
    assert metric(told, "fused", "auroc")["estimate"] == pytest.approx((expected + grade["estimate"]) / 2)
    assert {one["name"] for one in told["arms"][0]["metrics"]} == {"auroc", "balanced_accuracy"}
    assert told["class_counts"]["days: death"] + told["class_counts"]["days: censored"] == target(beside, "days")["n"]


def test_the_table_tells_of_the_time_what_a_run_of_it_alone_would(beside: Trained) -> None:
    table, card = table_of(beside), ModelCard.read(beside.run / "model" / "model.json")
    assert not [name for name in table if name.startswith(("conformal_set[death", "abstained[days", "target[days"))]
    free = table["event_free[400 days]"]
    np.testing.assert_allclose(table["logits[death by 400 days]"], np.log(-np.log(free)))
    np.testing.assert_allclose(table["probabilities[death by 400 days]"], 1 - free)
    assert (table["median_time[days]"].notna() == (free <= 0.5)).all()
    decided = [fold.targets["days"] for fold in card.folds]
    points = np.array([own.threshold for own in decided])[table["fold"]]
    assert (table["predicted[days]"] == np.where(1 - free >= points, "higher risk", "lower risk")).all()
    for fold, own in enumerate(decided):
        seen = table[table["event[days]"].eq(True) & (table["fold"] != fold)]["time[days]"]
        assert own.survival is not None
        assert own.survival.bounds[:3] == pytest.approx(np.quantile(seen, [0.25, 0.5, 0.75]))
        assert own.conformal_thresholds is None
        assert card.folds[fold].targets["grade"].conformal_thresholds is not None
    assert "Of days: temperature scaling of each hazard's distance" in card.calibration


def test_report_terminal_and_tracking_name_the_metrics_of_each_target(beside: Trained) -> None:
    page = (beside.run / "report.html").read_text()
    for words in ("Times to “death”", "Means over the targets with classes", "Kaplan-Meier curves of the fused arm"):
        assert words in page
    assert "</data> death, " in page  # how many stands first: "outcome=0 22" would be misread
    assert "days, known of" in beside.outcome.stdout
    assert "means over the targets with classes:" in beside.outcome.stdout
    tracked = headline(EvaluationDocument.read(beside.run / "evaluation.json"))
    assert tracked["fused_c_index_days"] == metric(target(beside, "days"), "fused", "c_index")["estimate"]
    assert tracked["fused_auroc_marked"] == metric(target(beside, "marked"), "fused", "auroc")["estimate"]
    assert "fused_auroc_days" not in tracked
    assert [use["metric"] for use in target(beside, "days")["modality_use"]] == ["C-index", "C-index"]


def test_new_studies_are_scored_in_every_target_and_the_time_is_explained_on_request(
    beside: Trained, tmp_path: Path
) -> None:
    write_survival_cohort(tmp_path, patients=2, seed=9)
    rename_studies(tmp_path / "studies", "new-")
    days = ("--set", "explain.target=days")
    outcome = score(tmp_path / "studies", beside.run / "model", tmp_path / "out", *EXPLAINED, *days)
    assert outcome.code == 0, outcome.stderr
    card = ModelCard.read(beside.run / "model" / "model.json")
    assert card.operating_points is not None
    for _, row in pd.read_csv(tmp_path / "out" / "predictions.csv").iterrows():
        chance = row["probabilities[death by 400 days]"]
        assert row["predictions[days]"] == ("higher risk" if chance >= card.operating_points["days"] else "lower risk")
        assert row["event_free[400 days]"] == pytest.approx(1 - chance)
        assert "death" not in row["predicted"]
        assert "undecided[days]" not in row
        folder = tmp_path / "out" / "studies" / row["study_key"]
        said = json.loads((folder / "prediction.json").read_text())
        assert said["survival"]["event_free"]["200 days"] == pytest.approx(row["event_free[200 days]"])
        explained = json.loads((folder / "explanation.json").read_text())
        assert explained["explained_class"] == "death by 400 days"
        assert explained["logit"] == pytest.approx(np.log(-np.log(1 - chance)), abs=1e-4)
        assert explained["logit"] == pytest.approx(said["logits"][-1], abs=1e-4)
        assert explained["completeness_error"] < 0.01
        page = (folder / "report.html").read_text()
        assert "Without “death”, by how long" in page
        assert "logarithm of the cumulative hazard until 400 days" in page
    assert "No death until 200 days" in (tmp_path / "out" / "index.html").read_text()


def again(beside: Trained, out: Path, *more: object) -> Outcome:
    return train(beside.studies, beside.labels, out, *SETTINGS, "--set", 'training.arms=["text"]', *more)


def test_a_cox_model_learns_beside_others_with_inner_folds_and_a_policy_of_its_own(
    beside: Trained, tmp_path: Path
) -> None:
    rule = ("--set", "policy.least.c_index[days]=0.99", "--set", "policy.gap.brier_gap[days]=1",
            "--set", 'evaluation.subgroups.columns=["ward"]')  # fmt: skip
    cox = ("--set", "task.survival_model=cox", "--set", "training.inner_folds=2", *rule)
    outcome = again(beside, tmp_path / "run", *cox)
    assert outcome.code == 4, outcome.stderr
    trained = Trained(beside.studies, beside.labels, tmp_path / "run", outcome)
    assert metric(target(trained, "days"), "text", "c_index")["low"] > 0.5
    excess = metric(target(trained, "days"), "text", "risk_excess", "400 days")
    assert abs(excess["estimate"]) < 0.15  # the baseline turns log-risks into shares that hold
    met = {rule["rule"]: rule["met"] for rule in evaluation(trained)["policy"]}
    assert met == {"policy.least.c_index[days]": False, "policy.gap.brier_gap[days]": True}
    metrics = {
        own["task"]["target"]: list(own["subgroups"][0]["groups"][0]["metrics"])
        for own in evaluation(trained)["targets"]
    }
    assert (metrics["marked"][0], metrics["days"][:2]) == ("auroc", ["c_index", "brier[200 days]"])
    scored = score(beside.studies, tmp_path / "run" / "model", tmp_path / "out")
    assert scored.code == 0, scored.stderr
    assert pd.read_csv(tmp_path / "out" / "predictions.csv")["event_free[200 days]"].between(0, 1).all()


@pytest.mark.parametrize(("name", "compared"), [("days", "c_index"), ("marked", "auroc")])
def test_runs_are_compared_in_one_of_their_targets(beside: Trained, tmp_path: Path, name: str, compared: str) -> None:
    shutil.copytree(beside.run, tmp_path / "other")
    outcome = invoke("compare", beside.run, tmp_path / "other", "--target", name, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (difference,) = (one for one in found["differences"] if one["metric"] == compared)
    assert (difference["estimate"], difference["low"], difference["high"]) == (0, 0, 0)
    own = next(one for one in found["runs"][0]["metrics"] if one["name"] == compared)
    assert own["estimate"] == pytest.approx(metric(target(beside, name), "fused", compared)["estimate"])
    assert found["n"] == target(beside, name)["n"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "task.kinds.marked=survival"), "2 are times to an event"),
        (("--set", "task.event="), "survival wants [task] event"),
        (("--set", "policy.least.auroc=0.6"), 'ask it of others alone ("auroc[marked]", "auroc[grade]")'),
        (("--set", "training.folds=40"), "too few for 40 folds"),
    ],
)
def test_what_cannot_be_is_refused_before_a_study_is_read(
    beside: Trained, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    outcome = again(beside, tmp_path / "run", *more)
    assert outcome.code == 2, outcome.stderr
    assert message in outcome.stderr
    assert "Preparing" not in outcome.stderr


def test_each_target_has_a_learning_curve_of_its_own_metric(beside: Trained, tmp_path: Path) -> None:
    outcome = again(beside, tmp_path / "run", "--set", "training.learning_curve=[0.5]", "--set", "training.epochs=1")
    assert outcome.code == 0, outcome.stderr
    trained = Trained(beside.studies, beside.labels, tmp_path / "run", outcome)
    for name, told in (("marked", "AUROC"), ("grade", "AUROC"), ("days", "C-index")):
        own = target(trained, name)
        assert own["learning_curve"]["metric"] == told
        last = metric(own, "text", {"AUROC": "auroc", "C-index": "c_index"}[told])
        assert own["learning_curve"]["points"][-1]["auroc"]["estimate"] == last["estimate"]
