"""Count a fold's epochs for whoever shows how far a training is.

epochs told to a tracker -> the same, and one step of progress each; what is left when training stops early, at once
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medmllm.training.loop import Tracker


@dataclass(slots=True)
class EpochCount:
    """A tracker that passes on what it is told, and counts."""

    tracker: Tracker
    advance: Callable[[int], None]
    left: int  # epochs that the fold may still take

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one epoch, counted from 1; a resumed fold starts at a later one."""
        self.tracker.log_epoch(epoch, metrics)
        self.advance(1)
        self.left -= 1

    def finish(self) -> None:
        """Count what the fold did not need."""
        if self.left:
            self.advance(self.left)
        self.left = 0
