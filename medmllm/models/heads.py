"""Turn what a fusion gives into the logits of a task, or of each of several targets.

    scores (batch, scores) -> logits (batch, outputs): as they are, or of ordered classes from one score

Several targets share all that lies before, and each has the part of the scores, and the head, of its own.
"""

import torch
from torch import Tensor, nn

from medmllm.model_documents import Task
from medmllm.models.ordinal_head import OrdinalHead
from medmllm.models.survival_head import CoxHead, HazardHead


def score_count(task: Task, intervals: int = 0) -> int:
    """Return how many scores a task needs: one for ordered classes and a Cox model, else one per output or interval.

    >>> score_count(Task.of("grade", ("1", "2", "3"), ordered=True))
    1
    """
    if task.survival is not None:
        return 1 if task.survival.model == "cox" else intervals
    if task.several:
        return sum(score_count(part, intervals) for part in task.parts)
    return 1 if task.ordered else task.outputs


def new_head(task: Task, intervals: int = 0) -> nn.Module:
    """Return the head of a task; `intervals` are those of a time to an event."""
    if task.survival is not None:
        return CoxHead(intervals) if task.survival.model == "cox" else HazardHead(intervals)
    if task.several:
        return TargetHeads(task, intervals)
    return OrdinalHead(task.outputs) if task.ordered else nn.Identity()


class TargetHeads(nn.Module):
    """A head for each of several targets, on scores of its own.

    Args:
        task: The targets.
        intervals: Of the one that is a time to an event, where there is one.
    """

    def __init__(self, task: Task, intervals: int = 0) -> None:
        super().__init__()
        self.scores = [score_count(part, intervals) for part in task.parts]
        self.heads = nn.ModuleList(new_head(part, intervals) for part in task.parts)

    def forward(self, scores: Tensor) -> Tensor:
        """Return logits, shape (batch, outputs); those of each target in turn.

        Args:
            scores: Shape (batch, scores).
        """
        own = zip(self.heads, scores.split(self.scores, dim=1), strict=True)
        return torch.cat([head(part) for head, part in own], dim=1)


def time_head(head: nn.Module) -> HazardHead | CoxHead | None:
    """Return the head of a time to an event, alone or beside others; None where there is none."""
    each = head.heads if isinstance(head, TargetHeads) else [head]
    return next((own for own in each if isinstance(own, HazardHead | CoxHead)), None)
