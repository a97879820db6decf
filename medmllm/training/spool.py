"""Keep what MLflow has not taken yet beside the run, until it does.

    entries -> RUN/mlflow_spool.jsonl, one line each, in order -> the same entries

An entry names runs by number and files relative to RUN: a path may name a patient.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from medmllm.documents import Document, first_fault
from medmllm.errors import PackageError

SPOOL = "mlflow_spool.jsonl"


class SpoolEntry(Document):
    """mlflow_spool.jsonl: one line per thing that MLflow has not taken yet, in order."""

    kind: Literal["start", "params", "tags", "metrics", "file", "text", "model", "end"]
    run: int = Field(ge=0, description="which run of the training it belongs to: 0 is the parent")
    at_ms: int = Field(ge=0, description="when it happened, ms since 1970, UTC")
    name: str | None = Field(
        default=None, description="of a run that starts; of a text; of a file or folder, relative to RUN"
    )
    parent: int | None = Field(default=None, ge=0, description="of a run that starts; null for the parent itself")
    run_id: str | None = Field(default=None, description="of a run that MLflow knew before it stopped answering")
    step: int = Field(default=0, ge=0, description="of metrics: the epoch, from 1; 0 for final ones")
    values: dict[str, str] = Field(
        default_factory=dict,
        description="parameters, tags, or metrics as decimal text; of a text: itself; of a model: the name it is "
        "registered under",
    )
    failed: bool = Field(default=False, description="of a run that ends")


def read_spool(path: Path) -> list[SpoolEntry]:
    """Return the entries that wait; none where there is no file.

    A line that a stopped machine left unfinished can only be the last one, and is left out.

    Raises:
        PackageError: A line is not an entry; names it.
    """
    if not path.is_file():
        return []
    entries = []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entries.append(SpoolEntry.model_validate_json(line))
        except ValidationError as error:
            raise PackageError(f"{path.name}, line {number}: {first_fault(error)}") from None
    return entries


def append_to_spool(path: Path, entries: Iterable[SpoolEntry]) -> None:
    """Add entries at the end; they are on disk when this returns."""
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{entry.model_dump_json(exclude_defaults=True)}\n" for entry in entries)


def rewrite_spool(path: Path, entries: Iterable[SpoolEntry]) -> None:
    """Replace all entries, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    append_to_spool(partial, entries)
    os.replace(partial, path)
