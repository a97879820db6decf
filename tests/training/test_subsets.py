"""Parts of the training patients: nested, of whole patients, stratified, and nothing but training."""

import itertools

import numpy as np
import pytest

from medmllm.errors import SplitError
from medmllm.records import UNKNOWN, Survival
from medmllm.training.class_splits import make_splits
from medmllm.training.held import Called, hold_classes
from medmllm.training.inner_folds import nest
from medmllm.training.splits import FoldSplit, SplitPlan, outer_folds
from medmllm.training.subsets import nested_subsets
from medmllm.training.survival_strata import subset_classes

FRACTIONS = (0.25, 0.5, 0.75)
PATIENTS = [f"p{k % 60}" for k in range(90)]  # every second one of them has two studies
TARGETS = [int(k % 60 % 5 == 0) for k in range(90)]  # 12 of 60 patients


def plan() -> SplitPlan:
    keys = [f"s{k}" for k in range(90)]
    return make_splits(PATIENTS, TARGETS, study_keys=keys, folds=3, tuning_fraction=0.25, seed=3)


def parts(*fractions: float, seed: int = 3) -> tuple[tuple[FoldSplit, ...], ...]:
    return nested_subsets(plan().folds, PATIENTS, TARGETS, fractions, seed=seed)


def named(members: np.ndarray) -> set[str]:
    return {PATIENTS[k] for k in members}


def test_each_part_lies_within_the_next_and_within_the_training_part() -> None:
    for whole, *steps in zip(plan().folds, *parts(*FRACTIONS), strict=True):
        chain = [set(step.train.tolist()) for step in steps] + [set(whole.train.tolist())]
        for smaller, larger in itertools.pairwise(chain):
            assert smaller < larger


def test_a_patient_is_taken_with_all_studies_or_not_at_all() -> None:
    for whole, part in zip(plan().folds, parts(0.5)[0], strict=True):
        left_out = np.setdiff1d(whole.train, part.train)
        assert named(part.train) & named(left_out) == set()
        assert np.array_equal(part.train, np.sort(part.train))


def test_tuning_and_test_parts_stay_as_they_are() -> None:
    for whole, part in zip(plan().folds, parts(0.25)[0], strict=True):
        assert part.fold == whole.fold
        assert np.array_equal(part.tune, whole.tune)
        assert np.array_equal(part.test, whole.test)


def test_every_class_keeps_its_share_of_patients() -> None:
    for whole, part in zip(plan().folds, parts(0.5)[0], strict=True):
        for label in (0, 1):
            had = len(named(np.array([k for k in whole.train if TARGETS[k] == label])))
            has = len(named(np.array([k for k in part.train if TARGETS[k] == label])))
            assert has == pytest.approx(had / 2, abs=0.5)


def test_the_full_fraction_is_the_training_part_itself() -> None:
    for whole, part in zip(plan().folds, parts(1.0)[0], strict=True):
        assert np.array_equal(part.train, whole.train)


def test_the_seed_decides_whatever_patients_are_called_and_other_fractions_are_asked_for() -> None:
    (first,) = parts(0.5)
    renamed = nested_subsets(plan().folds, [f"z{99 - int(p[1:])}" for p in PATIENTS], TARGETS, FRACTIONS, seed=3)[1]
    assert all(np.array_equal(a.train, b.train) for a, b in zip(first, renamed, strict=True))
    assert any(not np.array_equal(a.train, b.train) for a, b in zip(first, parts(0.5, seed=4)[0], strict=True))


def test_folds_choose_independently() -> None:
    same = FoldSplit(0, np.arange(60), np.arange(0), np.arange(60, 90))
    folds = (same, FoldSplit(1, same.train, same.tune, same.test))
    one, other = nested_subsets(folds, PATIENTS, TARGETS, [0.5], seed=3)[0]
    assert not np.array_equal(one.train, other.train)


def test_fewer_than_two_patients_of_a_class_are_refused_with_the_fold_and_the_fraction() -> None:
    with pytest.raises(SplitError, match=r"too few patients of class 1: 1 in 0\.1 of the training part of fold 0"):
        parts(0.1)  # a tenth of 6 training patients of class 1


def test_two_studies_of_one_patient_are_not_two_patients() -> None:
    patients, targets = ["a", "a", "b", "b", "c", "d", "e", "f"], [1, 1, 1, 1, 0, 0, 0, 0]
    fold = FoldSplit(0, np.arange(8), np.arange(0), np.arange(0))
    with pytest.raises(SplitError, match=r"of class 1: 1 in 0\.5 "):
        nested_subsets([fold], patients, targets, [0.5], seed=1)


def test_parts_for_several_targets_nest_and_hold_every_class_as_often_as_asked() -> None:
    rng = np.random.default_rng(4)
    patients = [f"p{k}" for k in range(120) for _ in range(1 + k % 2)]
    owner = np.array([int(name[1:]) for name in patients])
    labels = np.where(rng.random((120, 2)) < [0.0, 0.3], UNKNOWN, rng.random((120, 2)) < [0.5, 0.2]).astype(int)[owner]
    train, rest = np.flatnonzero(owner < 100), np.flatnonzero(owner >= 100)
    fold = FoldSplit(0, train, rest[::2], rest[1::2])
    targets = [tuple(map(int, own)) for own in labels]
    small, large = (parts[0] for parts in nested_subsets([fold], patients, targets, [0.25, 0.5], seed=2))
    assert set(small.train) < set(large.train) < set(train)
    assert np.isin(owner[large.train], owner[np.setdiff1d(train, large.train)]).sum() == 0  # patients are whole
    for part, share in ((small, 0.25), (large, 0.5)):
        for label in (0, 1):
            for value in (0, 1):
                held = len(set(owner[part.train][labels[part.train, label] == value]))
                of = len(set(owner[train][labels[train, label] == value]))
                assert held == pytest.approx(share * of, abs=2.5)


