"""`medmllm train` writes decision curves, and DeLong's test where patients have one study each."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from medmllm.csv_tables import read_table
from medmllm.result_documents import EvaluationDocument
from medmllm.table_rows import OutOfFoldRow
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import UNTRACKED, Trained, train


def test_decision_curves_are_those_of_the_out_of_fold_table(nifti_run: Trained) -> None:
    evaluation = EvaluationDocument.read(nifti_run.run / "evaluation.json")
    rows = read_table(nifti_run.run / "out_of_fold.csv", OutOfFoldRow)
    assert [curve.arm for curve in evaluation.decision_curves] == [arm.arm for arm in evaluation.arms]
    for curve in evaluation.decision_curves:
        own = [row for row in rows if row.arm == curve.arm]
        chances = np.array([row.probabilities["1"] for row in own])
        positive = np.array([row.target == "1" for row in own])
        for threshold, found in zip(curve.thresholds, curve.net_benefit, strict=True):
            treated = chances >= threshold
            odds = threshold / (1 - threshold)
            expected = ((treated & positive).sum() - odds * (treated & ~positive).sum()) / len(own)
            assert found.estimate == pytest.approx(expected)
    assert evaluation.delong == (), "some patients have two studies"
    assert "DeLong" in (nifti_run.run / "report.html").read_text()


def test_delongs_test_is_made_where_every_patient_has_one_study(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=12)
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join(line for line in lines if "-1," not in line) + "\n")  # one visit of each patient
    arms = ("--set", 'training.arms=["image", "fused"]')
    outcome = train(tmp_path / "data" / "studies", labels, tmp_path / "run", *UNTRACKED, *arms)
    assert outcome.code == 0, outcome.stderr
    evaluation = EvaluationDocument.read(tmp_path / "run" / "evaluation.json")
    assert evaluation.n == evaluation.patients == 12
    (found,) = evaluation.delong
    (bootstrapped,) = evaluation.differences
    assert (found.first, found.second) == ("fused", "image")
    assert found.estimate == pytest.approx(bootstrapped.estimate)
    if found.p_value is not None:
        assert found.p_value == pytest.approx(2 * norm.sf(abs(found.estimate) / found.standard_error))
