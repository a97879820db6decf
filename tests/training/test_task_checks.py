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


@pytest.mark.parametrize("search", ["class_weights=['none', 'balanced']", "loss=['focal', 'cross_entropy']"])
def test_what_is_of_classes_is_not_searched_for_a_time_alone_but_beside_classes(search: str) -> None:
    check_task(asked(f"search.{search}"), NODULE)
    check_task(asked(f"search.{search}"), Task.of_several((NODULE, DAYS)))
    with pytest.raises(ConfigError, match=r"\[training.search\] \w+ is of classes, and the target is the time"):
        check_task(asked(f"search.{search}"), DAYS)


@pytest.mark.parametrize(
    ("setting", "others", "why"),
    [
        ("focal_gamma=[1, 2]", 'training.loss="focal"', r'loss is not "focal"'),
        ("focal_gamma=[1, 2]", "training.search.loss=['focal', 'cross_entropy']", r'loss is not "focal"'),
        ("audio_width=[8, 16]", "recording.enabled=true", "not enabled"),
        ("table_width=[8, 16]", 'table.columns=["age"]', "names none"),
        ("modality_dropout=[0.0, 0.2]", "training.arms=['fused']", ""),
        ("image_stem_kernel=[3, 7]", "model.image_encoder=resnet18", ""),
        ("image_stem_pool=[true, false]", "training.search.image_encoder=['swin_unetr', 'resnet10']", ""),
    ],
)
def test_what_other_settings_leave_without_a_say_is_not_searched(setting: str, others: str, why: str) -> None:
    search = f"training.search.{setting}"
    check_task(load_config(TrainConfig, "train", overrides=[search, others]), NODULE)
    if why:
        with pytest.raises(ConfigError, match=rf"\[training.search\] \w+ makes no difference where .*{why}"):
            check_task(load_config(TrainConfig, "train", overrides=[search]), NODULE)


@pytest.mark.parametrize(
    ("setting", "others", "why"),
    [
        ("image_stem_kernel=[3, 7]", "model.image_encoder=densenet121", "image_encoder is 'densenet121'"),
        ("image_stem_pool=[true, false]", "training.search.image_encoder=['cells', 'swin_unetr']", "'cells' or 'swin_"),
        ("focal_gamma=[1, 2]", 'training.loss="focal"', r'loss is not "focal"'),
    ],
)
def test_what_none_of_the_searched_values_heeds_is_not_searched(setting: str, others: str, why: str) -> None:
    never_focal = ["training.search.loss=['cross_entropy']"] if "focal" in setting else []
    asked = [f"training.search.{setting}", others, *never_focal]
    with pytest.raises(ConfigError, match=rf"\[training.search\] \w+ makes no difference where .*{why}"):
        check_task(load_config(TrainConfig, "train", overrides=asked), NODULE)


@pytest.mark.parametrize(
    ("setting", "tuning", "refused"),
    [
        ("tiny_width=[16, 32]", "full", True),
        ("text_learning_rate=[1e-4, 1e-3]", "frozen", True),
        ("text_learning_rate=[1e-4, 1e-3]", "lora", False),
    ],
)
def test_a_pretrained_encoder_has_no_width_and_a_frozen_one_no_learning_rate(
    setting: str, tuning: str, refused: bool
) -> None:
    encoder = ['text.encoder="hub/bert"', f"text.fine_tuning={tuning}", f"training.search.{setting}"]
    if refused:
        with pytest.raises(ConfigError, match="makes no difference where"):
            check_task(load_config(TrainConfig, "train", overrides=encoder), NODULE)
        encoder = [*encoder[2:], *([] if "tiny" in setting else [*encoder[:2], "model.text_batch_norm=true"])]
    check_task(load_config(TrainConfig, "train", overrides=encoder), NODULE)


def test_a_loss_of_classes_is_taken_beside_a_time_and_not_for_a_time_alone() -> None:
    check_task(asked("loss=focal"), Task.of_several((NODULE, DAYS)))
    with pytest.raises(ConfigError, match='loss = "focal"'):
        check_task(asked("loss=focal"), DAYS)


def test_a_candidate_that_cannot_be_is_answered_by_the_reason_alone() -> None:
    with pytest.raises(
        ConfigError, match=r"'balanced'\} cannot be: sampling: classes drawn alike and weighted as well"
    ):
        asked("search.sampling=['shuffle', 'balanced']")


@pytest.mark.parametrize("several", [False, True])
def test_cox_takes_no_batches_of_one_study_and_discrete_time_does(several: bool) -> None:
    cox = DAYS.model_copy(update={"survival": SurvivalTask(**{**dict(DAYS.survival or ()), "model": "cox"})})
    one = asked("batch_size=1")
    for timed in (DAYS, cox):
        task = Task.of_several((NODULE, timed)) if several else timed
        check_task(asked("batch_size=2"), task)
        if timed is cox:
            with pytest.raises(ConfigError, match=r'batch_size = 1 with \[task\] survival_model = "cox"'):
                check_task(one, task)
            with pytest.raises(ConfigError, match="batch_size = 1"):
                check_task(asked("search.batch_size=[8, 1]"), task)
        else:
            check_task(one, task)
