"""What a training was given and what it wrote, by the keys that stand for the studies."""

import csv
from pathlib import Path

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
