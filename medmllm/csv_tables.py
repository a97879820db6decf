"""Read and write CSV tables whose rows are documents, and prepare the folder they go to.

documents -> CSV on disk, row by row -> documents
"""

import csv
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Generic, Literal, TextIO, TypeVar

try:
    import fcntl
except ImportError:  # not on Windows, where two runs into one folder are not told apart
    fcntl = None  # type: ignore[assignment]

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from medmllm.documents import Document, FileKey, PatientKey, Probability, SeriesKey, Sha256, StudyKey, first_fault
from medmllm.errors import MedmllmError, MisuseError, PackageError
from medmllm.records import Plane, QualityFinding, Refusal, Severity, Stage

Row = TypeVar("Row", bound=Document)

PARQUET_ROWS = 10_000

_DICTS = (dict[str, Probability], dict[str, float], dict[str, bool])


# --- tables: one document per row ----------------------------------------------------------


class StudyRow(Document):
    """studies.csv: one row per study found."""

    study_key: StudyKey
    patient_key: PatientKey
    layout: Literal["dicom", "folder", "bids", "nnunet", "list"]
    series: int = Field(ge=0, description="image series found")
    refused_series: int = Field(ge=0, description="of these, series that cannot become a volume")
    notes: int = Field(ge=0)
    recordings: int = Field(ge=0)
    in_table: bool = Field(description="a row of the label table was joined")


class SeriesRow(Document):
    """series.csv: one row per image series found."""

    series_key: SeriesKey
    study_key: StudyKey
    kind: Literal["dicom", "nifti"]
    modality: str | None = Field(description="DICOM Modality (0008,0060); empty when unknown")
    files: PositiveInt
    size_x: PositiveInt | None
    size_y: PositiveInt | None
    size_z: PositiveInt | None
    spacing_x_mm: PositiveFloat | None
    spacing_y_mm: PositiveFloat | None
    spacing_z_mm: PositiveFloat | None
    status: Literal["readable", "refused"]
    code: str | None = Field(description="why it was refused, as a word")
    reason: str | None
    plane: Plane | None = Field(description="of its slices; empty when it cannot be told")
    kernel: str | None = Field(description="Convolution Kernel (0018,1210)")
    contrast: Literal["yes", "no"] | None = Field(description="whether an agent is recorded; empty: not told")
    thickness_mm: PositiveFloat | None = Field(description="Slice Thickness (0018,0050)")
    time_order: PositiveInt | None = Field(description="by acquisition time among the study's series, from 1")


class SelectionRow(Document):
    """selection.csv: what became of one series for one channel of a model, or that a channel has none."""

    study_key: StudyKey
    channel: str
    series_key: SeriesKey | None = Field(description="empty when no series of the study fits the channel")
    outcome: Literal["used", "lost", "refused", "missing"] = Field(
        description="used; lost to the rules or to another series; refused: it fits, but cannot be read or is not the "
        "only one; missing: the channel has no series"
    )
    why: str = Field(description="in words; for the series used, what decided where something had to")


class FileRow(Document):
    """files.csv: one row per file under the folder, in order of their paths, and what became of it."""

    file_key: FileKey
    kind: Literal["dicom", "nifti", "nifti_voxels", "note", "recording", "table", "other"]
    bytes: int = Field(ge=0)
    status: Literal["used", "ignored", "warning", "refused"]
    code: str | None = Field(description="why it is not used, as a word")
    reason: str | None
    retryable: bool
    study_key: StudyKey | None
    series_key: SeriesKey | None = Field(description="the series it is part of; the first, where it holds several")
    series: int = Field(ge=0, description="how many series it is part of")


class ProblemRow(Document):
    """problems.csv: one row per file, series or table row that could not be used, with the reason."""

    where_key: str = Field(
        pattern=r"^(fi|se|st|pt)-[0-9a-f]{16}$", description="key of the file, series, study or patient"
    )
    study_key: StudyKey | None
    severity: Literal["ignored", "warning", "refused"]
    code: str
    reason: str
    retryable: bool


class LinkageRow(Document):
    """linkage.csv, written on request only: a key and the original it stands for. Guard it like the originals."""

    key: str
    kind: Literal["patient", "study", "series", "file"]
    original: str = Field(description="PatientID, StudyInstanceUID, SeriesInstanceUID or relative path")
    description: str = Field(description="Series Description or file stem; of a patient the Patient Name; else empty")


class PredictionRow(Document):
    """predictions.csv: one row per scored study."""

    study_key: StudyKey
    patient_key: PatientKey
    predicted: str = Field(description="class at the model's operating point")
    probability: Probability = Field(description="of the positive class (binary) or of `predicted` (multiclass)")
    probabilities: dict[str, Probability] = Field(description="in CSV one column per class: probabilities[CLASS]")
    interval_low: Probability = Field(description="lowest `probability` over the fold models")
    interval_high: Probability
    conformal_set: dict[str, bool] = Field(
        description="whether the class cannot be ruled out, one column per class; empty: a model without thresholds"
    )
    abstained: bool | None = Field(description="the conformal set is not a single class")
    modalities_used: str = Field(description="joined by +")
    training_patient: bool = Field(description="the patient was in the training cohort: not a test result")
    weights_digest: Sha256


