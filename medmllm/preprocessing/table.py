"""Turn the cells of a study's row into numbers for the network, by codes learnt from a fold's training part.

    Values of the training part -> TableCodes: mean and deviation of numbers, categories of words
    Values, TableCodes -> standardised numbers and indices of categories, and which cells are there

A category that stands in the rows of fewer than two training patients gets no code, and a cell that holds it counts as
empty: one patient teaches nothing about it, and its name may tell who that is.
"""

from collections.abc import Sequence

import numpy as np
import torch

from medmllm.documents import Column, TableContract
from medmllm.records import Values
from medmllm.table_documents import ColumnCode, TableCodes

FEWEST_PATIENTS = 2


def learn_table_codes(rows: Sequence[Values | None], patients: Sequence[str], table: TableContract) -> TableCodes:
    """Return how a fold codes its columns.

    Args:
        rows: Of the fold's training part; never those of its tuning or test part.
        patients: patient_key of each row.
        table: The columns.
    """
    return TableCodes(columns=tuple(_learn(column, rows, patients) for column in table.columns))


def _learn(column: Column, rows: Sequence[Values | None], patients: Sequence[str]) -> ColumnCode:
    cells = [(row[column.name], who) for row, who in zip(rows, patients, strict=True) if row is not None]
    if column.kind == "number":
        numbers = np.array([value for value, _ in cells if isinstance(value, float)])
        deviation = float(numbers.std()) if numbers.size else 0.0
        mean = float(numbers.mean()) if numbers.size else 0.0
        return ColumnCode(name=column.name, mean=mean, deviation=deviation or 1.0, categories=())
    owners: dict[str, set[str]] = {}
    for value, who in cells:
        if isinstance(value, str):
            owners.setdefault(value, set()).add(who)
    known = sorted(name for name, found in owners.items() if len(found) >= FEWEST_PATIENTS)
    return ColumnCode(name=column.name, mean=None, deviation=None, categories=tuple(known))


def code_values(values: Values, codes: TableCodes) -> tuple[torch.Tensor, tuple[bool, ...]] | None:
    """Return a row's numbers, shape (columns,), float32, and which cells are there; None when none is.

    A number is standardised, a category becomes its index; where a cell is empty, or its category is not known, 0 is
    stored and never read.
    """
    found = [_code(values[column.name], column) for column in codes.columns]
    if all(code is None for code in found):
        return None
    stored = torch.tensor([0.0 if code is None else code for code in found], dtype=torch.float32)
    return stored, tuple(code is not None for code in found)


def _code(value: float | str | None, column: ColumnCode) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        return float(column.categories.index(value)) if value in column.categories else None
    assert column.mean is not None and column.deviation is not None  # the contract says that it is of numbers
    return (value - column.mean) / column.deviation


def unknown_categories(values: Values, codes: TableCodes) -> tuple[str, ...]:
    """Return the columns whose cell holds a category that the codes lack."""
    return tuple(
        column.name
        for column in codes.columns
        if isinstance(value := values[column.name], str) and value not in column.categories
    )
