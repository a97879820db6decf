"""Tell MLflow how training goes: a parent run, a child per fold and arm.

    settings, epochs, metrics, files, model -> entries -> MLflow, or a spool until it answers again

sqlite beside the run by default; MLFLOW_TRACKING_URI or `[tracking] uri` name a server. Nothing that names a patient
is sent: settings, digests, losses, cohort metrics, and the run's own files, which know patients by keys. A server that
dies costs a warning, never the training: see `mlflow_line`.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol

from medmllm.training.mlflow_line import Courier, Line, SaveModel
from medmllm.training.spool import SpoolEntry
from medmllm.training_config import TrackingSettings

LONGEST_PARAM = 500  # MLflow's limit on a parameter's value is 6000; longer ones are cut with a mark
MOST_AT_ONCE = 100  # MLflow's limit on the parameters of one request; it takes more metrics
UNNAMEABLE = re.compile(r"[^/\w.\- ]")  # MLflow refuses other characters in names: a class may be called "grade>=3"


class Run(Protocol):
    """Where one parent or child run is recorded."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one epoch, counted from 1."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Take the settings."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Take words to find the run by."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Take final metrics."""

    def log_file(self, path: Path) -> None:
        """Take a file or a folder of the run's folder as an artifact."""

    def log_text(self, name: str, text: str) -> None:
        """Take a text as an artifact of that name."""

    def log_model(self, package: Path, *, register_as: str) -> None:
        """Take a model package as an MLflow model, and register it where a name is given."""

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

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Forget them."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Forget them."""

    def log_file(self, path: Path) -> None:
        """Forget it."""

    def log_text(self, name: str, text: str) -> None:
        """Forget it."""

    def log_model(self, package: Path, *, register_as: str) -> None:
        """Forget it."""

    def child(self, name: str) -> "NoRun":
        """Go on forgetting."""
        return self

    def end(self, *, failed: bool = False) -> None:
        """Nothing to close."""


class MlflowRun:
    """One MLflow run; nothing that becomes of its server stops whoever tracks."""

    def __init__(self, line: Line, folder: Path, name: str, parent: int | None = None) -> None:
        self._line = line
        self._folder = folder
        self._ended = False
        self._children: list[MlflowRun] = []
        self.number = line.next_run()
        line.send(SpoolEntry(kind="start", run=self.number, at_ms=_now_ms(), name=name, parent=parent))

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log metrics with the epoch as their step."""
        self._log_metrics(metrics, epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics."""
        self._log_metrics(metrics, 0)

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        values = {_nameable(name): repr(float(value)) for name, value in metrics.items()}  # JSON knows no NaN
        self._line.send(SpoolEntry(kind="metrics", run=self.number, at_ms=_now_ms(), step=step, values=values))

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings as parameters, long values cut with a mark."""
        texts = {_nameable(name): str(value) for name, value in params.items()}
        rows = ((k, v if len(v) <= LONGEST_PARAM else v[:LONGEST_PARAM] + "...") for k, v in texts.items())
        while part := dict(islice(rows, MOST_AT_ONCE)):
            self._line.send(SpoolEntry(kind="params", run=self.number, at_ms=_now_ms(), values=part))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._line.send(SpoolEntry(kind="tags", run=self.number, at_ms=_now_ms(), values=dict(tags)))

    def log_file(self, path: Path) -> None:
        """Log a file, or a folder under its own name, as an artifact."""
        self._line.send(SpoolEntry(kind="file", run=self.number, at_ms=_now_ms(), name=self._within(path)))

    def log_text(self, name: str, text: str) -> None:
        """Log a text as an artifact."""
        entry = SpoolEntry(kind="text", run=self.number, at_ms=_now_ms(), name=name, values={"text": text})
        self._line.send(entry)

    def log_model(self, package: Path, *, register_as: str) -> None:
        """Log a package as the model of the run: `runs:/RUN_ID/model`."""
        name, values = self._within(package), {"register_as": register_as}
        self._line.send(SpoolEntry(kind="model", run=self.number, at_ms=_now_ms(), name=name, values=values))

    def child(self, name: str) -> "MlflowRun":
        """Start a child run; also the moment to send what waits, should the server be back."""
        self._line.catch_up()
        started = MlflowRun(self._line, self._folder, name, parent=self.number)
        self._children.append(started)
        return started

    def end(self, *, failed: bool = False) -> None:
        """Mark the run, and children that were left open, finished or failed."""
        if self._ended:
            return
        self._ended = True
        for child in self._children:
            child.end(failed=failed)
        self._line.send(SpoolEntry(kind="end", run=self.number, at_ms=_now_ms(), failed=failed))

    def _within(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def _nameable(name: str) -> str:
    return UNNAMEABLE.sub("_", name)


def _now_ms() -> int:
    return int(time.time() * 1000)


@contextmanager
def parent_run(settings: TrackingSettings, *, folder: Path, name: str, save_model: SaveModel) -> Iterator[Run]:
    """Open the parent run of a training, and close it, as failed when the block raises.

    Args:
        settings: Whether, where and under which experiment.
        folder: The run's folder: what is logged lies in it.
        name: Shown in MLflow.
        save_model: Writes a package as an MLflow model; called by `log_model`.
    """
    if not settings.enabled:
        yield NoRun()
        return
    line = Line(Courier(settings, folder, save_model), folder)
    run = MlflowRun(line, folder, name)
    failed = True
    try:
        yield run
        failed = False
    finally:
        run.end(failed=failed)
        line.catch_up(last=True)
