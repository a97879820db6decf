"""Turn one target or several into the task of a training: classes, grades, or several targets side by side.

    one target -> classes of each study, ordered where asked; or the time to an event
    several targets, each of its kind -> per study the class of each, or UNKNOWN

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
from medmllm.records import UNKNOWN, Study
from medmllm.records import Target as StudyTarget
from medmllm.training_config import TaskSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assigned:
    """What is learnt, and what each study says of it."""

    task: Task
    by_study: Mapping[str, StudyTarget] = field(repr=False)  # study_key -> class index, or one label per class
    missing: tuple[str, ...]  # study_key of every study without a value


def assign_task(studies: Sequence[Study], targets: Sequence[Target], settings: TaskSettings) -> Assigned:
    """Return the task that targets make, and the target of each study.

    Args:
        studies: Those of the index.
        targets: One, or several.
        settings: Whose classes are ordered.

    Raises:
        LabelError: As of `assign_targets` and `order_classes`; one named twice, also in other words (`nodule` and
            `nodule>=1` of a column of 0 and 1); settings of a target that is none; as of `read_survival` and
            `survival_task`.
    """
    _check_names(targets, settings)
    if settings.survival:
        return _assign_survival(studies, targets, settings)
    keys_of = [ALONE] if len(targets) == 1 else [keys_beside_others(target) for target in targets]
    found = [
        _of_kind(assign_targets(studies, target), target, settings, own)
        for target, own in zip(targets, keys_of, strict=True)
    ]
    if len(targets) == 1:
        (own,), (target,) = found, targets
        task = Task.of(target.expression, own.classes, ordered=settings.ordered(target.expression))
        return Assigned(task, own.by_study, own.missing)
    _check_distinct(targets, found)
    parts = tuple(
        Task.of(target.expression, _told_apart(target, own.classes), ordered=settings.ordered(target.expression))
        for target, own in zip(targets, found, strict=True)
    )
    keys = [study.study_key for study in studies]
    every = {key: tuple(own.by_study.get(key, UNKNOWN) for own in found) for key in keys}
    by_study = {key: labels for key, labels in every.items() if any(label != UNKNOWN for label in labels)}
    return Assigned(Task.of_several(parts), by_study, tuple(key for key in keys if key not in by_study))


def _assign_survival(studies: Sequence[Study], targets: Sequence[Target], settings: TaskSettings) -> Assigned:
    if len(targets) > 1:
        raise LabelError(
            f'[task] kind = "survival" learns the time to one event, and {len(targets)} targets were given: train for '
            "each on its own"
        )
    found = read_survival(studies, targets[0], settings)
    missing = tuple(study.study_key for study in studies if study.study_key not in found)
    return Assigned(survival_task(found, targets[0], settings), found, missing)


def _check_names(targets: Sequence[Target], settings: TaskSettings) -> None:
    """Refuse a target that is named twice, and settings of one that is none."""
    names = [target.expression for target in targets]
    if len(set(names)) < len(names):
        raise LabelError(f"of the {len(names)} targets {', '.join(names)} one is named twice: name each once")
    for table, given in (("kinds", settings.kinds), ("orders", settings.orders)):
        for name in given:
            if name not in names:
                raise LabelError(f"[task.{table}] names {name!r}, which is no target; these are {', '.join(names)}")


def _check_distinct(targets: Sequence[Target], found: Sequence[Targets]) -> None:
    """Refuse two targets of one column that part the studies alike; of two columns, it may be so by chance."""
    for (one, own), (other, also) in combinations(zip(targets, found, strict=True), 2):
        if not _part_alike(own.by_study, also.by_study):
            continue
        what = f"the targets {one.expression!r} and {other.expression!r} part all {len(own.by_study)} studies alike"
        if one.column == other.column:
            raise LabelError(f"{what}: they are one question, which would count twice. Leave one of them out.")
        logger.warning("%s: if one is made from the other, leave it out, or it counts twice", what)


def _part_alike(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Say whether two targets have values for the same studies, and classes that differ in name alone.

    >>> _part_alike({"a": 0, "b": 1}, {"a": 1, "b": 0}), _part_alike({"a": 0, "b": 1}, {"a": 0, "b": 0})
    (True, False)
    """
    if one.keys() != other.keys():
        return False
    pairs = {(label, other[key]) for key, label in one.items()}
    return len(pairs) == len(set(one.values())) == len(set(other.values()))


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
