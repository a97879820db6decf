"""Cells as numbers: scale and categories are the training part's, and what has no code counts as empty."""

import numpy as np
import pytest
import torch

from medmllm.documents import Column, TableContract
from medmllm.preprocessing.table import code_values, learn_table_codes, unknown_categories

TABLE = TableContract(
    columns=(Column(name="age", kind="number", accepted=None), Column(name="sex", kind="category", accepted=None)),
    open_ended="refuse",
    required=False,
)
ROWS = [
    {"age": 50.0, "sex": "M"},
    {"age": 70.0, "sex": "F"},
    None,
    {"age": None, "sex": "M"},
    {"age": 90.0, "sex": "F"},
]
PATIENTS = ["a", "b", "c", "d", "e"]


def test_numbers_are_standardised_by_mean_and_deviation_of_the_rows_that_have_one() -> None:
    codes = learn_table_codes(ROWS, PATIENTS, TABLE)
    coded = [code_values(row, codes) for row in ROWS if row is not None]
    ages = np.array([float(cells[0][0]) for cells in coded if cells is not None and cells[1][0]])
    assert ages.mean() == pytest.approx(0, abs=1e-6)
    assert ages.std() == pytest.approx(1)
    assert codes.columns[0].mean == 70.0  # of 50, 70 and 90


def test_a_category_becomes_its_place_in_the_alphabet_and_an_empty_cell_is_marked() -> None:
    codes = learn_table_codes(ROWS, PATIENTS, TABLE)
    assert codes.columns[1].categories == ("F", "M")
    cells = code_values({"age": None, "sex": "M"}, codes)
    assert cells is not None
    assert torch.equal(cells[0], torch.tensor([0.0, 1.0]))
    assert cells[1] == (False, True)


def test_a_category_that_training_lacks_counts_as_empty_and_is_told_by_its_column() -> None:
    codes = learn_table_codes(ROWS, PATIENTS, TABLE)
    cells = code_values({"age": 70.0, "sex": "X"}, codes)
    assert cells is not None
    assert (cells[0].tolist(), cells[1]) == ([0.0, 0.0], (True, False))
    assert unknown_categories({"age": 70.0, "sex": "X"}, codes) == ("sex",)
    assert unknown_categories({"age": 70.0, "sex": "M"}, codes) == ()
    assert code_values({"age": None, "sex": "X"}, codes) is None


def test_a_category_of_one_patient_alone_however_often_gets_no_code() -> None:
    rows = [*ROWS, {"age": 1.0, "sex": "Z"}, {"age": 2.0, "sex": "Z"}]
    assert learn_table_codes(rows, [*PATIENTS, "f", "f"], TABLE).columns[1].categories == ("F", "M")
    assert learn_table_codes(rows, [*PATIENTS, "f", "g"], TABLE).columns[1].categories == ("F", "M", "Z")


def test_a_constant_or_absent_number_stays_finite() -> None:
    for rows in ([{"age": 4.0, "sex": None}] * 2, [{"age": None, "sex": "M"}, None]):
        codes = learn_table_codes(rows, ["a", "b"], TABLE)
        cells = code_values({"age": 5.0, "sex": None}, codes)
        assert cells is not None
        assert cells[0].isfinite().all()
        assert float(cells[0][0]) == 5.0 - (codes.columns[0].mean or 0.0)
