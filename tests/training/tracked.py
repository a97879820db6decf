"""A training as MLflow is told of it, and what MLflow knows of it afterwards."""

import logging
import math
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Found

from medmllm.training import mlflow_line
from medmllm.training.tracking import Run, parent_run
from medmllm.training_config import TrackingSettings

SETTINGS = TrackingSettings(enabled=True, experiment="tests", uri="", register_as="")


def copy_package(package: Path, target: Path) -> None:
    """Stand in for the MLflow model of a package: its files alone."""
    shutil.copytree(package, target)


def opened(settings: TrackingSettings, folder: Path, name: str = "outcome") -> AbstractContextManager[Run]:
    return parent_run(settings, folder=folder, name=name, save_model=copy_package)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == mlflow_line.__name__ and r.levelno == logging.WARNING]


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


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"
