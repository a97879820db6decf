"""Turn a column of times and one that says what ended them into the task of predicting a time to an event.

    target column, [task] event -> Survival of each study, and who has none; Task with its horizons

A study without a time, or without a word on the event, is left out and counted. Everything else that is no time or no
yes or no is refused: a wrong time is not seen again. Messages name columns and line numbers, never cells.
"""

from collections.abc import Mapping, Sequence

from medmllm.errors import LabelError
from medmllm.ingest.tables import NEGATIVE_FIRST, Target, cell_of, check_column, plain_number, refuse_nan
from medmllm.model_documents import SurvivalTask, Task
from medmllm.records import Study, Survival
from medmllm.training_config import TaskSettings

CENSORED = frozenset({"0", *(no for no, _ in NEGATIVE_FIRST)})
CAME = frozenset({"1", *(yes for _, yes in NEGATIVE_FIRST)})


def event_columns(settings: TaskSettings) -> tuple[Target, ...]:
    """Return what the target is made of beside its own column."""
    timed = "survival" in (settings.kind, *settings.kinds.values())
    return (Target(settings.event),) if timed else ()


def survival_columns(target: Target, settings: TaskSettings) -> tuple[Target, Target]:
    """Return the columns that hold the time and the event.

    Raises:
        LabelError: The target is a comparison, or both are one column.
    """
    if target.operator is not None:
        raise LabelError(
            f'[task] kind = "survival": the target {target.expression!r} compares, and what is wanted is a column of '
            f"times: --target {target.column}"
        )
    if target.column == settings.event:
        raise LabelError(
            f"[task] event and the target are one column, {target.column!r}: the target is the column of times, event "
            "that which says whether the event ended them"
        )
    return target, Target(settings.event)


def read_survival(studies: Sequence[Study], target: Target, settings: TaskSettings) -> dict[str, Survival]:
    """Return study_key -> time and event of each study that has both.

    Args:
        studies: Those of the index.
        target: The column of times.
        settings: Names the column of events.

    Raises:
        LabelError: A column is not there (the nearest is named); a cell is NaN, a time no number or negative, an event
            no yes or no; or there is no study, or no event, left.
    """
    time, event = survival_columns(target, settings)
    for one in (time, event):
        check_column(studies, one.column)
        refuse_nan(studies, one.column)
    found = {}
    for study in studies:
        cells = cell_of(study, time.column), cell_of(study, event.column)
        if None not in cells:
            found[study.study_key] = Survival(
                _time(study, cells[0] or "", time.column), event=_event(study, cells[1] or "", event.column)
            )
    if not found:
        raise LabelError(f"no study has a value in both of the columns {time.column!r} and {event.column!r}")
    if not any(one.event and one.time > 0 for one in found.values()):
        raise LabelError(
            f"none of {len(found)} studies has the event ({event.column!r}) after time 0: nothing to learn. Is it the "
            "right column? Name another one, or add studies with the event."
        )
    return found


def survival_task(survived: Mapping[str, Survival], target: Target, settings: TaskSettings) -> Task:
    """Return the task of predicting these times.

    Raises:
        LabelError: A horizon beyond what any study was followed for.
    """
    last = max(one.time for one in survived.values())
    beyond = [horizon for horizon in settings.horizons if horizon > last]
    if beyond:
        raise LabelError(
            f"[task] horizons: {beyond[0]:g} {settings.time_unit} lies beyond the longest follow-up of "
            f"{last:g} {settings.time_unit}: ask about earlier times, in the unit of the column {target.column!r}"
        )
    asked = SurvivalTask(
        event=settings.event, model=settings.survival_model, horizons=settings.horizons, time_unit=settings.time_unit
    )
    event = f"{settings.event} by {asked.horizon_names[-1]}"
    return Task(target=target.expression, kind="survival", classes=(f"no {event}", event), survival=asked)


def _time(study: Study, cell: str, column: str) -> float:
    value = plain_number(cell)
    if value is None or value < 0:
        what = "is no number" if value is None else "is negative: nobody has the event before the study"
        raise LabelError(f"{_line(study)}: the cell in column {column!r} {what}")
    return value


def _event(study: Study, cell: str, column: str) -> bool:
    value = plain_number(cell)
    word = cell.lower() if value is None else f"{value:g}"
    if word not in CAME | CENSORED:
        raise LabelError(
            f"{_line(study)}: the cell in column {column!r} does not say whether the event came: take 1 or 0, yes or "
            "no, true or false"
        )
    return word in CAME


def _line(study: Study) -> str:
    line = getattr(study.facts, "line", None)
    return "the label table" if line is None else f"line {line} of the label table"
