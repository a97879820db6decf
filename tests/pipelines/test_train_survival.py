"""Times to an event, from the label table to scored and explained studies."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import CensoredData, ecdf

from medmllm.ingest.keys import Keyring
from medmllm.model_documents import ModelCard
from medmllm.result_documents import EvaluationDocument
from medmllm.training.checkpoint import Checkpoint
from medmllm.training.run import headline
from tests.pipelines.runs import (
    EXPLAINED,
    SECRET,
    UNTRACKED,
    Outcome,
    Trained,
    invoke,
    rename_studies,
    score,
    site_key,
    train,
)
from tests.pipelines.survival_cohort import SURVIVAL, harrell, write_survival_cohort
from tests.pipelines.trained import evaluation, metric, table_of

LEARN = (
    "--set", "task.intervals=4", "--set", "training.epochs=14", "--set", "training.batch_size=16",
    "--set", "model.text_batch_norm=true",
    "--set", "training.tuning_fraction=0.3", "--set", "image.intensity=window", "--set", "image.window=[-100, 200]",
)  # fmt: skip
PATIENTS = 160
GROUPS = ("--set", 'evaluation.subgroups.columns=["ward"]')


@pytest.fixture(scope="module")
def timed_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """160 patients, of whom one has no time and one no word on the event."""
    folder = tmp_path_factory.mktemp("timed_run")
    labels = write_survival_cohort(folder / "data", patients=PATIENTS)
    table = pd.read_csv(labels, dtype=str)
    table.loc[3, "days"] = ""
    table.loc[5, "death"] = "n/a"
    table["ward"] = ["A" if k % 10 < 7 else "B" for k in range(PATIENTS)]
    table.to_csv(labels, index=False)
    with site_key(folder):
        outcome = train(folder / "data" / "studies", labels, folder / "run", *UNTRACKED, *SURVIVAL, *LEARN)
        yield Trained(folder / "data" / "studies", labels, folder / "run", outcome)


def test_fused_orders_the_times_better_than_each_alone_and_nearly_as_the_true_risk_does(timed_run: Trained) -> None:
    assert timed_run.outcome.code == 0, timed_run.outcome.stderr
    told, table = evaluation(timed_run), pd.read_csv(timed_run.labels).dropna(subset=["days", "death"])
    best = harrell(table["days"], table["death"] == "yes", table["true_risk"])
    fused = metric(told, "fused", "c_index")
    for gain in told["differences"]:
        assert gain["name"] == "c_index"
        assert gain["low"] > 0, gain
    assert best - 0.15 < fused["estimate"] < best
    assert fused["n"] == PATIENTS - 2
    assert told["class_counts"] == {
        "death": (table["death"] == "yes").sum(),
        "censored": (table["death"] == "no").sum(),
    }
    assert "2 studies have no value for days or death and were left out." in told["remarks"]
    assert f"fused  C-index {fused['estimate']:.3f}" in timed_run.outcome.stdout
    assert "AUROC" not in timed_run.outcome.stdout


def test_the_evaluation_is_that_of_the_table_beside_it(timed_run: Trained) -> None:
    told, table = evaluation(timed_run), table_of(timed_run)
    found = harrell(table["time"], table["event"], table["log_hazard"])
    assert metric(told, "fused", "c_index")["estimate"] == pytest.approx(found)
    np.testing.assert_allclose(table["probability"], 1 - table["event_free[400 days]"])
    np.testing.assert_allclose(table["log_hazard"], np.log(-np.log(table["event_free[400 days]"])))
    observed = 1 - ecdf(CensoredData.right_censored(table["time"], ~table["event"])).sf.evaluate(200.0)
    excess = metric(told, "fused", "risk_excess", "200 days")["estimate"]
    assert excess == pytest.approx(observed - (1 - table["event_free[200 days]"]).mean())
    reached = table["median_time"].notna()
    assert (table.loc[reached, "probability"] >= 0.5).all()
    assert (table.loc[~reached, "probability"] < 0.5).all()


def test_higher_risk_is_at_or_above_the_median_risk_of_the_folds_tuning_part(timed_run: Trained) -> None:
    card, table = ModelCard.read(timed_run.run / "model" / "model.json"), table_of(timed_run)
    thresholds = np.array([fold.threshold for fold in card.folds])
    above = table["probability"] >= thresholds[table["fold"]]
    assert (table["predicted"] == np.where(above, "higher risk", "lower risk")).all()
    (arm,) = (own for own in evaluation(timed_run)["survival"] if own["arm"] == "fused")
    lower, higher = arm["risk_groups"]
    assert (lower["n"], higher["n"]) == ((~above).sum(), above.sum())
    assert (lower["events"], higher["events"]) == tuple(int(table["event"][own].sum()) for own in (~above, above))
    assert higher["event_free"][50] < lower["event_free"][50]
    assert arm["logrank_p"] < 0.001


def test_each_fold_has_intervals_between_quantiles_of_the_events_outside_its_test_part(timed_run: Trained) -> None:
    card, table = ModelCard.read(timed_run.run / "model" / "model.json"), table_of(timed_run)
    assert card.task.kind == "survival"
    assert card.conformal_coverage is None
    for fold in card.folds:
        seen = table.query("event and fold != @fold.fold")["time"]
        assert fold.survival is not None
        assert fold.survival.bounds[:3] == pytest.approx(np.quantile(seen, [0.25, 0.5, 0.75]))
        assert fold.survival.bounds[3] == max(seen.max(), 400.0)


def test_both_modalities_are_told_to_be_used_by_their_c_index(timed_run: Trained) -> None:
    uses = evaluation(timed_run)["modality_use"]
    assert [(use["modality"], use["metric"], use["verdict"]) for use in uses] == [
        ("image", "C-index", "used"),
        ("text", "C-index", "used"),
    ]


def test_the_report_draws_the_curves_and_tells_each_horizon(timed_run: Trained) -> None:
    page = (timed_run.run / "report.html").read_text()
    assert "Times to “death”" in page
    assert "Kaplan-Meier curves of the fused arm" in page
    assert "log-rank p below 0.001" in page
    assert "C-index of the same networks" in page
    assert "ROC" not in page.replace("AUROC", "")  # curves of classes
    assert sorted(path.stem for path in (timed_run.run / "figures").iterdir()) == sorted(
        f"{name}_{arm}" for name in ("kaplan_meier", "event_share") for arm in ("image", "text", "fused")
    )


def test_the_package_scores_and_explains_new_studies(timed_run: Trained, tmp_path: Path) -> None:
    write_survival_cohort(tmp_path, patients=2, seed=9)
    rename_studies(tmp_path / "studies", "new-")
    outcome = score(tmp_path / "studies", timed_run.run / "model", tmp_path / "out", *EXPLAINED)
    assert outcome.code == 0, outcome.stderr
    card = ModelCard.read(timed_run.run / "model" / "model.json")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert len(table) == 2
    for _, row in table.iterrows():
        assert row["predicted"] == ("higher risk" if row["probability"] >= card.operating_point else "lower risk")
        assert row["interval_low"] <= row["probability"] <= row["interval_high"]
        assert row["event_free[400 days]"] == pytest.approx(1 - row["probability"])
        assert row["event_free[200 days]"] > row["event_free[400 days]"]
        folder = tmp_path / "out" / "studies" / row["study_key"]
        said = json.loads((folder / "prediction.json").read_text())
        assert said["survival"]["event_free"]["200 days"] == pytest.approx(row["event_free[200 days]"])
        assert said["logits"] == [pytest.approx(row["log_hazard"])]
        explained = json.loads((folder / "explanation.json").read_text())
        assert explained["explained_class"] == "death by 400 days"
        assert explained["logit"] == pytest.approx(row["log_hazard"], abs=1e-4)
        assert explained["completeness_error"] < 0.01
        page = (folder / "report.html").read_text()
        assert "Without the event, by how long" in page
        assert "Probability of “death by 400 days”" in page
    index = (tmp_path / "out" / "index.html").read_text()
    assert "No death until 200 days" in index


def again(timed_run: Trained, out: Path, *more: object) -> Outcome:
    return train(
        timed_run.studies, timed_run.labels, out, *UNTRACKED, *SURVIVAL, "--set", 'training.arms=["text"]', *more
    )


@pytest.fixture(scope="module")
def cox_run(timed_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run = tmp_path_factory.mktemp("cox") / "run"
    outcome = again(timed_run, run, "--set", "task.survival_model=cox", *LEARN)
    return Trained(timed_run.studies, timed_run.labels, run, outcome)


def test_a_cox_model_goes_the_same_way(timed_run: Trained, cox_run: Trained, tmp_path: Path) -> None:
    assert cox_run.outcome.code == 0, cox_run.outcome.stderr
    assert metric(evaluation(cox_run), "text", "c_index")["low"] > 0.5
    excess = metric(evaluation(cox_run), "text", "risk_excess", "400 days")
    assert excess["low"] < 0 < excess["high"]  # the baseline turns log-risks into shares that hold
    scored = score(timed_run.studies, cox_run.run / "model", tmp_path / "out")
    assert scored.code == 0, scored.stderr
    table, told = pd.read_csv(tmp_path / "out" / "predictions.csv"), table_of(cox_run, "text")
    both = table.merge(told, on="study_key", suffixes=("", "_of_fold"))
    assert np.corrcoef(both["log_hazard"], both["log_hazard_of_fold"])[0, 1] > 0.6


def test_runs_of_one_split_are_compared_by_their_c_index_whatever_they_learn_it_by(
    timed_run: Trained, cox_run: Trained, tmp_path: Path
) -> None:
    outcome = invoke("compare", timed_run.run, cox_run.run, "--arm", "text", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    each = [metric(evaluation(one), "text", "c_index") for one in (timed_run, cox_run)]
    for run, told in zip(found["runs"], each, strict=True):
        own = next(one for one in run["metrics"] if one["name"] == "c_index")
        assert [own[name] for name in ("estimate", "low", "high")] == pytest.approx(
            [told[name] for name in ("estimate", "low", "high")]
        )
    (difference,) = (one for one in found["differences"] if one["metric"] == "c_index")
    assert difference["estimate"] == pytest.approx(each[0]["estimate"] - each[1]["estimate"])
    assert difference["low"] < difference["estimate"] < difference["high"]
    briers = {one["metric"] for one in found["differences"] if one["metric"].startswith("brier")}
    assert briers == {"brier[200 days]", "brier[400 days]"}
    assert "task.survival_model" in found["settings"]
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "C-index (Harrell)" in page
    assert "Brier score [400 days]" in page
    assert f"C-index {each[0]['estimate']:.3f}" in outcome.stdout


def test_runs_of_other_horizons_or_splits_are_not_compared(
    timed_run: Trained, cox_run: Trained, tmp_path: Path
) -> None:
    for name, more, message in (
        ("asked", ("--set", "task.horizons=[100, 400]"), "for days (survival: death, 100 days, 400 days)"),
        ("split", ("--set", "training.seed=3"), "were not split alike"),
    ):
        other = tmp_path / name
        assert again(timed_run, other, "--set", "training.epochs=1", *more).code == 0
        outcome = invoke("compare", cox_run.run, other, "--out", tmp_path / f"compared_{name}")
        assert outcome.code == 2
        assert message in outcome.stderr


def test_inner_folds_share_the_intervals_of_their_fold(timed_run: Trained, tmp_path: Path) -> None:
    outcome = again(timed_run, tmp_path / "run", "--set", "training.inner_folds=2")
    assert outcome.code == 0, outcome.stderr
    card = ModelCard.read(tmp_path / "run" / "model" / "model.json")
    assert [len(networks) for networks in card.outer_folds] == [2, 2]
    assert all(one.survival == two.survival for one, two in card.outer_folds)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "task.event=dead"), "no column 'dead'"),
        (("--set", "task.horizons=[2000]"), "lies beyond the longest follow-up"),
        (("--set", 'table.columns=["death"]'), "'death'"),
        (("--set", "training.folds=60"), "too few for 60 folds"),
        (("--set", "training.loss=focal"), "focal"),
        (("--set", "training.learning_curve=[0.5]", "--set", "training.inner_folds=2"), "one network per fold"),
        (("--set", "evaluation.calibration=isotonic"), "isotonic"),
        ((*GROUPS, "--set", "policy.gap.auroc_gap=0.1"), "choose among c_index_gap, brier_gap, calibration_gap"),
        (
            (*GROUPS, "--set", "policy.gap.c_index_gap=0.1", "--set", "evaluation.subgroups.fewest_patients=50"),
            "1 of its 2 have 50 patients with 'death' or more",
        ),
        (("--set", "policy.least.auroc=0.7"), "choose among c_index"),
        (("--target", "death"), "2 are times to an event"),
    ],
)
def test_what_cannot_be_is_refused_before_a_study_is_read(
    timed_run: Trained, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    outcome = again(timed_run, tmp_path / "run", *more)
    assert outcome.code == 2, outcome.stderr
    assert message in outcome.stderr
    assert "Preparing" not in outcome.stderr


def test_repeats_are_rows_of_their_own_and_the_metric_is_their_mean(timed_run: Trained, tmp_path: Path) -> None:
    outcome = again(timed_run, tmp_path / "run", "--set", "training.repeats=2", "--set", "training.epochs=1")
    assert outcome.code == 0, outcome.stderr
    trained = Trained(timed_run.studies, timed_run.labels, tmp_path / "run", outcome)
    repeats = table_of(trained, "text").groupby("repeat")
    each = [harrell(own["time"], own["event"], own["log_hazard"]) for _, own in repeats]
    found = metric(evaluation(trained), "text", "c_index")
    assert len(each) == 2
    assert found["estimate"] == pytest.approx(np.mean(each))
    assert (found["lowest"], found["highest"]) == pytest.approx((min(each), max(each)))


def test_a_policy_on_the_c_index_is_judged(timed_run: Trained, tmp_path: Path) -> None:
    outcome = again(timed_run, tmp_path / "run", "--set", "policy.least.c_index[days]=0.99")
    assert outcome.code == 4, outcome.stderr
    (rule,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())["policy"]
    assert (rule["rule"], rule["met"]) == ("policy.least.c_index", False)


def test_groups_are_measured_on_their_own_rows_and_their_gap_is_judged(timed_run: Trained, tmp_path: Path) -> None:
    asked = (*GROUPS, "--set", "policy.gap.c_index_gap=0", "--set", "training.epochs=1")
    outcome = again(timed_run, tmp_path / "run", *asked)
    assert outcome.code == 4, outcome.stderr
    trained = Trained(timed_run.studies, timed_run.labels, tmp_path / "run", outcome)
    (found,) = evaluation(trained)["subgroups"]
    keyring, table = Keyring(bytes.fromhex(SECRET.strip())), pd.read_csv(timed_run.labels)
    ward = dict(zip(map(keyring.study, table["study_id"]), table["ward"], strict=True))
    told = table_of(trained, "text")
    each = {}
    for group in found["groups"]:
        own = told[told["study_key"].map(ward) == group["name"]]
        each[group["name"]] = harrell(own["time"], own["event"], own["log_hazard"])
        assert group["metrics"]["c_index"]["estimate"] == pytest.approx(each[group["name"]])
        assert group["class_counts"] == {"death": own["event"].sum(), "censored": (~own["event"]).sum()}
    (rule,) = evaluation(trained)["policy"]
    assert rule["rule"] == "policy.gap.c_index_gap"
    assert rule["value"] == pytest.approx(abs(each["A"] - each["B"]))
    page = (tmp_path / "run" / "report.html").read_text()
    assert '<th scope="col">Brier score [400 days]</th>' in page
    assert '<th scope="row">Brier score [400 days]</th>' in page  # its gap, at the last horizon
    assert "a few hundredths of the C-index" in page
    assert "another C-index or Brier score with the same model" in page


def test_what_tells_nothing_is_at_chance(tmp_path: Path) -> None:
    labels = write_survival_cohort(tmp_path / "data", patients=60, effect=0.0)
    outcome = train(
        tmp_path / "data" / "studies",
        labels,
        tmp_path / "run",
        *UNTRACKED,
        *SURVIVAL,
        "--set",
        'training.arms=["text"]',
    )
    assert outcome.code == 0, outcome.stderr
    found = metric(json.loads((tmp_path / "run" / "evaluation.json").read_text()), "text", "c_index")
    assert found["low"] < 0.5 < found["high"]


def test_a_run_that_was_cut_off_ends_with_the_same_numbers(
    timed_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = ("--set", "training.deterministic=true")
    assert again(timed_run, tmp_path / "whole", *exact).code == 0
    seen: list[int] = []

    def cut(*given: Any, **named: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return save(*given, **named)

    save = Checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", cut)
        again(timed_run, tmp_path / "cut", *exact)
    assert not (tmp_path / "cut" / "evaluation.json").exists()
    assert again(timed_run, tmp_path / "cut", *exact, "--resume").code == 0
    tables = [(tmp_path / name / "out_of_fold.csv").read_text() for name in ("whole", "cut")]
    assert tables[0] == tables[1]


def test_the_learning_curve_is_of_the_c_index_and_ends_at_that_of_the_run(timed_run: Trained, tmp_path: Path) -> None:
    outcome = again(timed_run, tmp_path / "run", *LEARN, "--set", "training.learning_curve=[0.2]")
    assert outcome.code == 0, outcome.stderr
    told = evaluation(Trained(timed_run.studies, timed_run.labels, tmp_path / "run", outcome))
    curve = told["learning_curve"]
    assert (curve["metric"], [point["fraction"] for point in curve["points"]]) == ("C-index", [0.2, 1.0])
    less, whole = curve["points"]
    found = metric(told, "text", "c_index")
    assert [whole["auroc"][name] for name in ("estimate", "low", "high")] == [
        found[name] for name in ("estimate", "low", "high")
    ]
    assert less["behind"]["estimate"] == pytest.approx(found["estimate"] - less["auroc"]["estimate"])
    assert all(few < many / 3 for few, many in zip(less["training_patients"], whole["training_patients"], strict=True))
    assert "text C-index by training patients: " in outcome.stdout
    assert any("the C-index of the text model" in line or "The C-index of the text" in line for line in told["remarks"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "C-index of the text arm out of fold by the training patients of a fold" in page
    assert '<th scope="col">C-index</th>' in page
    tracked = headline(EvaluationDocument.read(tmp_path / "run" / "evaluation.json"))
    assert tracked["text_c_index_at_0.2"] == less["auroc"]["estimate"]
