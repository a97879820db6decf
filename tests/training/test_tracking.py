"""MLflow holds a parent and a child per fold, beside the results; what it refuses costs itself alone."""

import logging
import math
import os
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medmllm.training.mlflow_line import Courier, Line
from medmllm.training.tracking import MlflowRun, NoRun
from tests.mlflow_server import unused_port
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

pytestmark = pytest.mark.usefixtures("no_waiting")


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


def test_every_place_that_the_store_notes_lies_in_the_runs_own_folder(recorded: Path) -> None:
    # The first two experiments of the store; tests add others.
    found = [MlflowClient(tracking_uri=uri_of(recorded)).get_experiment(number) for number in "01"]
    assert [experiment.name for experiment in found] == ["Default", "tests"]
    own = (recorded / "mlflow_artifacts").resolve().as_uri()
    assert [one.name for one in found if not one.artifact_location.startswith(own)] == []


def test_no_user_or_source_file_is_sent(recorded: Path) -> None:
    for run in runs(uri_of(recorded)).values():
        assert set(run.data.tags) <= {"mlflow.runName", "mlflow.parentRunId", "split_digest"}
        assert run.info.user_id in (None, "", "unknown")


def leave_open(folder: Path) -> None:
    """Track a training that is killed while a fold trains."""
    folder.mkdir()
    killed = MlflowRun(Line(Courier(SETTINGS, folder, copy_package), folder), folder, "killed")
    killed.child("killed fold 0")


def test_a_killed_training_is_closed_as_killed_once_the_next_one_starts(tmp_path: Path) -> None:
    leave_open(tmp_path / "run")
    record(tmp_path / "run")
    found = runs(uri_of(tmp_path / "run"))
    ended = {name: found[name].info.status for name in ("killed", "killed fold 0", "outcome", "fused fold 1")}
    assert ended == {
        "killed": "KILLED", "killed fold 0": "KILLED", "outcome": "FINISHED", "fused fold 1": "FINISHED",
    }  # fmt: skip


def test_a_run_that_was_moved_keeps_its_artifacts_where_it_lies_now(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    leave_open(here)
    here.rename(there)
    record(there)
    assert not here.exists()
    parent = runs(uri_of(there))["outcome"].info
    assert parent.artifact_uri == (there / "mlflow_artifacts" / parent.run_id / "artifacts").as_uri()
    assert (there / "mlflow_artifacts" / parent.run_id / "artifacts" / "report.html").is_file()
    before = runs(uri_of(there), "tests (before a move, 1)")
    assert {name: run.info.status for name, run in before.items()} == {"killed": "KILLED", "killed fold 0": "KILLED"}


def test_a_second_training_joins_the_same_experiment(recorded: Path) -> None:
    settings = SETTINGS.model_copy(update={"experiment": "joined"})
    for name in ("first", "again"):
        with opened(settings, recorded, name):
            pass
    assert runs(uri_of(recorded), "joined").keys() == {"first", "again"}


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


def test_retries_are_not_told_one_by_one(recorded: Path) -> None:
    Courier(SETTINGS, recorded, copy_package)
    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.WARNING)  # who tells each as a warning


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
