"""Turn one target or several into the task of a training: classes, grades, or several targets side by side.

    one target -> classes of each study, ordered where asked; or the time to an event
    several targets, each of its kind -> per study the class or time of each, or UNKNOWN

A study counts as soon as it has a value for one target: those that are missing are masked, not guessed. Messages name
columns, never cells.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from medmllm.errors import LabelError
from medmllm.ingest.ordering import ALONE, Keys, keys_beside_others, order_classes
from medmllm.ingest.survival import read_survival, survival_task
from medmllm.ingest.tables import Target, Targets, assign_targets
from medmllm.model_documents import Task
from medmllm.records import UNKNOWN, Study, Survival
from medmllm.records import Target as StudyTarget
from medmllm.training_config import TaskSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assigned:
    """What is learnt, and what each study says of it."""

    task: Task
    by_study: Mapping[str, StudyTarget] = field(repr=False)  # study_key -> class index or time; of several targets each
    missing: tuple[str, ...]  # study_key of every study without a value

    def of(self, study_key: str) -> int | Survival:
        """Return what a study says of one target; UNKNOWN where it says nothing."""
        own = self.by_study.get(study_key, UNKNOWN)
        assert not isinstance(own, tuple)  # of one target
        return own


def assign_task(studies: Sequence[Study], targets: Sequence[Target], settings: TaskSettings) -> Assigned:
    """Return the task that targets make, and the target of each study.

    Args:
        studies: Those of the index.
        targets: One, or several.
        settings: Whose classes are ordered.

    Raises:
        LabelError: As of `assign_targets` and `order_classes`; one named twice, also in other words (`nodule` and
            `nodule>=1` of a column of 0 and 1); settings of a target that is none; two times to an event; as of
            `read_survival` and `survival_task`.
    """
    _check_names(targets, settings)
    alone = len(targets) == 1
    found = [_assign(studies, target, settings, alone=alone) for target in targets]
    if alone:
        return found[0]
    _check_distinct([own for own in zip(targets, found, strict=True) if own[1].task.survival is None])
    keys = [study.study_key for study in studies]
    every = {key: tuple(own.of(key) for own in found) for key in keys}
    by_study = {key: labels for key, labels in every.items() if any(label != UNKNOWN for label in labels)}
    task = Task.of_several(tuple(own.task for own in found))
    return Assigned(task, by_study, tuple(key for key in keys if key not in by_study))


def _assign(studies: Sequence[Study], target: Target, settings: TaskSettings, *, alone: bool) -> Assigned:
    """Return the task that one target makes, beside others or alone."""
    if settings.timed(target.expression):
        survived = read_survival(studies, target, settings)
        missing = tuple(study.study_key for study in studies if study.study_key not in survived)
        return Assigned(survival_task(survived, target, settings), survived, missing)
    keys = ALONE if alone else keys_beside_others(target)
    found = _of_kind(assign_targets(studies, target), target, settings, keys)
    classes = found.classes if alone else _told_apart(target, found.classes)
    task = Task.of(target.expression, classes, ordered=settings.ordered(target.expression))
    return Assigned(task, found.by_study, found.missing)


def _check_names(targets: Sequence[Target], settings: TaskSettings) -> None:
    """Refuse a target that is named twice, times to two events, and settings of a target that is none."""
    names = [target.expression for target in targets]
    times = [name for name in names if settings.timed(name)]
    if len(set(names)) < len(names):
        raise LabelError(f"of the {len(names)} targets {', '.join(names)} one is named twice: name each once")
    if len(times) > 1:
        raise LabelError(
            f"of {len(names)} targets {len(times)} are times to an event ({', '.join(times)}), and [task] event names "
            'the event of one: say under [task.kinds] what the others are, "classes" or "ordinal", or train for each '
            "time on its own"
        )
    for table, given in (("kinds", settings.kinds), ("orders", settings.orders)):
        for name in given:
            if name not in names:
                raise LabelError(f"[task.{table}] names {name!r}, which is no target; these are {', '.join(names)}")


def _check_distinct(found: Sequence[tuple[Target, Assigned]]) -> None:
    """Refuse two targets of one column that part the studies alike; of two columns, it may be so by chance."""
    for (one, own), (other, also) in combinations(found, 2):
        if not _part_alike(own.by_study, also.by_study):
            continue
        both = own.by_study.keys() & also.by_study.keys()
        known = "" if own.by_study.keys() == also.by_study.keys() else " in which both are known"
        what = f"the targets {one.expression!r} and {other.expression!r} part all {len(both)} studies{known} alike"
        if one.column == other.column:
            raise LabelError(f"{what}: they are one question, which would count twice. Leave one of them out.")
        logger.warning("%s: if one is made from the other, leave it out, or it counts twice", what)


FEWEST_IN_BOTH = 10  # of fewer than are known in one alone, any two targets may part them alike by chance


def _part_alike(one: Mapping[str, StudyTarget], other: Mapping[str, StudyTarget]) -> bool:
    """Say whether the classes of two targets differ in name alone, in the studies where both are known.

    >>> _part_alike({"a": 0, "b": 1}, {"a": 1, "b": 0}), _part_alike({"a": 0, "b": 1}, {"a": 0, "b": 0})
    (True, False)
    """
    if one.keys() != other.keys() and len(one.keys() & other.keys()) < FEWEST_IN_BOTH:
        return False
    pairs = {(label, other[key]) for key, label in one.items() if key in other}
    return 1 < len(pairs) == len({own for own, _ in pairs}) == len({also for _, also in pairs})


def _of_kind(found: Targets, target: Target, settings: TaskSettings, keys: Keys) -> Targets:
    """Return targets with their classes in order, where they have one."""
    name = target.expression
    return order_classes(found, target, settings.order_of(name), keys=keys) if settings.ordered(name) else found


def _told_apart(target: Target, classes: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes that say which target they are of.

    >>> _told_apart(Target("side"), ("left", "right"))
    ('side=left', 'side=right')
    """
    return tuple(classes) if target.operator is not None else tuple(f"{target.column}={name}" for name in classes)
