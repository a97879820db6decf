"""Refuse settings that do not fit what is learnt, before a study is read.

settings, Task -> nothing, or the first that does not fit
"""

from medmllm.config import TrainConfig
from medmllm.errors import ConfigError
from medmllm.model_documents import Task
from medmllm.training.label_loss import check_label_settings
from medmllm.training.losses import check_weights
from medmllm.training.policy import check_rules


def check_task(config: TrainConfig, task: Task) -> None:
    """Refuse settings that do not fit the task.

    Raises:
        ConfigError: Class weights of another number of classes; a rule of the policy on what is not measured; for
            several labels, what is told of one target only.
    """
    check_rules(config, task)
    if not task.labels:
        check_weights(config.training, len(task.classes))
        return
    check_label_settings(config.training)
    if config.training.learning_curve:
        raise ConfigError("[training] learning_curve: the curve is told of one target, and several were given")
    if config.evaluation.subgroups.columns:
        raise ConfigError("[evaluation.subgroups] columns: groups are told of one target, and several were given")
    if config.evaluation.calibration != "temperature":
        raise ConfigError('[evaluation] calibration = "temperature" is what several labels can have, each its own')
    if config.policy.may_not_ignore:
        raise ConfigError("[policy] may_not_ignore: use of modalities is tested for one target, and several were given")
