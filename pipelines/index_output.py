"""Write what an index found: one table of studies, one of series, one of problems, and the linkage table on request.

IndexedStudy, one after the other -> lines of these tables, made by worker processes -> tables
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medmllm.csv_tables import as_lines, table_writer
from medmllm.ingest.naming import IndexedStudy
from medmllm.ingest.stock import Workers
from medmllm.ingest.study_folder import FolderIndex
from medmllm.pipelines.linkage_table import linkage_writer
from medmllm.pipelines.progress import progress_bar
from medmllm.records import Study
from medmllm.table_rows import LinkageRow, ProblemRow, SeriesRow, StudyRow


@dataclass(frozen=True, slots=True)
class StudyLines:
    """One study as lines of the tables."""

    patient_key: str
    study: str
    series: str
    series_count: int
    problems: str
    codes: Sequence[str]  # of its problems
    refused: int  # of these
    linkage: Sequence[LinkageRow] = field(repr=False)  # empty where no such table is wanted


def lines_of(item: IndexedStudy, *, linkage: bool) -> StudyLines:
    """Return the lines of the tables for one study."""
    series = list(series_rows(item.study))
    return StudyLines(
        patient_key=item.study.patient_key,
        study=as_lines(StudyRow, [study_row(item.study)]),
        series=as_lines(SeriesRow, series),
        series_count=len(series),
        problems=as_lines(ProblemRow, item.problems),
        codes=[problem.code for problem in item.problems],
        refused=sum(problem.severity == "refused" for problem in item.problems),
        linkage=item.linkage if linkage else (),
    )


def write_index(
    index: FolderIndex, out: Path, linkage: Path | None, marker: str, stack: ExitStack, workers: Workers
) -> dict[str, Any]:
    """Write studies.csv (under the name `marker`), series.csv and problems.csv, study by study, and return the counts.

    Args:
        index: Asked study by study.
        out: Folder of the tables.
        linkage: Where the linkage table goes; None writes none.
        marker: File name of the table of studies.
        stack: Keeps the files open; they are whole when it is closed.
        workers: Put the studies together.
    """
    link = linkage_writer(linkage, stack) if linkage else None
    series_table = stack.enter_context(table_writer(out / "series.csv", SeriesRow))
    problem_table = stack.enter_context(table_writer(out / "problems.csv", ProblemRow))
    study_table = stack.enter_context(table_writer(out / marker, StudyRow))
    advance = stack.enter_context(progress_bar("Grouping studies", len(index)))
    patients: set[str] = set()
    codes: Counter[str] = Counter()
    refused = 0

    def tell(links: Iterable[LinkageRow]) -> None:
        if link:
            link(links)

    for lines in index.told(partial(lines_of, linkage=linkage is not None), workers):
        study_table.add_lines(lines.study, 1)
        series_table.add_lines(lines.series, lines.series_count)
        problem_table.add_lines(lines.problems, len(lines.codes))
        patients.add(lines.patient_key)
        codes.update(lines.codes)
        refused += lines.refused
        tell(lines.linkage)
        advance(1)
    for problem, named in index.rest():
        problem_table.add(problem)
        codes[problem.code] += 1
        refused += problem.severity == "refused"
        tell([named])
    return {
        "studies": study_table.count, "patients": len(patients), "series": series_table.count,
        "problems": problem_table.count, "refused": refused, "problems_by_code": dict(sorted(codes.items())),
    }  # fmt: skip


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
            plane=series.technique.plane,
            kernel=series.technique.kernel,
            contrast=series.technique.contrast_word,
            thickness_mm=series.technique.thickness_mm,
            time_order=series.technique.time_order,
            manufacturer=series.technique.manufacturer,
            model=series.technique.model,
            field_strength_t=series.technique.field_strength_t,
            apart=series.technique.apart,
        )
