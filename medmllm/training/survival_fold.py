"""What a fold learns times to an event by, and what its tuning part decides.

    times of the studies outside the test part -> Timeline -> coded samples, start of the network
    raw logits of the tuning part -> temperature, median risk

Beside other targets, a time takes its place among them, and counts where it is known. The networks of a fold share its
intervals. The log-risks of a Cox model say who comes first, not when: once they are learnt, the baseline hazard of its
training part goes into the network. The test part has no say in any of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.survival_curve import (
    breslow_baseline,
    fit_hazard_temperature,
    log_hazards,
    risks,
)
from medmllm.evaluation.tuning_score import hazard_score
from medmllm.model_documents import Task
from medmllm.models.classifier import StudyClassifier
from medmllm.models.heads import time_head
from medmllm.models.survival_head import CoxHead, HazardHead
from medmllm.records import UNKNOWN, FloatArray, Sample, Survival
from medmllm.training.cohort import Cohort
from medmllm.training.splits import FoldSplit
from medmllm.training.survival_targets import AtRisk, Ranked, at_risk, interval_bounds, rank_times, time_of
from medmllm.training_config import TaskSettings
from medmllm.tuning_documents import FoldSurvival, TuningDecisions

_PSEUDOCOUNT = 0.5  # events and studies without: an interval without an event has a hazard above 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """The intervals of one fold, and whether hazards or one log-risk are learnt."""

    fold: FoldSurvival = field(repr=False)
    cox: bool
    number: int | None = None  # among several targets; None: it is the only one

    @classmethod
    def of(
        cls, survived: Sequence[Survival], settings: TaskSettings, *, cox: bool, number: int | None = None
    ) -> "Timeline":
        """Return the timeline of a fold.

        Args:
            survived: Of the studies outside its test part.
            settings: Intervals, horizons.
            cox: One log-risk is learnt, not hazards.
            number: Place among several targets.

        Raises:
            SplitError: No event after time 0.
        """
        bounds = interval_bounds(survived, settings.intervals, settings.horizons[-1])
        counts, came = (np.array([at_risk(one, bounds) for one in survived])[:, k] for k in (0, 1))
        place = np.arange(len(bounds))[:, None]
        exposed = (counts > place).sum(axis=1) + 2 * _PSEUDOCOUNT
        events = ((counts == place + 1) & (came == 1)).sum(axis=1) + _PSEUDOCOUNT
        everybody = np.log(events / (exposed - events))
        return cls(FoldSurvival(bounds=bounds, everybody=tuple(everybody.tolist())), cox, number)

    def start(self, network: StudyClassifier) -> None:
        """Let a fresh network say of each study what is known of everybody."""
        head = time_head(network.head)
        if isinstance(head, HazardHead):
            head.start_at(self.fold.everybody)

    def code(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples of one part with targets that a loss can be taken of; places in time are among these."""
        survived = survived_of(samples)
        known: Sequence[AtRisk | Ranked]
        known = rank_times(survived) if self.cox else [at_risk(one, self.fold.bounds) for one in survived]
        coming = iter(known)
        coded = [(UNKNOWN, UNKNOWN) if time_of(sample.target) is None else next(coming) for sample in samples]
        return [self._put(sample, own) for sample, own in zip(samples, coded, strict=True)]

    def _put(self, sample: Sample, coded: tuple[int, ...]) -> Sample:
        """Return a sample with its time coded, among its other targets where it has some."""
        if self.number is None or not isinstance(sample.target, tuple):
            return replace(sample, target=coded)
        return replace(sample, target=(*sample.target[: self.number], *coded, *sample.target[self.number + 1 :]))

    def settle(self, network: StudyClassifier, samples: Sequence[Sample], raw: Callable[[], FloatArray]) -> None:
        """Put the baseline hazard of the training part into a Cox network; others are left as they are.

        Args:
            network: Trained; changed.
            samples: Of its training part, not coded.
            raw: What it says of these; shape (studies, outputs).
        """
        head = time_head(network.head)
        if not isinstance(head, CoxHead):
            return
        said, survived = raw(), survived_of(samples)
        column = network.task.places_in(said.shape[1])[self.number or 0].outputs
        log_risk = said[[time_of(sample.target) is not None for sample in samples], column][:, 0]
        time, event = np.array([one.time for one in survived]), np.array([one.event for one in survived])
        baseline = breslow_baseline(log_risk, time, event, np.array(self.fold.bounds))
        head.settle(np.diff(baseline, prepend=0.0).tolist())

    def decide(self, raw: FloatArray, survived: Sequence[Survival], horizon: float) -> TuningDecisions:
        """Return what a tuning part decides: the temperature, and its median risk by the largest horizon.

        Args:
            raw: Logits of the hazards; shape (studies, intervals).
            survived: Of the same studies.
            horizon: The largest.
        """
        coded = self._at_risk(survived)
        temperature = fit_hazard_temperature(raw, coded, self.fold.everybody)
        risk = risks(log_hazards(raw, temperature, self.fold, np.array([horizon])))
        return TuningDecisions(temperature=temperature, threshold=float(np.median(risk)), survival=self.fold)

    def score(self, raw: FloatArray, survived: Sequence[Survival]) -> float:
        """Return what candidates of a search are judged by: the log loss of a tuning part."""
        return hazard_score(raw, self._at_risk(survived), self.fold)

    def _at_risk(self, survived: Sequence[Survival]) -> IntArray:
        return np.array([at_risk(one, self.fold.bounds) for one in survived])


def survived_of(samples: Sequence[Sample]) -> list[Survival]:
    """Return the times of samples that are not coded, where they are known."""
    return [one for sample in samples if (one := time_of(sample.target)) is not None]


def fold_timeline(cohort: Cohort, split: FoldSplit, task: Task, settings: TaskSettings) -> Timeline | None:
    """Return the timeline that a fold's studies outside its test part give; None where no target is a time."""
    timed = task.timed
    if timed is None or timed.survival is None:
        return None
    rest = np.sort(np.concatenate([split.train, split.tune]))
    survived = survived_of([cohort.members[k].sample for k in rest])
    number = task.parts.index(timed) if task.several else None
    return Timeline.of(survived, settings, cox=timed.survival.model == "cox", number=number)
