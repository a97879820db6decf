"""Read the label table and turn one of its columns into targets.

    labels.csv or participants.tsv -> LabelTable, joined on study or patient -> Study.facts
    "spiculation>=3" -> Target; Target and studies -> class of each study, and who has none

Numbers are compared as numbers, all else as text. An empty cell, "nan", "na", "n/a" or "null" is missing. Messages name
columns and line numbers, never cells: a cell may hold a patient's number.
"""

import csv
import difflib
import io
import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medmllm.errors import IngestError, LabelError
from medmllm.ingest.opening import open_regular
from medmllm.records import Study

STUDY_COLUMNS = ("study_id",)
PATIENT_COLUMNS = ("patient_id", "participant_id")
LARGEST_TABLE_BYTES = 200_000_000
MOST_CLASSES = 20
MISSING = frozenset({"", "nan", "na", "n/a", "null"})
NEGATIVE_FIRST = (("no", "yes"), ("n", "y"), ("false", "true"), ("negative", "positive"), ("absent", "present"))

_COMPARISON = re.compile(r"^(?P<column>.+?)\s*(?P<operator>>=|<=|==|!=|>|<)\s*(?P<bound>.+)$")


@dataclass(frozen=True, slots=True, eq=False)
class TableRow(Mapping[str, str]):
    """The facts of one row: every column but the identifiers; cells never show in a repr."""

    line: int  # in the file, 1 is the header
    cells: Mapping[str, str] = field(repr=False)

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable:
    """A label table, by study when it has such a column, else by patient."""

    path: Path = field(repr=False)
    key_column: str  # which column its rows are joined by
    columns: tuple[str, ...]  # without the identifiers
    by_study: Mapping[str, TableRow] = field(repr=False)  # original study_id -> row; empty without that column
    by_patient: Mapping[str, TableRow] = field(repr=False)  # original patient_id -> row; only without study_id
    patient_of: Mapping[str, str] = field(repr=False)  # original study_id -> original patient_id

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self.by_study) + len(self.by_patient)


def read_label_table(path: Path) -> LabelTable:
    """Read a CSV (comma or semicolon) or TSV with a study_id and/or patient_id (participant_id) column.

    Raises:
        LabelError: Unreadable, no identifier column, a doubled column, a row of another length, or a
            doubled identifier; names columns and lines, never cells.
    """
    rows = parse_cells(path)
    if not rows:
        raise LabelError("the label table is empty")
    header = [cell.strip() for _, row in rows[:1] for cell in row]
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        raise LabelError(f"the label table has the column {doubled[0]!r} twice")
    study_column = next((column for column in header if column in STUDY_COLUMNS), None)
    patient_column = next((column for column in header if column in PATIENT_COLUMNS), None)
    if not (study_column or patient_column):
        raise LabelError(
            f"the label table has neither of the columns {', '.join(STUDY_COLUMNS + PATIENT_COLUMNS)}; "
            f"its first line should name its columns; {len(header)} cells were found there"
        )
    key_column = study_column or patient_column or ""
    identifiers = {study_column, patient_column}
    by_key: defaultdict[str, list[TableRow]] = defaultdict(list)
    patient_of: dict[str, str] = {}
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise LabelError(f"line {line} of the label table has {len(cells)} cells, the header has {len(header)}")
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        key = composed(row[key_column])
        if not key:
            raise LabelError(f"line {line} of the label table has no {key_column}")
        by_key[key].append(TableRow(line, {name: cell for name, cell in row.items() if name not in identifiers}))
        if study_column and patient_column and row[patient_column]:
            patient_of[key] = composed(row[patient_column])
    _refuse_doubled(key_column, by_key)
    found = {key: same[0] for key, same in by_key.items()}
    columns = tuple(name for name in header if name not in identifiers)
    return LabelTable(
        path, key_column, columns, found if study_column else {}, {} if study_column else found, patient_of
    )


def composed(name: str) -> str:
    """Return a name with each accent and its letter as one character (NFC): macOS writes folder names as two.

    >>> len("M\u0075\u0308ller"), len(composed("M\u0075\u0308ller"))
    (7, 6)
    """
    return unicodedata.normalize("NFC", name)


