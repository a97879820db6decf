"""Times to an event from a label table; rows are written out by hand."""

import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.errors import LabelError
from medmllm.ingest.labels import Assigned, assign_task
from medmllm.ingest.survival import event_columns
from medmllm.ingest.table_inputs import check_inputs
from medmllm.ingest.tables import TableRow, Target, parse_target
from medmllm.records import Study, Survival
from medmllm.training_config import TaskSettings

DEFAULTS = load_config(TrainConfig, "train")


def settings(**changes: object) -> TaskSettings:
    known = {"kind": "survival", "event": "death", "horizons": (100.0, 200.0)}
    return TaskSettings.model_validate(DEFAULTS.task.model_dump() | known | changes)


def assign(rows: list[tuple[str, str]], target: str = "days", **changes: object) -> Assigned:
    studies = [
        Study(
            study_key=f"st-{k:016x}",
            patient_key=f"pt-{k:016x}",
            layout="folder",
            facts=TableRow(k + 2, {"days": days, "death": death}),
        )
        for k, (days, death) in enumerate(rows)
    ]
    return assign_task(studies, [parse_target(one) for one in target.split(" and ")], settings(**changes))


@pytest.mark.parametrize(("came", "censored"), [("1", "0"), ("1.0", "0.0"), ("yes", "no"), ("TRUE", "False")])
def test_time_and_event_come_from_their_columns(came: str, censored: str) -> None:
    found = assign([("300", came), ("12.5", censored)])
    assert list(found.by_study.values()) == [Survival(300.0, event=True), Survival(12.5, event=False)]


def test_a_study_without_time_or_event_is_left_out_and_counted() -> None:
    found = assign([("300", "1"), ("", "1"), ("250", "n/a")])
    assert list(found.by_study) == ["st-0000000000000000"]
    assert found.missing == ("st-0000000000000001", "st-0000000000000002")


def test_the_task_names_the_event_and_the_horizons() -> None:
    task = assign([("300", "1"), ("10", "0")], time_unit="weeks").task
    assert (task.kind, task.target) == ("survival", "days")
    assert task.classes == ("no death by 200 weeks", "death by 200 weeks")
    assert task.survival is not None
    assert task.survival.horizon_names == ("100 weeks", "200 weeks")


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([("-1", "1"), ("300", "1")], {}, r"line 2 .* column 'days' is negative"),
        ([("300", "1"), ("nan", "1")], {}, r"line 3 .* column 'days' is NaN"),
        ([("300", "1"), ("long", "1")], {}, r"line 3 .* column 'days' is no number"),
        ([("300", "1"), ("inf", "1")], {}, r"line 3 .* column 'days' is no number"),
        ([("300", "1"), ("20", "maybe")], {}, r"line 3 .* column 'death' does not say whether"),
        ([("300", "1"), ("20", "2")], {}, r"line 3 .* column 'death' does not say whether"),
        ([("300", "0"), ("20", "no")], {}, r"none of 2 studies has the event"),
        ([("300", "0"), ("0", "1")], {}, r"none of 2 studies has the event \('death'\) after time 0"),
        ([("", "1"), ("20", "")], {}, "no study has a value in both"),
        ([("300", "1")], {"event": "deth"}, "no column 'deth'; did you mean 'death'"),
        ([("300", "1")], {"event": "days"}, "one column, 'days'"),
        ([("150", "1"), ("120", "0")], {}, "200 days lies beyond the longest follow-up of 150 days"),
        ([("300", "1")], {"target": "days>100"}, "compares, and what is wanted is a column of times"),
        ([("300", "1")], {"target": "days and death"}, "2 are times to an event \\(days, death\\)"),
        ([("300", "1")], {"target": "dys"}, "no column 'dys'; did you mean 'days'"),
    ],
)
def test_what_is_no_time_or_no_event_is_refused(
    rows: list[tuple[str, str]], changes: dict[str, str], message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        assign(rows, **changes)


def test_messages_hold_no_cell() -> None:
    with pytest.raises(LabelError) as caught:
        assign([("4711-secret", "1")])
    assert "4711" not in str(caught.value)


def test_the_column_of_events_is_no_input() -> None:
    table = DEFAULTS.table.model_copy(update={"columns": ("age", "death")})
    (event,) = event_columns(settings())
    with pytest.raises(LabelError, match="'death'"):
        check_inputs(table, event)
    assert event_columns(DEFAULTS.task) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"event": ""}, "survival wants event"), ({"horizons": (200.0, 100.0)}, "later than the one before"),
     ({"horizons": ()}, "at least 1"), ({"horizons": (0.0, 1.0)}, "greater than 0")],
)  # fmt: skip
def test_settings_that_ask_for_nothing_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_target_of_the_event_column_is_plain() -> None:
    assert event_columns(settings()) == (Target("death"),)
