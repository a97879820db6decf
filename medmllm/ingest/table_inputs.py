"""Read the columns of the label table, or of a manifest, that a model takes as input.

    [table] columns, labelled studies -> what each column holds (numbers or categories) -> TableContract
    Study, TableContract -> Values: a number, a category or None per column

A column is of numbers when all its cells are, of categories when none looks like one, and refused when it is neither:
`63Y`, `50-60` and `1,5` are guessed at by nobody. What the target is made of is no input. Messages name columns, lines
and bounds, never cells: a cell may hold a patient's number.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from medmllm.documents import AcceptedRange, Column, TableContract
from medmllm.errors import ContractError, LabelError
from medmllm.ingest.study_folder import StudyIndex
from medmllm.ingest.tables import MISSING, PATIENT_COLUMNS, STUDY_COLUMNS, LabelTable, Target, no_column
from medmllm.records import Study, Values
from medmllm.table_documents import TableSettings

Kind = Literal["number", "category"]

logger = logging.getLogger(__name__)

MOST_CATEGORIES = 50
LEAST_SHARED = 0.1
"""Share of the patients with a category that another patient must have too; else the column names patients."""
FEWEST_PATIENTS = 10  # of fewer, a category may be one patient's by chance

_BOUND = re.compile(r"^(?:(?:[<>]=?|[≤≥])\s*(?P<after>[^\s+]+)|(?P<before>[^\s+]+)\s*\+)$")
_LIKE_A_NUMBER = re.compile(r"^[<>=≤≥~±+\-.,\s]*\d")


def check_inputs(settings: TableSettings, target: Target) -> None:
    """Refuse a column as input that the target is made of.

    Raises:
        LabelError: Names the column and the target.
    """
    if target.column in settings.columns:
        raise LabelError(
            f"[table] columns names {target.column!r}, which the target {target.expression!r} is made of: a model that "
            "reads the answer learns nothing. Take it out of [table] columns."
        )


def settle_columns(studies: Sequence[Study], settings: TableSettings) -> TableContract | None:
    """Return what the columns hold, over all labelled studies; None when no column is asked for.

    Raises:
        LabelError: A column is not there (the nearest is named), is empty, has one value only, more than 50 categories,
            categories that are nearly all one patient's, or cells that are neither plain numbers nor plain words.
    """
    columns = tuple(Column(name=name, kind=_kind(name, studies, settings), accepted=None) for name in settings.columns)
    if not columns:
        return None
    return TableContract(columns=columns, open_ended=settings.open_ended, required=settings.required)


def check_columns(index: StudyIndex, table: TableContract | None, *, given: LabelTable | None) -> None:
    """Look whether the studies to be scored have the columns that the model reads.

    Args:
        index: The studies, joined with their table.
        table: Of the model; None: it reads none.
        given: The table that was given for this purpose; None: one was found beside the studies, or none is there.

    Raises:
        LabelError: The table that was given lacks a column (the nearest is named), or none of its rows fits a study.
    """
    if table is None:
        if given is not None:
            logger.warning("the model reads no column of the --table: it only says which patient a study is of")
        return
    lacking = [one.name for one in table.columns if not any(one.name in study.facts for study in index.studies)]
    if given is not None:
        for name in lacking:
            if name not in given.columns:
                raise no_column("the --table, which the model reads,", name, given.columns)
        _check_fit(index, given)
    way_out = ": give the --table" if given is None else ""
    for name in lacking:
        logger.warning("no study has a cell in column %r, which the model reads%s", name, way_out)


def _check_fit(index: StudyIndex, given: LabelTable) -> None:
    """Refuse a table none of whose rows fits a study."""
    if not index.studies or sum(p.code == "row_without_study" for p in index.problems) < given.row_count:
        return
    compared = "StudyInstanceUID, folder and path" if given.by_study else "PatientID and the names of folders around it"
    raise LabelError(
        f"no row of the --table, of {given.row_count}, fits any of the {len(index.studies)} studies, so the model "
        f"would read nothing of it: its column {given.key_column!r} was compared with each study's {compared}. Mend "
        "that column, or leave --table out to score without it."
    )


def accept_numbers(table: TableContract, cohort: Sequence[Values | None], *, margin: float) -> TableContract:
    """Return the contract with the range of each column of numbers, widened by `margin` times its width."""
    columns = []
    for column in table.columns:
        numbers = [value for row in cohort if row is not None if isinstance(value := row[column.name], float)]
        slack = margin * (max(numbers) - min(numbers)) if numbers else 0.0
        accepted = AcceptedRange(low=min(numbers) - slack, high=max(numbers) + slack) if numbers else None
        columns.append(column.model_copy(update={"accepted": accepted}))
    return table.model_copy(update={"columns": tuple(columns)})


def read_values(study: Study, table: TableContract) -> Values | None:
    """Return what a study's row holds in the columns that the model reads; None when that is nothing at all.

    Raises:
        ContractError: A cell of a column of numbers is none (`not_a_number`, `open_ended`), or lies outside the
            accepted range (`table_out_of_range`); names the column and the bound.
    """
    values: dict[str, float | str | None] = {}
    for column in table.columns:
        cell = _cell(study, column.name)
        if cell is None:
            values[column.name] = None
        elif column.kind == "category":
            values[column.name] = _category(cell)
        else:
            values[column.name] = _number_in_range(cell, column, table)
    return values if any(value is not None for value in values.values()) else None


def has_cell(study: Study, columns: Sequence[str]) -> bool:
    """Say whether a study's row holds anything in some columns, right or wrong."""
    return any(_cell(study, column) is not None for column in columns)