def parse_cells(path: Path, what: str = "the label table") -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of every row that is not blank."""
    try:
        with open_regular(path.resolve()) as stream:
            data = stream.read(LARGEST_TABLE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (IngestError, OSError, RuntimeError):  # RuntimeError: links in a circle
        there = "cannot be read" if os.path.lexists(path) else "is not there"
        raise LabelError(f"{what} {there}") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise LabelError(f"{what} is not UTF-8 text (line {line})") from None
    if len(data) > LARGEST_TABLE_BYTES:
        raise LabelError(f"{what} is larger than {LARGEST_TABLE_BYTES:,} bytes")
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise LabelError(f"line {reader.line_num} of {what} is no valid CSV: {error}") from None


def _refuse_doubled(column: str, by_key: Mapping[str, Sequence[TableRow]]) -> None:
    doubled = [rows for rows in by_key.values() if len(rows) > 1]
    if doubled:
        lines = ", ".join(str(row.line) for row in doubled[0])
        more = f"; {len(doubled) - 1} more are doubled too" if len(doubled) > 1 else ""
        raise LabelError(f"lines {lines} of the label table have the same {column}{more}")


# --- targets -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be predicted: a column as it is, or a comparison on it."""

    column: str
    operator: str | None = None  # one of >= <= > < == !=; None: the column's own classes
    bound: str | None = None

    @property
    def expression(self) -> str:
        """The target in one canonical spelling, e.g. spiculation>=3."""
        return f"{self.column}{self.operator or ''}{self.bound or ''}"


@dataclass(frozen=True, slots=True)
class Targets:
    """The class of every study that has one."""

    classes: tuple[str, ...]  # binary: the negative first
    by_study: Mapping[str, int] = field(repr=False)  # study_key -> index into classes
    missing: tuple[str, ...]  # study_key of every study without a value


def parse_target(text: str) -> Target:
    """Return the target that an expression names.

    Raises:
        LabelError: Nothing before or after the operator, or a bound that is no number for an ordering.

    >>> parse_target("spiculation >= 3")
    Target(column='spiculation', operator='>=', bound='3')
    >>> parse_target("region").operator is None
    True
    """
    plain = text.strip()
    found = _COMPARISON.match(plain)
    if found is None:
        if not plain or any(sign in plain for sign in "<>=!"):
            raise LabelError(f"the target {text!r} is no column and no comparison such as 'spiculation>=3'")
        return Target(plain)
    target = Target(found["column"], found["operator"], found["bound"].strip("'\" "))
    if target.operator not in ("==", "!=") and plain_number(target.bound or "") is None:
        raise LabelError(f"the target {text!r} orders by {target.bound!r}, which is no number")
    return target


def assign_targets(studies: Sequence[Study], target: Target) -> Targets:
    """Return the class of each study under a target.

    Raises:
        LabelError: No study has the column (the nearest is named), no value is left, one class only, a
            cell that is NaN, or no number under an ordering, or more than 20 classes for a plain column.
    """
    check_column(studies, target.column)
    refuse_nan(studies, target.column)
    cells = {study.study_key: cell_of(study, target.column) for study in studies}
    missing = tuple(key for key, cell in cells.items() if cell is None)
    known = {key: cell for key, cell in cells.items() if cell is not None}
    if target.operator is None:
        classes, named = _own_classes(target.column, known)
    else:
        classes = (f"not {target.expression}", target.expression)
        lines = {study.study_key: getattr(study.facts, "line", None) for study in studies}
        named = {key: classes[_holds(cell, target, lines[key])] for key, cell in known.items()}
    present = set(named.values())
    if len(present) < 2:
        raise LabelError(
            f"{len(named)} studies have a value for {target.expression!r}, all of one class: nothing to learn. Name "
            "another --target, or another bound in it, or add studies of another class."
            if named
            else f"no study has a value in the column {target.column!r}: fill it in, or name another --target"
        )
    return Targets(classes, {key: classes.index(name) for key, name in named.items()}, missing)


