"""What the explained number is said to be is what arithmetic makes of it."""

import math
import re
from collections.abc import Mapping

import pytest
import torch

from medmllm.errors import MedmllmError
from medmllm.model_documents import ModelCard, SurvivalTask, Task
from medmllm.models.ordinal_head import OrdinalHead
from medmllm.reporting.explained import meaning_of_logit
from medmllm.tuning_documents import IsotonicMap, TuningDecisions
from tests.reporting import made_up

BINARY = Task.of("nodule", ("nodule=no", "nodule=yes"))
SIDES = Task.of("side", ("side=left", "side=mid", "side=right"))
GRADES = Task.of("grade", ("grade=1", "grade=2", "grade=3"), ordered=True)
TIMED = Task(
    target="days", kind="survival", classes=("no event", "event"),
    survival=SurvivalTask(event="death", model="discrete_time", horizons=(365.0, 730.0), time_unit="days"),
)  # fmt: skip
CURVE = IsotonicMap(given=(0.2, 0.8), calibrated=(0.1, 0.6))


def beside_others(task: Task) -> Task:
    return Task.of_several((Task.of("other", ("other=a", "other=b")), task, Task.of("last", ("l=a", "l=b"))))


def a_card(task: Task, decided: Mapping[str, TuningDecisions] | None = None) -> ModelCard:
    """Return a card whose folds decided this of each of several targets; by default no curve."""
    card = made_up.card()
    plain = TuningDecisions(temperature=1.0, threshold=0.5)
    targets = dict(decided or dict.fromkeys(task.names, plain))
    folds = tuple(fold.model_copy(update={"targets": targets}) for fold in card.folds)
    return card.model_copy(update={"task": task, "folds": folds})


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
    alone = meaning_of_logit(a_card(task), task.classes[-1])
    assert re.search(said, alone)
    assert "curve" not in alone
    if task.survival is None:
        assert meaning_of_logit(a_card(beside_others(task)), task.classes[-1]) == alone


def test_before_a_calibration_curve_the_sentence_says_so_of_the_targets_that_have_one() -> None:
    curved = TuningDecisions(temperature=1.0, threshold=0.5, isotonic=(CURVE,))
    plain = curved.model_copy(update={"isotonic": None})
    alone = a_card(BINARY)
    alone = alone.model_copy(update={"folds": [fold.model_copy(update={"isotonic": (CURVE,)}) for fold in alone.folds]})
    said = meaning_of_logit(alone, "nodule=yes")
    assert said.startswith("The logit is the logarithm of the odds: +0.7 about doubles them. That holds before the")
    several = beside_others(BINARY)
    card = a_card(several, {name: curved if name == "nodule" else plain for name in several.names})
    assert meaning_of_logit(card, "nodule=yes") == said
    assert "curve" not in meaning_of_logit(card, "other=a")


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
        meaning_of_logit(a_card(BINARY), "side=left")
