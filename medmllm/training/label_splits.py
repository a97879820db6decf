"""Split a cohort of several labels into folds by patient, so that every label is as frequent in each as in all.

    patients, labels -> iterative stratification of patients -> test folds -> train and tune within the rest

Iterative stratification (Sechidis, Tsoumakas & Vlahavas, ECML PKDD 2011): the label that fewest patients are left of is
handed out first, each patient to the part that still wants most of it. Both values of a label count, and what is
unknown does not. All studies of a patient lie on one side. Every part holds both values of every label, or the cohort
is refused.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from medmllm.errors import SplitError
from medmllm.training.splits import ATTEMPTS, FoldSplit, IntArray, SplitPlan, check_partition, digest_of

BoolArray = npt.NDArray[np.bool_]
Labels = Sequence[Sequence[int]]
"""Of each study, one label each: 1, 0 or UNKNOWN."""

_TIE = 1e-9


def split_labels(
    patients: Sequence[str],
    labels: Labels,
    names: Sequence[str],
    *,
    study_keys: Sequence[str],
    folds: int,
    tuning_fraction: float,
    seed: int,
) -> SplitPlan:
    """Return patient-grouped folds, stratified by all labels, each with a tuning part.

    Args:
        patients: Patient of each study.
        labels: Of each study.
        names: Of the labels.
        study_keys: Key of each study; they go into the digest.
        folds: Number of test folds, at least 2.
        tuning_fraction: Share of the training patients kept for tuning.
        seed: The same cohort, settings and seed give the same split, whatever patients are called.

    Raises:
        SplitError: Too few patients, or no shuffle gives every part both values of every label.
    """
    check_enough_labels(patients, labels, names, folds)
    owner = _numbers(patients)
    holds = held(owner, labels)

    def draw(generator: np.random.Generator) -> tuple[FoldSplit, ...]:
        tested_in = stratify(holds, [1 / folds] * folds, generator)[owner]
        return tuple(_fold(fold, tested_in == fold, owner, holds, tuning_fraction, generator) for fold in range(folds))

    parts = _first_whole(
        draw,
        lambda parts: lacking_label(parts, labels, names),
        seed,
        f"shuffles of {len(set(patients))} patients: try another number than {folds} for training.folds, leave that "
        "label out, or add patients with that value.",
    )
    check_partition(parts, patients)
    return SplitPlan(parts, digest_of(parts, study_keys))


def carve_label_tuning(
    tests: Sequence[Sequence[int]],
    patients: Sequence[str],
    labels: Labels,
    names: Sequence[str],
    *,
    study_keys: Sequence[str],
    tuning_fraction: float,
    seed: int,
    whole_tests: bool,
) -> SplitPlan:
    """Return folds with the test parts that are given, and tuning parts carved from the other studies.

    Args:
        tests: Test part of each fold, indices into the cohort.
        patients: As of `split_labels`, as are those below.
        labels: Of each study.
        names: Of the labels.
        study_keys: Key of each study.
        tuning_fraction: Share of the training patients kept for tuning.
        seed: Of the choice.
        whole_tests: Whether a test part that lacks a value is refused; that of a site may lack one.

    Raises:
        SplitError: A part lacks a value of a label, a study is not tested exactly once, or a patient is on two sides.
    """
    owner = _numbers(patients)
    holds = held(owner, labels)
    tested = [np.isin(np.arange(owner.size), test) for test in tests]

    def draw(generator: np.random.Generator) -> tuple[FoldSplit, ...]:
        return tuple(_fold(k, own, owner, holds, tuning_fraction, generator) for k, own in enumerate(tested))

    parts = _first_whole(
        draw,
        lambda parts: lacking_label(parts, labels, names, whole_tests=whole_tests),
        seed,
        "choices of tuning patients: the folds are given, so give others, leave that label out, or add patients with "
        "that value.",
    )
    check_partition(parts, patients)
    return SplitPlan(parts, digest_of(parts, study_keys))


def _first_whole(
    draw: Callable[[np.random.Generator], tuple[FoldSplit, ...]],
    fault_of: Callable[[tuple[FoldSplit, ...]], str],
    seed: int,
    way_out: str,
) -> tuple[FoldSplit, ...]:
    """Return the first draw without a fault; all draws come from the seed."""
    fault = ""
    for attempt in range(ATTEMPTS):
        parts = draw(np.random.default_rng([seed, attempt]))
        fault = fault_of(parts)
        if not fault:
            return parts
    raise SplitError(f"{fault} in each of {ATTEMPTS} {way_out}")


def stratify(holds: BoolArray, shares: Sequence[float], generator: np.random.Generator) -> IntArray:
    """Return the part of each patient; shape (patients,).

    Args:
        holds: Whether a patient has a label's value, in any study; shape (patients, values).
        shares: Of each part; they sum to 1.
        generator: Breaks ties and shuffles.
    """
    share, counts = np.asarray(shares), holds.sum(axis=0)
    wanted, room = share[:, None] * counts, share * len(holds)
    wanted = np.where(counts >= len(share), np.maximum(wanted, 1), wanted)  # a small part too has one, where it can
    part = np.full(len(holds), -1, dtype=np.int64)
    while (part < 0).any():
        left = (holds & (part < 0)[:, None]).sum(axis=0)
        rare = int(np.argmin(np.where(left > 0, left, len(holds) + 1)))
        members = np.flatnonzero((part < 0) & (holds[:, rare] if left.any() else True))
        for member in generator.permutation(members):
            chosen = _neediest(wanted[:, rare], room, generator) if left.any() else _neediest(room, room, generator)
            part[member] = chosen
            wanted[chosen, holds[member]] -= 1
            room[chosen] -= 1
    return part


def _neediest(wanted: npt.NDArray[np.float64], room: npt.NDArray[np.float64], generator: np.random.Generator) -> int:
    """Return the part that wants most of a value; of equal ones that with most room, of these any."""
    best = np.flatnonzero(wanted >= wanted.max() - _TIE)
    best = best[room[best] >= room[best].max() - _TIE]
    return int(generator.choice(best))


def _fold(
    fold: int,
    tested: BoolArray,
    owner: IntArray,
    holds: BoolArray,
    tuning_fraction: float,
    generator: np.random.Generator,
) -> FoldSplit:
    """Return one fold: the studies that are tested (bool, one per study), and the other patients' parted in two."""
    rest = np.unique(owner[~tested])
    side = np.full(len(holds), -1, dtype=np.int64)
    side[rest] = stratify(holds[rest], [1 - tuning_fraction, tuning_fraction], generator)
    train, tune = (np.flatnonzero(~tested & (side[owner] == number)) for number in (0, 1))
    return FoldSplit(fold, train, tune, np.flatnonzero(tested))


