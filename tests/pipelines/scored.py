"""A folder of studies for scoring, what is wrong with some of them, and the tables that scoring writes."""

from pathlib import Path

from medmllm.csv_tables import read_table
from medmllm.table_rows import LedgerRow, PredictionRow
from tests.pipelines.runs import KEYRING

PLANTED = "Gobemouche"  # stands in one note of the scoring folder
BROKEN = "next-case-003-0"
KNOWN = "case-002-0"  # a study of the training cohort


def predictions(out: Path) -> list[PredictionRow]:
    return read_table(out / "predictions.csv", PredictionRow)


def ledger(out: Path) -> list[LedgerRow]:
    return read_table(out / "ledger.csv", LedgerRow)


def originals(folder: Path) -> dict[str, str]:
    """Study key -> name of its folder."""
    return {KEYRING.study(study.name): study.name for study in folder.iterdir()}
