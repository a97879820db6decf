"""What all arms, folds and candidates of a cross-validation share."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.model_documents import Task
from medmllm.training.checkpoint import Origin
from medmllm.training.cohort import Cohort
from medmllm.training.note_features import KnownNotes
from medmllm.training.tracking import Run


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """A cross-validation under way."""

    cohort: Cohort
    config: TrainConfig
    task: Task
    out: Path
    origin: Origin
    tracked: Run
    advance: Callable[[int], None]
    notes: KnownNotes = field(default_factory=KnownNotes)

    def seeded(self, repeat: int) -> "Course":
        """Return a course whose networks start from the seed of a repeat."""
        training = self.config.training.model_copy(update={"seed": self.config.training.seed + repeat})
        return replace(self, config=self.config.model_copy(update={"training": training}))

    def untested(self) -> "Course":
        """Return a course whose networks are not tested for use of modalities: that is told of whole trainings."""
        evaluation = self.config.evaluation.model_copy(update={"permutations": 0})
        return replace(self, config=self.config.model_copy(update={"evaluation": evaluation}))
