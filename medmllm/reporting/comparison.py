"""Write what `medmllm compare` found: comparison.json, comparison.csv, comparison.html.

    ComparisonDocument -> JSON, one CSV row per estimate and difference, one HTML file that loads nothing

Every number of the page is the document's. A run is marked best only where the document says so.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from medmllm.csv_tables import write_table
from medmllm.documents import Document, Probability, Sha256
from medmllm.evaluation.comparison import Comparison, compared_metric, may_be_best
from medmllm.evaluation.remarks import NAMES
from medmllm.model_documents import Task
from medmllm.records import Metric, Provenance
from medmllm.reporting.cohort import label_of
from medmllm.reporting.page import write_page
from medmllm.result_documents import MetricDocument


class ComparedRun(Document):
    """One run of a comparison."""

    name: str = Field(description="as given on the command line")
    arm: str
    metrics: tuple[MetricDocument, ...]
    best_in: tuple[str, ...] = Field(
        description="metrics in which the interval of its difference to every other run excludes 0"
    )


class RunDifference(Document):
    """`first` minus `second`, paired by patient."""

    metric: str
    first: str
    second: str
    estimate: float | None
    low: float | None
    high: float | None


class ComparisonDocument(Document):
    """OUT/comparison.json of `medmllm compare`: several runs on the same split, and every two of them paired."""

    task: Task
    synthetic: bool
    n: int = Field(ge=0)
    patients: int = Field(ge=0)
    split_digest: Sha256 = Field(description="the same in all runs")
    confidence: Probability = Field(description="level of each interval, not corrected for their number")
    bootstrap_samples: int
    runs: tuple[ComparedRun, ...] = Field(min_length=2)
    differences: tuple[RunDifference, ...]
    settings: dict[str, tuple[str, ...]] = Field(description="settings that differ -> value in each run")
    remarks: tuple[str, ...] = Field(description="plain words on what the numbers show and what they do not")
    provenance: Provenance


class ComparisonRow(Document):
    """comparison.csv: one row per metric and run, and one per metric and pair of runs."""

    metric: str
    run: str
    minus: str | None = Field(description="the run taken from it; empty: the row is no difference")
    estimate: float | None
    low: float | None
    high: float | None
    best: bool = Field(description="the interval of the difference to every other run excludes 0")


@dataclass(frozen=True, slots=True)
class MetricTable:
    """One metric across the runs, and the differences of every two."""

    name: str
    label: str
    meaning: str
    cells: tuple[tuple[MetricDocument, bool], ...]  # one per run: metric, whether that run is best in it
    differences: tuple[RunDifference, ...]


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    """What the template comparison.html.j2 reads."""

    comparison: ComparisonDocument
    tables: tuple[MetricTable, ...]
    without_a_best: tuple[str, ...]  # labels of metrics that no run is called best in, whatever they are


def compared_runs(found: Comparison, arms: dict[str, str]) -> tuple[ComparedRun, ...]:
    """Return the runs of a comparison as documents.

    Args:
        found: The comparison.
        arms: Run -> arm that was compared.
    """
    best = {metric: found.best(metric) for metric in found.metrics}
    return tuple(
        ComparedRun(
            name=run.arm,
            arm=arms[run.arm],
            metrics=tuple(map(_metric, run.metrics)),
            best_in=tuple(metric for metric, name in best.items() if name == run.arm),
        )
        for run in found.runs
    )


def _metric(metric: Metric) -> MetricDocument:
    return MetricDocument(**asdict(metric))


def run_differences(found: Comparison) -> tuple[RunDifference, ...]:
    """Return the differences of a comparison as documents."""
    return tuple(
        RunDifference(
            metric=one.metric, first=one.first, second=one.second, estimate=one.interval.estimate,
            low=one.interval.low, high=one.interval.high,
        )
        for one in found.differences
    )  # fmt: skip


def write_comparison(out: Path, comparison: ComparisonDocument) -> None:
    """Write the three files; comparison.json last, as it marks the folder as whole."""
    write_table(out / "comparison.csv", ComparisonRow, rows(comparison))
    tables = tuple(_table(comparison, metric.name) for metric in comparison.runs[0].metrics)
    page = ComparisonPage(comparison, tables, tuple(table.label for table in tables if not may_be_best(table.name)))
    write_page(out / "comparison.html", "comparison.html.j2", synthetic=comparison.synthetic, page=page)
    comparison.write(out / "comparison.json")


def rows(comparison: ComparisonDocument) -> Iterator[ComparisonRow]:
    """Yield the rows of comparison.csv."""
    for run in comparison.runs:
        for metric in run.metrics:
            yield ComparisonRow(
                metric=metric.name, run=run.name, minus=None, estimate=metric.estimate, low=metric.low,
                high=metric.high, best=metric.name in run.best_in,
            )  # fmt: skip
    for one in comparison.differences:
        yield ComparisonRow(
            metric=one.metric, run=one.first, minus=one.second, estimate=one.estimate, low=one.low, high=one.high,
            best=False,
        )  # fmt: skip


def _table(comparison: ComparisonDocument, name: str) -> MetricTable:
    label, meaning = label_of(name)
    cells = tuple(
        (metric, name in run.best_in) for run in comparison.runs for metric in run.metrics if metric.name == name
    )
    return MetricTable(name, label, meaning, cells, tuple(d for d in comparison.differences if d.metric == name))


def summary(comparison: ComparisonDocument, out: Path) -> str:
    """Return what the terminal shows."""
    word = "SYNTHETIC cohort: " if comparison.synthetic else ""
    lines = [
        f"{word}{len(comparison.runs)} runs, {comparison.n} studies of {comparison.patients} patients, "
        f"{comparison.task.target}, out of fold:"
    ]
    widest = max(len(run.name) for run in comparison.runs)
    name = compared_metric([metric.name for metric in comparison.runs[0].metrics])
    for run in comparison.runs:
        found = next(metric for metric in run.metrics if metric.name == name)
        if None not in (found.estimate, found.low, found.high):
            best = "  best" if name in run.best_in else ""
            numbers = f"{NAMES[name]} {found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"
            lines.append(f"  {run.name:<{widest}}  {run.arm:<6} {numbers}{best}")
    return "\n".join([*lines, *(f"  {remark}" for remark in comparison.remarks), f"-> {out / 'comparison.html'}"])
