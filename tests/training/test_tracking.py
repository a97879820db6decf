import logging
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Found

from medmllm.config import TrackingSettings
from medmllm.training import tracking
from medmllm.training.tracking import MlflowRun, NoRun, parent_run

SETTINGS = TrackingSettings(enabled=True, experiment="tests", uri="")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Whatever a test or MLflow sets is taken back; a dead server is given up on at once."""
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    with patch.dict(os.environ, quick):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def runs(uri: str, experiment: str = "tests") -> dict[str, Found]:
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}


def history(uri: str, run: Found, metric: str) -> list[tuple[int, float]]:
    points = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def record(folder: Path, settings: TrackingSettings = SETTINGS) -> None:
    """Track a training as the pipeline does: a parent, a child per fold, one of them left open."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "model.json").write_text("{}")
    (folder / "report.html").write_text("<p>made up</p>")
    with parent_run(settings, folder=folder, name="outcome") as run:
        run.log_params({"training.folds": 2, "image.window": (-1000.0, 400.0), "long": "x" * 2000})
        run.log_params({f"many.{k}": k for k in range(250)})
        for fold in range(2):
            child = run.child(f"fused fold {fold}")
            for epoch in (1, 2, 3):
                child.log_epoch(epoch, {"train_loss": 1.0 / epoch, "tuning_loss": 0.5 + fold})
            child.log_metrics({"temperature": 1.25})
            if fold == 0:
                child.end()
        run.log_metrics({"fused_auroc": 0.75, "probability[grade>=3]": 0.5, "undefined": math.nan})
        run.log_file(folder / "report.html")
        run.log_file(folder / "model")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a run with a space")
    with patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        record(folder)
    return folder


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def test_the_runs_lie_beside_the_results_a_parent_and_a_child_per_fold(recorded: Path) -> None:
    found = runs(uri_of(recorded))
    assert found.keys() == {"outcome", "fused fold 0", "fused fold 1"}
    parent = found["outcome"].info.run_id
    assert [found[f"fused fold {k}"].data.tags["mlflow.parentRunId"] for k in (0, 1)] == [parent, parent]
    assert "mlflow.parentRunId" not in found["outcome"].data.tags


def test_every_run_is_finished_also_a_child_that_was_left_open(recorded: Path) -> None:
    assert {run.info.status for run in runs(uri_of(recorded)).values()} == {"FINISHED"}
    assert all(run.info.end_time for run in runs(uri_of(recorded)).values())


def test_settings_are_parameters_all_of_them_and_long_ones_cut_with_a_mark(recorded: Path) -> None:
    params = runs(uri_of(recorded))["outcome"].data.params
    assert params["training.folds"] == "2"
    assert params["image.window"] == "(-1000.0, 400.0)"
    assert params["long"] == "x" * 500 + "..."
    assert [params[f"many.{k}"] for k in range(250)] == [str(k) for k in range(250)]


