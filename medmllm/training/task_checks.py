"""Refuse settings that do not fit what is learnt, before a study is read.

settings, Task -> nothing, or the first that does not fit
"""

from medmllm.config import TrainConfig
from medmllm.model_documents import Task
from medmllm.training.losses import check_weights
from medmllm.training.policy import check_rules
from medmllm.training.target_loss import check_target_settings


def check_task(config: TrainConfig, task: Task) -> None:
    """Refuse settings that do not fit the task.

    Raises:
        ConfigError: Class weights of another number of classes; for several targets, what is of one target's classes; a
            rule of the policy on what is not measured, or is of another target.
    """
    check_rules(config, task)
    check_target_settings(config.training, task)
    if not task.several:
        check_weights(config.training, len(task.classes))
