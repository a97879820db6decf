import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from medmllm.errors import SplitError
from medmllm.records import UNKNOWN
from medmllm.training.held import Carving, hold_labels, lacking
from medmllm.training.label_splits import carve_label_tuning, check_enough_labels, split_labels, stratify
from medmllm.training.splits import SplitPlan

NAMES = ("nodule", "effusion", "fracture")


def a_cohort(patients: int = 90, seed: int = 1) -> tuple[list[str], list[tuple[int, ...]]]:
    """Every third patient has two studies; labels of 10 to 50 %, a fifth of the last one unknown."""
    rng = np.random.default_rng(seed)
    owners, labels = [], []
    for patient in range(patients):
        for _ in range(2 if patient % 3 == 0 else 1):
            own = [int(rng.random() < rate) for rate in (0.5, 0.2, 0.15)]
            own[2] = UNKNOWN if rng.random() < 0.2 else own[2]
            owners.append(f"pt-{patient:04d}")
            labels.append(tuple(own))
    return owners, labels


def split(owners: list[str], labels: list[tuple[int, ...]], seed: int = 3, folds: int = 3) -> SplitPlan:
    keys = [f"st-{k:04d}" for k in range(len(owners))]
    return split_labels(owners, labels, NAMES, study_keys=keys, folds=folds, tuning_fraction=0.25, seed=seed)


def test_a_rare_label_goes_to_every_part_alike() -> None:
    holds = np.zeros((30, 2), dtype=bool)
    holds[:6, 0] = True
    holds[3:21, 1] = True
    part = stratify(holds, [1 / 3] * 3, np.random.default_rng(1))
    assert np.bincount(part).tolist() == [10, 10, 10]
    assert np.bincount(part[holds[:, 0]]).tolist() == [2, 2, 2]
    assert np.bincount(part[holds[:, 1]]).tolist() == [6, 6, 6]


