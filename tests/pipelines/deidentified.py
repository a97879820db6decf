"""A made-up export full of identifiers, the settings it is de-identified by, and the studies of either."""

from pathlib import Path

from medmllm.config import load_config
from medmllm.deidentify_config import DeidentifyConfig
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder
from medmllm.records import Study
from tests.deidentify_made_up import write_planted


def settings(*overrides: str) -> DeidentifyConfig:
    return load_config(DeidentifyConfig, "deidentify", overrides=overrides)


def studies_of(root: Path) -> list[Study]:
    return list(index_folder(root, keyring=Keyring(b"any secret that is long enough")).studies)


def plant(folder: Path) -> Path:
    """Write what is full of identifiers below a folder; return where."""
    root = folder / "in"
    root.mkdir()
    write_planted(root)
    return root
