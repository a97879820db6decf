"""Choose the settings of a fold by its tuning part: the inner part of nested cross-validation.

    candidates -> each trains the fold's networks on their training parts -> raw logits of the tuning parts, pooled
    -> log loss or AUROC of each -> the best; of equal ones the first

The outer test part has no say: no candidate predicts a study of it (Varma & Simon, BMC Bioinformatics 7:91, 2006).
With inner folds a candidate is judged on all training studies of the fold, each as said by the network that did not
learn from its patient. A candidate starts from the seeds, and sees the batches, that the fold's networks will have.
What it said of tuning parts is kept until the run is whole, its weights are not: the chosen one is trained once more.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmllm.documents import PreprocessingContract
from medmllm.errors import MedmllmError
from medmllm.evaluation.tuning_score import LARGER_IS_BETTER, tuning_score
from medmllm.records import UNKNOWN, FloatArray, Survival
from medmllm.training.candidates import Candidate, candidates
from medmllm.training.class_odds import offsets_of
from medmllm.training.course import Course
from medmllm.training.epoch_count import EpochCount
from medmllm.training.fold import try_network
from medmllm.training.resuming import Kept
from medmllm.training.splits import FoldSplit
from medmllm.training.survival_fold import fold_timeline
from medmllm.training.tracking import NoRun
from medmllm.training_config import Arm

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a fold of an arm tried, and what it took."""

    arm: Arm
    fold: int
    tried: tuple[Candidate, ...]
    scores: tuple[float | None, ...]  # of each; None: it diverged, or its score is not defined
    chosen: int
    repeat: int = 0

    @property
    def best(self) -> Candidate:
        """The candidate that was taken."""
        return self.tried[self.chosen]


def search(
    course: Course, arm: Arm, contract: PreprocessingContract, splits: Sequence[FoldSplit], kept: Sequence[Kept]
) -> Choice:
    """Return the choice of one fold; where there is nothing to choose, its only candidate, not trained.

    Args:
        course: Cohort, settings with the grid, task.
        arm: Whose networks are trained.
        contract: What the arm reads.
        splits: Of the fold's networks.
        kept: Of each of these networks; what candidates have reached is kept beside it.

    Raises:
        MedmllmError: `diverged`: no candidate has a score.
    """
    tried = candidates(course.config, arm)
    if len(tried) == 1:
        return Choice(arm, splits[0].fold, tried, (None,), 0, splits[0].repeat)
    scores = [_score(course, contract, splits, kept, candidate) for candidate in tried]
    name = course.config.training.search_score
    chosen = best_of(scores, larger=LARGER_IS_BETTER[name])
    if chosen is None:
        raise MedmllmError(
            f"none of the {len(tried)} candidates of [training.search] has a score on the tuning part of fold "
            f"{splits[0].fold} ({arm}): all trainings diverged. Search lower learning rates.",
            code="diverged",
        )
    choice = Choice(arm, splits[0].fold, tried, tuple(scores), chosen, splits[0].repeat)
    said = ", ".join(f"{key} = {value}" for key, value in choice.best.settings.items())
    logger.info("%s, fold %d: of %d candidates %s is taken", arm, choice.fold, len(tried), said)
    return choice


def best_of(scores: Sequence[float | None], *, larger: bool) -> int | None:
    """Return the place of the best score, of equal ones the first; None where there is none.

    >>> best_of([0.7, 0.5, None, 0.5], larger=False)
    1
    """
    known = [(-score if larger else score, place) for place, score in enumerate(scores) if score is not None]
    return min(known)[1] if known else None


def _score(
    course: Course,
    contract: PreprocessingContract,
    splits: Sequence[FoldSplit],
    kept: Sequence[Kept],
    candidate: Candidate,
) -> float | None:
    """Return how a candidate does on the tuning parts of a fold's networks together."""
    said: list[FloatArray] = []
    for split, own in zip(splits, kept, strict=True):
        count = EpochCount(NoRun(), course.advance, candidate.config.training.epochs)
        here = own.of_candidate(candidate.number)
        finished = here.finished()
        if finished is None:
            finished = (try_network(split, course, contract, candidate.config, here, count),)
        count.finish()
        if finished[0] is not None:
            said.append(finished[0])
    if len(said) < len(splits):
        return None
    return judge(course, splits, np.concatenate(said), candidate)


def judge(course: Course, splits: Sequence[FoldSplit], raw: FloatArray, candidate: Candidate) -> float | None:
    """Return the score of a candidate on a fold's tuning parts, the mean over targets; None where it is not defined.

    Args:
        course: Cohort and task.
        splits: Of the fold's networks.
        raw: What they said of their tuning parts, one behind the other; shape (studies, outputs).
        candidate: How classes were weighted and drawn.
    """
    targets = [course.cohort.members[k].sample.target for split in splits for k in split.tune]
    learnt = [[course.cohort.members[k].sample for k in split.train] for split in splits]
    timeline = fold_timeline(course.cohort, splits[0], course.task, course.config.task)
    offsets = offsets_of(learnt, candidate.config.training, course.task)
    each = zip(*(own if isinstance(own, tuple) else (own,) for own in targets), strict=True)
    scores: list[float | None] = []
    for place, own, added in zip(course.task.places_in(raw.shape[1]), each, offsets, strict=True):
        said = raw[[target != UNKNOWN for target in own], place.outputs]
        if timeline is not None and place.task.survival is not None:
            scores.append(timeline.score(said, [target for target in own if isinstance(target, Survival)]))
        else:
            truth = np.array([target for target in own if target != UNKNOWN])
            name = candidate.config.training.search_score
            scores.append(tuning_score(name, said, truth, place.task, offsets=added))
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if len(known) == len(scores) else None
