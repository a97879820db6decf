"""medmllm: folders of imaging studies to calibrated, explained, auditable predictions.

The public names, loaded on first use (PEP 562): importing medmllm loads no torch.
Research use only; not a medical device.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME_OF = {
    "Study": "records",
    "Volume": "records",
    "Note": "records",
    "Recording": "records",
    "Sample": "records",
    "Batch": "records",
    "Prediction": "records",
    "Refusal": "records",
    "Explanation": "records",
    "CohortEvaluation": "records",
    "Provenance": "records",
    "MedmllmError": "errors",
    "index_folder": "ingest.study_folder",
    "read_volume": "ingest.study_folder",
    "read_note": "ingest.notes",
    "StudyClassifier": "models.classifier",
    "load_package": "models.package",
    "score_folder": "scoring.study_folder",
}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    """Import a public name from the file that owns it, on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'medmllm' has no attribute {name!r}")
    return getattr(import_module(f"medmllm.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
