"""Choose nested parts of each fold's training patients, to see what fewer of them would have been worth.

    folds, fractions -> for each fraction the same folds with fewer training patients

The patients of each class stand in one order, drawn once per fold, and every fraction takes the first of them: a
smaller part lies within each larger one. Patients stay whole. Tuning and test parts stay as they are.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from medmllm.errors import SplitError
from medmllm.training.splits import FoldSplit, IntArray, patient_strata

LEAST_PATIENTS = 2  # of each class: one patient alone tells a network only who it is
DRAW = 7  # sets this draw of the seed apart from the others of a split


def nested_subsets(
    folds: Sequence[FoldSplit],
    patients: Sequence[str],
    targets: Sequence[int],
    fractions: Sequence[float],
    *,
    seed: int,
) -> tuple[tuple[FoldSplit, ...], ...]:
    """Return for each fraction the folds with that part of their training patients, class by class.

    Args:
        folds: Of the cross-validation.
        patients: Patient of each study of the cohort.
        targets: Class index of each study, from 0.
        fractions: Above 0, at most 1, which leaves a fold as it is.
        seed: The same cohort, folds and seed give the same parts, whatever patients are called.

    Raises:
        SplitError: A part would hold fewer than two patients of a class.
    """
    group, target = pd.factorize(np.asarray(patients))[0], np.asarray(targets)
    return tuple(tuple(_part_of(split, group, target, fraction, seed) for split in folds) for fraction in fractions)


def _part_of(split: FoldSplit, group: IntArray, target: IntArray, fraction: float, seed: int) -> FoldSplit:
    generator = np.random.default_rng([seed, split.fold, DRAW])
    chosen = [
        generator.permutation(stratum)[: round(fraction * stratum.size)]
        for stratum in patient_strata(group[split.train], target[split.train])
    ]
    train = split.train[np.isin(group[split.train], np.concatenate(chosen))]
    for label in np.unique(target):
        left = np.unique(group[train][target[train] == label]).size
        if left < LEAST_PATIENTS:
            raise SplitError(
                f"[training] learning_curve: too few patients of class {label}: {left} in {fraction:g} of the training "
                f"part of fold {split.fold}, at least {LEAST_PATIENTS} are needed. Leave this fraction out, choose a "
                "larger one, or add patients of that class."
            )
    return replace(split, train=train)
