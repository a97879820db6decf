"""What the explained number is said to be is what arithmetic makes of it."""

import math
import re

import pytest
import torch

from medmllm.errors import MedmllmError
from medmllm.model_documents import SurvivalTask, Task
from medmllm.models.ordinal_head import OrdinalHead
from medmllm.reporting.explained import meaning_of_logit

BINARY = Task.of("nodule", ("nodule=no", "nodule=yes"))
SIDES = Task.of("side", ("side=left", "side=mid", "side=right"))
GRADES = Task.of("grade", ("grade=1", "grade=2", "grade=3"), ordered=True)
TIMED = Task(
    target="days", kind="survival", classes=("no event", "event"),
    survival=SurvivalTask(event="death", model="discrete_time", horizons=(365.0, 730.0), time_unit="days"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (BINARY, r"logarithm of the odds: \+0\.7 about doubles"),
        (SIDES, r"one of several classes, before softmax"),
        (GRADES, r"logarithm of the probability of this class, divided by the temperature"),
        (TIMED, r"logarithm of the cumulative hazard until 730 days"),
    ],
)
def test_each_kind_of_target_has_its_own_meaning_of_the_logit_alone_and_beside_others(task: Task, said: str) -> None:
    assert re.search(said, meaning_of_logit(task, task.classes[-1]))
    if task.survival is None:
        several = Task.of_several((Task.of("other", ("other=a", "other=b")), task, Task.of("last", ("l=a", "l=b"))))
        assert meaning_of_logit(several, task.classes[0]) == meaning_of_logit(task, task.classes[0])


def test_what_is_said_to_double_and_to_square_does() -> None:
    assert math.exp(0.7) == pytest.approx(2, rel=0.01)
    hazard = 0.3
    assert math.exp(-2 * hazard) == pytest.approx(math.exp(-hazard) ** 2)


def test_an_ordinal_logit_is_a_log_probability_and_the_middle_may_rise_while_its_neighbours_fall() -> None:
    low, high = OrdinalHead(3)(torch.tensor([[-3.0], [0.0]]))
    assert torch.exp(low).sum().item() == pytest.approx(1, abs=1e-6)
    assert high[1] > low[1]
    assert high[0] < low[0]


def test_a_class_that_the_task_does_not_have_is_refused() -> None:
    with pytest.raises(MedmllmError, match="none of the task's"):
        meaning_of_logit(BINARY, "side=left")
