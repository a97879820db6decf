"""Refuse settings that do not fit what is learnt, before a study is read.

settings, Task -> nothing, or the first that does not fit
"""

from collections.abc import Iterator

from medmllm.config import TrainConfig
from medmllm.errors import ConfigError
from medmllm.model_documents import Task
from medmllm.models.image_encoder import STEMS
from medmllm.preprocessing.text import TINY
from medmllm.search_config import SEARCHED
from medmllm.training.arms import check_arms
from medmllm.training.candidates import all_candidates
from medmllm.training.losses import check_weights
from medmllm.training.policy import check_rules
from medmllm.training.target_loss import check_target_settings

OF_CLASSES = ("loss", "focal_gamma", "class_weights", "sampling")
"""Settings that can be searched and have no say in the likelihood of a time to an event."""


def check_task(config: TrainConfig, task: Task) -> None:
    """Refuse settings that do not fit the task.

    Raises:
        ConfigError: Arms that read nothing; class weights of another number of classes; for several targets, what is of
            one target's classes; for a time to an event, what is of classes, and batches of one for Cox; a search for
            what makes no difference; a rule of the policy on what is not measured, or is of another target.
    """
    check_arms(config)
    check_rules(config, task)
    _check_search(config, task)
    for candidate in all_candidates(config):
        _check_training(candidate, task)


def _check_search(config: TrainConfig, task: Task) -> None:
    """Refuse to search what makes no difference: candidates would be alike, or there would be none, without a word."""
    training, idle = config.training, dict(_idle(config))
    for name in training.search:
        if name in idle:
            raise ConfigError(f"[training.search] {name} makes no difference where {idle[name]}: leave it out")
        if not set(SEARCHED[name]) & set(training.arms):
            raise ConfigError(
                f"[training.search] {name} makes no difference in the arms that are trained "
                f"({', '.join(training.arms)}), only in {', '.join(SEARCHED[name])}: "
                "leave it out, or train one of these"
            )
        if task.survival is not None and name in OF_CLASSES:
            raise ConfigError(
                f"[training.search] {name} is of classes, and the target is the time to an event: leave it out"
            )


def _idle(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Yield each setting that other settings leave without a say, and which these are."""
    training, model, text = config.training, config.model, config.text
    encoders = training.search.get("image_encoder", (model.image_encoder,))
    for name, beginnings in STEMS.items():
        if not any(str(encoder).startswith(beginnings) for encoder in encoders):
            yield name, f"[model] image_encoder is {' or '.join(map(repr, encoders))}"
    if "focal" not in training.search.get("loss", (training.loss,)):
        yield "focal_gamma", '[training] loss is not "focal"'
    if not config.recording.enabled:
        yield "audio_width", "[recording] is not enabled"
    if not config.table.columns:
        yield "table_width", "[table] columns names none"
    if text.encoder != TINY:
        yield "tiny_width", "[text] encoder is a pretrained one"
    if text.fine_tuning == "frozen" and True not in training.search.get("text_batch_norm", (model.text_batch_norm,)):
        yield "text_learning_rate", '[text] fine_tuning is "frozen"'


def _check_training(config: TrainConfig, task: Task) -> None:
    check_target_settings(config.training, task)
    if task.timed is not None:
        check_survival_settings(config, alone=not task.several)
        _check_cox(config, task.timed)
    elif not task.several:
        check_weights(config.training, len(task.classes))


def _check_cox(config: TrainConfig, timed: Task) -> None:
    """Refuse batches of one study, whose partial likelihood is 1 whatever its risk: nothing would be learnt."""
    if timed.survival is not None and timed.survival.model == "cox" and config.training.batch_size == 1:
        raise ConfigError(
            '[training] batch_size = 1 with [task] survival_model = "cox": each study would be compared with itself '
            'alone, and nothing learnt. Take 16 or more, or survival_model = "discrete_time"'
        )


def check_survival_settings(config: TrainConfig, *, alone: bool) -> None:
    """Refuse settings that only make sense for classes.

    Args:
        config: The settings.
        alone: The time is the only target; beside others, settings may be of these.

    Raises:
        ConfigError: Names the first.
    """
    training = config.training
    wrong = {
        '[training] loss = "focal"': alone and training.loss != "cross_entropy",
        "[training] class_weights, a list": not isinstance(training.class_weights, str),
        '[training] sampling = "balanced"': training.sampling != "shuffle",
        '[training] search_score = "auroc"': bool(training.search) and training.search_score != "log_loss",
        '[evaluation] calibration = "isotonic"': alone and config.evaluation.calibration != "temperature",
    }
    for what, asked in wrong.items():
        if asked:
            raise ConfigError(f"{what} is of classes, and the target is the time to an event: leave it out")
    if training.learning_curve and training.inner_folds > 1:
        # Intervals are those of a fold's training studies, and networks on parts of these would each have others.
        raise ConfigError(
            f"[training] learning_curve with inner_folds = {training.inner_folds}: of a time to an event a curve is "
            "told of one network per fold. Set inner_folds to 1, or leave the curve out"
        )
