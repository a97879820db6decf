"""Split a cohort of several targets into folds by patient, so that every class is as frequent in each as in all.

    patients, labels -> iterative stratification of patients -> test folds -> train and tune within the rest

Iterative stratification (Sechidis, Tsoumakas & Vlahavas, ECML PKDD 2011): the class that fewest patients are left of is
handed out first, each patient to the part that still wants most of it. All classes of a target count, and what is
unknown does not. All studies of a patient lie on one side. Every part holds every class of every target, or the cohort
is refused.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medmllm.errors import SplitError
from medmllm.training.held import (
    BoolArray,
    Carving,
    Labels,
    ask_of_typing,
    by_patient,
    count_patients,
    first_whole,
    hold_labels,
    holds_of,
    least_in_words,
    least_patients,
    values_of,
    way_out,
    words_of,
)
from medmllm.training.splits import FoldSplit, IntArray, SplitPlan, check_partition, digest_of, patient_numbers

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
    classes: Sequence[Sequence[str]] = (),
) -> SplitPlan:
    """Return patient-grouped folds, stratified by all targets, each with a tuning part.

    Args:
        patients: Patient of each study.
        labels: Of each study.
        names: Of the targets.
        study_keys: Key of each study; they go into the digest.
        folds: Number of test folds, at least 2.
        tuning_fraction: Share of the training patients kept for tuning.
        seed: The same cohort, settings and seed give the same split, whatever patients are called.
        classes: How the classes of each target are called in a refusal.

    Raises:
        SplitError: Too few patients, or no shuffle gives every part every class of every target.
    """
    check_enough_labels(patients, labels, names, folds, classes)
    owner = patient_numbers(patients)
    holds = by_patient(owner, holds_of(labels))

    def draw(generator: np.random.Generator) -> tuple[FoldSplit, ...]:
        tested_in = stratify(holds, [1 / folds] * folds, generator)[owner]
        return tuple(_fold(fold, tested_in == fold, owner, holds, tuning_fraction, generator) for fold in range(folds))

    parts = first_whole(
        draw,
        hold_labels(labels, names, classes=classes),
        lambda attempt: np.random.default_rng([seed, attempt]),
        f"shuffles of {len(set(patients))} patients: with {folds} folds each class needs {least_patients(folds)} "
        "patients, better more. Add patients of that class, try another number for training.folds (3 or more), or "
        "leave that target out.",
    )
    check_partition(parts, patients)
    return SplitPlan(parts, digest_of(parts, study_keys))


def carve_label_tuning(
    tests: Sequence[Sequence[int]],
    patients: Sequence[str],
    labels: Labels,
    carving: Carving,
) -> SplitPlan:
    """Return folds with the test parts that are given, and tuning parts carved from the other studies.

    Args:
        tests: Test part of each fold, indices into the cohort.
        patients: As of `split_labels`, as are those below.
        labels: Of each study; of a time to an event whether it came.
        carving: How tuning parts are drawn.

    Raises:
        SplitError: A part lacks what it has to hold, a study is not tested exactly once, or a patient is on two sides.
    """
    owner = patient_numbers(patients)
    holds = by_patient(owner, holds_of(labels))
    tested = [np.isin(np.arange(owner.size), test) for test in tests]

    def draw(generator: np.random.Generator) -> tuple[FoldSplit, ...]:
        return tuple(_fold(k, own, owner, holds, carving.tuning_fraction, generator) for k, own in enumerate(tested))

    parts = first_whole(
        draw,
        carving.held,
        lambda attempt: np.random.default_rng([carving.seed, attempt]),
        "choices of tuning patients: the folds are given, so give others, leave that target out, or add patients "
        "of that class.",
        whole_tests=carving.whole_tests,
    )
    check_partition(parts, patients)
    return SplitPlan(parts, digest_of(parts, carving.study_keys))


def stratify(holds: BoolArray, shares: Sequence[float], generator: np.random.Generator) -> IntArray:
    """Return the part of each patient; shape (patients,).

    Args:
        holds: Whether a patient is of a class, in any study; shape (patients, classes of all targets).
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


def check_enough_labels(
    patients: Sequence[str], labels: Labels, names: Sequence[str], folds: int, classes: Sequence[Sequence[str]] = ()
) -> None:
    """Refuse a cohort with fewer patients, of any class of a target, than folds.

    Raises:
        SplitError: Says which, and what to do.
    """
    if folds < 2:
        raise SplitError(f"training.folds is {folds}, at least 2 are needed to test on unseen patients")
    counts = by_patient(patient_numbers(patients), holds_of(labels)).sum(axis=0) if patients else np.zeros(0)
    fewest = int(counts.min(initial=len(set(patients))))
    if len(set(patients)) < folds:
        raise SplitError(f"{count_patients(len(set(patients)))} cannot fill {folds} folds: {way_out(fewest, folds)}.")
    for (target, value), count in sorted(zip(values_of(labels), counts, strict=True)):
        if count < least_patients(folds):
            raise SplitError(
                f"{words_of(target, value, labels, names, classes)} has {count_patients(count)}, fewer than "
                f"{least_in_words(folds)}: leave that target out, {way_out(fewest, folds)}.{ask_of_typing(count)}"
            )
