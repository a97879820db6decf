"""Write OUT/index.html: what became of every study of a scored folder.

    PredictionRow, LedgerRow, ScoringSummary -> counts, scored studies, refused studies, links

Links are relative, and only to files that exist when the page is written: write it last. No scripts:
scored studies stand in the order of their probability, refused ones in that of stage and code.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from medmllm.evaluation.leading import leading_label
from medmllm.model_documents import ModelCard
from medmllm.reporting.page import write_page
from medmllm.result_documents import ScoringSummary
from medmllm.table_rows import LedgerRow, PredictionRow, SurvivalPredictionRow

TABLES = {
    "predictions.csv": "one row per scored study",
    "ledger.csv": "one row per refused study",
    "quality.csv": "one row per finding of the quality checks",
    "problems.csv": "files, series and table rows that could not be used",
    "summary.json": "counts and provenance",
}


@dataclass(frozen=True, slots=True)
class ScoredStudy:
    """One row of the table of scored studies."""

    row: PredictionRow | SurvivalPredictionRow
    probability_of: str | None  # of several targets, the class whose probability is shown; else None
    explained: bool
    report: str | None  # relative link; None when there is no such file
    prediction: str | None


@dataclass(frozen=True, slots=True)
class FolderPage:
    """What the template folder.html.j2 reads."""

    card: ModelCard
    summary: ScoringSummary
    probability_of: str
    scored: tuple[ScoredStudy, ...]
    refused: tuple[LedgerRow, ...]
    tables: tuple[tuple[str, str], ...]  # file name, what it holds; only those that exist


def write_folder_index(
    path: Path,
    *,
    predictions: Iterable[PredictionRow | SurvivalPredictionRow],
    ledger: Iterable[LedgerRow],
    summary: ScoringSummary,
    explained: Set[str],
    card: ModelCard,
) -> None:
    """Write the start page of a results folder as one HTML file that loads nothing.

    Args:
        path: OUT/index.html; links are relative to its folder.
        predictions: Scored studies, in any order.
        ledger: Refused studies, in any order.
        summary: The counts.
        explained: Keys of the studies that have an explanation.
        card: The model that scored them.
    """
    out = path.parent
    ordered = sorted(predictions, key=lambda row: (-row.probability, row.study_key))
    page = FolderPage(
        card=card,
        summary=summary,
        probability_of=_shown(card),
        scored=tuple(
            ScoredStudy(
                row=row,
                probability_of=_class_shown(row, card),
                explained=row.study_key in explained,
                report=_link(out, f"studies/{row.study_key}/report.html"),
                prediction=_link(out, f"studies/{row.study_key}/prediction.json"),
            )
            for row in ordered
        ),
        refused=tuple(sorted(ledger, key=lambda row: (row.stage, row.code, row.study_key))),
        tables=tuple((name, meaning) for name, meaning in TABLES.items() if (out / name).exists()),
    )
    write_page(path, "folder.html.j2", synthetic=summary.synthetic or card.synthetic, page=page)


def _shown(card: ModelCard) -> str:
    if card.task.outputs == 1:
        return f"“{card.task.classes[1]}”"
    return "the class named beside it" if card.task.several else "the predicted class"


def _class_shown(row: PredictionRow | SurvivalPredictionRow, card: ModelCard) -> str | None:
    """Return of several targets the class that leads; None where there is one target."""
    if not card.task.several or isinstance(row, SurvivalPredictionRow):
        return None
    classes = card.task.classes
    return classes[leading_label([row.probabilities[name] for name in classes], card)]


def _link(out: Path, relative: str) -> str | None:
    return relative if (out / relative).exists() else None