def _cell(study: Study, column: str) -> str | None:
    cell = study.facts.get(column, "").strip()
    return None if cell.lower() in MISSING else cell


def _number(cell: str) -> float | None:
    """Return a plain, finite number; None for all else.

    >>> _number("1e2"), _number("63Y"), _number("inf"), _number("1_000")
    (100.0, None, None, None)
    """
    try:
        value = float(cell) if "_" not in cell else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _bound(cell: str) -> float | None:
    """Return the number that an open-ended cell names; None for all else.

    >>> _bound("89+"), _bound(">= 90"), _bound("89"), _bound("A+")
    (89.0, 90.0, None, None)
    """
    found = _BOUND.match(cell)
    return None if found is None else _number(found["after"] or found["before"])


def _category(cell: str) -> str:
    """Return a category in one spelling: 1 and 1.0 are one, as in the target."""
    number = _number(cell)
    return cell if number is None else f"{number:.15g}"


def _number_in_range(cell: str, column: Column, table: TableContract) -> float:
    value = _number(cell)
    if value is None and _bound(cell) is not None:
        if table.open_ended == "refuse":
            raise ContractError(f"the table's {_open_ended(column.name)}", code="open_ended")
        value = _bound(cell)
    if value is None:
        raise ContractError(
            f"the table's cell in column {column.name!r} is no number, and the model was trained on numbers there. "
            "Mend the cell, or leave it empty.",
            code="not_a_number",
        )
    bound = column.accepted
    if bound is not None and not bound.low <= value <= bound.high:
        raise ContractError(
            f"the table's number in column {column.name!r} lies outside of what the model accepts, {bound.low:g} to "
            f"{bound.high:g} (its training cohort and a margin). Is the unit right?",
            code="table_out_of_range",
        )
    return value


def _open_ended(column: str) -> str:
    return (
        f"cell in column {column!r} is open-ended (a number with +, < or >): write a number, leave it empty, or set "
        'open_ended = "bound" in [table] of the training to read such cells as the number they name.'
    )


# --- what a column holds -------------------------------------------------------------------


def _kind(name: str, studies: Sequence[Study], settings: TableSettings) -> Kind:
    if name in STUDY_COLUMNS + PATIENT_COLUMNS:
        raise LabelError(f"[table] columns names {name!r}, which says who or which study a row is about: take it out")
    if not any(name in study.facts for study in studies):
        known = {column for study in studies for column in study.facts}
        raise no_column("[table] columns: the label table", name, known)
    rows = [(study, cell) for study in studies if (cell := _cell(study, name)) is not None]
    kind: Kind = "category" if name in settings.categorical else _recognise(name, rows, settings)
    distinct = {_category(cell) for _, cell in rows}
    if len(distinct) < 2:
        found = "one value only" if distinct else "no value"
        raise LabelError(f"[table] columns: {name!r} has {found} in {len(studies)} labelled studies: nothing to learn; "
                         "take it out")  # fmt: skip
    if kind == "category" and len(distinct) > MOST_CATEGORIES:
        raise LabelError(
            f"[table] columns: {name!r} has {len(distinct)} different categories, at most {MOST_CATEGORIES} are read. "
            "Does it hold identifiers or free text? Take it out, or group its values."
        )
    if kind == "category":
        _refuse_names(name, rows)
    return kind


def _refuse_names(column: str, rows: Sequence[tuple[Study, str]]) -> None:
    """Refuse a column whose categories are nearly all one patient's: no fold learns anything of such a category."""
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for study, cell in rows:
        owners[_category(cell)].add(study.patient_key)
    patients = set().union(*owners.values())
    shared = set().union(*(own for own in owners.values() if len(own) > 1))
    if len(patients) >= FEWEST_PATIENTS and len(shared) < LEAST_SHARED * len(patients):
        raise LabelError(
            f"[table] columns: of {len(patients)} patients with a value in {column!r}, {len(shared)} share it with "
            f"another patient, fewer than {LEAST_SHARED:.0%}: a category of one patient tells nothing of others, and "
            "may name who that is. Does it hold identifiers or free text? Take it out, or group its values."
        )


def _recognise(name: str, rows: Sequence[tuple[Study, str]], settings: TableSettings) -> Kind:
    """Say whether a column is of numbers or of words; refuse one that is neither."""
    plain = [_number(cell) is not None for _, cell in rows]
    open_ended = [not number and _bound(cell) is not None for (_, cell), number in zip(rows, plain, strict=True)]
    if any(open_ended) and settings.open_ended == "refuse":
        raise LabelError(f"{_line(rows[open_ended.index(True)][0])}: the {_open_ended(name)}")
    numbers = [number or bound for number, bound in zip(plain, open_ended, strict=True)]
    if all(numbers):
        return "number"
    odd = [
        study
        for (study, cell), number in zip(rows, numbers, strict=True)
        if not number and (any(numbers) or _LIKE_A_NUMBER.match(cell))
    ]
    if odd:
        what = "in a column of numbers" if any(numbers) else "though it begins like one"
        raise LabelError(
            f"{_line(odd[0])}: the cell in column {name!r} is no plain number, {what} ({len(odd)} such cells). "
            "Mend them, leave them empty, or name the column in [table] categorical to read every cell as a category."
        )
    return "category"


def _line(study: Study) -> str:
    line = getattr(study.facts, "line", None)
    return "the label table" if line is None else f"line {line} of the label table"
