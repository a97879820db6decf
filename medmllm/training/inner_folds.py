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

import numpy as np

from medmllm.errors import SplitError
from medmllm.training.held import Held, by_patient, count_patients, first_whole
from medmllm.training.label_splits import stratify
from medmllm.training.splits import (
    FoldSplit,
    IntArray,
    SplitPlan,
    check_partition,
    digest_of,
    outer_folds,
    patient_numbers,
)

DRAW = 11  # sets this draw of the seed apart from the others of a split


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
    owner = patient_numbers(patients)
    parts: list[FoldSplit] = []
    for split in plan.folds:
        rest = np.sort(np.concatenate([split.train, split.tune]))
        _refuse_few(held.patients(owner, rest), held.names, inner_folds, f"outside the test part of fold {split.fold}")
        parts += _draw(split, rest, owner, held, inner_folds, seed)
    check_partition(parts, patients)
    check_inner(parts)
    return SplitPlan(tuple(parts), digest_of(parts, study_keys))


def _draw(
    split: FoldSplit, rest: IntArray, owner: IntArray, held: Held, inner_folds: int, seed: int
) -> tuple[FoldSplit, ...]:
    """Return the first draw of inner folds in which no part lacks a value."""
    _, own = np.unique(owner[rest], return_inverse=True)
    holds = by_patient(own, held.values[rest])

    def draw(generator: np.random.Generator) -> list[FoldSplit]:
        tuned_in = stratify(holds, [1 / inner_folds] * inner_folds, generator)[own]
        return [
            FoldSplit(split.fold, rest[tuned_in != k], rest[tuned_in == k], split.test, inner=k)
            for k in range(inner_folds)
        ]

    return first_whole(
        draw,
        held,
        lambda attempt: np.random.default_rng([seed, split.fold, attempt, DRAW]),
        "shuffles: set training.inner_folds lower (1: one tuning part), or add patients.",
        whole_tests=False,
    )


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
    owner = patient_numbers(patients)
    if isinstance(tests, int):  # however they fall, one test part has its share of the patients or more
        left = [count - -(-count // tests) for count in held.patients(owner, np.arange(owner.size))]
        _refuse_few(left, held.names, inner_folds, f"outside one of the {tests} test parts")
        return
    for fold, test in enumerate(tests):
        rest = np.setdiff1d(np.arange(owner.size), np.asarray(test, dtype=np.int64))
        _refuse_few(held.patients(owner, rest), held.names, inner_folds, f"outside the test part of fold {fold}")


def _refuse_few(left: Sequence[int], names: Sequence[str], inner_folds: int, where: str) -> None:
    for count, name in zip(left, names, strict=True):
        if count < inner_folds:
            raise SplitError(
                f"{name} has at most {count_patients(count)} {where}, fewer than training.inner_folds = {inner_folds}: "
                "set inner_folds lower (1: one tuning part), or add patients of that kind."
            )
