"""Inner folds: each training study tunes exactly one network of its fold, with all studies of its patient."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmllm.errors import LeakageError, SplitError
from medmllm.records import UNKNOWN
from medmllm.training.class_splits import make_splits
from medmllm.training.held import Carving, hold_classes, hold_labels
from medmllm.training.inner_folds import check_enough_inner, check_inner, nest
from medmllm.training.split_file import plan_given, read_split_file, write_splits
from medmllm.training.splits import FoldSplit, SplitPlan, check_partition


def keys(n: int) -> list[str]:
    return [f"st-{number:016x}" for number in range(n)]


def nested(
    patients: Sequence[str], targets: Sequence[int], *, folds: int = 2, inner: int = 3, seed: int = 5
) -> tuple[SplitPlan, SplitPlan]:
    """Return a plan with one tuning part per fold, and the same with inner folds."""
    outer = make_splits(patients, targets, study_keys=keys(len(patients)), folds=folds, tuning_fraction=0.25, seed=seed)
    own = nest(outer, patients, hold_classes(targets), study_keys=keys(len(patients)), inner_folds=inner, seed=seed)
    return outer, own


def sides(plan: SplitPlan) -> list[tuple[str, list[int], list[int], list[int]]]:
    return [(part.name, part.train.tolist(), part.tune.tolist(), part.test.tolist()) for part in plan.folds]


def plain_cohort(patients: int = 40, positive: int = 10) -> tuple[list[str], list[int]]:
    return [f"p{k}" for k in range(patients)], [int(k < positive) for k in range(patients)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=10, max_size=30),
    st.integers(2, 4),
    st.integers(2, 4),
    st.integers(0, 9),
    st.data(),
)
def test_any_cohort_is_nested_cleanly_or_refused(
    sizes: list[int], folds: int, inner: int, seed: int, data: st.DataObject
) -> None:
    patients = data.draw(st.permutations([f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]))
    targets = data.draw(st.lists(st.integers(0, 1), min_size=len(patients), max_size=len(patients)))
    try:
        outer, plan = nested(patients, targets, folds=folds, inner=inner, seed=seed)
    except SplitError:
        return
    assert len(plan.folds) == folds * inner
    for whole, networks in zip(outer.folds, plan.outer, strict=True):
        rest = sorted([*whole.train, *whole.tune])
        assert sorted(k for part in networks for k in part.tune) == rest  # each training study tunes exactly once
        for part in networks:
            assert part.test.tolist() == whole.test.tolist()
            owners = [{patients[k] for k in side} for side in (part.train, part.tune, part.test)]
            assert not owners[0] & owners[1]
            assert not owners[0] & owners[2]
            assert not owners[1] & owners[2]
            assert sorted([*part.train, *part.tune]) == rest
            assert {targets[k] for k in part.train} == {targets[k] for k in part.tune} == set(targets)
    assert plan.test_fold.tolist() == outer.test_fold.tolist()


def test_inner_folds_keep_the_share_of_positives() -> None:
    _, plan = nested(*plain_cohort(200, 48), folds=2, inner=4)
    assert [(part.tune.size, int((part.tune < 48).sum())) for part in plan.folds] == [(25, 6)] * 8


def test_the_same_seed_gives_the_same_inner_folds_whatever_patients_are_called() -> None:
    patients, targets = plain_cohort()
    renamed = [f"q{len(patients) - k}" for k in range(len(patients))]
    assert sides(nested(patients, targets)[1]) == sides(nested(renamed, targets)[1])
    assert sides(nested(patients, targets, seed=5)[1]) != sides(nested(patients, targets, seed=6)[1])


def test_the_digest_tells_inner_folds_from_none_from_others_and_from_more() -> None:
    patients, targets = plain_cohort()
    outer, plan = nested(patients, targets)
    other = nest(outer, patients, hold_classes(targets), study_keys=keys(40), inner_folds=3, seed=99)
    more = nest(outer, patients, hold_classes(targets), study_keys=keys(40), inner_folds=4, seed=5)
    assert len({outer.digest, plan.digest, other.digest, more.digest}) == 4


def test_every_label_is_present_and_absent_in_every_inner_fold() -> None:
    rng = np.random.default_rng(1)
    labels = [(int(rng.random() < 0.5), UNKNOWN if k % 5 == 0 else int(rng.random() < 0.3)) for k in range(80)]
    patients = [f"p{k // 2}" for k in range(80)]
    outer = make_splits(patients, [0, 1] * 40, study_keys=keys(80), folds=2, tuning_fraction=0.3, seed=1)
    held = hold_labels(labels, ("nodule", "effusion"))
    for part in nest(outer, patients, held, study_keys=keys(80), inner_folds=3, seed=2).folds:
        for side in (part.train, part.tune):
            assert {labels[k][0] for k in side} == {0, 1}
            assert {labels[k][1] for k in side} >= {0, 1}


def test_every_class_of_a_target_of_three_is_in_every_inner_fold() -> None:
    labels = [(k % 2, UNKNOWN if k % 7 == 0 else k // 2 % 3) for k in range(84)]
    patients = [f"p{k // 2}" for k in range(84)]
    outer = make_splits(patients, [0, 1] * 42, study_keys=keys(84), folds=2, tuning_fraction=0.3, seed=1)
    held = hold_labels(labels, ("nodule", "part"))
    assert held.names[-1] == "'part' of class 2"
    for part in nest(outer, patients, held, study_keys=keys(84), inner_folds=3, seed=2).folds:
        for side in (part.train, part.tune):
            assert {labels[k][1] for k in side} >= {0, 1, 2}


NAMES = ("nodule", "effusion", "fracture")


def nested_labels(half: Sequence[tuple[int, ...]], inner: int = 2) -> SplitPlan:
    """Two folds, each of which trains on these labels and tests on as many like them."""
    n, labels = len(half), [*half, *half]
    first, second, none = np.arange(n), np.arange(n, 2 * n), np.array([], dtype=int)
    outer = SplitPlan((FoldSplit(0, second, none, first), FoldSplit(1, first, none, second)), "")
    held = hold_labels(labels, NAMES)
    return nest(outer, [f"p{k}" for k in range(2 * n)], held, study_keys=keys(2 * n), inner_folds=inner, seed=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=4, max_size=9))
def test_few_studies_of_many_labels_are_nested_whole_or_refused(half: list[tuple[int, ...]]) -> None:
    try:
        plan = nested_labels(half)
    except SplitError:
        return
    table = np.array([*half, *half])
    for part in plan.folds:
        for side in (part.train, part.tune):
            assert [set(column) for column in table[side].T.tolist()] == [set(column) for column in table.T.tolist()]


def test_a_draw_that_leaves_a_part_without_a_value_is_drawn_again_and_refused_where_all_do() -> None:
    # Of this cohort the first draw with this seed puts both fractures into one inner fold.
    half = [(0, 1, 0), (1, 0, 0), (1, 0, 0), (0, 1, 0), (1, 0, 1), (0, 0, 0), (1, 0, 1)]
    assert [{half[k % 7][2] for k in part.tune} for part in nested_labels(half).folds] == [{0, 1}] * 4
    hopeless = [(1, 0, 1), (0, 1, 1), (1, 1, 0), (0, 0, 0), (1, 0, 1), (1, 0, 1)]
    with pytest.raises(
        SplitError, match=r"fold 0\.0 lacks '.*' present in each of 20 shuffles: set training\.inner_folds lower"
    ):
        nested_labels(hopeless)


# --- what is refused ------------------------------------------------------------------------


def inner_parts(*tunes: Sequence[int]) -> list[FoldSplit]:
    """Six studies of training, 6 and 7 tested, by a network per tuning part."""
    test = np.array([6, 7])
    return [FoldSplit(0, np.setdiff1d(np.arange(6), own), np.array(own), test, inner=k) for k, own in enumerate(tunes)]


def test_a_training_study_tunes_once_and_all_networks_of_a_fold_are_tested_alike() -> None:
    check_inner(inner_parts([0, 1], [2, 3], [4, 5]))
    for wrong in (inner_parts([0, 1], [2, 3]), inner_parts([0, 1], [1, 2, 3], [4, 5])):
        with pytest.raises(SplitError, match="do not tune on each training study exactly once"):
            check_inner(wrong)
    first, *others = inner_parts([0, 1, 2], [3, 4, 5])
    with pytest.raises(SplitError, match="do not share one test part"):
        check_inner([replace(first, test=np.array([6]), train=np.array([3, 4, 5, 7])), *others])
    with pytest.raises(SplitError, match="not numbered"):
        check_inner([replace(first, inner=1), *others])


def test_a_patient_on_two_inner_folds_is_refused_by_the_name_of_the_fold() -> None:
    parts = inner_parts([0, 1], [2, 3], [4, 5])
    with pytest.raises(SplitError, match=r"fold 0\.0: 1 patients are in both train and tune"):
        check_partition(parts, ["a", "b", "b", "c", "d", "e", "f", "g"])


@pytest.mark.parametrize(("positive", "inner", "refused"), [(6, 3, False), (5, 3, True), (8, 5, True), (10, 5, False)])
def test_too_few_patients_for_so_many_inner_folds_are_refused_before_anything_is_drawn(
    positive: int, inner: int, refused: bool
) -> None:
    patients, targets = plain_cohort(40, positive)  # of two test parts one has half of the positives, or more
    if refused:
        with pytest.raises(SplitError, match=r"class 1 has at most . patients .*inner_folds lower"):
            check_enough_inner(patients, hold_classes(targets), 2, inner)
    else:
        check_enough_inner(patients, hold_classes(targets), 2, inner)
        nested(patients, targets, inner=inner)


def test_test_parts_that_are_given_are_looked_at_one_by_one() -> None:
    patients, targets = plain_cohort(40, 10)
    tests = [[*range(8), *range(10, 25)], [8, 9, *range(25, 40)]]  # two positives are left beside the first
    check_enough_inner(patients, hold_classes(targets), tests, 2)
    with pytest.raises(SplitError, match="class 1 has at most 2 patients outside the test part of fold 0"):
        check_enough_inner(patients, hold_classes(targets), tests, 3)


# --- the file -------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 3), st.integers(2, 4), st.integers(0, 5))
def test_written_inner_folds_are_read_again_to_the_last_study(
    tmp_path_factory: pytest.TempPathFactory, folds: int, inner: int, seed: int
) -> None:
    patients, targets = plain_cohort(40, 16)
    outer, plan = nested(patients, targets, folds=folds, inner=inner, seed=seed)
    out = tmp_path_factory.mktemp("run")
    write_splits(plan, keys(40), out)
    known = dict(zip(keys(40), patients, strict=True))
    found = read_split_file(out / "splits.json", str, known)
    again = plan_given(found, patients, targets, Carving(hold_classes(targets), keys(40), 0.1, 99, whole_tests=True))
    assert sides(again) == sides(plan)
    assert again.digest == plan.digest
    listed = json.loads((out / "splits_final.json").read_text())  # nnU-Net's: the outer folds
    assert [sorted(fold["val"]) for fold in listed] == [[keys(40)[k] for k in part.test] for part in outer.folds]
    assert all(len(fold["train"]) + len(fold["val"]) == 40 for fold in listed)


def test_a_file_with_a_patient_on_two_inner_folds_is_refused(tmp_path: Path) -> None:
    patients, targets = plain_cohort()
    _, plan = nested(patients, targets)
    write_splits(plan, keys(40), tmp_path)
    one, other = plan.folds[0].tune[0], plan.folds[1].tune[0]
    known = dict(zip(keys(40), patients, strict=True)) | {keys(40)[other]: patients[one]}
    with pytest.raises(LeakageError, match="1 patient is on two sides of fold 0"):
        read_split_file(tmp_path / "splits.json", str, known)


@pytest.mark.parametrize("change", ["moved", "dropped", "doubled"])
def test_inner_folds_changed_by_hand_are_refused(tmp_path: Path, change: str) -> None:
    patients, targets = plain_cohort()
    write_splits(nested(patients, targets)[1], keys(40), tmp_path)
    content = json.loads((tmp_path / "splits.json").read_text())
    first, second, *_ = content["folds"][0]["inner"]
    moved = first.pop() if change != "doubled" else first[0]
    if change != "dropped":
        second.append(moved)
    (tmp_path / "splits.json").write_text(json.dumps(content))
    with pytest.raises(SplitError, match=r"was changed after it was written|neither splits\.json"):
        read_split_file(tmp_path / "splits.json", str, dict(zip(keys(40), patients, strict=True)))


def test_a_part_can_do_without_the_censored_of_a_time_and_without_nothing_else() -> None:
    held = hold_labels([(0, 1), (1, 0), (0, -1)], ("nodule", "days"), times=[1])
    assert held.names == ("'nodule' absent", "'nodule' present", "'days' present")
    assert held.values.tolist() == [[True, False, True], [False, True, False], [True, False, False]]
