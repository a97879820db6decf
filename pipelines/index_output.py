"""Write what an index found: one table of studies, one of series, one of problems, and the linkage table on request.

IndexedStudy, one after the other -> rows, as they come
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from medmllm.csv_tables import table_writer
from medmllm.ingest.study_folder import FolderIndex
from medmllm.pipelines.linkage_table import linkage_writer
from medmllm.pipelines.progress import progress_bar
from medmllm.records import Study
from medmllm.table_rows import LinkageRow, ProblemRow, SeriesRow, StudyRow


def write_index(index: FolderIndex, out: Path, linkage: Path | None, marker: str, stack: ExitStack) -> dict[str, Any]:
    """Write studies.csv (under the name `marker`), series.csv and problems.csv, study by study, and return the counts.

    Args:
        index: Asked study by study.
        out: Folder of the tables.
        linkage: Where the linkage table goes; None writes none.
        marker: File name of the table of studies.
        stack: Keeps the files open; they are whole when it is closed.
    """
    link = linkage_writer(linkage, stack) if linkage else None
    series_table = stack.enter_context(table_writer(out / "series.csv", SeriesRow))
    problem_table = stack.enter_context(table_writer(out / "problems.csv", ProblemRow))
    study_table = stack.enter_context(table_writer(out / marker, StudyRow))
    advance = stack.enter_context(progress_bar("Grouping studies", len(index)))
    patients: set[str] = set()
    codes: Counter[str] = Counter()
    refused = 0

    def tell(problems: Iterable[ProblemRow], links: Iterable[LinkageRow]) -> None:
        nonlocal refused
        for problem in problems:
            problem_table.add(problem)
            codes[problem.code] += 1
            refused += problem.severity == "refused"
        if link:
            link(links)

    for item in index.studies():
        study_table.add(study_row(item.study))
        for row in series_rows(item.study):
            series_table.add(row)
        patients.add(item.study.patient_key)
        tell(item.problems, item.linkage)
        advance(1)
    for problem, named in index.rest():
        tell([problem], [named])
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
        )
