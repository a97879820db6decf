"""What every part of a split has to hold: each class of its targets; of a time to an event, events.

    classes, labels of several targets, or times -> Held
    folds drawn, Held -> the first draw no part of which lacks any of it, or a refusal that names what is lacking

A label is what a study has of a target. A part can do without the censored, who may be few or none.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from medmllm.errors import SplitError
from medmllm.model_documents import Task
from medmllm.records import Survival
from medmllm.training.splits import FoldSplit, IntArray

BoolArray = npt.NDArray[np.bool_]
Labels = Sequence[Sequence[int]]
"""Of each study, the class index of each target, or UNKNOWN."""

EVENTS = ("any event",)
"""What of times to an event is held, in words."""

_NUMBER = re.compile(r"-?\d{1,3}(\.\d{1,3})?")  # a longer one may be a patient's

FEWEST_OF_A_CLASS = 3
"""Patients, one each for the training, tuning and test part."""

MOST_OF_A_MISTAKE = 2
"""Patients of a class that may be none, but a value of another one that was mistyped."""

ATTEMPTS = 20
"""Shuffles tried until every part holds everything."""


@dataclass(frozen=True, slots=True)
class Called:
    """How refusals call what is learnt; what is not called anything goes by its number."""

    targets: tuple[str, ...] = ()  # of several; empty where there is one
    classes: tuple[tuple[str, ...], ...] = ()  # of each target, as "class '3'"; empty for a time to an event

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return how the targets and classes of a task are called."""
        return cls(task.names, tuple(() if part.survival else _called(part) for part in task.parts or (task,)))

    @property
    def alone(self) -> tuple[str, ...]:
        """How the classes of the only target are called."""
        return self.classes[0] if self.classes and not self.targets else ()


def _called(task: Task) -> tuple[str, ...]:
    """Return how classes are called: by their names where these are numbers, or words of the settings or the command.

    Words of a table are not repeated: a column of names may have been taken for the target.
    """
    asked = (task.target, f"not {task.target}")
    plain = [task.ordered or name in asked or _NUMBER.fullmatch(name.rpartition("=")[2]) for name in task.classes]
    by_place = "class {} (counted from 0, by the alphabet)"
    return tuple(
        f"class {name!r}" if told else by_place.format(k)
        for k, (name, told) in enumerate(zip(task.classes, plain, strict=True))
    )


NUMBERED = Called()
"""One target, whose classes go by their numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What every part of a split has to hold."""

    values: BoolArray  # (studies, values): a study is of the class, or its label has the value
    names: tuple[str, ...]  # of the values, in words

    def patients(self, owner: IntArray, members: IntArray) -> list[int]:
        """Return how many patients of these studies have each value; `owner` is the patient number of every study."""
        return [np.unique(owner[members[own]]).size for own in self.values[members].T]


@dataclass(frozen=True, slots=True, eq=False)
class Carving:
    """How tuning parts are carved from the studies that are not tested, where test parts are given."""

    held: Held
    study_keys: Sequence[str] = field(repr=False)  # of each study; they go into the digest
    tuning_fraction: float  # share of the training patients kept for tuning; above 0, below 1
    seed: int
    whole_tests: bool  # a test part that lacks something is refused; that of a site may lack a class


def hold_classes(targets: Sequence[int], called: Sequence[str] = ()) -> Held:
    """Return what a cohort of one target holds: its classes, as `Called.alone` has them."""
    target = np.asarray(targets, dtype=np.int64)
    classes = np.unique(target)
    return Held(target[:, None] == classes, tuple(class_word(label, called) for label in classes))


def hold_events(survived: Sequence[Survival]) -> Held:
    """Return what a cohort of times to an event holds: events."""
    return Held(np.array([[one.event] for one in survived]), EVENTS)


def hold_labels(
    labels: Labels, names: Sequence[str], times: Sequence[int] = (), classes: Sequence[Sequence[str]] = ()
) -> Held:
    """Return what a cohort of several targets holds: every class of each, where it is known.

    Args:
        labels: Of each study; of a time to an event 1 where it came.
        names: Of the targets.
        times: Which of them are times to an event: a part can do without the censored.
        classes: How those of each are called.
    """
    values = values_of(labels)
    wanted = [k for k, (target, value) in enumerate(values) if value or target not in times]
    said = (words_of(*values[k], labels, names, classes) for k in wanted)
    return Held(holds_of(labels)[:, wanted], tuple(said))


def class_word(label: int, classes: Sequence[str]) -> str:
    """Return a class as it is called, or its number where classes are not called anything.

    >>> class_word(1, ("class '2'", "class '3'")), class_word(1, ())
    ("class '3'", 'class 1')
    """
    return classes[label] if classes else f"class {label}"


def count_patients(count: int) -> str:
    """Return so many patients in words."""
    return "1 patient" if count == 1 else f"{count} patients"


