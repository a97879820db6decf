"""Lay out what a search tried: a table per arm, a line per candidate, a cell per fold.

SearchDocument -> SearchTable of each arm, for the training report
"""

from dataclasses import dataclass
from itertools import groupby

from medmllm.search_documents import SearchDocument


@dataclass(frozen=True, slots=True)
class SearchCell:
    """How a candidate did in one fold."""

    score: float | None
    chosen: bool


@dataclass(frozen=True, slots=True)
class SearchLine:
    """One candidate in all folds."""

    words: str
    cells: tuple[SearchCell, ...]


@dataclass(frozen=True, slots=True)
class SearchTable:
    """The candidates of one arm, in the first repeat."""

    arm: str
    folds: tuple[int, ...]
    lines: tuple[SearchLine, ...]


def search_tables(search: SearchDocument | None) -> tuple[SearchTable, ...]:
    """Return a table of each arm; none where nothing was searched."""
    first = [] if search is None else [choice for choice in search.choices if choice.repeat == 0]
    tables = []
    for arm, of_arm in groupby(first, key=lambda choice: choice.arm):
        choices = list(of_arm)
        lines = tuple(
            SearchLine(
                candidate.words,
                tuple(SearchCell(own.candidates[k].score, own.chosen == k) for own in choices),
            )
            for k, candidate in enumerate(choices[0].candidates)
        )
        tables.append(SearchTable(arm, tuple(choice.fold for choice in choices), lines))
    return tuple(tables)
