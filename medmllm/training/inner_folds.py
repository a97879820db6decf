"""Split the training studies of each fold into inner folds: each is the tuning part of a network of its own.

    plan, patients, what studies hold -> for each fold k networks' parts: train, tune (one inner fold), the same test

Nested cross-validation (Varma & Simon, BMC Bioinformatics 7:91, 2006): whatever is chosen is chosen on inner folds, and
the outer test part has no say in it. One tuning part of a small cohort holds a handful of patients, and their noise
becomes temperature, operating point and conformal thresholds; nine studies of each class are the fewest that promise a
coverage of 0.9. With k inner folds every training study lies in exactly one tuning part, so all of them, each
predicted by the one network that did not learn from its patient, decide together (`fold.decide_fold`).

Inner folds are of whole patients, and as many patients of each class, or value of each label, lie in each (`stratify`).
Where one would lack a class in its tuning or training part, the cohort is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medmllm.errors import SplitError
from medmllm.records import Survival
from medmllm.training.label_splits import BoolArray, Labels, holds_of, stratify, values_of, words_of
from medmllm.training.splits import (
    ATTEMPTS,
    FoldSplit,
    IntArray,
    SplitPlan,
    check_partition,
    digest_of,
    outer_folds,
)

DRAW = 11  # sets this draw of the seed apart from the others of a split


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What every part of a split has to hold."""

    values: BoolArray  # (studies, values): a study is of the class, or its label has the value
    names: tuple[str, ...]  # of the values, in words


def hold_classes(targets: Sequence[int]) -> Held:
    """Return what a cohort of one target holds: its classes."""
    target = np.asarray(targets, dtype=np.int64)
    classes = np.unique(target)
    return Held(target[:, None] == classes, tuple(f"class {label}" for label in classes))


def hold_events(survived: Sequence[Survival]) -> Held:
    """Return what a cohort of times to an event holds: events; a part can do without the censored."""
    return Held(np.array([[one.event] for one in survived]), ("any event",))


def hold_labels(labels: Labels, names: Sequence[str], times: Sequence[int] = ()) -> Held:
    """Return what a cohort of several targets holds: every class of each, where it is known.

    Args:
        labels: Of each study; of a time to an event 1 where it came.
        names: Of the targets.
        times: Which of them are times to an event: a part can do without the censored.
    """
    values = values_of(labels)
    wanted = [k for k, (target, value) in enumerate(values) if value or target not in times]
    said = (f"{names[target]!r} {words_of(target, value, labels)}" for target, value in (values[k] for k in wanted))
    return Held(holds_of(labels)[:, wanted], tuple(said))


def nest(
    plan: SplitPlan, patients: Sequence[str], held: Held, *, study_keys: Sequence[str], inner_folds: int, seed: int
) -> SplitPlan:
    """Return a plan with the same test parts, and k inner folds in place of each tuning part.

    Args:
        plan: Folds with one network each.
        patients: Patient of each study.
        held: What each tuning and training part has to hold.
        study_keys: Key of each study; they go into the digest.
        inner_folds: k, at least 2.
        seed: The same cohort, folds and seed give the same inner folds, whatever patients are called.

    Raises:
        SplitError: Too few patients outside a test part, or no shuffle gives every part every value.
    """
    owner = pd.factorize(np.asarray(patients))[0]
    parts: list[FoldSplit] = []
    for split in plan.folds:
        rest = np.sort(np.concatenate([split.train, split.tune]))
        _check_left(
            owner[rest], held.values[rest], held.names, inner_folds, f"outside the test part of fold {split.fold}"
        )
        parts += _draw(split, rest, owner, held, inner_folds, seed)
    check_partition(parts, patients)
    check_inner(parts)
    return SplitPlan(tuple(parts), digest_of(parts, study_keys))


