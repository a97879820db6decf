"""With isotonic calibration the package holds the curves, and scoring follows them to the same probabilities."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from medmllm.csv_tables import read_table
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder
from medmllm.ingest.tables import read_label_table
from medmllm.model_documents import ModelCard
from medmllm.models.package import load_package
from medmllm.preprocessing.sample import collate, prepare_sample
from medmllm.table_rows import OutOfFoldRow, PredictionRow
from medmllm.training.cohort import read_parts
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import SECRET, UNTRACKED, score, train

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))
ISOTONIC = (*UNTRACKED, "--set", "evaluation.calibration=isotonic", "--set", 'training.arms=["image"]')


def test_scoring_follows_the_curves_of_the_package(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=24)
    studies, run = tmp_path / "data" / "studies", tmp_path / "run"
    with labels.open(newline="") as stream:  # some labels are wrong, so that curves have steps between their ends
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["outcome"] = str(int(row["outcome"]) ^ (row["patient_id"] in ("P003", "P008", "P013", "P018")))
    with labels.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert train(studies, labels, run, *ISOTONIC).code == 0
    card = ModelCard.read(run / "model" / "model.json")
    assert "isotonic regression" in card.calibration
    assert score(studies, run / "model", tmp_path / "scored").code == 0
    scored = {row.study_key: row for row in read_table(tmp_path / "scored" / "predictions.csv", PredictionRow)}
    tested = {row.study_key: row for row in read_table(run / "out_of_fold.csv", OutOfFoldRow)}

    package, contract = load_package(run / "model"), card.contract
    for study in index_folder(studies, keyring=KEYRING, table=read_label_table(labels)).studies:
        sample = prepare_sample(study, read_parts(study, contract).volumes, None, contract, None)
        each = []
        for member, fold in zip(package.folds, card.folds, strict=True):
            raw = member.network(collate([sample], contract)).item()
            assert fold.isotonic is not None
            (curve,) = fold.isotonic
            (offset,) = fold.offsets or (0.0,)
            each.append(np.interp(expit(raw / fold.temperature + offset), curve.given, curve.calibrated))
        assert scored[study.study_key].probability == pytest.approx(expit(logit(each).mean()), abs=1e-6)
        own = tested[study.study_key]
        assert own.probabilities["1"] == pytest.approx(each[own.fold], abs=1e-6)
        assert own.predicted == str(int(own.probabilities["1"] >= card.folds[own.fold].threshold))
