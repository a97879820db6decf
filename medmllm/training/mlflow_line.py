"""Hand tracking entries to one MLflow server, in order; what it does not take waits in the spool.

    SpoolEntry -> MLflow, or RUN/mlflow_spool.jsonl -> MLflow, when it answers again

Calls name no user and no script: MLflow's client alone is used, never its fluent functions, which add both.
"""

import logging
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from medmllm.training.spool import SPOOL, SpoolEntry, append_to_spool, read_spool, rewrite_spool
from medmllm.training_config import TrackingSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SaveModel = Callable[[Path, Path], None]
"""Writes a model package (first) as an MLflow model folder (second)."""

MODEL = "model"  # the artifact folder: runs:/RUN_ID/model
RETRY_AFTER_S = 60.0  # a dead server costs several seconds per attempt
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # the server answers, but not to what was sent
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own would hold up a training for minutes per call to a dead server; the environment wins over these."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
CHATTY = {"alembic": logging.WARNING, "mlflow": logging.WARNING, "urllib3.connectionpool": logging.ERROR}
"""Each retry is a warning of urllib3's; that a server does not answer is told once, by us."""


class Courier:
    """Hands entries to one server; knows its runs by the numbers that the training gives them."""

    def __init__(self, settings: TrackingSettings, folder: Path, save_model: SaveModel) -> None:
        """Prepare, without a call to the server.

        Args:
            settings: Experiment and address; `uri` empty means MLFLOW_TRACKING_URI, else sqlite in `folder`.
            folder: The run's folder; holds mlflow.db and mlflow_artifacts/ unless a server is named.
            save_model: How a package becomes an MLflow model.
        """
        for variable, value in (QUIET | PATIENCE).items():
            os.environ.setdefault(variable, value)
        for chatty, least in CHATTY.items():
            logging.getLogger(chatty).setLevel(least)
        named = settings.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self._uri = named or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        self._artifacts = None if named else (folder / "mlflow_artifacts").resolve().as_uri()
        self._experiment_name = settings.experiment
        self._folder = folder
        self._save_model = save_model
        self._run_ids: dict[int, str] = {}

    @cached_property
    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        if self._artifacts is not None:
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            # A new store gets an experiment "Default", which the client alone would place below the working folder.
            SqlAlchemyStore(self._uri, self._artifacts)
        return MlflowClient(tracking_uri=self._uri)

    @cached_property
    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment_name)
        if found and self._artifacts is not None:
            self._close_killed()
        if found and self._artifacts not in (None, found.artifact_location):
            # The folder was moved: MLflow would make the old one again, and no call gives an experiment another place.
            earlier = f"{self._experiment_name} (before a move, {found.experiment_id})"
            self._client.rename_experiment(found.experiment_id, earlier)
        elif found:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self._experiment_name, artifact_location=self._artifacts))

    def _close_killed(self) -> None:
        """Mark runs that a killed training left open: beside a run's folder no other training writes."""
        every = [one.experiment_id for one in self._client.search_experiments()]
        for run in self._client.search_runs(every, "attributes.status = 'RUNNING'"):
            if run.info.run_id not in self._run_ids.values():
                self._client.set_terminated(run.info.run_id, "KILLED")

    def known_runs(self) -> list[SpoolEntry]:
        """Return one entry per run that the server has, so that another process can go on with it."""
        return [SpoolEntry(kind="start", run=run, at_ms=0, run_id=name) for run, name in self._run_ids.items()]

    def deliver(self, entry: SpoolEntry) -> None:
        """Hand over one entry; whatever MLflow raises is raised."""
        from mlflow.entities import Metric, Param, RunTag

        if entry.kind == "start":
            self._run_ids[entry.run] = entry.run_id or self._start(entry)
            return
        run_id, values = self._run_ids[entry.run], entry.values
        match entry.kind:
            case "params":
                self._client.log_batch(run_id, params=[Param(key, value) for key, value in values.items()])
            case "tags":
                self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])
            case "metrics":
                rows = [Metric(key, float(value), entry.at_ms, entry.step) for key, value in values.items()]
                self._client.log_batch(run_id, metrics=rows)
            case "text":
                self._client.log_text(run_id, values["text"], str(entry.name))
            case "file" | "model":
                self._send(run_id, entry)
            case "end":
                self._client.set_terminated(run_id, "FAILED" if entry.failed else "FINISHED", end_time=entry.at_ms)

    def _start(self, entry: SpoolEntry) -> str:
        tags = {"mlflow.runName": entry.name}
        if entry.parent is not None:
            tags["mlflow.parentRunId"] = self._run_ids[entry.parent]
        started = self._client.create_run(self._experiment_id, start_time=entry.at_ms, tags=tags)
        return str(started.info.run_id)

    def _send(self, run_id: str, entry: SpoolEntry) -> None:
        path = self._folder / str(entry.name)
        if not path.exists():
            logger.warning("%s is no longer in the run's folder: it is not tracked, the rest is", entry.name)
        elif entry.kind == "model":
            self._send_model(run_id, path, entry.values.get("register_as", ""))
        elif path.is_dir():
            self._client.log_artifacts(run_id, str(path), artifact_path=path.name)
        else:
            self._client.log_artifact(run_id, str(path))

    def _send_model(self, run_id: str, package: Path, register_as: str) -> None:
        with TemporaryDirectory(prefix=".mlflow-", dir=self._folder) as temporary:
            model = Path(temporary) / MODEL
            self._save_model(package, model)
            self._client.log_artifacts(run_id, str(model), artifact_path=MODEL)
        if not register_as:
            return
        if not self._client.search_registered_models(f"name = '{register_as}'"):
            self._client.create_registered_model(register_as)
        artifacts = self._client.get_run(run_id).info.artifact_uri
        self._client.create_model_version(register_as, f"{artifacts}/{MODEL}", run_id=run_id)


