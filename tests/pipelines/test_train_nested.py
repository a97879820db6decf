"""`medmllm train` with inner folds, from the command to a scored study: what is evaluated is what is scored."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medmllm.model_documents import ModelCard
from medmllm.models.package import load_package
from medmllm.result_documents import EvaluationDocument, ExplanationDocument
from tests.factories import write_cohort_of_columns, write_nifti_cohort
from tests.pipelines.runs import EXPLAINED, UNTRACKED, Trained, rename_studies, score, site_key, train
from tests.pipelines.trained import one_fold

NESTED = (*UNTRACKED, "--set", "training.inner_folds=3", "--set", "evaluation.coverage=0.7")
FUSED = ("--set", 'training.arms=["fused"]')
TEXT = ("--set", 'training.arms=["text"]', "--set", "training.epochs=1")


@pytest.fixture(scope="module")
def nested_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("nested_run")
    labels = write_nifti_cohort(folder / "data", patients=20)
    studies = folder / "data" / "studies"
    with site_key(folder):
        outcome = train(studies, labels, folder / "run", *NESTED, *FUSED)
        yield Trained(studies, labels, folder / "run", outcome)


def test_a_folds_networks_score_its_test_part_as_they_were_evaluated_on_it(nested_run: Trained, tmp_path: Path) -> None:
    assert nested_run.outcome.code == 0, nested_run.outcome.stderr
    table = pd.read_csv(nested_run.run / "out_of_fold.csv").set_index("study_key")
    for fold in (0, 1):
        package = one_fold(nested_run.run / "model", fold, tmp_path / f"model_{fold}")
        assert score(nested_run.studies, package, tmp_path / f"out_{fold}").code == 0
        scored = pd.read_csv(tmp_path / f"out_{fold}" / "predictions.csv").set_index("study_key")
        tested = table[table["fold"] == fold]
        same = scored.loc[tested.index]
        np.testing.assert_allclose(same["probability"], tested["probabilities[1]"], atol=1e-5)
        for name in ("conformal_set[0]", "conformal_set[1]"):
            assert same[name].tolist() == tested[name].tolist()
        np.testing.assert_allclose(same["interval_low"], same["interval_high"])  # of fold models, and there is one


def test_the_whole_package_averages_its_folds_which_average_their_networks(nested_run: Trained, tmp_path: Path) -> None:
    new = write_nifti_cohort(tmp_path / "new", patients=3, seed=9).parent / "studies"
    rename_studies(new, "new-")
    assert score(new, nested_run.run / "model", tmp_path / "out", *EXPLAINED).code == 0
    scored = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("study_key")
    logits = []
    for fold in (0, 1):
        package = one_fold(nested_run.run / "model", fold, tmp_path / f"model_{fold}")
        assert score(new, package, tmp_path / f"out_{fold}").code == 0
        own = pd.read_csv(tmp_path / f"out_{fold}" / "predictions.csv").set_index("study_key")["probability"]
        logits.append(np.log(own / (1 - own)).loc[scored.index])
    mean = np.mean(logits, axis=0)
    np.testing.assert_allclose(scored["probability"], 1 / (1 + np.exp(-mean)), atol=1e-6)
    np.testing.assert_allclose(scored["interval_low"], 1 / (1 + np.exp(-np.min(logits, axis=0))), atol=1e-6)
    for key, wanted in zip(scored.index, mean, strict=True):
        explained = ExplanationDocument.read(tmp_path / "out" / "studies" / key / "explanation.json")
        assert explained.logit == pytest.approx(wanted, abs=1e-4)
        assert explained.completeness_error <= 0.01


def test_the_package_holds_every_network_with_a_tokenizer_of_its_own(nested_run: Trained) -> None:
    package = load_package(nested_run.run / "model")
    assert [one.name for one in package.card.folds] == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    assert len(package.folds) == 6
    assert {path.name for path in (nested_run.run / "model" / "tokenizer").iterdir()} == {
        f"fold_{fold}_{k}" for fold in (0, 1) for k in range(3)
    }
    assert "the tuning parts of its 3 networks together" in package.card.calibration


def test_a_card_whose_folds_have_other_numbers_of_networks_or_decisions_is_refused(nested_run: Trained) -> None:
    card = json.loads((nested_run.run / "model" / "model.json").read_text())
    folds = card["folds"]
    hotter = [folds[0] | {"temperature": 9.0}, *folds[1:]]
    for wrong, said in (
        (folds[:-1], "each fold has as many"),
        (hotter, "share its calibration"),
        (folds[1:3] + folds[4:], "numbered from 0"),
        (folds[::2] + folds[1::2], "side by side"),
    ):
        with pytest.raises(ValueError, match=said):
            ModelCard.model_validate_json(json.dumps(card | {"folds": wrong}))


def test_the_report_tells_folds_and_networks_apart(nested_run: Trained) -> None:
    evaluation = EvaluationDocument.read(nested_run.run / "evaluation.json")
    assert [fold.name for fold in evaluation.folds] == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    page = (nested_run.run / "report.html").read_text()
    assert "2 folds, split by patient" in page
    assert "2 fold models of 3 networks each" in page
    assert '<th scope="row">1.2</th>' in page


# --- the split file -------------------------------------------------------------------------


def test_the_runs_own_file_gives_the_same_inner_folds_under_another_seed(nested_run: Trained, tmp_path: Path) -> None:
    own = nested_run.run / "splits.json"
    outcome = train(
        nested_run.studies, nested_run.labels, tmp_path / "run", *NESTED, *TEXT, "--splits", own,
        "--set", "training.seed=9",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "run" / "splits.json").read_text() == own.read_text()


@pytest.mark.parametrize("inner", [1, 2])
def test_a_file_with_other_inner_folds_than_asked_for_is_refused_with_the_way_out(
    nested_run: Trained, tmp_path: Path, inner: int
) -> None:
    own = nested_run.run / "splits.json"
    asked = ("--splits", own, "--set", f"training.inner_folds={inner}")
    outcome = train(nested_run.studies, nested_run.labels, tmp_path / "run", *UNTRACKED, *TEXT, *asked)
    assert outcome.code == 2
    assert f"--splits has 3 tuning part(s) in fold 0, and training.inner_folds is {inner}" in " ".join(
        outcome.stderr.split()
    )


def test_inner_folds_are_carved_in_nnunets_outer_folds(nested_run: Trained, tmp_path: Path) -> None:
    outer = nested_run.run / "splits_final.json"
    outcome = train(nested_run.studies, nested_run.labels, tmp_path / "run", *NESTED, *TEXT, "--splits", outer)
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "run" / "splits.json").read_text() == (nested_run.run / "splits.json").read_text()


# --- with what else a training may be -------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        ("--set", "training.group_out=site"),
        ("--target", "outcome", "--target", "effusion"),
        ("--target", "stage", "--set", "task.kind=ordinal"),
        ("--set", "evaluation.calibration=isotonic"),
    ],
)
def test_sites_several_labels_grades_and_other_calibrations_are_nested_alike(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    labels = write_cohort_of_columns(tmp_path / "data")
    outcome = train(labels.parent / "studies", labels, tmp_path / "run", *NESTED, *TEXT, *more)
    assert outcome.code == 0, outcome.stderr
    card = ModelCard.read(tmp_path / "run" / "model" / "model.json")
    assert [len(own) for own in card.outer_folds] == [3, 3]
    for fold in json.loads((tmp_path / "run" / "splits.json").read_text())["folds"]:
        assert sorted(key for own in fold["inner"] for key in own) == sorted(fold["train"])
        assert fold["tune"] == []


def test_too_few_patients_are_refused_before_a_study_is_read(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=8)
    outcome = train(labels.parent / "studies", labels, tmp_path / "run", *NESTED, *TEXT)
    assert outcome.code == 2
    assert "fewer than training.inner_folds = 3" in " ".join(outcome.stderr.split())
    assert not (tmp_path / "run" / "training_ledger.csv").exists()
