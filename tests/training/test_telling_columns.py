"""A column that gives the answer away is remarked; one that merely helps, or may do so by chance, is not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from medmllm.records import UNKNOWN, Survival, Values
from medmllm.training.cohort import Cohort, Member
from medmllm.training.telling_columns import remark_columns
from tests.models.small import TABLE, a_sample


def a_cohort(rows: list[Values | None]) -> Cohort:
    members = [replace(Member(a_sample(k, target=k % 2), None, {}), values=row) for k, row in enumerate(rows)]
    return Cohort(tuple(members), (), table=TABLE)


@pytest.mark.parametrize(
    ("ages", "told"),
    [
        ([40.0 + 30 * (k % 2) + k / 20 for k in range(12)], True),  # below 41, and above 70
        ([40.0 + 30 * (k % 2) + k * 5 for k in range(12)], False),  # they overlap
        ([40.0 + 30 * (k % 2) for k in range(9)], False),  # too few to tell
        ([70.0 - 30 * (k % 2) for k in range(12)], True),
    ],
)
def test_numbers_that_part_the_classes_are_remarked(ages: list[float], told: bool) -> None:
    said = remark_columns(a_cohort([{"age": age, "sex": None} for age in ages]))
    assert [line.split(": ")[1].split(" alone")[0] for line in said] == (["the column 'age'"] if told else [])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no", "yes"] * 6, True),
        (["no", "yes"] * 5 + ["yes", "no"], False),
        ([f"w{k}" for k in range(12)], False),  # every study a word of its own: nothing follows
        (["no"] * 12, False),
    ],
)
def test_categories_of_one_class_each_are_remarked(words: list[str], told: bool) -> None:
    said = remark_columns(a_cohort([{"age": None, "sex": word} for word in words]))
    assert len(said) == told


def test_studies_without_a_value_have_no_say_and_a_cohort_without_a_table_no_remark() -> None:
    cohort = a_cohort([*({"age": float(k % 2), "sex": None} for k in range(12)), None, {"age": None, "sex": "F"}])
    assert "all 12 studies" in remark_columns(cohort)[0]
    assert remark_columns(replace(cohort, table=None)) == []


def test_a_column_that_tells_one_of_several_labels_apart_is_remarked_with_the_label() -> None:
    labels = [(k % 2, (k // 2) % 2, UNKNOWN if k % 3 else k % 2) for k in range(16)]
    members = [
        replace(Member(a_sample(k, target=own), None, {}), values={"age": 40.0 + 20 * own[0] + k / 20, "sex": None})
        for k, own in enumerate(labels)
    ]
    said = remark_columns(Cohort(tuple(members), (), table=TABLE), ("nodule", "effusion", "fracture"))
    assert [line.split("alone tells ")[1].split(" in all")[0] for line in said] == ["target 'nodule' apart"]


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (lambda time, event: 3 * time + 7, "orders the times"),  # a date of the last visit, say
        (lambda time, event: -time, "orders the times"),
        (lambda time, event: time if time < 10 else 0.5, None),
        (lambda time, event: float(event) + time / 100, "studies with and without the event apart"),
        (lambda time, event: time % 3, None),
    ],
)
def test_a_column_made_from_a_time_or_an_event_is_remarked(of: Callable[[float, int], float], told: str | None) -> None:
    members = []
    for k in range(14):
        time, event = float(k * 5 % 14), int(k % 4 != 1)
        sample = replace(a_sample(k), target=Survival(time, event=bool(event)))
        members.append(replace(Member(sample, None, {}), values={"age": of(time, event), "sex": None}))
    said = remark_columns(Cohort(tuple(members), (), table=TABLE))
    assert len(said) == (told is not None)
    assert told is None or told in said[0]