def test_a_part_that_lacks_patients_of_a_class_of_one_target_is_refused() -> None:
    patients = [f"p{k}" for k in range(24)]
    targets = [(k % 2, int(k < 3) if k % 3 else UNKNOWN) for k in range(24)]
    fold = FoldSplit(0, np.arange(20), np.array([20, 21]), np.array([22, 23]))
    with pytest.raises(SplitError, match=r"too few patients of class 1: . in 0\.5"):
        nested_subsets([fold], patients, targets, [0.5], seed=2)
    with pytest.raises(SplitError, match=r"too few patients of class 1 of 'fracture': . in 0\.5"):
        nested_subsets([fold], patients, targets, [0.5], seed=2, called=Called(("nodule", "fracture")))


def test_all_networks_of_a_fold_learn_from_the_same_part_but_for_what_each_tunes_on() -> None:
    whole = nest(
        plan(), PATIENTS, hold_classes(TARGETS), study_keys=[f"s{k}" for k in range(90)], inner_folds=3, seed=3
    )
    quarter, half = nested_subsets(whole.folds, PATIENTS, TARGETS, (0.5, 0.75), seed=3)
    for networks, small, large in zip(*map(outer_folds, (whole.folds, quarter, half)), strict=True):
        rest = named(np.concatenate([own.tune for own in networks]))
        learnt = [set[str]().union(*(named(own.train) for own in part)) for part in (small, large)]
        assert learnt[0] < learnt[1] < rest
        for share, own in zip((0.5, 0.75), learnt, strict=True):
            for label in (0, 1):
                of_class = {PATIENTS[k] for k in range(90) if TARGETS[k] == label}
                assert len(own & of_class) == pytest.approx(share * len(rest & of_class), abs=0.5)
        for parts_, learns in zip((small, large), learnt, strict=True):
            for network, part in zip(networks, parts_, strict=True):
                assert (part.fold, part.inner) == (network.fold, network.inner)
                assert np.array_equal(part.tune, network.tune)
                assert np.array_equal(part.test, network.test)
                assert named(part.train) == learns - named(network.tune)
                # As many from each inner fold: of 20 patients or more, two thirds but for one of either class.
                assert len(named(part.train)) == pytest.approx(len(learns) * 2 / 3, abs=1.5)


def test_parts_for_several_targets_hold_as_many_patients_of_each_inner_fold() -> None:
    patients, rng = [f"p{k}" for k in range(160)], np.random.default_rng(6)
    labels = [tuple(map(int, rng.integers(0, 2, 2))) for _ in patients]
    train, rest, tuned = np.arange(120), np.arange(120, 160), (np.arange(30), np.arange(30, 120))
    inner = [FoldSplit(0, np.setdiff1d(train, own), own, rest, k) for k, own in enumerate(tuned)]
    for seed in range(3):
        quarter, half = nested_subsets(inner, patients, labels, (0.25, 0.5), seed=seed)
        assert [len(own.train) for own in quarter] == pytest.approx([90 / 4, 30 / 4], abs=1)
        assert [len(own.train) for own in half] == pytest.approx([90 / 2, 30 / 2], abs=1)


def test_a_network_left_with_too_few_patients_of_a_class_is_refused_by_its_inner_fold() -> None:
    whole = nest(
        plan(), PATIENTS, hold_classes(TARGETS), study_keys=[f"s{k}" for k in range(90)], inner_folds=2, seed=3
    )
    with pytest.raises(
        SplitError, match=r"too few patients of class 1: [01] in 0\.25 of the training part of fold 0\.[01],"
    ):
        nested_subsets(whole.folds, PATIENTS, TARGETS, (0.25,), seed=3)


def test_of_times_a_part_keeps_its_share_of_events_and_can_do_without_the_censored() -> None:
    came = [int(k % 60 != 7) for k in range(90)]  # one patient is censored
    truth, times = subset_classes([Survival(1.0 + k, event=bool(own)) for k, own in enumerate(came)])
    assert (truth, times) == (came, [0])
    (half,) = nested_subsets(plan().folds, PATIENTS, truth, (0.5,), seed=3, times=times)
    for whole, part in zip(plan().folds, half, strict=True):
        had, has = (len({PATIENTS[k] for k in own.train if came[k]}) for own in (whole, part))
        assert has == pytest.approx(had / 2, abs=0.5)
    with pytest.raises(SplitError, match=r"too few patients with the event: 1 in 0\.02"):
        nested_subsets(plan().folds, PATIENTS, truth, (0.02,), seed=3, times=times)


def test_among_several_targets_a_time_is_drawn_by_whether_the_event_came() -> None:
    targets = [(k % 2, Survival(1.0 + k, event=k % 60 != 7) if k % 4 else UNKNOWN) for k in range(90)]
    truth, times = subset_classes(targets)
    assert truth[:8] == [(0, -1), (1, 1), (0, 1), (1, 1), (0, -1), (1, 1), (0, 1), (1, 0)]
    assert times == [1]
    few = [(own, -1 if k > 3 else when) for k, (own, when) in enumerate(truth)]
    with pytest.raises(SplitError, match="too few patients with the event"):
        nested_subsets(plan().folds, PATIENTS, few, (0.5,), seed=3, times=times)
