"""What a tracking server misses while it is dead waits beside the results, and reaches it later, once."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from medmllm.errors import PackageError
from medmllm.training import mlflow_line, spool
from medmllm.training.mlflow_line import Courier, replay
from medmllm.training.spool import SPOOL, SpoolEntry, read_spool
from medmllm.training.tracking import Run
from tests.mlflow_server import Server, unused_port
from tests.training.tracked import (
    SETTINGS,
    copy_package,
    history,
    opened,
    record,
    runs,
    uri_of,
    warnings,
)

pytestmark = [pytest.mark.usefixtures("no_waiting"), pytest.mark.timeout(900)]  # a server may start twice


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


def test_an_unfinished_last_line_of_the_spool_is_left_out_and_a_wrong_one_named(tmp_path: Path) -> None:
    spool = tmp_path / SPOOL
    spool.write_text('{"kind":"end","run":0,"at_ms":1}\n{"kind":"en')
    assert [entry.kind for entry in read_spool(spool)] == ["end"]
    spool.write_text('{"kind":"end","run":0,"at_ms":1}\n{"kind":"fly","run":0,"at_ms":1}\n')
    with pytest.raises(PackageError, match=r"mlflow_spool\.jsonl, line 2: kind"):
        read_spool(spool)
