"""A training for targets of three kinds, some of them missing, from the label table to scored and explained studies."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from medmllm.model_documents import ModelCard
from medmllm.result_documents import EvaluationDocument
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import EXPLAINED, UNTRACKED, Outcome, Trained, rename_studies, score, site_key, train
from tests.pipelines.trained import table_of

TARGETS = ("grade>=3", "region", "severity")
KINDS = {"grade>=3": "binary", "region": "multiclass", "severity": "ordinal"}
CLASSES = {
    "grade>=3": ("not grade>=3", "grade>=3"),
    "region": ("region=chest", "region=head", "region=spine"),
    "severity": ("severity=mild", "severity=moderate", "severity=severe"),
}
SETTINGS = (
    *UNTRACKED, *(word for name in TARGETS for word in ("--target", name)),
    "--set", "task.kinds.severity=ordinal", "--set", 'task.orders.severity=["mild", "moderate", "severe"]',
    "--set", "training.target_weights.region=2.0", "--set", "evaluation.coverage=0.6",
)  # fmt: skip


def write_cohort(folder: Path, *, empty: str = "") -> Path:
    """Write 30 patients with the three columns; what is missing is written as `empty`."""
    labels = write_nifti_cohort(folder, patients=30)
    table = pd.read_csv(labels, dtype=str)
    number = table["patient_id"].str[1:].astype(int)
    table["region"] = np.array(["chest", "head", "spine"])[number // 2 % 3]
    table["severity"] = np.array(["mild", "moderate", "severe"])[number % 3]
    table.loc[number % 5 == 0, "region"] = empty
    table.loc[number % 7 == 3, "severity"] = empty
    table.loc[number % 11 == 4, "grade"] = empty
    table.loc[number == 29, ["region", "severity", "grade"]] = empty
    table.to_csv(labels, index=False)
    return labels


@pytest.fixture(scope="module")
def run_of_kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("run_of_kinds")
    labels = write_cohort(folder / "data")
    with site_key(folder):
        outcome = train(folder / "data" / "studies", labels, folder / "run", *SETTINGS)
        yield Trained(folder / "data" / "studies", labels, folder / "run", outcome)


def card_of(trained: Trained) -> ModelCard:
    return ModelCard.read(trained.run / "model" / "model.json")


def shown(rows: pd.DataFrame, field: str, target: str) -> np.ndarray:
    return rows[[f"{field}[{label}]" for label in CLASSES[target]]].to_numpy()


def test_the_card_lists_each_target_with_its_kind_classes_and_decisions(run_of_kinds: Trained) -> None:
    assert run_of_kinds.outcome.code == 0, run_of_kinds.outcome.stderr
    card = card_of(run_of_kinds)
    assert card.task.kind == "several"
    assert {part.target: part.kind for part in card.task.parts} == KINDS
    assert {part.target: part.classes for part in card.task.parts} == CLASSES
    for fold in card.folds:
        assert tuple(fold.targets) == TARGETS
        for name, own in fold.targets.items():
            assert own.conformal_thresholds is not None
            assert len(own.conformal_thresholds) == len(CLASSES[name])
            assert own.threshold == 0.5 or KINDS[name] == "binary"


def test_probabilities_classes_and_sets_are_those_of_each_kind(run_of_kinds: Trained) -> None:
    rows, card = table_of(run_of_kinds), card_of(run_of_kinds)
    assert len(rows) == 39  # of 40 studies, less the one without any target
    for name, classes in CLASSES.items():
        chances = shown(rows, "probabilities", name)
        np.testing.assert_allclose(chances.sum(axis=1), 1)
        if KINDS[name] == "binary":
            np.testing.assert_allclose(chances[:, 1], 1 / (1 + np.exp(-rows["logits[grade>=3]"])))
        else:
            np.testing.assert_allclose(chances, softmax(shown(rows, "logits", name), axis=1), rtol=1e-6)
        expected = chances.argmax(axis=1)
        if KINDS[name] == "ordinal":
            expected = (chances.cumsum(axis=1) >= 0.5 - 1e-9).argmax(axis=1)
        elif KINDS[name] == "binary":
            points = [card.folds[fold].targets[name].threshold for fold in rows["fold"]]
            expected = (chances[:, 1] >= points).astype(int)
        np.testing.assert_array_equal(rows[f"predicted[{name}]"], np.array(classes)[expected])
        bounds = np.array([card.folds[fold].targets[name].conformal_thresholds for fold in rows["fold"]])
        np.testing.assert_array_equal(shown(rows, "conformal_set", name), 1 - chances <= bounds)


def test_each_target_is_evaluated_as_its_kind_is_where_it_is_known(run_of_kinds: Trained) -> None:
    rows = table_of(run_of_kinds)
    evaluation = EvaluationDocument.read(run_of_kinds.run / "evaluation.json")
    given = pd.read_csv(run_of_kinds.labels)
    aurocs = []
    for own, column in zip(evaluation.targets, ("grade", "region", "severity"), strict=True):
        name = own.task.target
        known = rows[f"target[{name}]"].notna()
        assert own.n == known.sum() == given[column].notna().sum()
        truth = rows.loc[known, f"target[{name}]"].map(CLASSES[name].index).to_numpy()
        chances = shown(rows, "probabilities", name)[known]
        found = {m.name: m.estimate for arm in own.arms if arm.arm == "fused" for m in arm.metrics}
        if KINDS[name] == "binary":
            expected = roc_auc_score(truth, chances[:, 1])
        elif KINDS[name] == "multiclass":
            expected = roc_auc_score(truth, chances, multi_class="ovr")
        else:
            upper = roc_auc_score(truth == 2, chances[:, 2])
            expected = (roc_auc_score(truth >= 1, 1 - chances[:, 0]) + upper) / 2
            predicted = rows.loc[known, f"predicted[{name}]"].map(CLASSES[name].index)
            kappa = cohen_kappa_score(truth, predicted, weights="quadratic", labels=[0, 1, 2])
            assert found["quadratic_kappa"] == pytest.approx(kappa)
        assert found["auroc"] == pytest.approx(expected)
        aurocs.append(expected)
        assert [use.modality for use in own.modality_use] == ["image", "text"]
        assert bool(own.decision_curves) == (KINDS[name] == "binary")
    means = {m.name: m.estimate for arm in evaluation.arms if arm.arm == "fused" for m in arm.metrics}
    assert means.keys() == {"auroc", "balanced_accuracy"}
    assert means["auroc"] == pytest.approx(np.mean(aurocs))


@pytest.mark.parametrize("asked", ["", "severity"])
def test_new_studies_are_scored_and_explained_target_by_target(
    run_of_kinds: Trained, tmp_path: Path, asked: str
) -> None:
    write_nifti_cohort(tmp_path, patients=2, seed=9)
    rename_studies(tmp_path / "studies", "new-")
    chosen = ("--set", f'explain.target="{asked}"')
    outcome = score(tmp_path / "studies", run_of_kinds.run / "model", tmp_path / "out", *EXPLAINED, *chosen)
    assert outcome.code == 0, outcome.stderr
    point = (card_of(run_of_kinds).operating_points or {})["grade>=3"]
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False)
    for _, row in rows.iterrows():
        chances = {n: np.array([row[f"probabilities[{c}]"] for c in classes]) for n, classes in CLASSES.items()}
        predicted = {
            "grade>=3": CLASSES["grade>=3"][int(chances["grade>=3"][1] >= point)],
            "region": CLASSES["region"][chances["region"].argmax()],
            "severity": CLASSES["severity"][(chances["severity"].cumsum() >= 0.5).argmax()],
        }
        assert {name: row[f"predictions[{name}]"] for name in TARGETS} == predicted
        told = [label for label in predicted.values() if not label.startswith("not ")]
        assert row["predicted"] == "; ".join(told)
        assert row["probability"] == max(row[f"probabilities[{label}]"] for label in told)
        folder = tmp_path / "out" / "studies" / row["study_key"]
        explained = json.loads((folder / "explanation.json").read_text())
        of = explained["explained_class"]
        assert of == (predicted[asked] if asked else max(told, key=lambda label: row[f"probabilities[{label}]"]))
        assert explained["completeness_error"] < 0.01
        outputs = ("grade>=3", *CLASSES["region"], *CLASSES["severity"])
        logits = dict(zip(outputs, json.loads((folder / "prediction.json").read_text())["logits"], strict=True))
        assert explained["logit"] == pytest.approx(logits[of], abs=1e-4)
        page = (folder / "report.html").read_text()
        assert all(part in page for part in ("severity=moderate", "region=spine", "Not ruled out"))


def trained_anew(folder: Path, labels: Path, *more: object) -> Outcome:
    quick = ("--set", 'training.arms=["text"]', "--set", "training.epochs=1", "--set", "training.deterministic=true")
    return train(labels.parent / "studies", labels, folder, *SETTINGS, *quick, *more)


def test_how_a_missing_cell_is_written_changes_no_bit_of_any_network(run_of_kinds: Trained, tmp_path: Path) -> None:
    digests = []
    for number, empty in enumerate(("", "n/a")):
        labels = write_cohort(tmp_path / str(number), empty=empty)
        outcome = trained_anew(tmp_path / f"run_{number}", labels)
        assert outcome.code == 0, outcome.stderr
        card = ModelCard.read(tmp_path / f"run_{number}" / "model" / "model.json")
        digests.append([(fold.weights_sha256, fold.targets) for fold in card.folds])
        shutil.rmtree(tmp_path / str(number) / "studies")
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "task.kinds.sex=ordinal"), "[task.kinds] names 'sex', which is no target"),
        (("--set", "task.kinds.region=ordinal"), "3 of the 3 classes in column 'region' are no numbers"),
        (("--set", "training.target_weights.sex=2.0"), "[training.target_weights] names 'sex'"),
        (("--set", "policy.least.sensitivity=0.5"), "sensitivity is not measured for a target of kind 'multiclass'"),
        (("--set", "training.folds=12"), "fewer than the 12 folds"),
    ],
)
def test_settings_that_do_not_fit_exit_2_before_a_study_is_read(
    run_of_kinds: Trained, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    outcome = trained_anew(tmp_path / "run", run_of_kinds.labels, *more)
    assert outcome.code == 2
    assert message in outcome.stderr.replace("\n", " ")
    assert not (tmp_path / "run" / "training_ledger.csv").exists()


def test_a_target_to_explain_that_the_model_lacks_is_refused(run_of_kinds: Trained, tmp_path: Path) -> None:
    write_nifti_cohort(tmp_path, patients=1)
    outcome = score(tmp_path / "studies", run_of_kinds.run / "model", tmp_path / "out", "--set", 'explain.target="sex"')
    assert outcome.code == 2
    assert "none that the model was trained for: grade>=3, region, severity" in outcome.stderr
