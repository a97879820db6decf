"""`medmllm train` with repeats: what is averaged, what is of the first draw, and that the files say so."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.evaluation.concordance import weighted_harrell
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.ingest.keys import Keyring
from medmllm.reporting.comparison import ComparisonDocument
from medmllm.result_documents import EvaluationDocument
from tests.factories import write_cohort_of_columns, write_nifti_cohort
from tests.pipelines.runs import SECRET, UNTRACKED, Trained, invoke, site_key, train
from tests.pipelines.survival_cohort import SURVIVAL, write_survival_cohort

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))
REPEATED = (*UNTRACKED, "--set", "training.repeats=2", "--set", "training.epochs=1")
SIDES = ("--set", 'evaluation.subgroups.columns=["side"]', "--set", "evaluation.subgroups.fewest_patients=4",
         "--set", "policy.gap.true_positive_rate_gap=1")  # fmt: skip


@pytest.fixture(scope="module")
def repeated_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("repeated_run")
    labels = write_nifti_cohort(folder / "data", patients=16)
    table = pd.read_csv(labels, dtype=str)
    table["side"] = np.where(table["patient_id"].str[1:].astype(int) % 4 < 2, "left", "right")
    table.to_csv(labels, index=False)
    studies = folder / "data" / "studies"
    with site_key(folder):
        outcome = train(
            studies, labels, folder / "run", *REPEATED, "--set", 'training.arms=["text", "fused"]', *SIDES
        )  # fmt: skip
        yield Trained(studies, labels, folder / "run", outcome)


def test_the_table_holds_every_study_once_per_arm_and_repeat_and_metrics_are_means_over_them(
    repeated_run: Trained,
) -> None:
    assert repeated_run.outcome.code == 0, repeated_run.outcome.stderr
    table = pd.read_csv(repeated_run.run / "out_of_fold.csv")
    assert table.groupby(["repeat", "arm"])["study_key"].nunique().tolist() == [22] * 4
    assert len(table) == 88
    folds = table.query("arm == 'text'").pivot_table(index="study_key", columns="repeat", values="fold")
    assert (folds[0] != folds[1]).any()
    evaluation = EvaluationDocument.read(repeated_run.run / "evaluation.json")
    assert (evaluation.repeats, evaluation.n, evaluation.patients) == (2, 22, 16)
    for arm in evaluation.arms:
        each = [
            roc_auc_score(own["target"], own["probabilities[1]"])
            for _, own in table.query("arm == @arm.arm").groupby("repeat")
        ]
        metric = next(one for one in arm.metrics if one.name == "auroc")
        assert metric.estimate == pytest.approx(np.mean(each))
        assert (metric.lowest, metric.highest) == pytest.approx((min(each), max(each)))


def test_groups_gaps_rules_use_of_modalities_and_decision_curves_are_of_all_repeats(repeated_run: Trained) -> None:
    evaluation = EvaluationDocument.read(repeated_run.run / "evaluation.json")
    table = pd.read_csv(repeated_run.run / "out_of_fold.csv").query("arm == 'fused'")
    sides = {KEYRING.study(row.study_id): row.side for row in pd.read_csv(repeated_run.labels).itertuples()}
    table["side"] = table["study_key"].map(sides)
    rates = table.query("target == 1").groupby(["side", "repeat"])["predicted"].mean().unstack()
    assert (rates[0] != rates[1]).any(), "the first repeat alone must not pass"
    (found,) = evaluation.subgroups
    for group in found.groups:
        assert group.metrics["sensitivity"].estimate == pytest.approx(rates.loc[group.name].mean())
    gap = next(one for one in found.gaps if one.name == "true_positive_rate_gap")
    means = rates.mean(axis=1)
    assert gap.difference.estimate == pytest.approx(means.max() - means.min())
    (rule,) = evaluation.policy
    assert rule.value == pytest.approx(means.max() - means.min())
    fused = next(arm for arm in evaluation.arms if arm.arm == "fused")
    auroc = next(one.estimate for one in fused.metrics if one.name == "auroc")
    assert [(use.auroc.estimate, use.n) for use in evaluation.modality_use] == [(pytest.approx(auroc), 22)] * 2
    curve = next(one for one in evaluation.decision_curves if one.arm == "fused")
    half = curve.thresholds.index(0.5)
    gains = table.assign(gain=(2 * table["target"] - 1) * (table["probabilities[1]"] >= 0.5)).groupby("repeat")["gain"]
    assert [own[half] for own in curve.repeats] == pytest.approx(gains.mean().tolist())
    assert curve.net_benefit[half].estimate == pytest.approx(gains.mean().mean())
    page = (repeated_run.run / "report.html").read_text()
    assert page.count("Thin lines: each of 2 repeats") == 4  # ROC, reliability of two arms, decision curve
    assert page.count('class="thin') == 2 * (2 + 2 + 2)


def test_the_package_and_what_is_not_averaged_are_of_the_first_repeat_and_the_report_says_so(
    repeated_run: Trained,
) -> None:
    run = repeated_run.run
    assert {path.name for path in run.rglob("*.safetensors")} == {
        "fold_0.safetensors", "fold_1.safetensors", "background.safetensors",
    }  # fmt: skip
    assert not (run / "checkpoints").exists()
    evaluation = EvaluationDocument.read(run / "evaluation.json")
    (said,) = (remark for remark in evaluation.remarks if "means over 2 repeats" in remark)
    assert said.startswith("Metrics, differences, figures, groups of patients and use of modalities are means")
    assert "Conformal sets and DeLong's test are of the first repeat, whose networks are packaged." in said
    page = (run / "report.html").read_text()
    assert "2 folds, split by patient, drawn 2 times" in page
    metric = next(one for one in evaluation.arms[0].metrics if one.name == "brier")
    assert f'repeats: <data value="{metric.lowest!r}">' in page
    assert len(evaluation.folds) == 2


def test_the_runs_own_file_gives_the_same_draws_again_and_only_with_as_many_repeats(
    repeated_run: Trained, tmp_path: Path
) -> None:
    own, arms = repeated_run.run / "splits.json", ("--set", 'training.arms=["text"]')
    outcome = train(
        repeated_run.studies, repeated_run.labels, tmp_path / "run", *REPEATED, *arms, "--splits", own,
        "--set", "training.seed=9",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "run" / "splits.json").read_text() == own.read_text()
    for splits, repeats, said in ((own, 1, "has 2 draw(s)"), (own.with_name("splits_final.json"), 2, "has 1 draw(s)")):
        asked = ("--splits", splits, "--set", f"training.repeats={repeats}")
        refused = train(repeated_run.studies, repeated_run.labels, tmp_path / "other", *REPEATED, *arms, *asked)
        assert refused.code == 2
        assert said in " ".join(refused.stderr.split())


def test_runs_with_repeats_are_compared_by_their_means(repeated_run: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other"
    asked = ("--set", 'training.arms=["text", "fused"]', "--set", "training.learning_rate=0.1")
    assert train(repeated_run.studies, repeated_run.labels, other, *REPEATED, *asked).code == 0
    outcome = invoke("compare", repeated_run.run, other, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.stderr
    comparison = ComparisonDocument.read(tmp_path / "out" / "comparison.json")
    for run, folder in zip(comparison.runs, (repeated_run.run, other), strict=True):
        evaluation = EvaluationDocument.read(folder / "evaluation.json")
        (fused,) = (arm for arm in evaluation.arms if arm.arm == "fused")
        assert run.metrics == fused.metrics  # to the last digit, with the lowest and the highest
    means = [next(m.estimate for m in run.metrics if m.name == "brier") for run in comparison.runs]
    (gain,) = (one for one in comparison.differences if one.metric == "brier")
    assert gain.estimate == pytest.approx(float(means[0] or 0) - float(means[1] or 0))
    assert "repeats: " in (tmp_path / "out" / "comparison.html").read_text()


def test_a_run_with_repeats_is_not_compared_with_one_without(repeated_run: Trained, tmp_path: Path) -> None:
    asked = ("--set", 'training.arms=["fused"]', "--set", "training.repeats=1")
    assert train(repeated_run.studies, repeated_run.labels, tmp_path / "one", *REPEATED, *asked).code == 0
    outcome = invoke("compare", repeated_run.run, tmp_path / "one", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "were not split alike" in " ".join(outcome.stderr.split())


def test_several_targets_with_inner_folds_are_repeated_alike(tmp_path: Path) -> None:
    labels = write_cohort_of_columns(tmp_path / "data")
    outcome = train(
        labels.parent / "studies", labels, tmp_path / "run", *REPEATED, "--set", 'training.arms=["text"]',
        "--set", "training.inner_folds=2", "--target", "outcome", "--target", "effusion",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    found = pd.read_csv(tmp_path / "run" / "out_of_fold.csv")
    evaluation = EvaluationDocument.read(tmp_path / "run" / "evaluation.json")
    for told in evaluation.targets:
        name = told.task.target
        each = [
            roc_auc_score(own[f"target[{name}]"] == told.task.classes[1], own[f"probabilities[{told.task.classes[1]}]"])
            for _, own in found.groupby("repeat")
        ]
        metric = next(one for one in told.arms[0].metrics if one.name == "auroc")
        assert metric.estimate == pytest.approx(np.mean(each))
        assert metric.highest == pytest.approx(max(each))
    (mean,) = (one for one in evaluation.arms[0].metrics if one.name == "auroc")
    own = [next(m for m in told.arms[0].metrics if m.name == "auroc").estimate for told in evaluation.targets]
    assert mean.estimate == pytest.approx(np.mean([value for value in own if value is not None]))
    content = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert [len(fold["inner"]) for fold in (*content["folds"], *content["repeats"][0])] == [2] * 4


def test_times_to_an_event_are_repeated_alike(tmp_path: Path) -> None:
    labels = write_survival_cohort(tmp_path / "data", patients=40)
    outcome = train(
        labels.parent / "studies", labels, tmp_path / "run", *REPEATED, *SURVIVAL, "--set", "task.intervals=3",
        "--set", 'training.arms=["image", "text", "fused"]', "--set", "evaluation.bootstrap_samples=100",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    table = pd.read_csv(tmp_path / "run" / "out_of_fold.csv")
    evaluation = EvaluationDocument.read(tmp_path / "run" / "evaluation.json")
    each: dict[str, list[float]] = {}
    for arm in ("image", "text", "fused"):
        for _, own in table.query("arm == @arm").groupby("repeat"):
            followed = Followed(own["time"].to_numpy(), own["event"].to_numpy(dtype=bool))
            c = weighted_harrell(followed, own["log_hazard"].to_numpy(), np.ones((1, len(own))))
            each.setdefault(arm, []).append(float(c[0]))
        told = next(one for one in evaluation.arms if one.arm == arm)
        metric = next(one for one in told.metrics if one.name == "c_index")
        assert metric.estimate == pytest.approx(np.mean(each[arm]))
        assert (metric.lowest, metric.highest) == pytest.approx((min(each[arm]), max(each[arm])))
    gain = next(one for one in evaluation.differences if one.group == "text")
    gains = np.array(each["fused"]) - np.array(each["text"])
    assert (gain.estimate, gain.lowest, gain.highest) == pytest.approx((gains.mean(), gains.min(), gains.max()))
    uses = {use.modality: use.auroc.estimate for use in evaluation.modality_use if use.n == 40}
    assert uses == {"image": pytest.approx(np.mean(each["fused"])), "text": pytest.approx(np.mean(each["fused"]))}
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("Of the first of 2 repeats.") == 6  # two figures of each arm


def test_repeats_of_sites_are_refused_before_anything_is_read(repeated_run: Trained, tmp_path: Path) -> None:
    site = ("--set", "training.group_out=grade")
    outcome = train(repeated_run.studies, repeated_run.labels, tmp_path / "run", *REPEATED, *site)
    assert outcome.code == 2
    assert "sites are left out in one way only" in " ".join(outcome.stderr.split())
