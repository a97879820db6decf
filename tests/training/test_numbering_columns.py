"""A column of numbers that numbers patients or studies is remarked; ages, counts and measurements are not."""

from dataclasses import replace

import numpy as np
import pytest

from medmllm.training.cohort import Cohort, Member
from medmllm.training.numbering_columns import remark_numbering
from tests.models.small import TABLE, a_sample

DRAW = np.random.default_rng(7)


def a_cohort(numbers: list[float | None], patients: list[int] | None = None) -> Cohort:
    """A cohort with a number per study in the column `age`, each study another patient's unless told."""
    members = []
    for k, number in enumerate(numbers):
        sample = a_sample(k) if patients is None else replace(a_sample(k), patient_key=f"pt-{patients[k]:016x}")
        members.append(replace(Member(sample, None, {}), values={"age": number, "sex": "F"}))
    return Cohort(tuple(members), (), table=TABLE)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([float(k) for k in DRAW.permutation(np.arange(1, 31))], True),  # rows of a list, in another order
        ([float(k) for k in DRAW.integers(10**6, 10**8, 30)], True),  # hospital numbers
        ([float(k) for k in DRAW.integers(20, 90, 30)], False),  # ages: some are alike
        ([float(k) for k in range(30, 78, 4)], False),  # twelve ages that differ by chance
        ([float(k) + 0.5 for k in range(100, 130)], False),  # measured
        ([7e6 + 137.0 * k for k in range(9)], False),  # too few to tell
        ([None, *(float(k) for k in range(20))], True),
    ],
)
def test_whole_numbers_that_hardly_two_patients_share_are_remarked(numbers: list[float | None], told: bool) -> None:
    said = remark_numbering(a_cohort(numbers))
    assert len(said) == told
    assert all("column 'age'" in line for line in said)
    assert not any(f"{number:.0f}" in line for line in said for number in numbers if number and number > 10**6)


def test_a_number_of_the_patient_is_one_though_it_comes_back_in_each_of_the_studies() -> None:
    patients = [k // 3 for k in range(60)]
    numbers: list[float | None] = [7000.0 + 137 * k for k in patients]
    [said] = remark_numbering(a_cohort(numbers, patients))
    assert "of 20 patients 0 share theirs" in said


def test_a_cohort_without_a_table_has_no_such_column() -> None:
    assert remark_numbering(replace(a_cohort([1.0, 2.0]), table=None)) == []
