"""What a training was given and what it wrote: rows of its tables, numbers of its evaluation, its package in parts."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from medmllm.csv_tables import read_table
from medmllm.table_rows import OutOfFoldRow
from tests.pipelines.runs import KEYRING, Trained

ARMS = ("image", "text", "fused")


def labels_of(trained: Trained) -> dict[str, dict[str, str]]:
    """The rows of the label table by study key."""
    with trained.labels.open(newline="") as stream:
        return {KEYRING.study(row["study_id"]): row for row in csv.DictReader(stream)}


def out_of_fold(run: Path) -> list[OutOfFoldRow]:
    return read_table(run / "out_of_fold.csv", OutOfFoldRow)


def table_of(trained: Trained, arm: str = "fused") -> pd.DataFrame:
    """Return what the table of out-of-fold predictions says of one arm."""
    return pd.read_csv(trained.run / "out_of_fold.csv").query("arm == @arm").reset_index(drop=True)


def evaluation(trained: Trained) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((trained.run / "evaluation.json").read_text())
    return told


def metric(told: dict[str, Any], arm: str, name: str, group: str = "all") -> dict[str, Any]:
    """Return one metric of an evaluation, or of one of its targets."""
    of = next(one["metrics"] for one in told["arms"] if one["arm"] == arm)
    return next(one for one in of if (one["name"], one["group"]) == (name, group))


def one_fold(package: Path, fold: int, target: Path) -> Path:
    """Copy a package with one fold's networks alone."""
    shutil.copytree(package, target)
    card = json.loads((target / "model.json").read_text())
    card["folds"] = [one for one in card["folds"] if one["fold"] == fold]
    (target / "model.json").write_text(json.dumps(card))
    return target
