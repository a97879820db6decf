from typing import Any

import pytest

from medmllm.evaluation.leading import class_shown, leading_label, predicted_labels, told_labels
from medmllm.model_documents import SurvivalTask, Task
from tests.reporting import made_up

BINARY = Task.of_several(tuple(Task.of(name, (f"no {name}", name)) for name in ("nodule", "effusion", "fracture")))
MIXED = Task.of_several(
    (
        Task.of("nodule", ("no", "yes")),
        Task.of("part", ("chest", "head", "spine")),
        Task.of("grade", ("1", "2", "3"), ordered=True),
    )
)


def a_card(task: Task, **points: float) -> Any:
    return made_up.card().model_copy(update={"task": task, "operating_points": points})


@pytest.mark.parametrize(
    ("positive", "told", "leads"),
    [
        ((0.6, 0.3, 0.1), ("effusion",), "effusion"),  # the nodule is likelier, but below its operating point
        ((0.7, 0.3, 0.5), ("nodule", "effusion", "fracture"), "nodule"),
        ((0.6, 0.1, 0.3), (), "nodule"),
    ],
)
def test_binary_targets_are_told_at_their_own_points_and_the_likeliest_of_them_leads(
    positive: tuple[float, ...], told: tuple[str, ...], leads: str
) -> None:
    card = a_card(BINARY, nodule=0.7, effusion=0.2, fracture=0.4)
    chances = [chance for one in positive for chance in (1 - one, one)]
    predicted = predicted_labels(chances, card)
    assert [label % 2 == 1 for label in predicted] == [name in told for name in card.task.names]
    assert told_labels(predicted, card) == told
    assert card.task.classes[leading_label(chances, card)] == leads


def test_targets_of_other_kinds_are_told_by_their_own_rules() -> None:
    card = a_card(MIXED, nodule=0.3)
    chances = [0.8, 0.2, 0.25, 0.35, 0.4, 0.4, 0.15, 0.45]
    assert predicted_labels(chances, card) == (0, 4, 6)  # no nodule; the likeliest part; the median grade
    assert told_labels(predicted_labels(chances, card), card) == ("spine", "2")
    assert leading_label(chances, card) == 4
    shown = [class_shown(name, chances, card) for name in ("nodule", "part", "grade")]
    assert [card.task.classes[label] for label in shown] == ["yes", "spine", "2"]


def test_a_time_to_an_event_never_leads_and_is_shown_as_the_event() -> None:
    asked = SurvivalTask(event="death", model="cox", horizons=(9.0,), time_unit="days")
    days = Task(target="days", kind="survival", classes=("no death by 9 days", "death by 9 days"), survival=asked)
    card = a_card(Task.of_several((days, Task.of("nodule", ("no", "yes")))), days=0.2, nodule=0.5)
    chances = [0.1, 0.9, 0.7, 0.3]
    assert predicted_labels(chances, card) == (1, 2)  # higher risk, no nodule
    assert told_labels(predicted_labels(chances, card), card) == ()
    assert card.task.classes[leading_label(chances, card)] == "yes"
    assert card.task.classes[class_shown("days", [0.9, 0.1, 0.7, 0.3], card)] == "death by 9 days"
