"""Folds made wrong on purpose are refused, and patients are numbered by when they come."""

import numpy as np
import pytest

from medmllm.errors import SplitError
from medmllm.training.splits import FoldSplit, check_partition, patient_numbers


def part(fold: int, train: list[int], tune: list[int], test: list[int]) -> FoldSplit:
    return FoldSplit(fold, np.array(train), np.array(tune), np.array(test))


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        # Studies 0 and 1 are of patient a.
        (
            [part(0, [0, 2], [3], [1, 4]), part(1, [1, 4], [3], [0, 2])],
            r"fold 0: 1 patients are in both train and test",
        ),
        ([part(0, [2, 3], [0], [1, 4]), part(1, [1, 4], [3], [0, 2])], r"fold 0: 1 patients are in both tune and test"),
        (
            [part(0, [0, 2], [1], [3, 4]), part(1, [3], [4], [0, 1, 2])],
            r"fold 0: 1 patients are in both train and tune",
        ),
        ([part(0, [2], [3], [0, 1]), part(1, [0, 1], [2], [3, 4])], r"fold 0: train, tune and test are not the whole"),
        ([part(0, [2, 4], [3], [0, 1]), part(1, [0, 1], [2], [3, 4])], r"the test parts hold 4 studies"),
        ([part(0, [3], [4], [0, 1, 2]), part(1, [3], [4], [0, 1, 2])], r"the test parts hold 6 studies"),
        ([], r"the test parts hold 0 studies"),
    ],
)
def test_folds_that_leak_or_miss_a_study_are_refused(folds: list[FoldSplit], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        check_partition(folds, ["a", "a", "b", "c", "d"])


def test_folds_that_are_right_pass_the_last_check() -> None:
    right = [part(0, [2], [3, 4], [0, 1]), part(1, [0, 1, 3], [4], [2]), part(2, [0, 1], [2], [3, 4])]
    check_partition(right, ["a", "a", "b", "c", "d"])


def test_an_array_repr_shows_no_membership() -> None:
    assert repr(part(1, [0], [1], [2])) == "FoldSplit(fold=1, inner=None, repeat=0)"


def test_patients_are_numbered_by_first_appearance_whatever_they_are_called() -> None:
    assert patient_numbers(["z", "a", "z", "nan", "", "a"]).tolist() == [0, 1, 0, 2, 3, 1]
    assert patient_numbers([]).tolist() == []
