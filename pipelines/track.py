"""Send MLflow what it missed while it did not answer.

RUN/mlflow_spool.jsonl, RUN/settings.json -> MLflow
"""

from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.errors import MedmllmError, MisuseError
from medmllm.scoring.mlflow_model import save_mlflow_model
from medmllm.training.mlflow_line import Courier, kind_of, replay
from medmllm.training.spool import SPOOL


def run(folder: Path) -> int:
    """Send all that waits in a run's folder, and return how much that was.

    The address is that of training: `[tracking] uri` of RUN/settings.json, else MLFLOW_TRACKING_URI.

    Args:
        folder: RUN, as written by `medmllm train`.

    Raises:
        MisuseError: It is no folder of a run.
        MedmllmError: The server does not answer, or not all the way; what it did not take still waits.
    """
    if not (folder / "settings.json").is_file():
        raise MisuseError("no settings.json in RUN: give the folder that `medmllm train` wrote")
    if not (folder / SPOOL).is_file():
        return 0
    courier = Courier(TrainConfig.read(folder / "settings.json").tracking, folder, save_mlflow_model)
    try:
        return replay(courier, folder / SPOOL)
    except MedmllmError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever MLflow and the network raise
        raise MedmllmError(
            f"MLflow does not answer ({kind_of(error)}): what it has not taken still waits in {SPOOL}. Start the "
            "server, or name it in MLFLOW_TRACKING_URI, and run this again.",
            code="no_mlflow",
            retryable=True,
        ) from None
