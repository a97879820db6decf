"""Choose nested parts of each fold's training patients, to see what fewer of them would have been worth.

    folds, fractions -> for each fraction the same folds with fewer training patients

The patients of each class stand in one order, drawn once per fold, and every fraction takes the first of them: a
smaller part lies within each larger one. Of several targets, patients are handed out by iterative stratification to
rings, and every fraction takes the inner ones. Patients stay whole. Tuning and test parts stay as they are.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from medmllm.errors import SplitError
from medmllm.records import UNKNOWN
from medmllm.training.label_splits import held, stratify
from medmllm.training.splits import FoldSplit, IntArray, patient_strata

LEAST_PATIENTS = 2  # of each class: one patient alone tells a network only who it is
DRAW = 7  # sets this draw of the seed apart from the others of a split


def nested_subsets(
    folds: Sequence[FoldSplit],
    patients: Sequence[str],
    targets: Sequence[int] | Sequence[tuple[int, ...]],
    fractions: Sequence[float],
    *,
    seed: int,
) -> tuple[tuple[FoldSplit, ...], ...]:
    """Return for each fraction the folds with that part of their training patients, class by class.

    Args:
        folds: Of the cross-validation.
        patients: Patient of each study of the cohort.
        targets: Class index of each study, from 0; of several targets one each, or UNKNOWN.
        fractions: Ascending, above 0, at most 1, which leaves a fold as it is.
        seed: The same cohort, folds and seed give the same parts, whatever patients are called.

    Raises:
        SplitError: A part would hold fewer than two patients of a class.
    """
    group, target = pd.factorize(np.asarray(patients))[0], np.asarray(targets)
    parts = [_parts_of(split, group, target, fractions, seed) for split in folds]
    return tuple(tuple(of_fold[k] for of_fold in parts) for k in range(len(fractions)))


def _parts_of(
    split: FoldSplit, group: IntArray, target: IntArray, fractions: Sequence[float], seed: int
) -> list[FoldSplit]:
    """Return one fold with each fraction of its training part."""
    generator = np.random.default_rng([seed, split.fold, DRAW])
    if target.ndim == 2:
        chosen = _rings(group[split.train], target[split.train], fractions, generator)
    else:
        strata = [generator.permutation(own) for own in patient_strata(group[split.train], target[split.train])]
        chosen = [np.concatenate([own[: round(part * own.size)] for own in strata]) for part in fractions]
    parts = [replace(split, train=split.train[np.isin(group[split.train], own)]) for own in chosen]
    for part, fraction in zip(parts, fractions, strict=True):
        _check_enough(part, group, np.reshape(target, (len(target), -1)), fraction)
    return parts


def _rings(
    group: IntArray, targets: IntArray, fractions: Sequence[float], generator: np.random.Generator
) -> list[IntArray]:
    """Return for each fraction the patients within it, every target's classes as frequent in each as in all.

    Args:
        group: Patient number of each training study.
        targets: Class index of each target, or UNKNOWN; shape (studies, targets).
        fractions: Ascending.
        generator: Breaks ties and shuffles.
    """
    patients, owner = np.unique(group, return_inverse=True)
    shares = np.diff([0.0, *fractions, 1.0]).tolist()
    ring = stratify(held(owner, targets), shares, generator)
    return [patients[ring <= number] for number in range(len(fractions))]


def _check_enough(part: FoldSplit, group: IntArray, targets: IntArray, fraction: float) -> None:
    """Refuse a part with too few patients of a class, of any target."""
    for column in targets.T:
        for label in np.unique(column[column != UNKNOWN]):
            left = np.unique(group[part.train][column[part.train] == label]).size
            if left < LEAST_PATIENTS:
                raise SplitError(
                    f"[training] learning_curve: too few patients of class {label}: {left} in {fraction:g} of the "
                    f"training part of fold {part.fold}, at least {LEAST_PATIENTS} are needed. Leave this fraction "
                    "out, choose a larger one, or add patients of that class."
                )
