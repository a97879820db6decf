"""Tell MLflow how training goes: a parent run, a child per fold and arm.

    settings, epochs, metrics, files -> MLflow runs

sqlite beside the run by default; MLFLOW_TRACKING_URI or `[tracking] uri` name a server. Nothing
that names a patient is sent: settings, digests, losses and cohort metrics only. A server that dies
costs the tracking, with a warning, never the training.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from medmllm.config import TrackingSettings

logger = logging.getLogger(__name__)

LONGEST_PARAM = 500  # MLflow's limit on a parameter's value is 6000; longer ones are cut with a mark
MOST_AT_ONCE = 100  # MLflow's limit on the parameters of one request; it takes more metrics
UNNAMEABLE = re.compile(r"[^/\w.\- ]")  # MLflow refuses other characters in names: a class may be called "grade>=3"
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")  # the server answers, but not to what was sent
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own would hold up a training for minutes per call to a dead server; the environment wins over these."""


class Run(Protocol):
    """Where one parent or child run is recorded."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one epoch, counted from 1."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Take the settings."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Take final metrics."""

    def log_file(self, path: Path) -> None:
        """Take a file or a folder as an artifact."""

    def child(self, name: str) -> "Run":
        """Start a run below this one."""

    def end(self, *, failed: bool = False) -> None:
        """Close the run."""


class NoRun:
    """Forgets everything: for `tracking.enabled = false`."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Forget them."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Forget them."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Forget them."""

    def log_file(self, path: Path) -> None:
        """Forget it."""

    def child(self, name: str) -> "NoRun":
        """Go on forgetting."""
        return self

    def end(self, *, failed: bool = False) -> None:
        """Nothing to close."""


@dataclass(slots=True)
class Line:
    """The line to one server, shared by a parent run and its children."""

    uri: str
    experiment_id: str
    down: bool = False


class MlflowRun:
    """One MLflow run; a call that fails is warned of once, and neither it nor its kin make further calls."""

    def __init__(self, line: Line, name: str, parent: str | None = None) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=line.uri)
        self._line = line
        self._ended = False
        self._children: list[MlflowRun] = []
        tags = {"mlflow.runName": name} | ({"mlflow.parentRunId": parent} if parent else {})
        self.run_id: str = self._client.create_run(line.experiment_id, tags=tags).info.run_id

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log metrics with the epoch as their step."""
        self._log_metrics(metrics, epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics."""
        self._log_metrics(metrics, 0)

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(_nameable(name), value, now, step) for name, value in metrics.items()]
        self._try(lambda: self._client.log_batch(self.run_id, metrics=rows))

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings as parameters, long values cut with a mark."""
        from mlflow.entities import Param

        texts = {_nameable(name): str(value) for name, value in params.items()}
        rows = [Param(k, v if len(v) <= LONGEST_PARAM else v[:LONGEST_PARAM] + "...") for k, v in texts.items()]
        parts = [rows[start : start + MOST_AT_ONCE] for start in range(0, len(rows), MOST_AT_ONCE)]
        for part in parts:
            self._try(partial(self._client.log_batch, self.run_id, params=part))

    def log_file(self, path: Path) -> None:
        """Log a file, or a folder under its own name, as an artifact."""
        if path.is_dir():
            self._try(lambda: self._client.log_artifacts(self.run_id, str(path), artifact_path=path.name))
        else:
            self._try(lambda: self._client.log_artifact(self.run_id, str(path)))

    def child(self, name: str) -> Run:
        """Start a child run; when the server is gone, one that forgets."""
        if not self._line.down:
            try:
                started = MlflowRun(self._line, name, parent=self.run_id)
            except Exception as error:  # noqa: BLE001 - whatever the server does, training goes on
                self._give_up(error)
            else:
                self._children.append(started)
                return started
        return NoRun()

    def end(self, *, failed: bool = False) -> None:
        """Mark the run, and children that were left open, finished or failed."""
        if self._ended:
            return
        self._ended = True
        for child in self._children:
            child.end(failed=failed)
        self._try(lambda: self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED"))

    def _try(self, call: Callable[[], object]) -> None:
        if self._line.down:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever the server does, training goes on
            refusal = getattr(error, "error_code", None)
            if refusal in REFUSALS:
                logger.warning("MLflow refused one entry (%s): it is not tracked, the rest is", refusal)
            else:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._line.down = True
        logger.warning("MLflow stopped answering (%s): this run is no longer tracked", type(error).__name__)


def _nameable(name: str) -> str:
    return UNNAMEABLE.sub("_", name)


@contextmanager
def parent_run(settings: TrackingSettings, *, folder: Path, name: str) -> Iterator[Run]:
    """Open the parent run of a training, and close it, as failed when the block raises.

    Args:
        settings: Experiment and address; `uri` empty means MLFLOW_TRACKING_URI, else sqlite in `folder`.
        folder: The run's folder; holds mlflow.db and mlflow_artifacts/ unless a server is named.
        name: Shown in MLflow.
    """
    run = _open(settings, folder, name) if settings.enabled else NoRun()
    try:
        yield run
    except BaseException:
        run.end(failed=True)
        raise
    run.end()


def _open(settings: TrackingSettings, folder: Path, name: str) -> Run:
    for variable, value in {"MLFLOW_DISABLE_TELEMETRY": "true", **PATIENCE}.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    local = "" if uri else (folder / "mlflow_artifacts").resolve().as_uri()
    uri = uri or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    try:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(settings.experiment)
        experiment = (
            found.experiment_id
            if found
            else client.create_experiment(settings.experiment, artifact_location=local or None)
        )
        return MlflowRun(Line(uri, experiment), name)
    except Exception as error:  # noqa: BLE001 - a server that is down must not cost the training
        logger.warning("MLflow cannot be reached (%s): training goes on untracked", type(error).__name__)
        return NoRun()
