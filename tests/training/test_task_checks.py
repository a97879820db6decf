"""Settings that do not fit what is learnt are refused before a study is read."""

import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.errors import ConfigError
from medmllm.model_documents import SurvivalTask, Task
from medmllm.training.task_checks import check_task

DAYS = Task(
    target="days",
    kind="survival",
    classes=("no event", "event"),
    survival=SurvivalTask(event="death", model="discrete_time", horizons=(365.0,), time_unit="days"),
)
NODULE = Task.of("nodule", ("no", "yes"))


def asked(*overrides: str) -> TrainConfig:
    return load_config(TrainConfig, "train", overrides=[f"training.{one}" for one in overrides])


def test_what_no_trained_arm_reads_is_not_searched_and_the_arms_are_named() -> None:
    search = "search.text_learning_rate=[0.001, 0.01]"
    check_task(asked(search, 'arms=["image", "text"]'), NODULE)
    with pytest.raises(ConfigError, match=r"makes no difference in .* \(image\), only in text, fused"):
        check_task(asked(search, 'arms=["image"]'), NODULE)


@pytest.mark.parametrize("search", ["class_weights=['none', 'balanced']", "focal_gamma=[1, 2]"])
def test_what_is_of_classes_is_not_searched_for_a_time_alone_but_beside_classes(search: str) -> None:
    check_task(asked(f"search.{search}"), NODULE)
    check_task(asked(f"search.{search}"), Task.of_several((NODULE, DAYS)))
    with pytest.raises(ConfigError, match=r"\[training.search\] \w+ is of classes, and the target is the time"):
        check_task(asked(f"search.{search}"), DAYS)


def test_a_loss_of_classes_is_taken_beside_a_time_and_not_for_a_time_alone() -> None:
    check_task(asked("loss=focal"), Task.of_several((NODULE, DAYS)))
    with pytest.raises(ConfigError, match='loss = "focal"'):
        check_task(asked("loss=focal"), DAYS)


def test_a_candidate_that_cannot_be_is_answered_by_the_reason_alone() -> None:
    with pytest.raises(
        ConfigError, match=r"'balanced'\} cannot be: sampling: classes drawn alike and weighted as well"
    ):
        asked("search.sampling=['shuffle', 'balanced']")