def _draw(
    split: FoldSplit, rest: IntArray, owner: IntArray, held: Held, inner_folds: int, seed: int
) -> tuple[FoldSplit, ...]:
    """Return the first draw of inner folds in which no part lacks a value."""
    numbers, own = np.unique(owner[rest], return_inverse=True)
    holds = np.zeros((numbers.size, held.values.shape[1]), dtype=bool)
    np.logical_or.at(holds, own, held.values[rest])
    fault = ""
    for attempt in range(ATTEMPTS):
        generator = np.random.default_rng([seed, split.fold, attempt, DRAW])
        tuned_in = stratify(holds, [1 / inner_folds] * inner_folds, generator)[own]
        parts = tuple(
            FoldSplit(split.fold, rest[tuned_in != k], rest[tuned_in == k], split.test, inner=k)
            for k in range(inner_folds)
        )
        fault = _lacking(parts, held)
        if not fault:
            return parts
    raise SplitError(
        f"{fault} in each of {ATTEMPTS} shuffles: set training.inner_folds lower (1: one tuning part), or add patients."
    )


def _lacking(parts: Sequence[FoldSplit], held: Held) -> str:
    for part in parts:
        for side, members in (("tuning", part.tune), ("training", part.train)):
            absent = np.flatnonzero(~held.values[members].any(axis=0))
            if absent.size:
                return f"the {side} part of fold {part.name} lacks {held.names[absent[0]]}"
    return ""


def check_inner(parts: Sequence[FoldSplit]) -> None:
    """Refuse inner folds that do not share their fold's test part, or do not tune on each training study once.

    Args:
        parts: Of networks; each is known to hold the whole cohort (`check_partition`).

    Raises:
        SplitError: Says the fold.
    """
    for own in outer_folds(parts):
        if len(own) == 1 and own[0].inner is None:
            continue
        if [part.inner for part in own] != list(range(len(own))) or len(own) < 2:
            raise SplitError(f"the inner folds of fold {own[0].fold} are not numbered from 0, two or more of them")
        if any(not np.array_equal(np.sort(part.test), np.sort(own[0].test)) for part in own):
            raise SplitError(f"the inner folds of fold {own[0].fold} do not share one test part")
        tuned = np.sort(np.concatenate([part.tune for part in own]))
        if not np.array_equal(tuned, np.sort(np.concatenate([own[0].train, own[0].tune]))):
            raise SplitError(f"the inner folds of fold {own[0].fold} do not tune on each training study exactly once")


# --- before a study is read ------------------------------------------------------------------


def check_enough_inner(
    patients: Sequence[str], held: Held, tests: Sequence[Sequence[int]] | int, inner_folds: int
) -> None:
    """Refuse a cohort that cannot fill so many inner folds, whatever is drawn.

    Args:
        patients: Patient of each study.
        held: What every part has to hold.
        tests: Test part of each fold, or how many folds there will be.
        inner_folds: Of each; with 1 nothing is refused.

    Raises:
        SplitError: Says which class or value has too few patients, and what to do.
    """
    if inner_folds == 1:
        return
    owner = pd.factorize(np.asarray(patients))[0]
    if isinstance(tests, int):  # however they fall, one test part has its share of the patients or more
        counts = [np.unique(owner[own]).size for own in held.values.T]
        left = [count - -(-count // tests) for count in counts]
        _refuse_few(left, held.names, inner_folds, f"outside one of the {tests} test parts")
        return
    for fold, test in enumerate(tests):
        rest = np.setdiff1d(np.arange(owner.size), np.asarray(test, dtype=np.int64))
        _check_left(owner[rest], held.values[rest], held.names, inner_folds, f"outside the test part of fold {fold}")


def _check_left(owner: IntArray, values: BoolArray, names: Sequence[str], inner_folds: int, where: str) -> None:
    _refuse_few([np.unique(owner[own]).size for own in values.T], names, inner_folds, where)


def _refuse_few(left: Sequence[int], names: Sequence[str], inner_folds: int, where: str) -> None:
    for count, name in zip(left, names, strict=True):
        if count < inner_folds:
            raise SplitError(
                f"{name} has at most {count} patients {where}, fewer than training.inner_folds = {inner_folds}: set "
                "inner_folds lower (1: one tuning part), or add patients of that kind."
            )
