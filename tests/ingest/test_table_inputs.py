"""Columns as input: numbers and words are told apart, anything odd is refused, and the target is no input."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from medmllm.documents import AcceptedRange, TableContract
from medmllm.errors import ContractError, LabelError
from medmllm.ingest.study_folder import StudyIndex
from medmllm.ingest.table_inputs import accept_numbers, check_columns, check_inputs, read_values, settle_columns
from medmllm.ingest.tables import LabelTable, TableRow, parse_target
from medmllm.records import Study
from medmllm.table_documents import TableSettings
from medmllm.table_rows import ProblemRow


def settings(*columns: str, categorical: tuple[str, ...] = (), open_ended: str = "refuse") -> TableSettings:
    return TableSettings(columns=columns, categorical=categorical, open_ended=open_ended, required=False)


def studies_of(**columns: list[str]) -> list[Study]:
    """One study per row; its lines start at 2, as in a file with a header."""
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return [Study(f"st-{k}", f"pt-{k}", "folder", facts=TableRow(k + 2, row)) for k, row in enumerate(rows)]


def kinds(contract: TableContract | None) -> dict[str, str]:
    assert contract is not None
    return {column.name: column.kind for column in contract.columns}


def test_numbers_and_words_are_recognised_and_numbers_that_are_names_are_declared() -> None:
    studies = studies_of(age=["60", "6.1e1", " -3 "], sex=["F", "M", "na"], scanner=["1", "2", "2.0"])
    found = settle_columns(studies, settings("sex", "age", "scanner", categorical=("scanner",)))
    assert kinds(found) == {"sex": "category", "age": "number", "scanner": "category"}
    assert found is not None
    assert read_values(studies[1], found) == {"sex": "M", "age": 61.0, "scanner": "2"}
    assert read_values(studies[2], found) == {"sex": None, "age": -3.0, "scanner": "2"}


def test_no_columns_mean_no_table() -> None:
    assert settle_columns(studies_of(age=["1", "2"]), settings()) is None


@pytest.mark.parametrize("cell", ["63Y", "50-60", "1,5", "1/2", "2021-03-05", "1_000", "unknown", "A+", "inf"])
def test_a_cell_that_is_neither_a_number_nor_a_word_like_the_others_is_refused_by_line(cell: str) -> None:
    with pytest.raises(
        LabelError, match=r"^line 3 of the label table: the cell in column 'age' .* categorical"
    ) as caught:
        settle_columns(studies_of(age=["60", cell, "61"]), settings("age"))
    assert cell not in caught.value.reason


@pytest.mark.parametrize("cells", [["063Y", "071Y"], ["50-60", "60-70"], ["2021-03-05", "2021-03-06"]])
def test_a_column_without_any_number_whose_cells_begin_like_one_is_refused(cells: list[str]) -> None:
    with pytest.raises(LabelError, match="though it begins like one"):
        settle_columns(studies_of(age=cells), settings("age"))
    assert kinds(settle_columns(studies_of(age=cells), settings("age", categorical=("age",)))) == {"age": "category"}


@pytest.mark.parametrize(
    ("cell", "bound"), [("89+", 89.0), (">89", 89.0), ("<= 18", 18.0), ("≥90", 90.0), ("90 +", 90.0)]
)
def test_an_open_ended_cell_is_refused_or_read_as_the_number_it_names(cell: str, bound: float) -> None:
    studies = studies_of(age=["60", cell, "61"])
    with pytest.raises(LabelError, match=r"line 3 .* column 'age' is open-ended .*open_ended = \"bound\"") as caught:
        settle_columns(studies, settings("age"))
    assert cell not in caught.value.reason
    found = settle_columns(studies, settings("age", open_ended="bound"))
    assert found is not None
    assert read_values(studies[1], found) == {"age": bound}


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["5", "5.0", ""], "one value only"),
        (["", "nan", "NA"], "no value"),
        ([f"word {chr(97 + k // 26)}{chr(97 + k % 26)}" for k in range(51)], "51 different categories, at most 50"),
    ],
)
def test_a_column_with_nothing_to_learn_from_or_too_many_names_is_refused(cells: list[str], why: str) -> None:
    with pytest.raises(LabelError, match=why):
        settle_columns(studies_of(note=cells), settings("note"))


def test_a_column_that_says_who_a_row_is_about_is_no_input() -> None:
    with pytest.raises(LabelError, match="'patient_id', which says who"):
        settle_columns(studies_of(age=["60", "61"]), settings("patient_id"))


def test_an_unknown_column_is_answered_with_the_nearest() -> None:
    with pytest.raises(LabelError, match=r"no column 'agee'; did you mean 'age'\?"):
        settle_columns(studies_of(age=["1", "2"]), settings("agee"))


@pytest.mark.parametrize("target", ["grade", "grade>=3", "grade == high"])
def test_what_the_target_is_made_of_is_no_input(target: str) -> None:
    with pytest.raises(LabelError, match=r"names 'grade', which the target 'grade.*' is made of"):
        check_inputs(settings("age", "grade"), parse_target(target))
    check_inputs(settings("age", "grading"), parse_target(target))


def test_a_row_without_any_value_is_none_and_so_is_no_row() -> None:
    found = settle_columns(studies_of(age=["60", "61"], sex=["F", "M"]), settings("age", "sex"))
    assert found is not None
    assert read_values(studies_of(age=["null"], sex=[" "])[0], found) is None
    assert read_values(Study("st-9", "pt-9", "folder"), found) is None


def test_numbers_are_accepted_within_the_cohorts_range_and_a_margin() -> None:
    table = settle_columns(studies_of(age=["20", "60"], sex=["F", "M"]), settings("age", "sex"))
    assert table is not None
    cohort = [{"age": 20.0, "sex": "F"}, None, {"age": 60.0, "sex": None}, {"age": None, "sex": "M"}]
    accepted = accept_numbers(table, cohort, margin=0.5)
    assert accepted.columns[0].accepted == AcceptedRange(low=0.0, high=80.0)  # 40 wide, so 20 more on either side
    assert accepted.columns[1].accepted is None
    assert read_values(studies_of(age=["80"], sex=["F"])[0], accepted) == {"age": 80.0, "sex": "F"}
    with pytest.raises(ContractError, match=r"column 'age' lies outside .* 0 to 80") as caught:
        read_values(studies_of(age=["731"], sex=["F"])[0], accepted)  # months
    assert caught.value.code == "table_out_of_range"
    assert "731" not in caught.value.reason


@pytest.mark.parametrize(("cell", "code"), [("63Y", "not_a_number"), ("89+", "open_ended")])
def test_an_odd_cell_of_a_study_to_be_scored_is_refused_by_its_column(cell: str, code: str) -> None:
    table = settle_columns(studies_of(age=["20", "60"]), settings("age"))
    assert table is not None
    with pytest.raises(ContractError, match="column 'age'") as caught:
        read_values(studies_of(age=[cell])[0], table)
    assert caught.value.code == code
    assert cell not in caught.value.reason


def index_of(studies: list[Study], *, unfit: int = 0) -> StudyIndex:
    """Of studies and rows of a table that fit none of them."""
    row = ProblemRow(
        where_key=f"st-{'0' * 16}", study_key=None, severity="warning", code="row_without_study", reason="no study",
        retryable=False,
    )  # fmt: skip
    return StudyIndex(tuple(studies), (row,) * unfit, ())


def table_of(*columns: str, rows: int) -> LabelTable:
    return LabelTable(Path("t.csv"), "study_id", columns, {f"s{k}": TableRow(k, {}) for k in range(rows)}, {}, {})


@pytest.fixture
def reads_age() -> TableContract:
    found = settle_columns(studies_of(age=["20", "60"]), settings("age"))
    assert found is not None
    return found


def test_a_table_given_for_scoring_must_have_the_columns_and_one_found_may_lack_them(
    reads_age: TableContract, caplog: pytest.LogCaptureFixture
) -> None:
    others = index_of(studies_of(agee=["20"]))
    with pytest.raises(LabelError, match=r"--table.* no column 'age'; did you mean 'agee'"):
        check_columns(others, reads_age, given=table_of("agee", rows=1))
    with caplog.at_level(logging.WARNING, logger="medmllm"):
        check_columns(others, reads_age, given=None)
    assert "no study has a cell in column 'age', which the model reads: give the --table" in caplog.text
    caplog.clear()
    check_columns(index_of(studies_of(age=["20"]), unfit=1), reads_age, given=table_of("age", rows=2))
    check_columns(others, None, given=None)
    assert caplog.text == ""


def test_a_table_given_for_scoring_whose_rows_fit_no_study_is_refused_and_says_by_what_it_was_joined(
    reads_age: TableContract,
) -> None:
    bare = [Study("st-0", "pt-0", "folder"), Study("st-1", "pt-1", "folder")]
    with pytest.raises(LabelError, match=r"no row of the --table, of 3, fits any of the 2 studies.*'study_id'"):
        check_columns(index_of(bare, unfit=3), reads_age, given=table_of("age", rows=3))


def test_a_table_given_to_a_model_that_reads_none_is_said_to_be_of_no_use(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="medmllm"):
        check_columns(index_of(studies_of(age=["20"])), None, given=table_of("age", rows=1))
    assert caplog.text.count("the model reads no column of the --table") == 1


@pytest.mark.parametrize(
    "cells", [[f"word{chr(97 + k)}" for k in range(20)], ["same", "same", *map(chr, range(97, 117))]]
)
def test_a_column_of_words_that_are_nearly_all_one_patients_is_refused(cells: list[str]) -> None:
    with pytest.raises(LabelError, match=r"share it with another patient, fewer than 10%.*identifiers") as caught:
        settle_columns(studies_of(word=cells), settings("word"))
    assert cells[-1] not in caught.value.reason.split()


def test_words_that_some_patients_share_and_numbers_of_one_patient_each_are_read() -> None:
    words, ages = ["site a"] * 4 + [f"site {chr(98 + k)}" for k in range(16)], [str(20 + k) for k in range(20)]
    found = settle_columns(studies_of(site=words, age=ages), settings("site", "age"))
    assert kinds(found) == {"site": "category", "age": "number"}


def test_a_word_in_two_studies_of_one_patient_is_still_that_patients_alone() -> None:
    cells = [f"word{chr(97 + k // 2)}" for k in range(24)]
    studies = [replace(study, patient_key=f"pt-{k // 2}") for k, study in enumerate(studies_of(word=cells))]
    with pytest.raises(LabelError, match="of 12 patients with a value in 'word', 0 share it"):
        settle_columns(studies, settings("word"))