def check_enough_labels(patients: Sequence[str], labels: Labels, names: Sequence[str], folds: int) -> None:
    """Refuse a cohort with fewer patients, of any label's value, than folds.

    Raises:
        SplitError: Says which, and what to do.
    """
    if folds < 2:
        raise SplitError(f"training.folds is {folds}, at least 2 are needed to test on unseen patients")
    if len(set(patients)) < folds:
        raise SplitError(
            f"{len(set(patients))} patients cannot fill {folds} folds: set training.folds to at most "
            f"{len(set(patients))}, or add patients."
        )
    counts = held(_numbers(patients), labels).sum(axis=0).reshape(2, -1)
    for label, name in enumerate(names):
        for value in (0, 1):
            if counts[value, label] < folds:
                raise SplitError(
                    f"label {name!r} is {_word(value)} in {counts[value, label]} patients, fewer than the {folds} "
                    "folds: set training.folds lower (2 or more), leave the label out, or add such patients."
                )


def lacking_label(parts: Sequence[FoldSplit], labels: Labels, names: Sequence[str], *, whole_tests: bool = True) -> str:
    """Return which part lacks which value of a label, in words; empty when none does; of test parts only if asked."""
    table = np.asarray(labels)
    for part in parts:
        sides = (("test", part.test), ("tuning", part.tune), ("training", part.train))
        for side, members in sides if whole_tests else sides[1:]:
            for label, name in enumerate(names):
                for value in (0, 1):
                    if not (table[members, label] == value).any():
                        return f"the {side} part of fold {part.name} has no study with {name!r} {_word(value)}"
    return ""


def refuse_lacking(plan: SplitPlan, labels: Labels, names: Sequence[str], *, whole_tests: bool) -> None:
    """Refuse given folds of which a part lacks a value of a label.

    Raises:
        SplitError: Says which.
    """
    fault = lacking_label(plan.folds, labels, names, whole_tests=whole_tests)
    if fault:
        raise SplitError(f"{fault}: the folds are given, so give others, or leave that label out.")


def _word(value: int) -> str:
    return "present" if value else "absent"


def _numbers(patients: Sequence[str]) -> IntArray:
    """Return the number of each study's patient, by first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(patient, len(numbers)) for patient in patients], dtype=np.int64)


def held(owner: IntArray, labels: Labels | IntArray) -> BoolArray:
    """Return whether a patient has each label absent, then present, in any study; shape (patients, 2 * labels).

    Args:
        owner: Patient number of each study, from 0.
        labels: Of each study.
    """
    table = np.asarray(labels)
    held = np.zeros((owner.max() + 1, 2 * table.shape[1]), dtype=bool)
    np.logical_or.at(held, owner, np.concatenate([table == 0, table == 1], axis=1))
    return held
