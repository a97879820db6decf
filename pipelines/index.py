"""List what a folder of studies holds, by headers only.

STUDIES -> index -> OUT/files.csv, studies.csv, series.csv, problems.csv; and the linkage table where it is asked for

Rows are written as they come. OUT/headers.sqlite keeps what the headers said, sealed with the site's secret: a second
run over the same folder opens only what is new or changed.
"""

import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from medmllm.csv_tables import check_writable, sole_writer, write_parquet, write_table
from medmllm.errors import MisuseError
from medmllm.ingest.file_store import STORE, FileStore
from medmllm.ingest.keys import load_keyring
from medmllm.ingest.recognise import TABLES
from medmllm.ingest.stock import Workers
from medmllm.ingest.study_folder import StudyIndex, folder_of, index_folder, open_index
from medmllm.ingest.tables import LabelTable, read_label_table
from medmllm.pipelines.index_output import write_index
from medmllm.pipelines.linkage_table import check_linkage
from medmllm.pipelines.progress import progress_bar
from medmllm.table_rows import FileRow

MARKER = "studies.csv"


@dataclass(frozen=True, slots=True)
class IndexResult:
    """How many of what were found."""

    files: int
    read: int  # of these, opened in this run: new or changed since the one before
    studies: int
    patients: int
    series: int
    problems: int  # rows of problems.csv
    refused: int  # of these, files, series and studies that cannot be used as they are
    problems_by_code: dict[str, int]

    def as_json(self) -> dict[str, object]:
        """Return the counts for a machine to read."""
        return asdict(self)


def run(
    studies: Path,
    *,
    out: Path,
    labels: Path | None = None,
    linkage: Path | None = None,
    parquet: bool = False,
    overwrite: bool = False,
) -> IndexResult:
    """Index a folder and write the tables; again into the same OUT, reading only what changed.

    Args:
        studies: Folder of DICOM or NIfTI studies, or a list of them (MONAI datalist, CSV manifest).
        out: Folder for the tables; made if absent.
        labels: Label table; None takes labels.csv or participants.tsv of `studies` if there.
        linkage: Where to write the table from key to original identifier; None writes none.
        parquet: Write files.parquet instead of files.csv.
        overwrite: Write over the tables of another folder.

    Raises:
        MisuseError: No studies to index, results of another folder already there, the label table cannot be used.
    """
    folder, keyring = folder_of(studies), load_keyring()
    again = FileStore.is_of(out / STORE, keyring, folder)
    if (out / MARKER).exists() and (out / STORE).exists() and not (again or overwrite):
        raise MisuseError(f"the output folder already holds {MARKER} of another folder of studies, or made with "
                          "another site secret, under which all keys are others: choose another --out, bring the "
                          "secret back, or add --overwrite")  # fmt: skip
    check_writable(out, overwrite=overwrite or again, marker=MARKER, studies=folder)  # before the long part
    check_linkage(linkage, out)
    table = read_label_table(labels) if labels else None
    with sole_writer(out), FileStore(out / STORE, keyring, folder) as store:
        with Workers(keyring, os.cpu_count() or 1) as workers:
            with progress_bar("Reading headers") as advance:
                index = open_index(studies, keyring=keyring, store=store, table=table, workers=workers, advance=advance)
            with ExitStack() as stack:
                counts = write_index(index, out, linkage, f"{MARKER}.partial", stack, workers)
            workers.dismiss()
            if parquet:
                files = write_parquet(out / "files.parquet", FileRow, index.files())
            else:
                files = write_table(out / "files.csv", FileRow, index.files())
        (out / ("files.csv" if parquet else "files.parquet")).unlink(missing_ok=True)  # of an earlier run
        read = store.read
    os.replace(out / f"{MARKER}.partial", out / MARKER)  # last: it marks the folder as whole
    return IndexResult(files, read, **counts)


def read_index(studies: Path, *, labels: Path | LabelTable | None = None) -> StudyIndex:
    """Index a folder with this site's keys, showing progress; keeps nothing.

    Args:
        studies: As of `run`.
        labels: As of `run`, or the table itself.

    Raises:
        MisuseError: The folder is absent or empty, or the label table or site secret cannot be used.
    """
    table = read_label_table(labels) if isinstance(labels, Path) else labels
    keyring = load_keyring()
    with progress_bar("Reading headers") as advance:
        return index_folder(studies, keyring=keyring, table=table, advance=advance)


def label_file(studies: Path) -> Path:
    """Return the table that labels come from when none is named: the list of studies, or the one in its folder.

    Raises:
        MisuseError: There is none.
    """
    found = [studies] if studies.is_file() else [studies / name for name in TABLES if (studies / name).is_file()]
    if not found:
        raise MisuseError(f"no --labels, and the folder of studies holds none of {', '.join(TABLES)}")
    return found[0]
