"""The folds of a cross-validation: which studies each network learns from, tunes on and is tested on.

    folds -> checked for patients on two sides, each study tested once -> SplitPlan, its digest, counts for the result

They are drawn by class_splits, label_splits, inner_folds, repeats and sites, or read from a file (split_file).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pandas as pd

from medmllm.errors import SplitError
from medmllm.model_documents import fold_name
from medmllm.provenance import text_digest
from medmllm.result_documents import FoldDocument

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FoldSplit:
    """What one network sees: three sets of studies, no patient in two of them."""

    fold: int
    train: IntArray = field(repr=False)  # (studies in train,) indices into the cohort, ascending
    tune: IntArray = field(repr=False)  # for early stopping, temperature and threshold
    test: IntArray = field(repr=False)  # predicted by this fold's model alone
    inner: int | None = None  # number of the inner fold, where several networks share the test part (`inner_folds`)
    repeat: int = 0  # number of the draw, where the folds are drawn several times (`repeats`)

    @property
    def name(self) -> str:
        """The fold as people write it: 0, or 0.1 for an inner fold; with its repeat, but for the first."""
        return fold_name(self.fold, self.inner) + (f" of repeat {self.repeat}" if self.repeat else "")


@dataclass(frozen=True, slots=True, eq=False)
class SplitPlan:
    """All folds; each study is in exactly one test part."""

    folds: tuple[FoldSplit, ...]  # one per network: the inner folds of a fold stand side by side
    digest: str  # sha256 over fold, part and study key of every membership, of all draws
    more: tuple[tuple[FoldSplit, ...], ...] = ()  # the folds of further draws (`repeats`)

    @property
    def test_fold(self) -> IntArray:
        """The fold in which each study is tested; shape (studies,)."""
        return fold_of_each(self.outer)

    @property
    def networks(self) -> tuple[FoldSplit, ...]:
        """What each network of an arm sees, of all draws."""
        return tuple(part for draw in (self.folds, *self.more) for part in draw)

    @property
    def outer(self) -> tuple[tuple[FoldSplit, ...], ...]:
        """What the networks of each fold see; one alone where there are no inner folds."""
        return outer_folds(self.folds)


def fold_of_each(outer: Sequence[Sequence[FoldSplit]]) -> IntArray:
    """Return the fold in which each study is tested; shape (studies,)."""
    owner = np.empty(sum(part.test.size for part, *_ in outer), dtype=np.int64)
    for part, *_ in outer:
        owner[part.test] = part.fold
    return owner


def outer_folds(parts: Sequence[FoldSplit]) -> tuple[tuple[FoldSplit, ...], ...]:
    """Return parts by fold: those of one fold share its test part."""
    return tuple(tuple(own) for _, own in groupby(parts, key=lambda part: part.fold))


def patient_numbers(patients: Sequence[str]) -> IntArray:
    """Return the number of each study's patient, by first appearance, whatever patients are called.

    >>> patient_numbers(["b", "a", "b"])
    array([0, 1, 0])
    """
    return pd.factorize(np.asarray(patients, dtype=object))[0].astype(np.int64)


def check_partition(parts: Sequence[FoldSplit], patients: Sequence[str]) -> None:
    """Refuse folds that share a patient between parts, or do not test each study exactly once.

    Args:
        parts: The folds.
        patients: Patient of each study.

    Raises:
        SplitError: Says the fold, the two parts and how many patients are on both sides.
    """
    owner = np.asarray(patients)
    everyone = np.arange(owner.size)
    for part in parts:
        sides = {"train": part.train, "tune": part.tune, "test": part.test}
        for one, other in (("train", "test"), ("tune", "test"), ("train", "tune")):
            shared = np.intersect1d(owner[sides[one]], owner[sides[other]])
            if shared.size:
                raise SplitError(
                    f"fold {part.name}: {shared.size} patients are in both {one} and {other}. Results on such a "
                    "split would be too good; do not use it, and report this."
                )
        if not np.array_equal(np.sort(np.concatenate(list(sides.values()))), everyone):
            raise SplitError(f"fold {part.name}: train, tune and test are not the whole cohort, each study once")
    tests = [own[0].test for own in outer_folds(parts)]
    tested = np.sort(np.concatenate(tests)) if tests else np.array([], dtype=np.int64)
    if not np.array_equal(tested, everyone):
        raise SplitError(f"the test parts hold {tested.size} studies, not each of the {owner.size} studies once")


def digest_of(parts: Sequence[FoldSplit], study_keys: Sequence[str]) -> str:
    """Return sha256 over fold (with its inner fold and repeat), part and study key of every membership."""
    memberships = sorted(
        f"{part.name} {name} {study_keys[index]}"
        for part in parts
        for name, members in (("train", part.train), ("tune", part.tune), ("test", part.test))
        for index in members
    )
    return text_digest(memberships)


def count_folds(plan: SplitPlan, patients: Sequence[str]) -> tuple[FoldDocument, ...]:
    """Return for each fold, or inner fold, how many studies and patients its parts hold."""

    def count(members: IntArray) -> tuple[int, int]:
        return len(members), len({patients[k] for k in members})

    found = []
    for split in plan.folds:
        (train, train_p), (tune, tune_p), (test, test_p) = (count(m) for m in (split.train, split.tune, split.test))
        found.append(
            FoldDocument(
                fold=split.fold,
                inner=split.inner,
                training_studies=train,
                tuning_studies=tune,
                test_studies=test,
                training_patients=train_p,
                tuning_patients=tune_p,
                test_patients=test_p,
            )
        )
    return tuple(found)
