"""Read what a finished run said of every study out of fold, in one of its targets.

RUN/{evaluation.json, out_of_fold.csv, model/model.json}, arm, target -> Entrant
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmllm.csv_tables import read_table
from medmllm.errors import MisuseError, PackageError
from medmllm.model_documents import ModelCard, Place, Task
from medmllm.result_documents import EvaluationDocument
from medmllm.table_rows import OutOfFoldKeys, OutOfFoldRow, SurvivalOutOfFoldRow, TargetsOutOfFoldRow

TABLE = "out_of_fold.csv"

Row = OutOfFoldRow | SurvivalOutOfFoldRow


@dataclass(frozen=True, slots=True)
class Entrant:
    """One run, as it was left by `medmllm train`; one of several targets as if it were the only one."""

    name: str  # as given
    folder: Path
    arm: str
    evaluation: EvaluationDocument
    rows: dict[tuple[int, str], Row]  # of that arm, by repeat and study key, in the order of the table

    @property
    def studies(self) -> list[str]:
        """Keys of the studies, in the order of the table."""
        return [study for repeat, study in self.rows if repeat == 0]


def read_run(folder: Path, arm: str | None, target: str | None) -> Entrant:
    """Return a finished run.

    Args:
        folder: RUN.
        arm: The arm that is looked at; None takes that of RUN/model.
        target: One of several; None where the run has one.

    Raises:
        MisuseError: No run, no such arm, no such target, or several of which none is named.
        PackageError: A file of the run cannot be read.
    """
    name = str(folder)
    if not (folder / "evaluation.json").is_file():
        raise MisuseError(f"{name} holds no evaluation.json: give folders that `medmllm train` wrote, whole")
    try:
        evaluation = EvaluationDocument.read(folder / "evaluation.json")
        place = _place(evaluation, target, name)
        arm = arm or ModelCard.read(folder / "model" / "model.json").arm
        table = _rows(folder / TABLE, evaluation, place)
        rows = {(row.repeat, row.study_key): row for row in table if row.arm == arm}
    except PackageError as error:
        earlier = error.code == "missing_column"
        error.add_note(f"(in {name}): train that run again" if earlier else f"in {name}")
        raise
    if not rows:
        arms = ", ".join(one.arm for one in evaluation.arms)
        raise MisuseError(f"{name} has no arm {arm!r}; it has {arms}. Name one that all runs have with --arm.")
    return Entrant(name, folder, arm, _alone(evaluation, place), rows)


def _place(evaluation: EvaluationDocument, target: str | None, name: str) -> Place:
    """Return the place of the target that is looked at."""
    task = evaluation.task
    names = task.names or (task.target,)
    if target is None and task.several:
        raise MisuseError(f"{name} was trained for several targets: name one with --target: {', '.join(names)}")
    if target is not None and target not in names:
        raise MisuseError(f"{name} was not trained for {target!r}, but for {', '.join(names)}")
    return task.places[0 if target is None else names.index(target)]


def _alone(evaluation: EvaluationDocument, place: Place) -> EvaluationDocument:
    """Return what is told of one target as if it were the only one."""
    told = next(own for own in evaluation.each if own.task.target == place.task.target)
    return evaluation.model_copy(update={**dict(told), "targets": ()}) if evaluation.targets else evaluation


def _rows(path: Path, evaluation: EvaluationDocument, place: Place) -> Iterator[Row]:
    """Yield the rows of a target; of several, where it is known."""
    timed = place.task.survival is not None
    if not evaluation.task.several:
        alone: Iterable[Row] = read_table(path, SurvivalOutOfFoldRow) if timed else read_table(path, OutOfFoldRow)
        yield from alone
        return
    for row in read_table(path, TargetsOutOfFoldRow):
        if timed and place.task.target in row.time:
            yield _time(row, place.task)
        elif place.task.target in row.target:
            yield _classes(row, place.task)


def _classes(row: TargetsOutOfFoldRow, task: Task) -> OutOfFoldRow:
    """Return what a row says of one target with classes, as if it were the only one."""
    name, classes = task.target, task.classes
    return OutOfFoldRow(
        **_keys(row),
        target=row.target[name],
        predicted=row.predicted[name],
        probabilities={label: row.probabilities[label] for label in classes},
        logits={label: row.logits[label] for label in classes if label in row.logits},
        conformal_set={label: row.conformal_set[label] for label in classes},
        abstained=row.abstained.get(name),
    )


def _time(row: TargetsOutOfFoldRow, task: Task) -> SurvivalOutOfFoldRow:
    """Return what a row says of the time to an event, as if it were the only target."""
    name, event = task.target, task.classes[1]
    told: dict[str, object] = {
        "time": row.time[name],
        "event": row.event[name],
        "predicted": row.predicted[name],
        "probability": row.probabilities[event],
        "event_free": row.event_free,
        "median_time": row.median_time.get(name),
        "log_hazard": row.logits[event],
    }
    return SurvivalOutOfFoldRow.model_validate(_keys(row) | told)


def _keys(row: TargetsOutOfFoldRow) -> dict[str, Any]:
    return {field: getattr(row, field) for field in OutOfFoldKeys.model_fields}