def with_parts(owners: list[str], labels: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Put a target of three classes, one of them rare, in place of the second."""
    part = {owner: (0, 0, 0, 1, 1, 1, 1, 2, UNKNOWN)[int(owner[3:]) % 9] for owner in owners}
    return [(own[0], part[owner], own[2]) for owner, own in zip(owners, labels, strict=True)]


def test_every_class_of_a_target_of_three_is_as_frequent_in_each_part_as_in_all() -> None:
    owners, labels = a_cohort()
    labels = with_parts(owners, labels)
    plan = split(owners, labels)
    table, patients = np.array(labels), np.array(owners)
    for fold in plan.folds:
        for value in range(3):
            own = [len(set(patients[side][table[side, 1] == value])) for side in (fold.test, fold.tune, fold.train)]
            assert own[0] == pytest.approx(sum(own) / 3, abs=1.5)
            assert own[1] == pytest.approx((sum(own) - own[0]) / 4, abs=1.5)
            assert min(own) > 0


def test_a_part_that_lacks_a_class_of_a_target_of_three_is_named() -> None:
    owners, labels = a_cohort()
    labels = with_parts(owners, labels)
    plan = split(owners, labels)
    without = [
        (own[0], 1 if k in plan.folds[1].test and own[1] == 2 else own[1], own[2]) for k, own in enumerate(labels)
    ]
    fault = lacking(plan.folds, hold_labels(without, NAMES))
    assert fault == "the test part of fold 1 lacks 'effusion' of class 2"
    few = [(own[0], 2 if k == 0 else min(own[1], 1), own[2]) for k, own in enumerate(labels)]
    with pytest.raises(
        SplitError, match=r"'effusion' of class 2 has 1 patient, fewer than the 3 folds.* typing mistake in the"
    ):
        split(owners, few)


def test_shares_that_differ_are_kept_for_every_label() -> None:
    holds = np.zeros((40, 2), dtype=bool)
    holds[:8, 0] = holds[8:28, 1] = True
    part = stratify(holds, [0.75, 0.25], np.random.default_rng(2))
    assert np.bincount(part).tolist() == [30, 10]
    assert np.bincount(part[holds[:, 0]]).tolist() == [6, 2]
    assert np.bincount(part[holds[:, 1]]).tolist() == [15, 5]


def test_a_small_part_has_one_of_a_rare_value_where_there_are_enough() -> None:
    holds = np.zeros((20, 2), dtype=bool)
    holds[:2, 0] = holds[5:, 1] = True  # a fifth of two patients is less than half of one
    for seed in range(10):
        part = stratify(holds, [0.8, 0.2], np.random.default_rng(seed))
        assert np.bincount(part[holds[:, 0]]).tolist() == [1, 1]


def test_tuning_parts_are_carved_beside_the_test_parts_that_are_given() -> None:
    owners, labels = a_cohort(60)
    site = np.array([int(owner[3:]) % 3 for owner in owners])
    labels = [(own[0], own[1], UNKNOWN if k == 0 else own[2]) for own, k in zip(labels, site, strict=True)]
    tests = [np.flatnonzero(site == k).tolist() for k in range(3)]

    def carve(*, whole_tests: bool) -> SplitPlan:
        keys = [f"st-{k:04d}" for k in range(len(owners))]
        carving = Carving(hold_labels(labels, NAMES), keys, 0.25, 1, whole_tests=whole_tests)
        return carve_label_tuning(tests, owners, labels, carving)

    plan = carve(whole_tests=False)
    assert [fold.test.tolist() for fold in plan.folds] == tests
    for fold in plan.folds:
        assert not set(np.array(owners)[fold.train]) & set(np.array(owners)[fold.tune])
        assert len(fold.train) + len(fold.tune) == len(owners) - len(fold.test)
        for members in (fold.train, fold.tune):
            assert all({0, 1} <= set(np.array(labels)[members, label]) for label in range(3))
    with pytest.raises(SplitError, match="the test part of fold 0 lacks 'fracture' absent in each of 20"):
        carve(whole_tests=True)


def test_a_given_test_part_that_parts_a_patient_is_refused() -> None:
    owners, labels = a_cohort(60)
    assert owners[0] == owners[1]
    keys = [f"st-{k:04d}" for k in range(len(owners))]
    tests = [list(range(0, len(owners), 2)), list(range(1, len(owners), 2))]
    carving = Carving(hold_labels(labels, NAMES), keys, 0.25, 1, whole_tests=True)
    with pytest.raises(SplitError, match="patients are in both"):
        carve_label_tuning(tests, owners, labels, carving)


def test_no_patient_is_in_two_parts_and_every_study_is_tested_once() -> None:
    owners, labels = a_cohort()
    plan, owner = split(owners, labels), np.array(owners)
    assert sorted(np.concatenate([fold.test for fold in plan.folds])) == list(range(len(owners)))
    for fold in plan.folds:
        sides = [set(owner[members]) for members in (fold.train, fold.tune, fold.test)]
        assert sum(map(len, sides)) == len(set(owners))
        assert sum(map(len, (fold.train, fold.tune, fold.test))) == len(owners)


def test_the_tuning_part_is_the_share_of_the_patients_asked_for() -> None:
    owners, labels = a_cohort()
    owner = np.array(owners)
    for fold in split(owners, labels).folds:
        rest = len(set(owner[fold.train])) + len(set(owner[fold.tune]))
        assert abs(len(set(owner[fold.tune])) - 0.25 * rest) <= 1


def test_labels_are_spread_more_evenly_than_by_groups_alone() -> None:
    def unevenness(tests: list[np.ndarray], table: np.ndarray) -> float:
        """Mean over labels and folds of how far a label's share of positives lies from that of all (the paper's LD)."""
        rates = [[(table[test, k] == 1).mean() for k in range(3)] for test in tests]
        return float(np.abs(np.array(rates) - [(table[:, k] == 1).mean() for k in range(3)]).mean())

    ours, plain = [], []
    for seed in range(6):
        owners, labels = a_cohort(seed=seed)
        table = np.array(labels)
        ours.append(unevenness([fold.test for fold in split(owners, labels, seed).folds], table))
        shuffled = GroupKFold(3, shuffle=True, random_state=seed).split(table, groups=owners)
        plain.append(unevenness([test for _, test in shuffled], table))
    assert np.mean(ours) < 0.5 * np.mean(plain)


def test_the_split_follows_the_seed_and_not_how_patients_are_called() -> None:
    owners, labels = a_cohort()

    def tests(plan: SplitPlan) -> list[list[int]]:
        return [fold.test.tolist() for fold in plan.folds]

    first = split(owners, labels)
    assert split(owners, labels).digest == first.digest
    assert tests(split([f"renamed-{owner}" for owner in owners], labels)) == tests(first)
    assert tests(split(owners, labels, seed=4)) != tests(first)


def test_every_part_holds_both_values_of_every_label() -> None:
    owners, labels = a_cohort(patients=40)
    table = np.array(labels)
    for fold in split(owners, labels).folds:
        for members in (fold.train, fold.tune, fold.test):
            assert all({0, 1} <= set(table[members, label]) for label in range(3))


def test_a_label_of_too_few_patients_is_refused_and_named() -> None:
    owners = [f"p{k // 2}" for k in range(24)]  # two studies each
    labels = [(k % 2, (k // 4) % 2, int(k in (0, 1, 6))) for k in range(24)]
    with pytest.raises(SplitError, match=r"'fracture' present has 2 patients, fewer than the 3 folds"):
        split(owners, labels)
    labels = [(k % 2, (k // 4) % 2, UNKNOWN if k else 0) for k in range(24)]
    with pytest.raises(SplitError, match=r"'fracture' absent has 1 patient,"):
        split(owners, labels)
    with pytest.raises(SplitError, match=r"12 patients cannot fill 13 folds"):
        split(owners, labels, folds=13)


def test_where_no_shuffle_will_do_the_label_is_named() -> None:
    owners = [f"p{k}" for k in range(8)]
    columns = [map(int, column) for column in ("00111010", "00101011", "01110001")]  # four patients each, who overlap
    labels = list(zip(*columns, strict=True))
    with pytest.raises(SplitError, match=r"lacks '\w+' present in each of 20 shuffles of 8 patients"):
        split_labels(owners, labels, NAMES, study_keys=owners, folds=2, tuning_fraction=0.1, seed=1)


def test_two_folds_want_four_patients_of_each_class() -> None:
    owners = [f"p{k}" for k in range(12)]
    labels = [(k % 2, int(k < 3)) for k in range(12)]  # one of the folds would be left with one of the three
    with pytest.raises(SplitError, match=r"'effusion' present has 3 patients, fewer than the 4 that 2 folds need"):
        check_enough_labels(owners, labels, NAMES[:2], 2)
    check_enough_labels(owners, [(k % 2, int(k < 4)) for k in range(12)], NAMES[:2], 2)
