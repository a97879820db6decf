"""Read and write CSV tables whose rows are documents, and prepare the folder they go to.

documents -> CSV on disk, row by row -> documents
"""

import csv
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Generic, TextIO, TypeVar

try:
    import fcntl
except ImportError:  # not on Windows, where two runs into one folder are not told apart
    fcntl = None  # type: ignore[assignment]

from pydantic import ValidationError

from medmllm.documents import Document, Probability, first_fault
from medmllm.errors import MedmllmError, MisuseError, PackageError

Row = TypeVar("Row", bound=Document)

PARQUET_ROWS = 10_000

_DICTS = (dict[str, Probability], dict[str, float], dict[str, bool], dict[str, str])

Columns = tuple[str, ...] | Mapping[str, tuple[str, ...]]
"""The class names of all fields that hold something by class; or those of each field."""

LOCK = ".medmllm.lock"


@contextmanager
def table_writer(path: Path, row_type: type[Row], *, classes: Columns = ()) -> Iterator["RowWriter[Row]"]:
    """Open a CSV for rows of one document type; each row is on disk when `write` returns.

    Args:
        path: The file; replaced if it exists.
        row_type: The document of one row; it also gives the header.
        classes: For documents with `probabilities` or `logits`: the class names, in order; for several targets, of
            each field (`Task.columns`).
    """
    with path.open("w", encoding="utf-8", newline="") as stream:
        yield RowWriter(stream, row_type, classes)


def header_of(row_type: type[Document], classes: Columns = ()) -> list[str]:
    """Return the columns of a table, in order; `classes` as of `table_writer`."""
    nested = _nested(row_type)
    return [
        column
        for name in row_type.model_fields
        for column in ([f"{name}[{c}]" for c in _own(classes, name)] if name in nested else [name])
    ]


def _nested(row_type: type[Document]) -> list[str]:
    return [name for name, field in row_type.model_fields.items() if field.annotation in _DICTS]


def _own(classes: Columns, name: str) -> tuple[str, ...]:
    return classes if isinstance(classes, tuple) else classes[name]


class RowWriter(Generic[Row]):
    """Writes documents as CSV rows; a dict field becomes one column per class, `field[class]`."""

    def __init__(self, stream: TextIO, row_type: type[Row], classes: Columns = (), *, header: bool = True) -> None:
        self._stream = stream
        self._classes = {name: _own(classes, name) for name in _nested(row_type)}
        self._header = header_of(row_type, classes)
        self._line = _Line()
        self._writer = csv.writer(self._line, lineterminator="\n")
        self._quoting_writer = csv.writer(self._line, lineterminator="\n", quoting=csv.QUOTE_ALL)
        if header:
            self._put(self._header)
        self.count = 0

    def write(self, row: Row) -> None:
        """Append one row and flush it.

        Raises:
            PackageError: The row holds a class that the header lacks.
        """
        self.add(row)
        self._stream.flush()

    def add(self, row: Row) -> None:
        """Append one row, which is on disk once the table is closed.

        Raises:
            PackageError: As `write`.
        """
        if not self._classes:
            self._put(["" if value is None else value for value in vars(row).values()])
            self.count += 1
            return
        flat: dict[str, object] = {}
        for name, value in row:
            if isinstance(value, dict):
                own = self._classes[name]
                unknown = value.keys() - set(own)
                if unknown:
                    raise PackageError(f"{name} holds {len(unknown)} classes that are not among {own}")
                flat |= {f"{name}[{c}]": value.get(c, "") for c in own}
            else:
                flat[name] = "" if value is None else value
        self._put([flat[name] for name in self._header])
        self.count += 1

    def add_lines(self, lines: str, count: int) -> None:
        """Append rows that `as_lines` made elsewhere."""
        self._stream.write(lines)
        self.count += count

    def _put(self, cells: Collection[object]) -> None:
        # Before Python 3.13 a lone carriage return is not quoted by itself, and readers take it for the end of the row.
        self._writer.writerow(cells)
        if "\r" in self._line.text:
            self._quoting_writer.writerow(cells)
        self._stream.write(self._line.text)


