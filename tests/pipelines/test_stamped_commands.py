"""The command that a result is stamped with, its roles filled in, gives the result again."""

import json
import shlex
from pathlib import Path

import pandas as pd

from tests.pipelines.runs import UNTRACKED, Trained, invoke, score


def words_of(stamped: str, **roles: Path) -> list[str]:
    """Return what follows `medmllm`, with a place for each role."""
    program, *words = shlex.split(stamped)
    assert program == "medmllm"
    return [str(roles.get(word, word)) for word in words]


def command_in(document: Path) -> str:
    return str(json.loads(document.read_text())["provenance"]["command"])


def test_a_training_is_told_and_done_again(nifti_run: Trained, tmp_path: Path) -> None:
    stamped = command_in(nifti_run.run / "evaluation.json")
    assert stamped == command_in(nifti_run.run / "model" / "model.json")
    words = words_of(stamped, STUDIES=nifti_run.studies, LABELS=nifti_run.labels, RUN=tmp_path / "run")
    assert "--config" not in words  # all its settings came from a file
    assert invoke(*words, *UNTRACKED).code == nifti_run.outcome.code
    again, first = (pd.read_csv(run / "out_of_fold.csv") for run in (tmp_path / "run", nifti_run.run))
    pd.testing.assert_frame_equal(again, first, rtol=1e-5, atol=1e-5)
    splits = [json.loads((run / "splits.json").read_text()) for run in (tmp_path / "run", nifti_run.run)]
    assert splits[0] == splits[1]


def test_a_scoring_is_told_with_its_settings_and_done_again(nifti_run: Trained, tmp_path: Path) -> None:
    asked = ("--set", "quality.decisions.note_too_short=refuse", "--set", "quality.bounds.note_words=9999")
    first = score(nifti_run.studies, nifti_run.run / "model", tmp_path / "first", *asked)
    stamped = command_in(tmp_path / "first" / "summary.json")
    words = words_of(stamped, STUDIES=nifti_run.studies, MODEL=nifti_run.run / "model", OUT=tmp_path / "again")
    again = invoke(*words)
    assert (again.code, again.stdout.split(" -> ")[0]) == (first.code, first.stdout.split(" -> ")[0])
    refused = [(tmp_path / name / "ledger.csv").read_text() for name in ("first", "again")]
    assert refused[0] == refused[1]
    assert refused[0].count("note_too_short") > 10
