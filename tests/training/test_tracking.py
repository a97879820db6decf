import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Found
from mlflow.exceptions import MlflowException

from medmllm.errors import PackageError
from medmllm.training import mlflow_line, spool
from medmllm.training.mlflow_line import Courier, replay
from medmllm.training.spool import SPOOL, SpoolEntry, read_spool
from medmllm.training.tracking import NoRun, Run, parent_run
from medmllm.training_config import TrackingSettings
from tests.mlflow_server import Server, unused_port

SETTINGS = TrackingSettings(enabled=True, experiment="tests", uri="", register_as="")


def copy_package(package: Path, target: Path) -> None:
    """Stand in for the MLflow model of a package: its files alone."""
    shutil.copytree(package, target)


def opened(settings: TrackingSettings, folder: Path, name: str = "outcome") -> AbstractContextManager[Run]:
    return parent_run(settings, folder=folder, name=name, save_model=copy_package)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == mlflow_line.__name__ and r.levelno == logging.WARNING]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Whatever a test or MLflow sets is taken back; a dead server is given up on at once."""
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    with patch.dict(os.environ, quick):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield


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
    with opened(settings, folder) as run:
        run.log_params({"training.folds": 2, "image.window": (-1000.0, 400.0), "long": "x" * 2000})
        run.log_tags({"split_digest": "5e" * 32})
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
        run.log_model(folder / "model", register_as=settings.register_as)


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
        assert set(run.data.tags) <= {"mlflow.runName", "mlflow.parentRunId", "split_digest"}
        assert run.info.user_id in (None, "", "unknown")


def test_a_second_training_joins_the_same_experiment(recorded: Path) -> None:
    with opened(SETTINGS, recorded, "again"):
        pass
    assert {"outcome", "again"} <= runs(uri_of(recorded)).keys()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_training_that_fails_is_marked_failed_with_its_open_children(
    recorded: Path, error: type[BaseException]
) -> None:
    settings = SETTINGS.model_copy(update={"experiment": f"failing {error.__name__}"})

    def train() -> None:
        with opened(settings, recorded) as run:
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
    with opened(settings, recorded) as run:
        run.log_params({"folds": 2})
        run.log_params({"folds": 3})  # a parameter cannot be changed
        run.log_metrics({"auroc": 0.5})
    found = runs(uri_of(recorded), "refusing")["outcome"]
    assert (found.data.params, found.data.metrics) == ({"folds": "2"}, {"auroc": 0.5})
    assert warnings(caplog) == ["MLflow refused one entry (INVALID_PARAMETER_VALUE): it is not tracked, the rest is"]


def test_tracking_that_is_switched_off_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "model").mkdir()
    off = SETTINGS.model_copy(update={"enabled": False})
    with opened(off, tmp_path / "out") as run:
        run.log_params({"a": 1})
        run.log_metrics({"b": 2.0})
        run.log_tags({"c": "d"})
        run.log_file(tmp_path / "model")
        run.log_model(tmp_path / "model", register_as="name")
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
    with opened(settings, tmp_path) as run:
        run.child("fold").log_epoch(1, {"train_loss": 1.0})
        trained = True
    assert trained
    first, last = warnings(caplog)
    assert "training goes on, and what it tracks waits in mlflow_spool.jsonl" in first
    assert "`medmllm track RUN`" in last
    assert [file.name for file in tmp_path.iterdir()] == [SPOOL]
    assert [(entry.kind, entry.run) for entry in read_spool(tmp_path / SPOOL)] == [
        ("start", 0), ("start", 1), ("metrics", 1), ("end", 1), ("end", 0),
    ]  # fmt: skip


def test_the_settings_win_over_the_environment(recorded: Path, tmp_path: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{unused_port()}"
    named = SETTINGS.model_copy(update={"uri": uri_of(recorded), "experiment": "named"})
    with opened(named, tmp_path):
        pass
    assert runs(uri_of(recorded), "named").keys() == {"outcome"}
    assert list(tmp_path.iterdir()) == []


def test_mlflow_is_not_waited_for_by_the_minute_unless_the_environment_says_so(recorded: Path) -> None:
    del os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "77"
    Courier(SETTINGS, recorded, copy_package)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.fixture
def server(recorded: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    shutil.copy(recorded / "mlflow.db", tmp_path / "server" / "store.db")  # making one takes seconds
    started = Server(tmp_path / "server")
    try:
        started.start()
        yield started
    finally:
        started.die()


@pytest.mark.slow
def test_a_real_server_named_by_the_environment_receives_everything(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = server.address
    folder = tmp_path / "run"
    record(folder, SETTINGS.model_copy(update={"experiment": "served", "register_as": "nodules"}))
    found = runs(server.address, "served")
    assert {name: run.info.status for name, run in found.items()} == {
        "outcome": "FINISHED",
        "fused fold 0": "FINISHED",
        "fused fold 1": "FINISHED",
    }
    assert found["outcome"].data.params["many.249"] == "249"
    assert found["outcome"].data.tags["split_digest"] == "5e" * 32
    assert history(server.address, found["fused fold 0"], "train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    kept = {file.name for file in (server.folder / "kept").rglob("*") if file.is_file()}
    assert kept == {"report.html", "model.json"}
    assert {file.name for file in folder.iterdir()} == {"model", "report.html"}  # no database of its own, no spool
    [version] = MlflowClient(tracking_uri=server.address).search_model_versions("name = 'nodules'")
    assert version.run_id == found["outcome"].info.run_id
    assert warnings(caplog) == []


def tracked_through_a_death(run: Run, folder: Path, server: Server, *, back: bool) -> None:
    """Train two folds; the server dies in the first, and comes back before the second where `back` says so."""
    child = run.child("fold 0")
    child.log_epoch(1, {"train_loss": 1.0})
    server.die()
    child.log_epoch(2, {"train_loss": 0.5, "tuning_loss": math.nan})
    child.end()
    run.log_params({"folds": 2})
    if back:
        server.start()
    second = run.child("fold 1")
    second.log_epoch(1, {"train_loss": 0.25})
    second.end()
    (folder / "report.html").write_text("<p>made up</p>")
    run.log_file(folder / "report.html")


def assert_nothing_is_lost(server: Server, experiment: str) -> None:
    found = runs(server.address, experiment)
    assert {name: run.info.status for name, run in found.items()} == dict.fromkeys(
        ("outcome", "fold 0", "fold 1"), "FINISHED"
    )
    assert len(MlflowClient(tracking_uri=server.address).search_runs([found["outcome"].info.experiment_id])) == 3
    parent = found["outcome"].info.run_id
    assert [found[f"fold {k}"].data.tags["mlflow.parentRunId"] for k in (0, 1)] == [parent, parent]
    assert history(server.address, found["fold 0"], "train_loss") == [(1, 1.0), (2, 0.5)]
    assert math.isnan(found["fold 0"].data.metrics["tuning_loss"])
    assert history(server.address, found["fold 1"], "train_loss") == [(1, 0.25)]
    assert found["outcome"].data.params == {"folds": "2"}
    assert [file.name for file in (server.folder / "kept").rglob("*") if file.is_file()] == ["report.html"]


@pytest.mark.slow
def test_what_a_dead_server_missed_reaches_it_when_it_is_back_within_the_training(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS.model_copy(update={"uri": server.address, "experiment": "back"})
    with patch.object(mlflow_line, "RETRY_AFTER_S", 0.0), opened(settings, tmp_path) as run:
        tracked_through_a_death(run, tmp_path, server, back=True)
        assert not (tmp_path / SPOOL).exists()  # sent at the next fold, not only at the end
    assert_nothing_is_lost(server, "back")
    first, last = warnings(caplog)
    assert "training goes on" in first
    assert last == "MLflow answers again: the 3 entries that waited were sent"


@pytest.mark.slow
def test_what_a_dead_server_missed_can_be_sent_by_another_process_later(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS.model_copy(update={"uri": server.address, "experiment": "later"})
    with opened(settings, tmp_path) as run:
        tracked_through_a_death(run, tmp_path, server, back=False)
    waiting = (tmp_path / SPOOL).read_text()
    assert str(tmp_path) not in waiting
    with pytest.raises(MlflowException):  # still dead: nothing is lost by trying
        replay(Courier(settings, tmp_path, copy_package), tmp_path / SPOOL)
    assert (tmp_path / SPOOL).read_text() == waiting
    server.start()
    assert replay(Courier(settings, tmp_path, copy_package), tmp_path / SPOOL) == 8
    assert not (tmp_path / SPOOL).exists()
    assert_nothing_is_lost(server, "later")


def test_sending_that_is_cut_short_goes_on_where_it_stopped(tmp_path: Path, recorded: Path) -> None:
    dead = SETTINGS.model_copy(update={"uri": f"http://127.0.0.1:{unused_port()}", "experiment": "cut"})
    with opened(dead, tmp_path) as run:
        run.log_metrics({"auroc": 0.75})
        run.child("fold").log_epoch(1, {"train_loss": 1.0})
    alive = dead.model_copy(update={"uri": uri_of(recorded)})
    delivered = 0

    class Breaking(Courier):
        def deliver(self, entry: SpoolEntry) -> None:
            nonlocal delivered
            if entry.kind == "metrics":  # were the machine to stop here, the run would not be started again
                assert all(
                    one.run_id for one in read_spool(tmp_path / SPOOL) if one.run <= entry.run and one.kind == "start"
                )
            if delivered == 3:  # the parent, its metric and the child's start got through
                raise ConnectionError
            delivered += 1
            super().deliver(entry)

    with pytest.raises(ConnectionError):
        replay(Breaking(alive, tmp_path, copy_package), tmp_path / SPOOL)
    assert [(entry.kind, entry.run, bool(entry.run_id)) for entry in read_spool(tmp_path / SPOOL)] == [
        ("start", 0, True), ("start", 1, True), ("metrics", 1, False), ("end", 1, False), ("end", 0, False),
    ]  # fmt: skip
    assert replay(Courier(alive, tmp_path, copy_package), tmp_path / SPOOL) == 3
    found = runs(uri_of(recorded), "cut")
    experiment = found["outcome"].info.experiment_id
    assert len(MlflowClient(tracking_uri=uri_of(recorded)).search_runs([experiment])) == 2  # none started twice
    assert history(uri_of(recorded), found["fold"], "train_loss") == [(1, 1.0)]


def test_an_earlier_trainings_entries_are_still_sent_but_not_the_files_that_were_written_over(
    tmp_path: Path, recorded: Path
) -> None:
    dead = SETTINGS.model_copy(update={"uri": f"http://127.0.0.1:{unused_port()}", "experiment": "earlier"})
    (tmp_path / "report.html").write_text("first")
    with opened(dead, tmp_path, "first") as run:
        run.log_metrics({"auroc": 0.25})
        run.log_file(tmp_path / "report.html")
    with opened(dead.model_copy(update={"uri": uri_of(recorded)}), tmp_path, "second") as run:
        run.log_metrics({"auroc": 0.5})
    found = runs(uri_of(recorded), "earlier")
    assert {name: run.data.metrics["auroc"] for name, run in found.items()} == {"first": 0.25, "second": 0.5}
    client = MlflowClient(tracking_uri=uri_of(recorded))
    assert client.list_artifacts(found["first"].info.run_id) == []
    assert not (tmp_path / SPOOL).exists()


def test_a_kill_while_a_training_starts_loses_nothing_of_what_an_earlier_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = SETTINGS.model_copy(update={"uri": f"http://127.0.0.1:{unused_port()}"})
    with opened(dead, tmp_path, "first") as run:
        run.log_metrics({"auroc": 0.25})
    waiting = read_spool(tmp_path / SPOOL)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for place in (mlflow_line, spool):
        monkeypatch.setattr(place, "append_to_spool", killed)
    with pytest.raises(KeyboardInterrupt), opened(dead, tmp_path, "second"):
        pass
    assert read_spool(tmp_path / SPOOL) == waiting


def test_a_run_that_the_server_refuses_to_start_waits_with_all_that_belongs_to_it(
    tmp_path: Path, recorded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient(tracking_uri=uri_of(recorded))
    client.delete_experiment(client.create_experiment("deleted"))
    settings = SETTINGS.model_copy(update={"uri": uri_of(recorded), "experiment": "deleted"})
    with opened(settings, tmp_path) as run:
        run.log_metrics({"auroc": 0.5})
    assert [entry.kind for entry in read_spool(tmp_path / SPOOL)] == ["start", "metrics", "end"]
    assert "INVALID_PARAMETER_VALUE" in warnings(caplog)[0]


def test_a_dead_server_is_not_tried_again_at_every_fold(tmp_path: Path) -> None:
    dead = SETTINGS.model_copy(update={"uri": f"http://127.0.0.1:{unused_port()}"})
    with patch.object(mlflow_line, "replay", side_effect=ConnectionError) as attempts:
        with opened(dead, tmp_path) as run:
            for fold in range(15):
                run.child(f"fold {fold}").end()
            assert attempts.call_count == 0  # within the minute after it was found dead
        assert attempts.call_count == 1  # the last chance, at the end


def test_a_name_that_is_registered_already_gets_a_new_version(tmp_path: Path, recorded: Path) -> None:
    settings = SETTINGS.model_copy(update={"uri": uri_of(recorded), "experiment": "twice"})
    # Else MLflow puts the artifacts into the checkout.
    MlflowClient(tracking_uri=uri_of(recorded)).create_experiment("twice", str(tmp_path / "kept"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    for _ in range(2):
        with opened(settings, tmp_path) as run:
            run.log_model(tmp_path / "model", register_as="of two trainings")
    found = MlflowClient(tracking_uri=uri_of(recorded)).search_model_versions("name = 'of two trainings'")
    assert sorted(int(one.version) for one in found) == [1, 2]


def test_a_file_that_is_gone_when_it_could_be_sent_costs_itself_alone(
    tmp_path: Path, recorded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS.model_copy(update={"uri": uri_of(recorded), "experiment": "gone"})
    with opened(settings, tmp_path) as run:
        run.log_file(tmp_path / "report.html")
        run.log_metrics({"auroc": 0.5})
    assert runs(uri_of(recorded), "gone")["outcome"].data.metrics == {"auroc": 0.5}
    assert warnings(caplog) == ["report.html is no longer in the run's folder: it is not tracked, the rest is"]


def test_an_unfinished_last_line_of_the_spool_is_left_out_and_a_wrong_one_named(tmp_path: Path) -> None:
    spool = tmp_path / SPOOL
    spool.write_text('{"kind":"end","run":0,"at_ms":1}\n{"kind":"en')
    assert [entry.kind for entry in read_spool(spool)] == ["end"]
    spool.write_text('{"kind":"end","run":0,"at_ms":1}\n{"kind":"fly","run":0,"at_ms":1}\n')
    with pytest.raises(PackageError, match=r"mlflow_spool\.jsonl, line 2: kind"):
        read_spool(spool)
