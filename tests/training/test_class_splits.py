"""Folds by class: no patient on two sides, every class in every part, and a refusal where that cannot be."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medmllm.errors import SplitError
from medmllm.training.class_splits import make_splits
from medmllm.training.splits import SplitPlan


def keys(n: int) -> list[str]:
    return [f"st-{number:016x}" for number in range(n)]


def split(
    patients: Sequence[str],
    targets: Sequence[int],
    *,
    folds: int = 3,
    tuning_fraction: float = 0.25,
    seed: int = 5,
    study_keys: Sequence[str] | None = None,
) -> SplitPlan:
    return make_splits(
        patients,
        targets,
        study_keys=keys(len(patients)) if study_keys is None else study_keys,
        folds=folds,
        tuning_fraction=tuning_fraction,
        seed=seed,
    )


def membership(plan: SplitPlan) -> list[tuple[list[int], list[int], list[int]]]:
    return [(part.train.tolist(), part.tune.tolist(), part.test.tolist()) for part in plan.folds]


def exam_cohort() -> tuple[list[str], list[int]]:
    """60 patients with 1 to 3 studies each; every third is positive, every tenth has studies of both classes."""
    patients, targets = [], []
    for number in range(60):
        for study in range(1 + number % 3):
            patients.append(f"pt-{number}")
            targets.append(int(number % 3 == 0) if number % 10 else study % 2)
    return patients, targets


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[str], list[int], int, float, int]:
    """Any cohort: 2 or 3 classes, patients with one to five studies of any mix, in any order."""
    classes = draw(st.integers(2, 3))
    sizes = draw(st.lists(st.integers(1, 5), min_size=8, max_size=30))
    patients = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    patients = draw(st.permutations(patients))
    targets = draw(st.lists(st.integers(0, classes - 1), min_size=len(patients), max_size=len(patients)))
    return (
        patients,
        targets,
        draw(st.integers(2, 5)),
        draw(st.sampled_from([0.1, 0.2, 0.34, 0.45])),
        draw(st.integers(0, 9)),
    )


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_any_cohort_is_split_cleanly_or_refused(cohort: tuple[list[str], list[int], int, float, int]) -> None:
    patients, targets, folds, tuning_fraction, seed = cohort
    try:
        plan = split(patients, targets, folds=folds, tuning_fraction=tuning_fraction, seed=seed)
    except SplitError:
        assume(False)
        return
    assert len(plan.folds) == folds
    for part in plan.folds:
        sides = [{patients[index] for index in side} for side in (part.train, part.tune, part.test)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
        assert sorted([*part.train, *part.tune, *part.test]) == list(range(len(patients)))
        for side in (part.train, part.tune, part.test):
            assert {targets[index] for index in side} == set(targets)
    assert sorted(index for part in plan.folds for index in part.test) == list(range(len(patients)))
    for index, fold in enumerate(plan.test_fold):
        assert index in plan.folds[fold].test


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.lists(st.integers(0, 3), min_size=2, max_size=3), st.integers(0, 99), st.integers(1, 3))
def test_a_cohort_of_one_class_per_patient_with_enough_of_each_is_never_refused(
    folds: int, spare: list[int], seed: int, studies: int
) -> None:
    # One patient of each class in each test part leaves at least two for training and tuning.
    enough = max(folds, 4)
    classes = [label for label, more in enumerate(spare) for _ in range(enough + more)]
    patients = [f"p{number}" for number in range(len(classes)) for _ in range(studies)]
    plan = split(
        patients, [label for label in classes for _ in range(studies)], folds=folds, tuning_fraction=0.2, seed=seed
    )
    assert len(plan.folds) == folds


def test_test_parts_and_tuning_parts_keep_the_share_of_positives_and_the_size_asked_for() -> None:
    patients = [f"p{number}" for number in range(200)]
    targets = [int(number < 50) for number in range(200)]  # a quarter positive
    for part in split(patients, targets, folds=5, tuning_fraction=0.2).folds:
        assert (part.test.size, sum(targets[index] for index in part.test)) == (40, 10)
        assert (part.tune.size, sum(targets[index] for index in part.tune)) == (32, 8)  # a fifth of the other 160


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    patients, targets = exam_cohort()
    assert membership(split(patients, targets, seed=5)) == membership(split(patients, targets, seed=5))
    assert split(patients, targets, seed=5).digest == split(patients, targets, seed=5).digest
    assert membership(split(patients, targets, seed=5)) != membership(split(patients, targets, seed=6))
    assert split(patients, targets, seed=5).digest != split(patients, targets, seed=6).digest


def test_the_global_random_state_neither_matters_nor_moves() -> None:
    patients, targets = exam_cohort()
    np.random.seed(1)  # noqa: NPY002 - it is this state that must not matter
    first = membership(split(patients, targets))
    moved = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.random.random() == moved  # noqa: NPY002
    assert membership(split(patients, targets)) == first


def test_how_patients_are_named_does_not_change_the_split() -> None:
    patients, targets = exam_cohort()
    renamed = [hashlib.sha256(patient.encode()).hexdigest() for patient in patients]  # sorts otherwise
    assert membership(split(renamed, targets)) == membership(split(patients, targets))


def test_the_digest_is_of_the_membership_by_study_key() -> None:
    patients, targets = exam_cohort()
    plan = split(patients, targets)
    lines = sorted(
        f"{part.fold} {name} {key}"
        for part in plan.folds
        for name, side in (("train", part.train), ("tune", part.tune), ("test", part.test))
        for key in np.array(keys(len(patients)))[side]
    )
    by_hand = hashlib.sha256(b"".join(len(line).to_bytes(8, "big") + line.encode() for line in lines))
    assert plan.digest == by_hand.hexdigest()
    other_keys = [f"st-{number:016x}" for number in range(1, len(patients) + 1)]
    assert split(patients, targets, study_keys=other_keys).digest != plan.digest


def test_indices_are_ascending_so_that_a_cohort_keeps_its_order() -> None:
    for part in split(*exam_cohort()).folds:
        for side in (part.train, part.tune, part.test):
            assert (np.diff(side) > 0).all()


def test_a_patient_of_two_classes_is_tuned_for_the_rarer_one() -> None:
    # All positives come from patients that also have negatives: each part must still get both.
    patients = [f"p{number}" for number in range(12) for _ in range(3)]
    targets = [int(number < 6 and study == 0) for number in range(12) for study in range(3)]
    for part in split(patients, targets, folds=3, tuning_fraction=0.2).folds:
        assert {targets[index] for index in part.tune} == {0, 1}


def test_three_patients_of_both_classes_fill_three_folds_with_one_in_each_part() -> None:
    plan = split(["a", "a", "b", "b", "c", "c"], [0, 1, 0, 1, 0, 1], folds=3)
    assert [(one.train.size, one.tune.size, one.test.size) for one in plan.folds] == [(2, 2, 2)] * 3


def test_a_small_tuning_fraction_still_takes_one_patient_of_each_class_and_no_more() -> None:
    patients, targets = [f"p{number}" for number in range(20)], [0, 1] * 10
    for one in split(patients, targets, folds=5, tuning_fraction=0.05).folds:
        assert sorted(targets[index] for index in one.tune) == [0, 1]


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patients", "targets", "folds", "message"),
    [
        ("abc", [0, 1, 0], 4, r"3 patients cannot fill 4 folds: add patients: each class needs 4 of them for 4"),
        ("abab", [0, 1, 0, 1], 3, r"2 patients cannot fill 3 folds"),
        ("abcdef", [1] * 6, 2, r"all 6 studies are of class 1: choose another --target"),
        (
            "abcdef",
            [0, 0, 0, 0, 1, 1],
            3,
            r"1 has 2 patients, fewer than the 3 folds: .*class needs 3 of them for 3 folds\. "
            r"Or is the class a typing mistake in the target's column\?$",
        ),
        ("abcdefgh", [0] * 4 + [1] * 4, 9, r"8 patients cannot fill 9 folds: set training\.folds to at most 4, or"),
        ("abcdefgh", [0] * 5 + [1] * 3, 5, r"class 1 has 3 patients, .*set training\.folds to 3, or add patients\.$"),
        ("abcdeeee", [0, 0, 0, 0, 1, 1, 1, 1], 2, r"class 1 has 1 patient, fewer than the 4 that 2 folds need: "),
        (
            "aaaaaaaaaabcdefgh",  # a has most studies of the class and one test part, b, c and d the other
            [1] * 13 + [0] * 4,
            2,
            r"part of fold \d lacks class 1 in .* shuffles of 8 patients: .* class needs 4",
        ),
        ("abcdefg", [0, 0, 0, 0, 1, 1, 1], 2, r"3 patients, fewer than the 4 that 2 folds need: .*folds to 3, or add"),
        ("ab", [0, 1], 1, r"training\.folds is 1, at least 2"),
        ("ab", [0, -1], 2, r"a target is negative"),
        ("ab", [0, 1, 1], 2, r"2 patients, 3 targets and 2 study keys: one each per study"),
        ("", [], 2, r"0 patients cannot fill 2 folds"),
    ],
)
def test_a_cohort_that_cannot_be_split_is_refused_with_the_way_out(
    patients: str, targets: list[int], folds: int, message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        split(list(patients), targets, folds=folds)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, float("nan")])
def test_a_tuning_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(SplitError, match=r"tuning_fraction is .*between 0 and 1"):
        split(*exam_cohort(), tuning_fraction=fraction)


def test_a_study_key_given_twice_is_refused() -> None:
    with pytest.raises(SplitError, match="1 study keys are given twice"):
        split(["a", "b", "c"], [0, 1, 0], study_keys=["st-1", "st-2", "st-2"])


def test_a_class_whose_studies_all_lie_with_one_large_patient_is_refused_and_names_no_patient() -> None:
    patients = ["Erika Mustermann"] * 8 + [f"p{number}" for number in range(9)]
    with pytest.raises(SplitError) as caught:
        split(patients, [1] * 8 + [0] * 9)
    assert "class 1 has 1 patient" in str(caught.value)
    assert "Mustermann" not in str(caught.value)


def test_every_split_goes_through_the_last_check(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        "medmllm.training.class_splits.check_partition", lambda parts, patients: seen.append(len(parts))
    )
    split(*exam_cohort(), folds=4)
    assert seen == [4]
