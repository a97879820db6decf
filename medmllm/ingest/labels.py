"""Turn one target or several into the task of a training: classes, grades, or labels side by side.

    one target -> classes of each study, ordered where asked; or the time to an event
    several targets, each of two classes -> per study one label each: 1, 0 or UNKNOWN

A study counts as soon as it has one label: those that are missing are masked, not guessed. Messages name columns, never
cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medmllm.errors import LabelError
from medmllm.ingest.ordering import order_classes
from medmllm.ingest.survival import read_survival, survival_task
from medmllm.ingest.tables import Target, assign_targets
from medmllm.model_documents import Task
from medmllm.records import UNKNOWN, Study
from medmllm.records import Target as StudyTarget
from medmllm.training_config import TaskSettings


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
        targets: One, or several labels.
        settings: Whether one target's classes are ordered.

    Raises:
        LabelError: As of `assign_targets` and `order_classes`; among several: one named twice, or of more than two
            classes, or an order asked for; as of `read_survival` and `survival_task`.
    """
    if settings.survival:
        return _assign_survival(studies, targets, settings)
    if len(targets) > 1:
        return _assign_several(studies, targets, settings)
    found = assign_targets(studies, targets[0])
    if settings.ordered:
        found = order_classes(found, targets[0], settings.order)
    task = Task.of(targets[0].expression, found.classes, ordered=settings.ordered)
    return Assigned(task, found.by_study, found.missing)


def _assign_survival(studies: Sequence[Study], targets: Sequence[Target], settings: TaskSettings) -> Assigned:
    if len(targets) > 1:
        raise LabelError(
            f'[task] kind = "survival" learns the time to one event, and {len(targets)} targets were given: train for '
            "each on its own"
        )
    found = read_survival(studies, targets[0], settings)
    missing = tuple(study.study_key for study in studies if study.study_key not in found)
    return Assigned(survival_task(found, targets[0], settings), found, missing)


def _assign_several(studies: Sequence[Study], targets: Sequence[Target], settings: TaskSettings) -> Assigned:
    names = tuple(target.expression for target in targets)
    if len(set(names)) < len(names):
        raise LabelError(f"of the {len(names)} targets {', '.join(names)} one is named twice: name each label once")
    if settings.ordered:
        raise LabelError(
            'several targets are labels of two classes each, without an order: leave [task] kind = "classes"'
        )
    found = [assign_targets(studies, target) for target in targets]
    for name, own in zip(names, found, strict=True):
        if len(own.classes) != 2:
            raise LabelError(
                f"beside other targets, {name!r} is a label of two classes, and its column has {len(own.classes)}: "
                f"compare it with a bound, e.g. '{name}>=3', or train for it alone"
            )
    keys = [study.study_key for study in studies]
    every = {key: tuple(own.by_study.get(key, UNKNOWN) for own in found) for key in keys}
    by_study = {key: labels for key, labels in every.items() if any(label != UNKNOWN for label in labels)}
    parts = tuple(
        Task.of(target.expression, _told_apart(target, own.classes)) for target, own in zip(targets, found, strict=True)
    )
    return Assigned(Task.of_several(parts), by_study, tuple(key for key in keys if key not in by_study))


def _told_apart(target: Target, classes: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes that say which target they are of.

    >>> _told_apart(Target("side"), ("left", "right"))
    ('side=left', 'side=right')
    """
    return tuple(classes) if target.operator is not None else tuple(f"{target.column}={name}" for name in classes)