class LedgerRow(Document):
    """ledger.csv: one row per study that was not scored."""

    study_key: StudyKey
    patient_key: PatientKey
    stage: Stage
    code: str
    reason: str
    retryable: bool

    @classmethod
    def of(cls, study_key: str, patient_key: str, refusal: Refusal) -> "LedgerRow":
        """Return the row for a refused study."""
        return cls(
            study_key=study_key, patient_key=patient_key, stage=refusal.stage, code=refusal.code,
            reason=refusal.reason, retryable=refusal.retryable,
        )  # fmt: skip


class QualityRow(Document):
    """quality.csv: one row per finding of the quality checks."""

    study_key: StudyKey
    series_key: SeriesKey | None = Field(description="empty: the note, or a recording")
    code: str
    decision: Severity = Field(description="what the policy makes of it; refuse: the study is not used")
    value: float | None = Field(description="what was measured; empty when the series could not be read")
    bound: float | None
    reason: str

    @classmethod
    def of(cls, study_key: str, finding: QualityFinding) -> "QualityRow":
        """Return the row for a finding that the policy has judged."""
        return cls(
            study_key=study_key, series_key=None if finding.where == study_key else finding.where, code=finding.code,
            decision=finding.severity or "warn", value=finding.value, bound=finding.bound, reason=finding.reason,
        )  # fmt: skip


class OutOfFoldRow(Document):
    """out_of_fold.csv: one row per study and arm, predicted by the fold model that never saw the patient."""

    study_key: StudyKey
    patient_key: PatientKey
    arm: str = Field(description="image, text or fused")
    fold: int = Field(ge=0)
    target: str = Field(description="true class")
    predicted: str = Field(description="at the operating point chosen on this fold's tuning part")
    probabilities: dict[str, Probability]
    logits: dict[str, float] = Field(description="after temperature; the positive class alone when binary")
    conformal_set: dict[str, bool] = Field(
        description="whether the class cannot be ruled out, by the thresholds of this fold's tuning part"
    )
    abstained: bool | None = Field(description="the conformal set is not a single class")


ROWS: Mapping[str, type[Document]] = {
    "studies_row": StudyRow,
    "series_row": SeriesRow,
    "files_row": FileRow,
    "selection_row": SelectionRow,
    "problems_row": ProblemRow,
    "linkage_row": LinkageRow,
    "predictions_row": PredictionRow,
    "ledger_row": LedgerRow,
    "quality_row": QualityRow,
    "out_of_fold_row": OutOfFoldRow,
}
"""Schema name -> document of one row."""


# --- writing and reading ---


LOCK = ".medmllm.lock"


@contextmanager
def table_writer(path: Path, row_type: type[Row], *, classes: tuple[str, ...] = ()) -> Iterator["RowWriter[Row]"]:
    """Open a CSV for rows of one document type; each row is on disk when `write` returns.

    Args:
        path: The file; replaced if it exists.
        row_type: The document of one row; it also gives the header.
        classes: For documents with `probabilities` or `logits`: the class names, in order.
    """
    with path.open("w", encoding="utf-8", newline="") as stream:
        yield RowWriter(stream, row_type, classes)


class RowWriter(Generic[Row]):
    """Writes documents as CSV rows; a dict field becomes one column per class, `field[class]`."""

    def __init__(self, stream: TextIO, row_type: type[Row], classes: tuple[str, ...]) -> None:
        self._stream = stream
        self._classes = classes
        self._header = [
            column
            for name, field in row_type.model_fields.items()
            for column in ([f"{name}[{c}]" for c in classes] if field.annotation in _DICTS else [name])
        ]
        self._writer = csv.writer(stream, lineterminator="\n")
        self._quoting_writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
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
        flat: dict[str, object] = {}
        for name, value in row:
            if isinstance(value, dict):
                unknown = value.keys() - set(self._classes)
                if unknown:
                    raise PackageError(f"{name} holds {len(unknown)} classes that are not among {self._classes}")
                flat |= {f"{name}[{c}]": value.get(c, "") for c in self._classes}
            else:
                flat[name] = "" if value is None else value
        self._put([flat[name] for name in self._header] if self._classes else flat.values())
        self.count += 1

    def _put(self, cells: Collection[object]) -> None:
        # Before Python 3.13 a lone carriage return is not quoted by itself, and readers take it for the end of the row.
        odd = any(type(value) is str and "\r" in value for value in cells)
        (self._quoting_writer if odd else self._writer).writerow(cells)


def write_table(path: Path, row_type: type[Row], rows: Iterable[Row], *, classes: tuple[str, ...] = ()) -> int:
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
        PackageError: The file cannot be read or a row is not of this form; names file, line and column.
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
