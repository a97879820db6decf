"""Split a cohort into folds by patient, and carve a tuning part out of each training fold.

    patients, targets -> test folds -> train and tune within the rest -> checked SplitPlan

All studies of a patient lie on one side. Test folds are stratified by class with scikit-learn's
StratifiedGroupKFold; the tuning part (early stopping, temperature, threshold) takes a share of the
patients of each class. A cohort too small for what was asked is refused, never split unevenly: a part
without one of the classes would make its threshold, temperature or AUROC meaningless.

The split depends on the order of the studies and the seed, not on how patients are named, so that two
sites' secrets give the same folds for the same folder.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from medmllm.errors import SplitError
from medmllm.model_documents import fold_name
from medmllm.provenance import text_digest
from medmllm.result_documents import FoldDocument

IntArray = npt.NDArray[np.int64]

ATTEMPTS = 20
"""Shuffles tried, all derived from the seed, until every part holds every class."""


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


def make_splits(
    patients: Sequence[str],
    targets: Sequence[int],
    *,
    study_keys: Sequence[str],
    folds: int,
    tuning_fraction: float,
    seed: int,
) -> SplitPlan:
    """Return patient-grouped, stratified folds, each with a tuning part.

    Args:
        patients: Patient of each study.
        targets: Class index of each study, from 0.
        study_keys: Key of each study; they go into the digest.
        folds: Number of test folds, at least 2.
        tuning_fraction: Share of the training patients of each class kept for tuning; 0 to 1, exclusive.
        seed: The same cohort, settings and seed give the same split.

    Raises:
        SplitError: The cohort has one class only, too few patients, or no shuffle gives every part every class.
    """
    group, target = _checked(patients, targets, study_keys)
    _check_settings(folds, tuning_fraction)
    _check_enough_patients(group, target, folds)

    def draw(generator: np.random.Generator) -> tuple[FoldSplit, ...]:
        return _split(group, target, folds, tuning_fraction, generator)

    parts = _first_whole(
        draw,
        target,
        seed,
        f"shuffles of {group.max() + 1} patients: try another number than {folds} for training.folds, choose another "
        "--target, or add patients of that class.",
    )
    check_partition(parts, patients)
    return SplitPlan(folds=parts, digest=digest_of(parts, study_keys))


def carve_tuning(
    tests: Sequence[IntArray],
    patients: Sequence[str],
    targets: Sequence[int],
    *,
    study_keys: Sequence[str],
    tuning_fraction: float,
    seed: int,
    whole_tests: bool = True,
) -> SplitPlan:
    """Return folds with the test parts that are given, and tuning parts carved from the other studies.

    Args:
        tests: Test part of each fold, ascending indices into the cohort.
        patients: Patient of each study.
        targets: Class index of each study, from 0.
        study_keys: Key of each study; they go into the digest.
        tuning_fraction: As of `make_splits`.
        seed: As of `make_splits`.
        whole_tests: Whether a test part that lacks a class is refused; that of a site may lack one.

    Raises:
        SplitError: A part lacks a class, a study is not tested exactly once, or a patient is on two sides.
    """
    group, target = _checked(patients, targets, study_keys)
    _check_settings(len(tests), tuning_fraction)
    everyone = np.arange(target.size)
    outer = [(np.setdiff1d(everyone, test), test) for test in tests]

    def draw(generator: np.random.Generator) -> tuple[FoldSplit, ...]:
        return _carve(outer, group, target, tuning_fraction, generator)

    parts = _first_whole(
        draw,
        target,
        seed,
        "choices of tuning patients: the folds are given, so give others, choose another --target, or add patients of "
        "that class.",
        whole_tests=whole_tests,
    )
    check_partition(parts, patients)
    return SplitPlan(folds=parts, digest=digest_of(parts, study_keys))


def check_enough(patients: Sequence[str], targets: Sequence[int], folds: int) -> None:
    """Refuse a cohort with one class only, or with fewer patients (of a class) than folds.

    Raises:
        SplitError: Says which, and what to do.
    """
    group, target = _checked(patients, targets, [str(k) for k in range(len(patients))])
    _check_enough_patients(group, target, folds)


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


# --- checks of what came in ----------------------------------------------------------------


def _checked(patients: Sequence[str], targets: Sequence[int], study_keys: Sequence[str]) -> tuple[IntArray, IntArray]:
    """Return (patient number by first appearance, target) of each study."""
    if not len(patients) == len(targets) == len(study_keys):
        raise SplitError(
            f"{len(patients)} patients, {len(targets)} targets and {len(study_keys)} study keys: one each per study"
        )
    if len(set(study_keys)) != len(study_keys):
        raise SplitError(f"{len(study_keys) - len(set(study_keys))} study keys are given twice")
    numbers: dict[str, int] = {}
    group = np.array([numbers.setdefault(patient, len(numbers)) for patient in patients], dtype=np.int64)
    target = np.asarray(targets, dtype=np.int64)
    if target.size and target.min() < 0:
        raise SplitError("a target is negative: leave studies without a target out before splitting")
    return group, target


def _check_settings(folds: int, tuning_fraction: float) -> None:
    if folds < 2:
        raise SplitError(f"training.folds is {folds}, at least 2 are needed to test on unseen patients")
    if not 0 < tuning_fraction < 1:
        raise SplitError(f"training.tuning_fraction is {tuning_fraction:g}, it lies between 0 and 1")


def _check_enough_patients(group: IntArray, target: IntArray, folds: int) -> None:
    patients = np.unique(group).size
    if patients < folds:
        raise SplitError(
            f"{patients} patients cannot fill {folds} folds: set training.folds to at most {patients}, or add patients."
        )
    classes = np.unique(target)
    if classes.size < 2:
        raise SplitError(
            f"all {target.size} studies are of class {classes[0]}: choose another --target, or add studies of the "
            "other class."
        )
    for label in classes:
        with_class = np.unique(group[target == label]).size
        if with_class < folds:
            raise SplitError(
                f"class {label} has {with_class} patients, fewer than the {folds} folds: set training.folds to at "
                f"most {with_class} (2 or more), choose another --target, or add patients of that class."
            )


# --- splitting -----------------------------------------------------------------------------


def _split(
    group: IntArray, target: IntArray, folds: int, tuning_fraction: float, generator: np.random.Generator
) -> tuple[FoldSplit, ...]:
    shuffle_seed = int(generator.integers(2**31))
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=shuffle_seed)
    return _carve(splitter.split(group[:, None], target, group), group, target, tuning_fraction, generator)


def _carve(
    outer: Iterable[tuple[IntArray, IntArray]],
    group: IntArray,
    target: IntArray,
    tuning_fraction: float,
    generator: np.random.Generator,
) -> tuple[FoldSplit, ...]:
    """Return folds from (studies not tested, studies tested) of each."""
    parts = []
    for fold, (rest, test) in enumerate(outer):
        chosen = _tuning_patients(group[rest], target[rest], tuning_fraction, generator)
        tuning = np.isin(group[rest], chosen)
        parts.append(FoldSplit(fold=fold, train=rest[~tuning], tune=rest[tuning], test=test))
    return tuple(parts)


def _first_whole(
    draw: Callable[[np.random.Generator], tuple[FoldSplit, ...]],
    target: IntArray,
    seed: int,
    way_out: str,
    *,
    whole_tests: bool = True,
) -> tuple[FoldSplit, ...]:
    """Return the first draw whose parts all hold every class, test parts only where they must."""
    fault = ""
    for attempt in range(ATTEMPTS):
        parts = draw(np.random.default_rng([seed, attempt]))
        fault = lacking(parts, target, whole_tests=whole_tests)
        if not fault:
            return parts
    raise SplitError(f"{fault} in each of {ATTEMPTS} {way_out}")


def _tuning_patients(group: IntArray, target: IntArray, fraction: float, generator: np.random.Generator) -> IntArray:
    """Return a share of the patients of each class."""
    chosen = []
    for stratum in patient_strata(group, target):
        wanted = min(max(round(fraction * stratum.size), 1), stratum.size - 1)
        chosen.append(generator.permutation(stratum)[: max(wanted, 0)])
    return np.concatenate(chosen)


def patient_strata(group: IntArray, target: IntArray) -> list[IntArray]:
    """Return the patients of each class, the rarest class first; a patient of several counts for the rarest.

    Args:
        group: Patient number of each study.
        target: Class index of each study.
    """
    labels, counts = np.unique(target, return_counts=True)
    left, strata = np.unique(group), []
    for label in labels[np.argsort(counts, kind="stable")]:
        strata.append(np.intersect1d(left, group[target == label]))
        left = np.setdiff1d(left, strata[-1])
    return strata


def lacking(parts: Sequence[FoldSplit], target: IntArray, *, whole_tests: bool = True) -> str:
    """Return which part lacks which class, in words; empty when none does; of test parts only if asked."""
    for part in parts:
        sides = (("test", part.test), ("tuning", part.tune), ("training", part.train))
        for name, members in sides if whole_tests else sides[1:]:
            absent = np.setdiff1d(target, target[members])
            if absent.size:
                return f"the {name} part of fold {part.name} lacks class {absent[0]}"
    return ""


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