class _Line:
    """Takes the line that a CSV writer makes of a row."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def as_lines(row_type: type[Row], rows: Iterable[Row]) -> str:
    """Return rows as lines of a table, without its header."""
    stream = io.StringIO(newline="")
    writer = RowWriter(stream, row_type, header=False)
    for row in rows:
        writer.add(row)
    return stream.getvalue()


def write_table(path: Path, row_type: type[Row], rows: Iterable[Row], *, classes: Columns = ()) -> int:
    """Write a whole CSV and return the number of rows."""
    with table_writer(path, row_type, classes=classes) as writer:
        for row in rows:
            writer.add(row)
    return writer.count


def write_parquet(path: Path, row_type: type[Row], rows: Iterable[Row]) -> int:
    """Write a whole Parquet file, some thousand rows at a time, and return the number of rows.

    For documents of numbers and text alone; literals become text.
    """
    import pyarrow as pa  # a heavy import, for those who ask for it
    import pyarrow.parquet as pq

    kinds: dict[object, pa.DataType] = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema(
        [(name, kinds.get(field.annotation, pa.string())) for name, field in row_type.model_fields.items()]
    )
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for part in batched(rows, PARQUET_ROWS):
            writer.write_table(pa.Table.from_pylist([row.model_dump() for row in part], schema))
            count += len(part)
    return count


def batched(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield rows in lists of at most `size`.

    >>> list(batched([1, 2, 3], 2))
    [[1, 2], [3]]
    """
    rest = iter(rows)
    while part := list(islice(rest, size)):
        yield part


def read_table(path: Path, row_type: type[Row]) -> list[Row]:
    """Read a CSV back into documents.

    Raises:
        PackageError: The file cannot be read, lacks a column (code `missing_column`), or a row is not of this form;
            names file, line and column.
    """
    try:
        return _read_rows(path, row_type)
    except OSError as error:
        raise PackageError(f"cannot read {path.name}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise PackageError(f"{path.name} is not a CSV table in UTF-8: {error}") from None


def _read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        for cells in reader:
            if None in cells or None in cells.values():
                raise PackageError(f"{path.name}, line {reader.line_num}: not as many cells as the header has")
            values: dict[str, object] = {}
            for column, cell in cells.items():
                name, bracket, rest = column.partition("[")
                if bracket:
                    nested = values.setdefault(name, {})
                    if isinstance(nested, dict) and cell != "":
                        nested[rest.removesuffix("]")] = cell
                else:
                    field = row_type.model_fields.get(name)
                    empty_is_none = field is not None and type(None) in getattr(field.annotation, "__args__", ())
                    values[name] = None if cell == "" and empty_is_none else cell
            try:
                rows.append(row_type.model_validate(values))
            except ValidationError as error:
                absent = [str(fault["loc"][0]) for fault in error.errors() if fault["type"] == "missing"]
                if absent:
                    raise PackageError(
                        f"{path.name} has no column {absent[0]!r}: an earlier version of medmllm wrote it, or it was "
                        "changed since",
                        code="missing_column",
                    ) from None
                raise PackageError(f"{path.name}, line {reader.line_num}: {first_fault(error)}") from None
    return rows


def check_writable(folder: Path, *, overwrite: bool, marker: str, studies: Path | None = None) -> None:
    """Make an output folder, refusing one that already holds results.

    Args:
        folder: The folder that will hold the results.
        overwrite: Go on although `marker` is there.
        marker: A file whose presence means that the folder holds results.
        studies: Where the studies are; results among them would be taken for studies the next time.

    Raises:
        MedmllmError: The folder cannot be made or written to, holds results, or lies among the studies.
    """
    if studies is not None and folder.resolve().is_relative_to(studies.resolve()):
        raise MisuseError("--out lies inside the folder of studies: results would be taken for studies the next time. "
                          "Choose a folder outside it.")  # fmt: skip
    try:
        if (folder / marker).exists() and not overwrite:
            raise MisuseError(f"the output folder already holds {marker}: choose another --out, or add --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedmllmError(f"cannot make the output folder: {error.strerror}", code="cannot_write") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MedmllmError("the output folder cannot be written to: choose another --out", code="cannot_write")


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold an output folder against a second run for as long as the block, or this process, lasts.

    Raises:
        MisuseError: Another run is writing to it.
    """
    with (folder / LOCK).open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise MisuseError("another run is writing to this output folder: wait, or choose another") from None
        yield
        (folder / LOCK).unlink(missing_ok=True)
