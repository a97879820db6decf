"""`medmllm train` with a search, from the command to a scored study: chosen in each fold, told everywhere."""

import csv
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medmllm.model_documents import ModelCard
from medmllm.models.package import parts_of
from medmllm.result_documents import EvaluationDocument
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import UNTRACKED, Trained, score, site_key, train
from tests.pipelines.survival_cohort import SURVIVAL, write_survival_cohort
from tests.pipelines.trained import one_fold

ARMS = ("--set", 'training.arms=["text", "fused"]')
GRID = ("--set", "training.search.fusion_width=[4, 8]", "--set", "training.search.image_width=[2, 4]")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("searched")
    labels = write_nifti_cohort(folder / "data", patients=16)
    with site_key(folder):
        outcome = train(folder / "data" / "studies", labels, folder / "run", *ARMS, *GRID)
        yield Trained(folder / "data" / "studies", labels, folder / "run", outcome)


def test_what_was_tried_and_chosen_stands_in_every_result(searched: Trained) -> None:
    assert searched.outcome.code == 0, searched.outcome.said
    assert "Training fold models, epochs (up to 4 candidates each) 32" in searched.outcome.stderr  # (3 + 5) * 2 * 2
    search = EvaluationDocument.read(searched.run / "evaluation.json").search
    assert search is not None
    assert [(own.arm, own.fold, len(own.candidates)) for own in search.choices] == [
        ("text", 0, 2), ("text", 1, 2), ("fused", 0, 4), ("fused", 1, 4)
    ]  # fmt: skip
    with (searched.run / "search.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 + 2 * 4
    assert sum(row["chosen"] == "True" for row in rows) == 4
    report = (searched.run / "report.html").read_text()
    assert "What was chosen in each fold" in report
    assert report.count("fusion_width = 4, image_width = 2") == 1
    assert "<dd>fusion_width, image_width: each fold has what it chose" in report
    assert list((searched.run / "mlflow_artifacts").glob("*/artifacts/search.csv"))
    with sqlite3.connect(searched.run / "mlflow.db") as base:
        told = base.execute("select value from params where key = 'chosen.fusion_width'").fetchall()
        scores = [value for (value,) in base.execute("select value from metrics where key = 'tuning_log_loss'")]
    assert sorted(int(value) for (value,) in told) == sorted(
        own.best.settings["fusion_width"] for own in search.choices
    )
    assert sorted(scores) == pytest.approx(sorted(own.best.score or 0 for own in search.choices))
    assert not (searched.run / "checkpoints").exists()


def test_a_package_whose_folds_chose_other_networks_scores_each_as_it_was_evaluated(
    searched: Trained, tmp_path: Path
) -> None:
    card = ModelCard.read(searched.run / "model" / "model.json")
    search = EvaluationDocument.read(searched.run / "evaluation.json").search
    assert search is not None
    assert [fold.searched for fold in card.folds] == [own.best.settings for own in search.choices if own.arm == "fused"]
    assert any(parts_of(card, fold) != card.model for fold in card.folds)  # 8 and 4 are what the settings say outside
    table = pd.read_csv(searched.run / "out_of_fold.csv")
    table = table[table["arm"] == "fused"].set_index("study_key")
    for fold in (0, 1):
        package = one_fold(searched.run / "model", fold, tmp_path / f"model_{fold}")
        assert score(searched.studies, package, tmp_path / f"out_{fold}").code == 0
        scored = pd.read_csv(tmp_path / f"out_{fold}" / "predictions.csv").set_index("study_key")
        tested = table[table["fold"] == fold]
        np.testing.assert_allclose(
            scored.loc[tested.index, "probability"], tested["probabilities[1]"], atol=1e-5
        )  # fmt: skip


def test_repeats_search_each_draw_and_a_learning_curve_each_part(searched: Trained, tmp_path: Path) -> None:
    grid = (*UNTRACKED, "--set", 'training.arms=["text"]', "--set", "training.search.text_learning_rate=[1e-2, 1e-3]")
    small = (*grid, "--set", "training.epochs=1")
    repeated = train(searched.studies, searched.labels, tmp_path / "r", *small, "--set", "training.repeats=2")
    assert repeated.code == 0, repeated.said
    search = EvaluationDocument.read(tmp_path / "r" / "evaluation.json").search
    assert search is not None
    assert [(own.repeat, own.fold) for own in search.choices] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    curve = train(searched.studies, searched.labels, tmp_path / "c", *small, "--set", "training.learning_curve=[0.9]")
    assert curve.code == 0, curve.said
    assert "candidates each) 12 ..." in curve.stderr
    assert "12 done" in curve.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["training.search.image_encoder=['cells', 'resnet']"], "image_encoder"),
        (["training.search.fusion=['gated', 'mixed']"], "fusion = 'mixed' is none of"),
        (["training.search.class_weights=['none', [1, 2, 3]]"], "class_weights has 3 weights"),
        (["training.search.image_width=[4, 8]", "model.image_weights=weights.safetensors"], "image_weights are of one"),
    ],
)
def test_a_candidate_that_cannot_be_trained_stops_before_a_study_is_read(
    searched: Trained, tmp_path: Path, settings: list[str], said: str
) -> None:
    changes = [word for one in settings for word in ("--set", one)]
    outcome = train(searched.studies, searched.labels, tmp_path / "run", *UNTRACKED, *changes)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert "Preparing" not in outcome.stderr


def test_times_to_an_event_are_searched_by_their_likelihood_and_by_nothing_else(tmp_path: Path) -> None:
    labels = write_survival_cohort(tmp_path / "data", patients=100)
    changes = (
        'training.arms=["text"]',
        "task.intervals=3",
        "training.tuning_fraction=0.4",
        "training.epochs=14",
        "training.batch_size=16",
        "model.text_batch_norm=true",
        "training.search.learning_rate=[1e-7, 1e-2]",
    )
    timed = (*UNTRACKED, *SURVIVAL, *(word for one in changes for word in ("--set", one)))
    outcome = train(tmp_path / "data" / "studies", labels, tmp_path / "run", *timed)
    assert outcome.code == 0, outcome.said
    search = EvaluationDocument.read(tmp_path / "run" / "evaluation.json").search
    assert search is not None
    assert [own.best.settings for own in search.choices] == [{"learning_rate": 1e-2}] * 2
    by_auroc = (*timed, "--set", "training.search_score=auroc")
    refused = train(tmp_path / "data" / "studies", labels, tmp_path / "by_auroc", *by_auroc)
    assert refused.code == 2
    assert 'search_score = "auroc" is of classes' in refused.stderr
