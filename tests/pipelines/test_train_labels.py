"""A training for three labels, some of them missing, from the label table to scored and explained studies."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.model_documents import ModelCard
from medmllm.reporting.comparison import ComparisonDocument
from medmllm.result_documents import EvaluationDocument
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import (
    EXPLAINED,
    NIFTI_SETTINGS,
    UNTRACKED,
    Outcome,
    Trained,
    invoke,
    rename_studies,
    score,
    site_key,
    train,
)
from tests.pipelines.trained import table_of
from tests.reporting.html_page import Page

LABELS = ("outcome", "effusion", "grade>=4")
CLASSES = {
    "outcome": ("outcome=0", "outcome=1"),
    "effusion": ("effusion=0", "effusion=1"),
    "grade>=4": ("not grade>=4", "grade>=4"),
}
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
    table["site"] = np.where(number % 2, "north", "south")
    table.to_csv(labels, index=False)
    with site_key(folder):
        outcome = train(folder / "data" / "studies", labels, folder / "run", *UNTRACKED, *TARGETS)
        yield Trained(folder / "data" / "studies", labels, folder / "run", outcome)


def test_the_card_holds_the_labels_with_a_temperature_and_an_operating_point_each(labelled_run: Trained) -> None:
    assert labelled_run.outcome.code == 0, labelled_run.outcome.stderr
    card = ModelCard.read(labelled_run.run / "model" / "model.json")
    assert (card.task.kind, card.task.names) == ("multilabel", LABELS)
    assert {part.target: part.classes for part in card.task.parts} == CLASSES
    assert card.operating_points is not None
    for name in LABELS:
        decided = [fold.targets[name] for fold in card.folds]
        assert len({own.temperature for own in decided}) == 2
        assert card.operating_points[name] == pytest.approx(np.mean([own.threshold for own in decided]))


def test_the_table_has_a_column_per_label_and_empty_cells_where_it_is_missing(labelled_run: Trained) -> None:
    rows = table_of(labelled_run)
    assert len(rows) == 31  # of 32 studies, less the one without any label
    given = pd.read_csv(labelled_run.labels)
    for name, column in (("outcome", "outcome"), ("effusion", "effusion"), ("grade>=4", "grade")):
        assert rows[f"target[{name}]"].notna().sum() == given[column].notna().sum()
        negative, positive = CLASSES[name]
        chances = 1 / (1 + np.exp(-rows[f"logits[{positive}]"]))
        np.testing.assert_allclose(rows[f"probabilities[{positive}]"], chances)
        np.testing.assert_allclose(rows[f"probabilities[{negative}]"], 1 - chances)
        assert f"logits[{negative}]" not in rows


def test_sets_and_classes_are_those_of_the_folds_own_decisions_on_each_label(labelled_run: Trained) -> None:
    rows = table_of(labelled_run)
    card = ModelCard.read(labelled_run.run / "model" / "model.json")
    for name, (negative, positive) in CLASSES.items():
        for fold in card.folds:
            own = rows[rows["fold"] == fold.fold]
            decided = fold.targets[name]
            predicted = np.where(own[f"probabilities[{positive}]"] >= decided.threshold, positive, negative)
            np.testing.assert_array_equal(own[f"predicted[{name}]"], predicted)
            assert decided.conformal_thresholds is not None
            for label, bound in zip((negative, positive), decided.conformal_thresholds, strict=True):
                inside = 1 - own[f"probabilities[{label}]"] <= bound
                np.testing.assert_array_equal(own[f"conformal_set[{label}]"], inside)
        sizes = rows[[f"conformal_set[{negative}]", f"conformal_set[{positive}]"]].sum(axis=1)
        np.testing.assert_array_equal(rows[f"abstained[{name}]"], sizes != 1)


def told(run: Path) -> EvaluationDocument:
    return EvaluationDocument.read(run / "evaluation.json")


def test_the_evaluation_is_that_of_scikit_learn_on_the_table_beside_it(labelled_run: Trained) -> None:
    rows, evaluation = table_of(labelled_run), told(labelled_run.run)
    expected = []
    for own, (name, (_, positive)) in zip(evaluation.targets, CLASSES.items(), strict=True):
        assert own.task.target == name
        known = rows[f"target[{name}]"].notna()
        truth = rows.loc[known, f"target[{name}]"] == positive
        expected.append(roc_auc_score(truth, rows.loc[known, f"probabilities[{positive}]"]))
        fused = next(arm for arm in own.arms if arm.arm == "fused")
        found = {metric.name: metric for metric in fused.metrics}["auroc"]
        assert (found.estimate, found.n) == (pytest.approx(expected[-1]), known.sum())
        assert own.class_counts[positive] == evaluation.class_counts[positive] == truth.sum()
        assert fused.conformal is not None
        covered = rows.loc[known, f"conformal_set[{positive}]"][truth].sum()
        assert (fused.conformal.classes[1].n, fused.conformal.classes[1].covered) == (truth.sum(), covered)
    means = {m.name: m for arm in evaluation.arms if arm.arm == "fused" for m in arm.metrics}
    assert means["auroc"].estimate == pytest.approx(np.mean(expected))
    assert "1 study has no value for outcome, effusion, grade>=4" in " ".join(evaluation.remarks)


def test_every_label_has_all_that_one_target_has(labelled_run: Trained) -> None:
    evaluation = told(labelled_run.run)
    for own in evaluation.targets:
        assert [gain.group for gain in own.differences] == ["image", "text"]
        assert [curve.arm for curve in own.decision_curves] == ["image", "text", "fused"]
        assert [use.modality for use in own.modality_use] == ["image", "text"]
        assert all(use.n <= own.n and use.permutations == 1 for use in own.modality_use)
        assert any(line.startswith(f"{own.task.target}: ") for line in evaluation.remarks)
    assert not evaluation.modality_use  # the whole is not a target


def test_deviations_between_arms_are_tested_where_the_label_has_one_study_per_patient(labelled_run: Trained) -> None:
    rows = table_of(labelled_run)
    for own in told(labelled_run.run).targets:
        known = rows[rows[f"target[{own.task.target}]"].notna()]
        assert bool(own.delong) == (known["patient_key"].nunique() == len(known))


def test_the_report_and_the_terminal_tell_of_each_label(labelled_run: Trained) -> None:
    page = Page.read(labelled_run.run / "report.html")
    headings = [heading.line for heading in page.all("h2")]
    assert "Means over the targets, out of fold" in headings
    for name in LABELS:
        for what in ("The arms, out of fold", "Which modalities a model uses", "Conformal sets", "Curves"):
            assert f"{what}: {name}" in headings
        assert f"{name}, known of" in labelled_run.outcome.stdout
    identifiers = [heading.attributes["id"] for heading in page.all("h2")]
    assert len(set(identifiers)) == len(identifiers)
    assert (labelled_run.run / "figures" / "roc_3.svg").is_file()


def test_the_package_scores_and_explains_new_studies_label_by_label(labelled_run: Trained, tmp_path: Path) -> None:
    write_nifti_cohort(tmp_path, patients=3, seed=9)
    rename_studies(tmp_path / "studies", "new-")
    outcome = score(tmp_path / "studies", labelled_run.run / "model", tmp_path / "out", *EXPLAINED)
    assert outcome.code == 0, outcome.stderr
    points = ModelCard.read(labelled_run.run / "model" / "model.json").operating_points
    assert points is not None
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False)
    for _, row in rows.iterrows():
        chances = {CLASSES[name][1]: row[f"probabilities[{CLASSES[name][1]}]"] for name in LABELS}
        reached = [CLASSES[name][1] for name in LABELS if chances[CLASSES[name][1]] >= points[name]]
        assert row["predicted"] == ("; ".join(reached) or "none")
        assert row["probability"] == max(chances[label] for label in reached or chances)
        for name, (negative, positive) in CLASSES.items():
            assert row[f"predictions[{name}]"] == (positive if positive in reached else negative)
            size = row[f"conformal_set[{negative}]"] + row[f"conformal_set[{positive}]"]
            assert row[f"undecided[{name}]"] == (size != 1)
        assert row["interval_low"] <= row["interval_high"]
        folder = tmp_path / "out" / "studies" / row["study_key"]
        explained = json.loads((folder / "explanation.json").read_text())
        said = json.loads((folder / "prediction.json").read_text())
        assert chances[explained["explained_class"]] == row["probability"]
        assert said["probability_of"] == explained["explained_class"]
        assert explained["completeness_error"] < 0.01
        assert said["predictions"] == {name: row[f"predictions[{name}]"] for name in LABELS}
        calibrated = dict(zip(chances, said["logits"], strict=True))[explained["explained_class"]]
        assert explained["logit"] == pytest.approx(calibrated, abs=1e-4)
        assert "Each target at its operating point" in (folder / "report.html").read_text()
    assert "the class named beside it" in (tmp_path / "out" / "index.html").read_text()


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


def test_curves_groups_learning_and_the_policy_are_of_each_label(labelled_run: Trained, tmp_path: Path) -> None:
    config = tmp_path / "policy.toml"
    config.write_text(
        NIFTI_SETTINGS.replace("[evaluation]", '[evaluation]\ncalibration = "isotonic"')
        + '[evaluation.subgroups]\ncolumns = ["site"]\nfewest_patients = 2\n'
        + '[policy.least]\nauroc = 0.999\n"auroc[grade>=4]" = 0.0\n[policy.gap]\ncalibration_gap = 0.999\n'
    )
    more = (*TARGETS, "--set", 'training.arms=["text"]', "--set", "training.learning_curve=[0.6]")
    outcome = train(labelled_run.studies, labelled_run.labels, tmp_path / "run", *UNTRACKED, *more,
                    settings=config.read_text())  # fmt: skip
    assert outcome.code == 4, outcome.stderr
    evaluation = told(tmp_path / "run")
    rules = {rule.rule: rule for rule in evaluation.policy}
    for own in evaluation.targets:
        name = own.task.target
        auroc = {metric.name: metric.estimate for metric in own.arms[0].metrics}["auroc"]
        asked = rules[f"policy.least.auroc[{name}]"]
        assert (asked.value, asked.bound) == (auroc, 0.0 if name == "grade>=4" else 0.999)
        assert f"policy.gap.calibration_gap[{name}]" in rules
        assert [group.name for group in own.subgroups[0].groups] == ["north", "south"]
        assert sum(group.n for group in own.subgroups[0].groups) == own.n
        assert own.learning_curve is not None
        assert [point.fraction for point in own.learning_curve.points] == [0.6, 1.0]
        assert own.learning_curve.points[-1].auroc.estimate == auroc
    card = ModelCard.read(tmp_path / "run" / "model" / "model.json")
    assert all(fold.targets[name].isotonic for fold in card.folds for name in LABELS)
    write_nifti_cohort(tmp_path, patients=3, seed=9)
    rename_studies(tmp_path / "studies", "new-")
    assert score(tmp_path / "studies", tmp_path / "run" / "model", tmp_path / "out").code == 0


def test_runs_of_several_labels_are_compared_in_the_one_that_is_named(labelled_run: Trained, tmp_path: Path) -> None:
    trained_again(labelled_run, tmp_path / "run", *TARGETS, "--set", "training.epochs=1")
    both = (labelled_run.run, tmp_path / "run", "--arm", "text", "--out", tmp_path / "out")
    outcome = invoke("compare", *both, "--target", "grade>=4")
    assert outcome.code == 0, outcome.stderr
    found = ComparisonDocument.read(tmp_path / "out" / "comparison.json")
    for run, folder in zip(found.runs, (labelled_run.run, tmp_path / "run"), strict=True):
        own = told(folder).targets[2]
        assert (found.task.target, found.n) == ("grade>=4", own.n)
        assert run.metrics == next(arm.metrics for arm in own.arms if arm.arm == "text")
    assert found.provenance.command == "medmllm compare RUN RUN --target 'grade>=4' --out OUT"
    for more, message in (((), "name one with --target: outcome, effusion, grade>=4"),
                          (("--target", "sex"), "was not trained for 'sex', but for outcome, effusion")):  # fmt: skip
        outcome = invoke("compare", *both, *more)
        assert outcome.code == 2
        assert message in outcome.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((*TARGETS, "--set", "task.kind=ordinal"), "'outcome' has 2: set [task.kinds] \"outcome\" = "),
        ((*TARGETS, "--set", "training.class_weights=[1, 2]"), "weights of one target's classes"),
        ((*TARGETS, "--set", 'table.columns=["effusion"]'), "names 'effusion', which the target 'effusion' is made of"),
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
