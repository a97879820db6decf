"""Choose nested parts of each fold's training patients, to see what fewer of them would have been worth.

    folds, fractions -> for each fraction the same folds with fewer training patients

The patients of each class stand in one order, drawn once per fold, and every fraction takes the first of them: a
smaller part lies within each larger one. Of several targets, patients are handed out by iterative stratification to
rings, and every fraction takes the inner ones. Patients stay whole. Tuning and test parts stay as they are.

With inner folds the patients are drawn once for all networks of a fold, among all that lie outside its test part, as
many from each inner fold: each network learns from those of them that it does not tune on, and together they have
learnt from no other patient.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from medmllm.errors import SplitError
from medmllm.records import UNKNOWN
from medmllm.training.class_splits import patient_strata
from medmllm.training.held import NUMBERED, Called, by_patient, class_word, holds_of
from medmllm.training.label_splits import stratify
from medmllm.training.splits import FoldSplit, IntArray, outer_folds, patient_numbers

LEAST_PATIENTS = 2  # of each class: one patient alone tells a network only who it is
DRAW = 7  # sets this draw of the seed apart from the others of a split


def nested_subsets(
    folds: Sequence[FoldSplit],
    patients: Sequence[str],
    targets: Sequence[int] | Sequence[tuple[int, ...]],
    fractions: Sequence[float],
    *,
    seed: int,
    times: Collection[int] = (),
    called: Called = NUMBERED,
) -> tuple[tuple[FoldSplit, ...], ...]:
    """Return for each fraction the folds with that part of their training patients, class by class.

    Args:
        folds: Of the cross-validation.
        patients: Patient of each study of the cohort.
        targets: Class index of each study, from 0; of several targets one each, or UNKNOWN.
        fractions: Ascending, above 0, at most 1, which leaves a fold as it is.
        seed: The same cohort, folds and seed give the same parts, whatever patients are called.
        times: Which of the targets are times to an event, 0 where there is one: class 1 has the event, and a part can
            do without class 0.
        called: The targets and their classes, for the refusal.

    Raises:
        SplitError: A part would hold fewer than two patients of a class.
    """
    group, target = patient_numbers(patients), np.asarray(targets)
    chosen = [(own, _chosen(own, group, target, fractions, seed)) for own in outer_folds(folds)]
    parts = [
        [
            replace(split, train=split.train[np.isin(group[split.train], inside[k])])
            for own, inside in chosen
            for split in own
        ]
        for k in range(len(fractions))
    ]
    for fraction, of_networks in zip(fractions, parts, strict=True):
        for part in of_networks:
            _check_enough(part, group, np.reshape(target, (len(target), -1)), fraction, times, called)
    return tuple(map(tuple, parts))


def _chosen(
    networks: Sequence[FoldSplit], group: IntArray, target: IntArray, fractions: Sequence[float], seed: int
) -> list[IntArray]:
    """Return the patients of each fraction that the networks of one fold learn from."""
    generator = np.random.default_rng([seed, networks[0].fold, DRAW])
    inside = np.unique(np.concatenate([split.train for split in networks]))
    tuned_in = np.zeros(group.max() + 1, dtype=np.int64)  # of each patient the inner fold
    for split in networks:
        tuned_in[group[split.tune]] = split.inner or 0
    if target.ndim == 2:
        return _rings(group[inside], target[inside], tuned_in, fractions, generator)
    strata = [generator.permutation(own) for own in patient_strata(group[inside], target[inside])]
    spread = [_in_turn(own, tuned_in[own]) for own in strata]
    return [np.concatenate([own[: round(part * own.size)] for own in spread]) for part in fractions]


def _in_turn(order: IntArray, of: IntArray) -> IntArray:
    """Return what stands in an order so that all kinds take turns, each in its order.

    >>> _in_turn(np.array([7, 3, 5, 8, 4]), np.array([0, 0, 0, 1, 1]))
    array([7, 8, 3, 4, 5])
    """
    turn = pd.Series(of).groupby(of).cumcount().to_numpy()
    return order[np.argsort(turn, kind="stable")]


def _rings(
    group: IntArray, targets: IntArray, tuned_in: IntArray, fractions: Sequence[float], generator: np.random.Generator
) -> list[IntArray]:
    """Return for each fraction the patients within it, every target's classes as frequent in each as in all.

    Args:
        group: Patient number of each training study.
        targets: Class index of each target, or UNKNOWN; shape (studies, targets).
        tuned_in: Inner fold of each patient number; 0 where there are none.
        fractions: Ascending.
        generator: Breaks ties and shuffles.
    """
    patients, owner = np.unique(group, return_inverse=True)
    shares = np.diff([0.0, *fractions, 1.0]).tolist()
    holds, ring = by_patient(owner, holds_of(targets)), np.empty(patients.size, dtype=np.int64)
    for inner in np.unique(tuned_in[patients]):
        own = tuned_in[patients] == inner
        ring[own] = stratify(holds[own], shares, generator)
    return [patients[ring <= number] for number in range(len(fractions))]


def _check_enough(
    part: FoldSplit,
    group: IntArray,
    targets: IntArray,
    fraction: float,
    times: Collection[int],
    called: Called,
) -> None:
    """Refuse a part with too few patients of a class, of any target."""
    for number, column in enumerate(targets.T):
        names = called.classes[number] if called.classes else ()
        of_target = f" of {called.targets[number]!r}" if called.targets and not names else ""
        for label in [1] if number in times else np.unique(column[column != UNKNOWN]):
            whose = "with the event" if number in times else f"of {class_word(label, names)}"
            left = np.unique(group[part.train][column[part.train] == label]).size
            if left < LEAST_PATIENTS:
                raise SplitError(
                    f"[training] learning_curve: too few patients {whose}{of_target}: {left} in "
                    f"{fraction:g} of the training part of fold {part.name}, at least {LEAST_PATIENTS} are needed. "
                    "Leave this fraction out, choose a larger one, or add such patients."
                )
