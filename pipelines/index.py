"""List what a folder of studies holds, by headers only.

STUDIES -> index -> OUT/studies.csv, OUT/series.csv, OUT/problems.csv; and the linkage table where it is asked for
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from medmllm.csv_tables import (
    LinkageRow,
    ProblemRow,
    SeriesRow,
    StudyRow,
    check_writable,
    write_table,
)
from medmllm.errors import MedmllmError, MisuseError
from medmllm.ingest.keys import load_keyring
from medmllm.ingest.linkage import seal
from medmllm.ingest.study_folder import StudyIndex, index_folder
from medmllm.ingest.tables import read_label_table
from medmllm.pipelines.progress import progress_bar
from medmllm.records import Study


@dataclass(frozen=True, slots=True)
class IndexResult:
    """How many of what were found."""

    studies: int
    series: int
    problems: int  # rows of problems.csv
    refused: int  # of these, files, series and studies that cannot be used as they are


def run(
    studies: Path, *, out: Path, labels: Path | None = None, linkage: Path | None = None, overwrite: bool = False
) -> IndexResult:
    """Index a folder and write the tables.

    Args:
        studies: Folder of DICOM or NIfTI studies.
        out: Folder for the tables; made if absent.
        labels: Label table; None takes labels.csv or participants.tsv of `studies` if there.
        linkage: Where to write the table from key to original identifier; None writes none.
        overwrite: Write over tables that are already there.

    Raises:
        MisuseError: No studies to index, results already there, the label table cannot be used.
    """
    check_writable(out, overwrite=overwrite, marker="studies.csv", studies=studies)  # before the long part
    index = read_index(studies, labels=labels)
    if linkage is not None:
        write_linkage(linkage, index, out=out)
    rows = [row for study in index.studies for row in series_rows(study)]
    write_table(out / "series.csv", SeriesRow, rows)
    write_table(out / "problems.csv", ProblemRow, index.problems)
    write_table(out / "studies.csv", StudyRow, map(study_row, index.studies))  # last: it marks the folder as whole
    return IndexResult(
        studies=len(index.studies),
        series=len(rows),
        problems=len(index.problems),
        refused=sum(problem.severity == "refused" for problem in index.problems),
    )


def read_index(studies: Path, *, labels: Path | None = None) -> StudyIndex:
    """Index a folder with this site's keys, showing progress.

    Raises:
        MisuseError: The folder is absent or empty, or the label table or site secret cannot be used.
    """
    table = read_label_table(labels) if labels else None
    keyring = load_keyring()
    with progress_bar("Reading headers") as advance:
        return index_folder(studies, keyring=keyring, table=table, advance=advance)


def write_linkage(path: Path, index: StudyIndex, *, out: Path, passphrase: str | None = None) -> None:
    """Write the linkage table, readable by its owner alone, never among the results, encrypted with a passphrase.

    Raises:
        MisuseError: It would lie inside the results folder.
        MedmllmError: It cannot be written.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise MisuseError("the linkage table may not lie among the results: choose another --linkage")
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        if passphrase is None:
            write_table(path, LinkageRow, index.linkage)
        else:
            with TemporaryDirectory(dir=path.parent) as folder:  # of mode 0700, beside the file that may hold it
                write_table(Path(folder) / path.name, LinkageRow, index.linkage)
                path.write_bytes(seal((Path(folder) / path.name).read_bytes(), passphrase))
    except OSError as error:
        raise MedmllmError(f"cannot write the linkage table: {error.strerror}", code="cannot_write") from None


def study_row(study: Study) -> StudyRow:
    """Return the row of studies.csv for one study."""
    return StudyRow(
        study_key=study.study_key,
        patient_key=study.patient_key,
        layout=study.layout,
        series=len(study.series),
        refused_series=sum(series.refusal is not None for series in study.series),
        notes=len(study.notes),
        recordings=len(study.recordings),
        in_table=bool(study.facts),
    )


def series_rows(study: Study) -> Iterator[SeriesRow]:
    """Yield the rows of series.csv for one study."""
    for series in study.series:
        size_x, size_y, size_z = series.shape or (None, None, None)
        spacing_x, spacing_y, spacing_z = series.spacing_mm or (None, None, None)
        yield SeriesRow(
            series_key=series.series_key,
            study_key=study.study_key,
            kind=series.kind,
            modality=series.modality,
            files=len(series.files),
            size_x=size_x,
            size_y=size_y,
            size_z=size_z,
            spacing_x_mm=spacing_x,
            spacing_y_mm=spacing_y,
            spacing_z_mm=spacing_z,
            status="refused" if series.refusal else "readable",
            code=series.refusal.code if series.refusal else None,
            reason=series.refusal.reason if series.refusal else None,
        )
