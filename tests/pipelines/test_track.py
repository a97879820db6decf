"""`medmllm track`: what MLflow missed during a training reaches it later; a run without such things is left alone."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.pyfunc import load_model

from medmllm.csv_tables import read_table
from medmllm.result_documents import EvaluationDocument
from medmllm.table_rows import PredictionRow
from medmllm.training.spool import SPOOL
from tests.mlflow_server import Server
from tests.pipelines.runs import Outcome, Trained, invoke, score, train

DEAD = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead server is given up on at once, and a slow one waited for."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "240")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def untold(nifti_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run whose server, named by the environment, never answered."""
    folder = tmp_path_factory.mktemp("untold")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", DEAD)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        arms = ("--set", 'training.arms=["text"]', "--set", "tracking.register_as=nodules")
        cache = ("--set", f"training.cache={folder / 'cache'}")
        outcome = train(nifti_run.studies, nifti_run.labels, folder / "run", *arms, *cache)
    return folder / "run", outcome


def test_training_ends_as_usual_and_says_how_to_send_what_waits(untold: tuple[Path, Outcome]) -> None:
    run, outcome = untold
    assert outcome.code == 3  # for the study that cannot be read, as with a server
    assert (run / "evaluation.json").is_file()
    assert "medmllm track RUN" in outcome.said
    assert not (run / "mlflow.db").exists()


def test_what_waits_tells_no_path(untold: tuple[Path, Outcome]) -> None:
    assert str(untold[0].parent) not in (untold[0] / SPOOL).read_text()


def test_nothing_is_lost_while_the_server_does_not_answer(
    untold: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    before = (untold[0] / SPOOL).read_text()
    outcome = invoke("track", untold[0])
    assert outcome.code == 1
    assert "still waits in mlflow_spool.jsonl" in outcome.stderr
    assert (untold[0] / SPOOL).read_text() == before


def test_a_store_beside_the_run_holds_its_path_only_where_mlflow_notes_where_artifacts_lie(nifti_run: Trained) -> None:
    with closing(sqlite3.connect(nifti_run.run / "mlflow.db")) as store:
        names = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = set()
        for name in names:
            rows = store.execute(f'SELECT * FROM "{name}"')
            columns = [column[0] for column in rows.description]
            for row in rows:
                held = zip(columns, row, strict=True)
                found |= {f"{name}.{column}" for column, cell in held if str(nifti_run.run.parent) in str(cell)}
    assert found == {"experiments.artifact_location", "runs.artifact_uri"}
    artifacts = [path for path in (nifti_run.run / "mlflow_artifacts").rglob("*") if path.is_file()]
    assert len(artifacts) > 10
    assert not any(str(nifti_run.run.parent).encode() in path.read_bytes() for path in artifacts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_reaches_a_real_server_and_the_registered_model_scores_as_the_command_does(
    nifti_run: Trained, untold: tuple[Path, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(untold[0], run)
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    try:
        server.start()
        outcome = invoke("track", run)
        assert (outcome.code, "entries sent" in outcome.stdout) == (0, True)
        client = MlflowClient(tracking_uri=server.address)
        experiment = client.get_experiment_by_name("medmllm")
        assert experiment is not None
        found = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
        assert found.keys() == {"outcome", "text fold 0", "text fold 1"}
        assert {one.info.status for one in found.values()} == {"FINISHED"}
        parent = found["outcome"]
        assert "text_auroc" in parent.data.metrics
        evaluation = EvaluationDocument.read(run / "evaluation.json")
        assert parent.data.tags["split_digest"] == parent.data.params["split_digest"] == evaluation.split_digest
        assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
            "settings.json", "splits.json", "evaluation.json", "out_of_fold.csv", "report.html", "figures", "model",
        }  # fmt: skip
        assert "figures/roc.svg" in {item.path for item in client.list_artifacts(parent.info.run_id, "figures")}
        [version] = client.search_model_versions("name = 'nodules'")
        assert version.run_id == parent.info.run_id
        (tmp_path / "registered").mkdir()
        registered = download_artifacts("models:/nodules/1", dst_path=str(tmp_path / "registered"))
    finally:
        server.die()
    rows = load_model(registered).predict(pd.DataFrame({"studies": [str(nifti_run.studies)]})).to_dict("records")
    score(nifti_run.studies, run / "model", tmp_path / "scored")
    expected = read_table(tmp_path / "scored" / "predictions.csv", PredictionRow)
    given = {row["study_key"]: row["probability"] for row in rows if pd.isna(row["code"])}
    assert given == pytest.approx({row.study_key: row.probability for row in expected}, abs=1e-6)
    assert len(expected) > 10
    assert not (run / SPOOL).exists()
    assert invoke("track", run).stdout == "nothing waits\n"


def test_a_folder_that_is_no_run_is_misuse(tmp_path: Path) -> None:
    outcome = invoke("track", tmp_path)
    assert outcome.code == 2
    assert "no settings.json in RUN" in outcome.stderr
