"""Split a cohort of one target into folds by patient, and carve a tuning part out of each training fold.

    patients, targets -> test folds -> train and tune within the rest -> checked SplitPlan

All studies of a patient lie on one side. Test folds are stratified by class with scikit-learn's
StratifiedGroupKFold; the tuning part (early stopping, temperature, threshold) takes a share of the
patients of each class. A cohort too small for what was asked is refused, never split unevenly: a part
without one of the classes would make its threshold, temperature or AUROC meaningless.

The split depends on the order of the studies and the seed, not on how patients are named, so that two
sites' secrets give the same folds for the same folder.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from medmllm.errors import SplitError
from medmllm.training.held import (
    Carving,
    ask_of_typing,
    class_word,
    count_patients,
    first_whole,
    hold_classes,
    least_in_words,
    least_patients,
    way_out,
)
from medmllm.training.splits import (
    FoldSplit,
    IntArray,
    SplitPlan,
    check_partition,
    digest_of,
    patient_numbers,
)


def make_splits(
    patients: Sequence[str],
    targets: Sequence[int],
    *,
    study_keys: Sequence[str],
    folds: int,
    tuning_fraction: float,
    seed: int,
    called: Sequence[str] = (),
) -> SplitPlan:
    """Return patient-grouped, stratified folds, each with a tuning part.

    Args:
        patients: Patient of each study.
        targets: Class index of each study, from 0.
        study_keys: Key of each study; they go into the digest.
        folds: Number of test folds, at least 2.
        tuning_fraction: Share of the training patients of each class kept for tuning; 0 to 1, exclusive.
        seed: The same cohort, settings and seed give the same split.
        called: How classes are called in a refusal, as `Called.alone` has them.

    Raises:
        SplitError: The cohort has one class only, too few patients, or no shuffle gives every part every class.
    """
    group, target = _checked(patients, targets, study_keys)
    _check_settings(folds, tuning_fraction)
    _check_enough_patients(group, target, folds, called)

    def draw(generator: np.random.Generator) -> tuple[FoldSplit, ...]:
        return _split(group, target, folds, tuning_fraction, generator)

    parts = first_whole(
        draw,
        hold_classes(targets, called),
        lambda attempt: np.random.default_rng([seed, attempt]),
        f"shuffles of {group.max() + 1} patients: with {folds} folds each class needs {least_patients(folds)} "
        "patients, better more. Add patients of that class, try another number for training.folds (3 or more), or "
        "choose another --target.",
    )
    check_partition(parts, patients)
    return SplitPlan(folds=parts, digest=digest_of(parts, study_keys))


def carve_tuning(
    tests: Sequence[IntArray],
    patients: Sequence[str],
    targets: Sequence[int],
    carving: Carving,
) -> SplitPlan:
    """Return folds with the test parts that are given, and tuning parts carved from the other studies.

    Args:
        tests: Test part of each fold, ascending indices into the cohort.
        patients: Patient of each study.
        targets: Class index of each study, from 0; of a time to an event whether it came.
        carving: How tuning parts are drawn; its share is of the patients of each class.

    Raises:
        SplitError: A part lacks what it has to hold, a study is not tested exactly once, or a patient is on two sides.
    """
    group, target = _checked(patients, targets, carving.study_keys)
    _check_settings(len(tests), carving.tuning_fraction)
    everyone = np.arange(target.size)
    outer = [(np.setdiff1d(everyone, test), test) for test in tests]

    def draw(generator: np.random.Generator) -> tuple[FoldSplit, ...]:
        return _carve(outer, group, target, carving.tuning_fraction, generator)

    parts = first_whole(
        draw,
        carving.held,
        lambda attempt: np.random.default_rng([carving.seed, attempt]),
        "choices of tuning patients: the folds are given, so give others, choose another --target, or add patients of "
        "that class.",
        whole_tests=carving.whole_tests,
    )
    check_partition(parts, patients)
    return SplitPlan(folds=parts, digest=digest_of(parts, carving.study_keys))


def check_enough(patients: Sequence[str], targets: Sequence[int], folds: int, called: Sequence[str] = ()) -> None:
    """Refuse a cohort with one class only, or with fewer patients (of a class) than folds.

    Raises:
        SplitError: Says which, and what to do.
    """
    group, target = _checked(patients, targets, [str(k) for k in range(len(patients))])
    _check_enough_patients(group, target, folds, called)


# --- checks of what came in ----------------------------------------------------------------


def _checked(patients: Sequence[str], targets: Sequence[int], study_keys: Sequence[str]) -> tuple[IntArray, IntArray]:
    """Return (patient number by first appearance, target) of each study."""
    if not len(patients) == len(targets) == len(study_keys):
        raise SplitError(
            f"{len(patients)} patients, {len(targets)} targets and {len(study_keys)} study keys: one each per study"
        )
    if len(set(study_keys)) != len(study_keys):
        raise SplitError(f"{len(study_keys) - len(set(study_keys))} study keys are given twice")
    group, target = patient_numbers(patients), np.asarray(targets, dtype=np.int64)
    if target.size and target.min() < 0:
        raise SplitError("a target is negative: leave studies without a target out before splitting")
    return group, target


def _check_settings(folds: int, tuning_fraction: float) -> None:
    if folds < 2:
        raise SplitError(f"training.folds is {folds}, at least 2 are needed to test on unseen patients")
    if not 0 < tuning_fraction < 1:
        raise SplitError(f"training.tuning_fraction is {tuning_fraction:g}, it lies between 0 and 1")


def _check_enough_patients(group: IntArray, target: IntArray, folds: int, called: Sequence[str]) -> None:
    patients, classes = np.unique(group).size, np.unique(target)
    fewest = min((np.unique(group[target == label]).size for label in classes), default=0)
    if patients < folds:
        raise SplitError(f"{count_patients(patients)} cannot fill {folds} folds: {way_out(fewest, folds)}.")
    if classes.size < 2:
        raise SplitError(
            f"all {target.size} studies are of {class_word(classes[0], called)}: choose another --target, or "
            "add studies of the other class."
        )
    for label in classes:
        with_class = np.unique(group[target == label]).size
        if with_class < least_patients(folds):
            raise SplitError(
                f"{class_word(label, called)} has {count_patients(with_class)}, fewer than {least_in_words(folds)}: "
                f"choose another --target, {way_out(fewest, folds)}.{ask_of_typing(with_class)}"
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