def check_column(studies: Sequence[Study], name: str) -> None:
    """Refuse a column that no study has.

    Raises:
        LabelError: Names the nearest one; or it says who a study is of, which nothing may be learnt from.
    """
    columns = sorted({column for study in studies for column in study.facts})
    if name in STUDY_COLUMNS + PATIENT_COLUMNS:
        raise LabelError(
            f"the column {name!r} says who or which study a row is about: it is neither learnt nor read by a model. "
            "Name a column of findings."
        )
    if name not in columns:
        if not columns:
            raise LabelError(
                f"none of the {len(studies)} studies found fits a row of the label table: is this the right folder of "
                "studies, and do study_id or patient_id name its folders or identifiers?"
            )
        raise no_column("the label table", name, columns)


def check_kept(kept: Sequence[str], studies: Sequence[Study], *, given: LabelTable | None) -> None:
    """Refuse columns to be kept that the label table, where there is one, does not have.

    Args:
        kept: `table_columns` of `medmllm deidentify`.
        studies: Joined with the table, or of a list that has columns of its own.
        given: The table that was named; None: one was found beside the studies, or none is there.

    Raises:
        LabelError: Names the nearest column, or those that there are; or it says who a study is of.
    """
    columns = {column for study in studies for column in study.facts} | set(given.columns if given else ())
    if not columns and given is None:
        return
    for name in kept:
        if name in STUDY_COLUMNS + PATIENT_COLUMNS:
            raise LabelError(
                f"table_columns names {name!r}, which says who or which study a row is about: keys are written in its "
                "place. Take it out."
            )
        if name not in columns:
            raise no_column("table_columns: the label table", name, columns)


def no_column(what: str, name: str, known: Collection[str]) -> LabelError:
    """Return the refusal of a column that a table lacks; it names the nearest one, or all there are, and no cell."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(sorted(known))}" if known else ""
    return LabelError(f"{what} has no column {name!r}{hint}")


def refuse_nan(studies: Sequence[Study], column: str) -> None:
    """Refuse what a computation left behind: unlike an empty cell, it does not say that there is no label."""
    for study in studies:
        if study.facts.get(column, "").strip().lower() == "nan":
            raise LabelError(
                f"line {getattr(study.facts, 'line', None)} of the label table: the cell in column {column!r} is NaN. "
                "Mend it, or leave it empty where a study has no label: such studies are left out."
            )


def cell_of(study: Study, column: str) -> str | None:
    """Return a study's cell in a column; None where it is empty."""
    cell = study.facts.get(column, "").strip()
    return None if cell.lower() in MISSING else cell


def plain_number(text: str) -> float | None:
    """Return the finite number that a cell holds; None where it holds none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _holds(cell: str, target: Target, line: int | None) -> bool:
    value, bound = plain_number(cell), plain_number(target.bound or "")
    if target.operator in ("==", "!="):
        same = value == bound if value is not None and bound is not None else cell == target.bound
        return same is (target.operator == "==")
    if value is None or bound is None:
        raise LabelError(f"line {line} of the label table: the cell in column {target.column!r} is no number")
    return {">=": value >= bound, "<=": value <= bound, ">": value > bound, "<": value < bound}[target.operator or ""]


def _own_classes(column: str, known: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the classes of a plain column and the class of each study."""
    numbers = {key: plain_number(cell) for key, cell in known.items()}
    if all(number is not None for number in numbers.values()):
        # 1 and 1.0 are one class: tables that passed through pandas write whole numbers either way.
        named = {key: f"{number:.15g}" for key, number in numbers.items()}
        classes = sorted(set(named.values()), key=float)
    else:
        named = dict(known)
        classes = sorted(set(named.values()))
    if len(classes) > MOST_CLASSES:
        raise LabelError(
            f"the column {column!r} has {len(classes)} different values, at most {MOST_CLASSES} classes are possible: "
            f'compare it with a bound, e.g. {column}>=3; a column of times wants [task] kind = "survival"'
        )
    for pair in NEGATIVE_FIRST:
        if sorted(name.lower() for name in classes) == sorted(pair):
            classes.sort(key=lambda name: pair.index(name.lower()))
    return tuple(classes), named
