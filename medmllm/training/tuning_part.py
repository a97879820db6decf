"""What a fold's tuning part decides beside the epoch: calibration, operating point, conformal thresholds.

raw logits and targets of the tuning part -> TuningDecisions of each target

The test part has no say in any of them. Of several targets each is decided on the tuning studies where it is known.
"""

from collections.abc import Sequence

import numpy as np

from medmllm.evaluation.calibration import fit_temperature, to_probabilities
from medmllm.evaluation.conformal import class_thresholds
from medmllm.evaluation.discrimination import IntArray, choose_threshold
from medmllm.evaluation.fold_decisions import plain
from medmllm.evaluation.isotonic import calibrate, fit_isotonic
from medmllm.model_documents import Task
from medmllm.records import UNKNOWN, FloatArray, Survival, Target
from medmllm.training.class_odds import Offsets
from medmllm.training.survival_fold import Timeline
from medmllm.training_config import EvaluationSettings
from medmllm.tuning_documents import TuningDecisions

CURVES = 5
"""Parts of a tuning part, each of which is told by curves fitted on the others, for conformal thresholds alone."""

UNDECIDED = TuningDecisions(temperature=1.0, threshold=0.5)
"""A fold's own part, where each of several targets has one."""


def decide_each(
    logits: FloatArray,
    targets: Sequence[Target | None],
    settings: EvaluationSettings,
    task: Task,
    *,
    timeline: Timeline | None = None,
    offsets: Sequence[Offsets] | None = None,
) -> tuple[TuningDecisions, ...]:
    """Return what the tuning part decides for each target; one where there is one.

    Args:
        logits: Raw, shape (studies, outputs).
        targets: Of each study.
        settings: As of `decide_on_tuning`.
        task: Says which outputs are whose.
        timeline: Of the fold, where a target is a time to an event.
        offsets: Of each target, as of `class_odds.offsets_of`; None: of none.
    """
    each = zip(*(own if isinstance(own, tuple) else (own,) for own in targets), strict=True)
    found = []
    own_offsets = [None for _ in task.places] if offsets is None else offsets
    for place, own, added in zip(task.places_in(logits.shape[1]), each, own_offsets, strict=True):
        known = [target != UNKNOWN for target in own]
        raw = logits[known, place.outputs]
        if place.task.survival is None or timeline is None:
            truth = np.array([target for target in own if target != UNKNOWN])
            found.append(decide_on_tuning(raw, truth, settings, offsets=added))
        else:
            survived = [target for target in own if isinstance(target, Survival)]
            found.append(timeline.decide(raw, survived, place.task.survival.horizons[-1]))
    return tuple(found)


def decide_on_tuning(
    logits: FloatArray, truth: IntArray, settings: EvaluationSettings, *, offsets: Offsets = None
) -> TuningDecisions:
    """Return what the tuning part decides for one target.

    Args:
        logits: Raw, shape (studies, outputs); one output is a binary task.
        truth: Class index of each study.
        settings: Kind of calibration; coverage asked of the conformal sets, per class.
        offsets: Added to the logits after the temperature; None: nothing.
    """
    binary = logits.shape[1] == 1
    raw = plain(logits)
    temperature, maps = fit_temperature(raw, truth, offsets=offsets), None
    scaled = calibrate(logits, temperature, None, offsets)
    if settings.calibration == "isotonic":
        maps = fit_isotonic(to_probabilities(plain(scaled)), truth)
    chances = to_probabilities(plain(calibrate(logits, temperature, maps, offsets)))
    # A curve that rises moves no study of two classes out of its place; curves of several, scaled to sum to 1, do.
    unseen = chances if maps is None or binary else _by_others_curves(scaled, truth)
    return TuningDecisions(
        temperature=temperature,
        offsets=offsets,
        isotonic=maps,
        threshold=choose_threshold(truth, chances[:, 1]) if binary else 0.5,
        conformal_thresholds=class_thresholds(unseen, truth, coverage=settings.coverage),
    )


def _by_others_curves(scaled: FloatArray, truth: IntArray) -> FloatArray:
    """Return the probabilities of each study by curves fitted without it, shape (studies, classes).

    Curves bend to the studies they are fitted on, and give these more than they give to others: thresholds of such
    probabilities are too strict. Neighbours, which may be one patient's studies, are left out together.

    Args:
        scaled: Logits after temperature and offsets; shape (studies, classes).
        truth: Class index of each study.
    """
    part, chances = np.empty(len(truth), dtype=np.int64), to_probabilities(scaled)
    for label in np.unique(truth):
        own = truth == label
        # Each class begins with another part: where each has one study, no part is all of them.
        part[own] = (np.arange(own.sum()) * CURVES // own.sum() + label) % CURVES
    found = np.empty_like(chances)
    for number in np.unique(part):
        out = part == number
        maps = fit_isotonic(chances[~out], truth[~out])
        found[out] = to_probabilities(calibrate(scaled[out], 1.0, maps))
    return found