def hand_over(courier: Courier, entry: SpoolEntry) -> None:
    """Deliver one entry; one that the server refuses is given up with a warning, so that the rest gets through."""
    try:
        courier.deliver(entry)
    except Exception as error:
        # A run that cannot start takes all its entries with it: these are worth keeping.
        if entry.kind == "start" or getattr(error, "error_code", None) not in REFUSALS:
            raise
        logger.warning("MLflow refused one entry (%s): it is not tracked, the rest is", kind_of(error))


def kind_of(error: Exception) -> str:
    """Return a word for an error of MLflow; its message may hold an address with a password."""
    return str(getattr(error, "error_code", None) or type(error).__name__)


def replay(courier: Courier, spool: Path) -> int:
    """Hand over all that waits and remove the spool; stopped half-way, the rest stays in it.

    Returns:
        How many entries waited.
    """
    waiting = read_spool(spool)
    done = 0
    try:
        for entry in waiting:
            hand_over(courier, entry)
            done += 1
            if entry.kind == "start" and entry.run_id is None:
                # Should the machine stop here, the run must not be started a second time.
                rewrite_spool(spool, [*courier.known_runs(), *waiting[done:]])
    finally:
        if done == len(waiting):
            spool.unlink(missing_ok=True)
        else:
            rewrite_spool(spool, [*courier.known_runs(), *waiting[done:]])
    return sum(entry.run_id is None for entry in waiting)


class Line:
    """The line of one training to one server, shared by a parent run and its children."""

    def __init__(self, courier: Courier, folder: Path) -> None:
        self._courier = courier
        self._spool = folder / SPOOL
        self._tried_at_s = -RETRY_AFTER_S
        self._runs = 0
        # Of an earlier training all is still sent but its files, which this one writes over.
        rest = [entry for entry in read_spool(self._spool) if entry.kind not in ("file", "model")]
        self._waiting = bool(rest)
        if rest:
            rewrite_spool(self._spool, rest)  # whole or not at all: a kill between two steps would lose what waits
        else:
            self._spool.unlink(missing_ok=True)

    def next_run(self) -> int:
        """Return the number of a run that is about to start."""
        self._runs += 1
        return self._runs - 1

    def send(self, entry: SpoolEntry) -> None:
        """Hand over an entry, or let it wait behind those that do."""
        if self._waiting:
            append_to_spool(self._spool, [entry])
            return
        try:
            hand_over(self._courier, entry)
        except Exception as error:  # noqa: BLE001 - whatever the server does, training goes on
            append_to_spool(self._spool, [*self._courier.known_runs(), entry])
            self._waiting, self._tried_at_s = True, time.monotonic()
            logger.warning(
                "MLflow does not answer (%s): training goes on, and what it tracks waits in %s of the run",
                kind_of(error), SPOOL,
            )  # fmt: skip

    def catch_up(self, *, last: bool = False) -> None:
        """Send what waits, if anything does and the server answers again.

        Args:
            last: Try however short ago the last attempt was, and tell what to do if it fails.
        """
        if not self._waiting or (not last and time.monotonic() - self._tried_at_s < RETRY_AFTER_S):
            return
        self._tried_at_s = time.monotonic()
        try:
            sent = replay(self._courier, self._spool)
        except Exception as error:  # noqa: BLE001 - whatever the server does, training goes on
            if last:
                logger.warning(
                    "MLflow still does not answer (%s): send what waits with `medmllm track RUN` once it does",
                    kind_of(error),
                )
            return
        self._waiting = False
        logger.warning("MLflow answers again: the %d entries that waited were sent", sent)
