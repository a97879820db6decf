"""Run the command as a user does, catch all that it says, and train the smallest models that tests share."""

import io
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from typer.testing import CliRunner

from medmllm.cli import app
from medmllm.ingest.keys import Keyring
from tests.factories import made_up_uid

SECRET = "5ec0de" * 10 + "beef\n"  # the one of tests/conftest.py, so that keys agree
KEYRING = Keyring(bytes.fromhex(SECRET.strip()))

SETTINGS = """
[image]
spacing_mm = [{spacing}]
size = [8, 8, 8]
intensity = "{intensity}"
window = [-1000.0, 1000.0]

[image.channels.{channel}]
modality = "{modality}"
required = {required}

[text]
max_tokens = 32
tiny_vocabulary = 80

[model]
image_width = 4
image_stem_kernel = 3
image_stem_stride = 1
image_stem_pool = false
fusion_width = 8
tiny_width = 16

[training]
folds = 2
epochs = 2
batch_size = 4
learning_rate = 1e-2
text_learning_rate = 1e-2
shift_voxels = 0
device = "cpu"
channels_last = false
threads = 1

[evaluation]
bootstrap_samples = 100
permutations = 1
"""
NIFTI_SETTINGS = SETTINGS.format(
    spacing="6.0, 6.0, 6.0", intensity="zscore", channel="image", modality="", required="false"
)
CT_SETTINGS = SETTINGS.format(
    spacing="26.0, 20.0, 18.0", intensity="window", channel="ct", modality="CT", required="true"
)
UNTRACKED = ("--set", "tracking.enabled=false")
EXPLAINED = (
    "--explain",
    "--set",
    "explain.steps=8",
    "--set",
    "explain.max_steps=8192",
)  # a start; integration goes on until it is complete


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to."""

    code: int
    stdout: str
    stderr: str
    log: str

    @property
    def said(self) -> str:
        """Everything that left the process as words."""
        return self.stdout + self.stderr + self.log


@dataclass(frozen=True, slots=True)
class Trained:
    """A training that was run once for many tests, which leave it as it is."""

    studies: Path
    labels: Path
    run: Path
    outcome: Outcome


@contextmanager
def site_key(folder: Path) -> Iterator[None]:
    """Set the site secret, for fixtures that live longer than one test."""
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDMLLM_SITE_SECRET_FILE", str(secret))
        yield


def invoke(*arguments: object) -> Outcome:
    """Run `medmllm --log-level debug ARGUMENTS`."""
    words = io.StringIO()
    handler = logging.StreamHandler(words)
    ours, root = logging.getLogger("medmllm"), logging.getLogger()
    level = ours.level
    root.addHandler(handler)
    try:
        result = CliRunner().invoke(app, ["--log-level", "debug", *map(str, arguments)])
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr, words.getvalue())


def train(studies: Path, labels: Path, out: Path, *more: object, settings: str = NIFTI_SETTINGS) -> Outcome:
    """Run `medmllm train` for the target `outcome`, unless `more` names another."""
    out.parent.mkdir(parents=True, exist_ok=True)
    config = out.parent / f"{out.name}.toml"
    config.write_text(settings)
    target = () if "--target" in more else ("--target", "outcome")
    return invoke("train", "--studies", studies, "--labels", labels, "--out", out, "--config", config, *target, *more)


def score(studies: Path, model: Path, out: Path, *more: object) -> Outcome:
    """Run `medmllm score` on the CPU unless `more` says otherwise."""
    device = () if "--device" in more else ("--device", "cpu")
    return invoke("score", studies, "--model", model, "--out", out, *device, *more)


def cut_image(study: Path) -> None:
    """Cut off the end of a study's compressed image: its header still reads."""
    image = study / "image.nii.gz"
    data = image.read_bytes()
    image.write_bytes(data[: len(data) * 2 // 3])


def rename_studies(studies: Path, start: str) -> None:
    """Give NIfTI study folders names of their own, so that no other cohort has them."""
    for folder in sorted(studies.iterdir()):
        folder.rename(folder.with_name(f"{start}{folder.name}"))


def copy_as_other_study(source: Path, target: Path, *, patient: str | None = None) -> None:
    """Copy a DICOM study under another Study Instance UID, or keep the study and change its patient."""
    shutil.copytree(source, target)
    for number, file in enumerate(sorted(target.rglob("*"))):
        if not file.is_file() or file.name == "note.txt":
            continue
        header = pydicom.dcmread(file)
        if patient is None:
            header.StudyInstanceUID = made_up_uid("another study")
        else:
            header.PatientID = patient
        header.SeriesInstanceUID = made_up_uid(target.name)
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = made_up_uid(target.name, number)
        header.save_as(file)


def found_in_files(folder: Path, words: Collection[str], *, but: Collection[str] = ()) -> list[tuple[str, str]]:
    """Return (file, word) for every word that stands in a file's name or bytes, under a folder.

    Args:
        folder: Searched with all folders below.
        words: Matched as they are.
        but: File names that are not searched.
    """
    found = []
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        data = file.read_bytes() if file.is_file() and file.name not in but else b""
        found += [(name, word) for word in words if word in name or word.encode() in data]
    return found


LOAD_AND_PREDICT = """
import sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
model.predict(pd.DataFrame({"studies": sys.argv[4:]})).to_json(sys.argv[3], orient="records", double_precision=15)
"""


def predict_in_a_fresh_process(uri: str, model: str, folder: Path, *studies: Path) -> list[dict[str, Any]]:
    """Return what a process that knows MLflow's address alone says of studies.

    Args:
        uri: Of the tracking server.
        model: As MLflow names it, e.g. `models:/NAME/1`.
        folder: Where the process works.
        studies: The rows of its input.
    """
    command = [sys.executable, "-c", LOAD_AND_PREDICT, uri, model, "rows.json"]
    subprocess.run([*command, *map(str, studies)], check=True, cwd=folder)
    rows: list[dict[str, Any]] = json.loads((folder / "rows.json").read_text())
    return rows