def test_losses_stand_at_their_epochs(recorded: Path) -> None:
    child = runs(uri_of(recorded))["fused fold 1"]
    assert history(uri_of(recorded), child, "train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert history(uri_of(recorded), child, "tuning_loss") == [(1, 1.5), (2, 1.5), (3, 1.5)]
    assert child.data.metrics["temperature"] == 1.25


def test_metrics_of_the_parent_are_kept_whatever_a_class_is_called(recorded: Path) -> None:
    metrics = runs(uri_of(recorded))["outcome"].data.metrics
    assert metrics["fused_auroc"] == 0.75
    assert metrics["probability_grade__3_"] == 0.5
    assert math.isnan(metrics["undefined"])


def test_artifacts_lie_in_the_runs_own_folder(recorded: Path) -> None:
    files = {p.relative_to(recorded).as_posix() for p in (recorded / "mlflow_artifacts").rglob("*") if p.is_file()}
    assert {re.sub("/[0-9a-f]{32}/", "/ID/", name) for name in files} == {
        "mlflow_artifacts/ID/artifacts/report.html",
        "mlflow_artifacts/ID/artifacts/model/model.json",
    }
    assert not (Path.cwd() / "mlruns").exists()


def test_no_user_or_source_file_is_sent(recorded: Path) -> None:
    for run in runs(uri_of(recorded)).values():
        assert set(run.data.tags) <= {"mlflow.runName", "mlflow.parentRunId"}
        assert run.info.user_id in (None, "", "unknown")


def test_a_second_training_joins_the_same_experiment(recorded: Path) -> None:
    with parent_run(SETTINGS, folder=recorded, name="again"):
        pass
    assert {"outcome", "again"} <= runs(uri_of(recorded)).keys()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_training_that_fails_is_marked_failed_with_its_open_children(
    recorded: Path, error: type[BaseException]
) -> None:
    settings = SETTINGS.model_copy(update={"experiment": f"failing {error.__name__}"})

    def train() -> None:
        with parent_run(settings, folder=recorded, name="outcome") as run:
            run.child("done").end()
            run.child("open").log_epoch(1, {"train_loss": 1.0})
            raise error

    with pytest.raises(error):
        train()
    found = runs(uri_of(recorded), settings.experiment)
    assert {name: run.info.status for name, run in found.items()} == {
        "outcome": "FAILED",
        "open": "FAILED",
        "done": "FINISHED",
    }


def test_one_refused_entry_costs_that_entry_alone(recorded: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = SETTINGS.model_copy(update={"experiment": "refusing"})
    with parent_run(settings, folder=recorded, name="outcome") as run:
        run.log_params({"folds": 2})
        run.log_params({"folds": 3})  # a parameter cannot be changed
        run.log_metrics({"auroc": 0.5})
    found = runs(uri_of(recorded), "refusing")["outcome"]
    assert (found.data.params, found.data.metrics) == ({"folds": "2"}, {"auroc": 0.5})
    assert [r.getMessage() for r in caplog.records if r.name == tracking.__name__] == [
        "MLflow refused one entry (INVALID_PARAMETER_VALUE): it is not tracked, the rest is"
    ]


def test_tracking_that_is_switched_off_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "model").mkdir()
    off = SETTINGS.model_copy(update={"enabled": False})
    with parent_run(off, folder=tmp_path / "out", name="outcome") as run:
        run.log_params({"a": 1})
        run.log_metrics({"b": 2.0})
        run.log_file(tmp_path / "model")
        child = run.child("fold")
        child.log_epoch(1, {"c": 3.0})
        child.end(failed=True)
        assert isinstance(child, NoRun)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("named_by", ["settings", "environment"])
def test_a_dead_server_costs_the_tracking_with_a_warning_and_never_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, named_by: str
) -> None:
    address = f"http://127.0.0.1:{unused_port()}"
    settings = SETTINGS
    if named_by == "settings":
        settings = SETTINGS.model_copy(update={"uri": address})
    else:
        os.environ["MLFLOW_TRACKING_URI"] = address
    trained = False
    with parent_run(settings, folder=tmp_path, name="outcome") as run:
        run.child("fold").log_epoch(1, {"train_loss": 1.0})
        trained = True
    assert trained
    [warning] = [record for record in caplog.records if record.name == tracking.__name__]
    assert warning.levelno == logging.WARNING
    assert "cannot be reached" in warning.getMessage()
    assert "training goes on untracked" in warning.getMessage()
    assert list(tmp_path.iterdir()) == []


def test_the_settings_win_over_the_environment(recorded: Path, tmp_path: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{unused_port()}"
    named = SETTINGS.model_copy(update={"uri": uri_of(recorded), "experiment": "named"})
    with parent_run(named, folder=tmp_path, name="outcome"):
        pass
    assert runs(uri_of(recorded), "named").keys() == {"outcome"}
    assert list(tmp_path.iterdir()) == []


def test_mlflow_is_not_waited_for_by_the_minute_unless_the_environment_says_so(recorded: Path) -> None:
    del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "77"
    with patch.object(tracking, "MlflowRun", side_effect=OSError), parent_run(SETTINGS, folder=recorded, name="x"):
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.fixture
def server(recorded: Path, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real server on loopback, in a process group of its own, as it is a tree of processes."""
    port = unused_port()
    address = f"http://127.0.0.1:{port}"
    (tmp_path / "server").mkdir()
    shutil.copy(recorded / "mlflow.db", tmp_path / "server" / "store.db")  # making one takes seconds
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///store.db", "--artifacts-destination", "kept"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=tmp_path / "server",
            env=os.environ | {"PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(f"{address}/health", process, tmp_path / "server.log")
        yield address, process
    finally:
        stop(process)


def wait_for(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(health, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no answer within a minute: {log.read_text()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


@pytest.mark.slow
def test_a_real_server_named_by_the_environment_receives_everything_until_it_dies(
    tmp_path: Path, server: tuple[str, subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    address, process = server
    os.environ["MLFLOW_TRACKING_URI"] = address
    folder = tmp_path / "run"
    served = SETTINGS.model_copy(update={"experiment": "served"})
    record(folder, served)
    found = runs(address, "served")
    assert {name: run.info.status for name, run in found.items()} == {
        "outcome": "FINISHED",
        "fused fold 0": "FINISHED",
        "fused fold 1": "FINISHED",
    }
    assert found["outcome"].data.params["many.249"] == "249"
    assert history(address, found["fused fold 0"], "train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    kept = {file.name for file in (tmp_path / "server" / "kept").rglob("*") if file.is_file()}
    assert kept == {"report.html", "model.json"}
    assert {file.name for file in folder.iterdir()} == {"model", "report.html"}  # no database of its own
    assert not [record for record in caplog.records if record.name == tracking.__name__]

    with parent_run(served, folder=folder, name="cut short") as run:
        child = run.child("fold")
        assert isinstance(child, MlflowRun)
        stop(process)
        child.log_epoch(1, {"train_loss": 1.0})
        child.log_epoch(2, {"train_loss": 0.5})
        assert isinstance(run.child("next fold"), NoRun)
        run.log_metrics({"auroc": 0.5})
    [warning] = [record for record in caplog.records if record.name == tracking.__name__]
    assert "stopped answering" in warning.getMessage()
