"""A card says of several targets what each of them is, and what every fold decides for it."""

import pytest
from pydantic import ValidationError

from medmllm.model_documents import FoldModel, ModelCard, SurvivalTask, Task
from medmllm.tuning_documents import TuningDecisions
from tests.reporting import made_up

NODULE, GRADE = Task.of("nodule", ("no", "yes")), Task.of("grade", ("1", "2", "3"), ordered=True)
BOTH = Task.of_several((NODULE, GRADE))
DECIDED = TuningDecisions(temperature=1.5, threshold=0.5)


def a_card(task: Task, *targets: str) -> ModelCard:
    folds = tuple(
        FoldModel.model_validate(fold.model_dump() | {"targets": dict.fromkeys(targets, DECIDED)})
        for fold in made_up.card().folds
    )
    return ModelCard.model_validate(made_up.card().model_dump() | {"task": task, "folds": folds})


def test_a_task_of_binary_targets_is_multilabel_and_of_others_several() -> None:
    assert Task.of_several((NODULE, Task.of("side", ("left", "right")))).kind == "multilabel"
    assert (BOTH.kind, BOTH.names, BOTH.classes) == ("several", ("nodule", "grade"), ("no", "yes", "1", "2", "3"))
    assert (BOTH.outputs, NODULE.outputs, GRADE.outputs) == (4, 1, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ()}, "what multilabel and several are made of"),
        ({"kind": "multiclass"}, "no other kind is"),
        ({"classes": ("no", "yes", "3", "2", "1")}, "those of each target in turn"),
    ],
)
def test_a_task_that_its_targets_do_not_make_up_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Task.model_validate(BOTH.model_dump() | changes)


def test_a_card_without_decisions_for_each_target_in_turn_is_refused() -> None:
    fold = a_card(BOTH, "nodule", "grade").folds[0]
    assert fold.decisions(BOTH) == (DECIDED, DECIDED)
    for targets in ((), ("nodule",), ("grade", "nodule"), ("nodule", "grade", "side")):
        with pytest.raises(ValidationError, match="decides for every target of the task, in its order"):
            a_card(BOTH, *targets)
    with pytest.raises(ValidationError, match="and for no other"):
        a_card(NODULE, "nodule")


def test_of_one_target_a_fold_decides_itself() -> None:
    fold = a_card(NODULE).folds[0]
    assert fold.decisions(NODULE) == (fold,)


def test_of_targets_side_by_side_one_at_most_is_a_time_to_an_event() -> None:
    asked = SurvivalTask(event="death", model="cox", horizons=(9.0,), time_unit="days")
    days, weeks = (Task(target=name, kind="survival", classes=("no", "yes"), survival=asked) for name in ("d", "w"))
    assert Task.of_several((Task.of("nodule", ("a", "b")), days)).timed == days
    with pytest.raises(ValidationError, match="one may be a time to an event"):
        Task.of_several((days, weeks))


def test_offsets_of_another_number_than_the_logits_are_refused() -> None:
    card = made_up.card()
    for offsets, task in (((0.1, 0.2), NODULE), ((0.1,), Task.of("region", ("a", "b", "c")))):
        folds = [fold.model_dump() | {"offsets": offsets} for fold in card.folds]
        with pytest.raises(ValidationError, match=f"{task.outputs} logits want as many offsets, got {len(offsets)}"):
            ModelCard.model_validate(card.model_dump() | {"task": task, "folds": folds})