def values_of(labels: Labels | IntArray) -> tuple[tuple[int, int], ...]:
    """Return every class that there may be, as (target, class index): at least two of each target.

    >>> values_of([(1, 2), (0, -1)])  # of the second study the second target is not known
    ((0, 0), (1, 0), (0, 1), (1, 1), (1, 2))
    """
    most = np.maximum(np.asarray(labels).max(axis=0), 1)
    return tuple(
        (target, value) for value in range(int(most.max()) + 1) for target in range(most.size) if value <= most[target]
    )


def holds_of(labels: Labels | IntArray) -> BoolArray:
    """Return whether each study is of each class of each target; shape (studies, `values_of`)."""
    table = np.asarray(labels)
    return np.stack([table[:, target] == value for target, value in values_of(table)], axis=1)


def words_of(
    target: int,
    value: int,
    labels: Labels | IntArray,
    names: Sequence[str],
    classes: Sequence[Sequence[str]] = (),
) -> str:
    """Return a class of a target as it is called, else present or absent where the target has two."""
    if classes and classes[target]:
        return class_word(value, classes[target])
    if (target, 2) in values_of(labels):
        return f"{names[target]!r} of class {value}"
    return f"{names[target]!r} {'present' if value else 'absent'}"


def by_patient(owner: IntArray, values: BoolArray) -> BoolArray:
    """Return whether a patient has each value in any study; shape (patients, values).

    Args:
        owner: Patient number of each study, from 0.
        values: Of each study; shape (studies, values).
    """
    found = np.zeros((owner.max() + 1, values.shape[1]), dtype=bool)
    np.logical_or.at(found, owner, values)
    return found


def least_patients(folds: int) -> int:
    """Return how many patients of each class so many folds need at least.

    One is tested in each fold, and beside these one is trained on and one tuned on: with two folds four, as three
    would leave one of the folds with one alone.
    """
    return 4 if folds == 2 else folds


def least_in_words(folds: int) -> str:
    """Return what a class with fewer patients than so many folds need has fewer than.

    >>> least_in_words(5), least_in_words(2)
    ('the 5 folds', 'the 4 that 2 folds need')
    """
    needed = least_patients(folds)
    return f"the {folds} folds" if needed == folds else f"the {needed} that {folds} folds need"


def way_out(fewest: int, folds: int) -> str:
    """Return what to do where the rarest class has too few patients for so many folds: what can work, in numbers.

    >>> way_out(5, 10)
    'set training.folds to at most 5, or add patients'
    >>> way_out(2, 5)
    'add patients: each class needs 5 of them for 5 folds, and 3 for the fewest that do (training.folds = 3)'
    """
    if fewest >= FEWEST_OF_A_CLASS:
        return f"set training.folds to {'at most ' if fewest > FEWEST_OF_A_CLASS else ''}{fewest}, or add patients"
    fewer = f", and {FEWEST_OF_A_CLASS} for the fewest that do (training.folds = {FEWEST_OF_A_CLASS})"
    needed = least_patients(folds)
    return f"add patients: each class needs {needed} of them for {folds} folds{fewer if needed > 3 else ''}"


def ask_of_typing(patients: int) -> str:
    """Return a question to ask of a class of so few patients that it may be a cell in other letters, not a class.

    >>> ask_of_typing(1), ask_of_typing(3)
    (" Or is the class a typing mistake in the target's column?", '')
    """
    return " Or is the class a typing mistake in the target's column?" if patients <= MOST_OF_A_MISTAKE else ""


def first_whole(
    draw: Callable[[np.random.Generator], Sequence[FoldSplit]],
    held: Held,
    generator_of: Callable[[int], np.random.Generator],
    way_out: str,
    *,
    whole_tests: bool = True,
) -> tuple[FoldSplit, ...]:
    """Return the first draw whose parts all hold everything, test parts only where they must.

    Args:
        draw: Generator -> folds.
        held: What each part has to hold.
        generator_of: Number of the attempt -> source of its draw.
        way_out: Said where no draw will do, after how often was tried.
        whole_tests: As of `lacking`.

    Raises:
        SplitError: Each of 20 draws has a part that lacks something.
    """
    fault = ""
    for attempt in range(ATTEMPTS):
        parts = tuple(draw(generator_of(attempt)))
        fault = lacking(parts, held, whole_tests=whole_tests)
        if not fault:
            return parts
    raise SplitError(f"{fault} in each of {ATTEMPTS} {way_out}")


def lacking(parts: Sequence[FoldSplit], held: Held, *, whole_tests: bool = True) -> str:
    """Return which part lacks what, in words; empty when none does.

    Args:
        parts: The folds.
        held: What each has to hold.
        whole_tests: Whether test parts have to; that of a site may lack a class.
    """
    for part in parts:
        sides = (("test", part.test), ("tuning", part.tune), ("training", part.train))
        for side, members in sides if whole_tests else sides[1:]:
            absent = np.flatnonzero(~held.values[members].any(axis=0))
            if absent.size:
                return f"the {side} part of fold {part.name} lacks {held.names[absent[0]]}"
    return ""
