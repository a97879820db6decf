"""What tests of training share: what a fold predicts, and a training that MLflow was told of."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], np.ndarray]]:
    """Study keys and raw logits of every prediction by a network of a fold, in order."""
    from medmllm.training import fold as one_fold  # torch loads here

    found: list[tuple[list[str], np.ndarray]] = []
    predict = one_fold.predict_logits

    def spy(member, samples, *more):  # type: ignore[no-untyped-def]
        logits = predict(member, samples, *more)
        found.append(([sample.study_key for sample in samples], logits))
        return logits

    monkeypatch.setattr(one_fold, "predict_logits", spy)
    return found


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever a test or MLflow sets is taken back; a dead server is given up on at once, and a slow one waited for."""
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "240"}
    with patch.dict(os.environ, quick):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training, tracked once into a data base beside its results, whatever the environment says."""
    from tests.training.tracked import record  # MLflow loads here

    folder = tmp_path_factory.mktemp("a run with a space")
    with patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        record(folder)
    return folder
