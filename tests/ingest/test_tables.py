"""Label tables and targets: what is read, what is refused, and that no cell is ever quoted."""

import copy
from pathlib import Path

import pytest

from medmllm.errors import LabelError
from medmllm.ingest.tables import LabelTable, TableRow, Targets, assign_targets, parse_target, read_label_table
from medmllm.records import Study


def table_of(tmp_path: Path, text: str, name: str = "labels.csv") -> LabelTable:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_label_table(tmp_path / name)


def studies_of(column: str, *cells: str | None) -> list[Study]:
    """One study per cell, on the lines 2, 3 ... of its table; None: the study has no row."""
    return [
        Study(
            f"st-{number}", f"pt-{number}", "folder", facts={} if cell is None else TableRow(number + 2, {column: cell})
        )
        for number, cell in enumerate(cells)
    ]


def targets_of(expression: str, *cells: str | None, column: str = "grade") -> Targets:
    return assign_targets(studies_of(column, *cells), parse_target(expression))


# --- reading -------------------------------------------------------------------------------


def test_a_table_by_study_keeps_facts_and_patients_apart(tmp_path: Path) -> None:
    table = table_of(tmp_path, "patient_id,study_id,age, grade \nP1,S1,60,3\nP1,S2,61,\n,S3,,5\n")
    assert table.columns == ("age", "grade")
    assert dict(table.by_study["S1"]) == {"age": "60", "grade": "3"}
    assert table.by_study["S2"].line == 3
    assert table.by_patient == {}
    assert table.patient_of == {"S1": "P1", "S2": "P1"}


def test_a_table_by_patient_is_read_from_participants_tsv(tmp_path: Path) -> None:
    table = table_of(tmp_path, "participant_id\tage\nsub-01\t60\n", "participants.tsv")
    assert dict(table.by_patient["sub-01"]) == {"age": "60"}
    assert table.by_study == {}


def test_semicolons_quotes_blank_lines_and_a_byte_order_mark_are_understood(tmp_path: Path) -> None:
    table = table_of(tmp_path, '﻿study_id;finding\n\nS1;"left; lower"\n;\n')
    assert table.by_study["S1"]["finding"] == "left; lower"
    assert table.by_study["S1"].line == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        (
            "recording_id,label\nMEIER,1\n",
            "neither of the columns study_id, patient_id, participant_id; its first line should name",
        ),
        ("study_id,a,a\nMEIER,1,2\n", "column 'a' twice"),
        ("study_id,a\nMEIER,1,2\n", "line 2 of the label table has 3 cells, the header has 2"),
        ("study_id,a\nMEIER\n", "line 2 .* has 1 cells"),
        ("study_id,a\nS1,1\n,MEIER\n", "line 3 .* has no study_id"),
        ("study_id,a\nMEIER,1\nS2,1\nMEIER,2\nS2,1\n", "lines 2, 4 .* same study_id; 1 more are doubled"),
        ("patient_id,a\nMEIER,1\nMEIER,2\n", "lines 2, 3 .* same patient_id$"),
        ('study_id,a\nS1,"MEIER\n', "no valid CSV"),
    ],
)
def test_a_bad_table_is_refused_with_lines_and_columns_but_no_cell(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(LabelError, match=complaint) as refusal:
        table_of(tmp_path, text)
    assert "MEIER" not in refusal.value.reason


def test_a_table_that_is_no_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("study_id,a\nS1,x\nS2,Müller\n".encode("latin-1"))
    with pytest.raises(LabelError, match=r"not UTF-8 text \(line 3\)"):
        read_label_table(tmp_path / "labels.csv")


def test_an_absent_table_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="is not there"):
        read_label_table(tmp_path / "absent.csv")
    with pytest.raises(LabelError, match="cannot be read"):
        read_label_table(tmp_path)


def test_cells_show_in_no_repr_and_rows_travel_between_processes(tmp_path: Path) -> None:
    table = table_of(tmp_path, "study_id,name\nS1,MEIER\n")
    assert "MEIER" not in repr(table)
    assert "S1" not in repr(table)
    row = copy.deepcopy(table.by_study["S1"])  # the same protocol that workers use
    assert (dict(row), row.line, len(row)) == ({"name": "MEIER"}, 2, 1)


# --- targets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("malignancy", ("malignancy", None, None)),
        ("spiculation >= 3", ("spiculation", ">=", "3")),
        ("age<50.5", ("age", "<", "50.5")),
        ("grade == 'G3'", ("grade", "==", "G3")),
        ("WHO grade!=2", ("WHO grade", "!=", "2")),
    ],
)
def test_an_expression_has_column_operator_and_bound(text: str, parts: tuple[str, str | None, str | None]) -> None:
    target = parse_target(text)
    assert (target.column, target.operator, target.bound) == parts


def test_an_expression_has_one_spelling() -> None:
    assert parse_target(" spiculation  >=  3 ").expression == "spiculation>=3"


@pytest.mark.parametrize("text", ["", ">=3", "age>=", "age=3", "age>=old"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(LabelError, match="target"):
        parse_target(text)


@pytest.mark.parametrize(
    ("expression", "positive"),
    [
        ("grade>=3", [2, 3]),
        ("grade>3", [3]),
        ("grade<=2", [0, 1]),
        ("grade<2", [0]),
        ("grade==3", [2]),
        ("grade!=3", [0, 1, 3]),
    ],
)
def test_a_comparison_divides_the_studies(expression: str, positive: list[int]) -> None:
    targets = targets_of(expression, "1", "2", "3.0", "4")
    assert targets.classes == (f"not {expression}", expression)
    assert [int(key[3:]) for key, index in targets.by_study.items() if index] == positive


def test_equality_compares_text_where_it_is_no_number() -> None:
    assert targets_of("grade==G3", "G2", "G3", "g3").by_study == {"st-0": 0, "st-1": 1, "st-2": 0}


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (("1", "0", "1.0"), ("0", "1")),
        (("yes", "no"), ("no", "yes")),
        (("Y", "N"), ("N", "Y")),
        (("True", "False"), ("False", "True")),
        (("positive", "negative"), ("negative", "positive")),
        (("male", "female"), ("female", "male")),
        (("10", "9", "2.5"), ("2.5", "9", "10")),
        (("Thorax", "Head", "Abdomen"), ("Abdomen", "Head", "Thorax")),
    ],
)
def test_classes_of_a_plain_column_stand_negative_first(cells: tuple[str, ...], classes: tuple[str, ...]) -> None:
    targets = targets_of("grade", *cells)
    assert targets.classes == classes
    assert set(targets.by_study.values()) == set(range(len(classes)))


def test_empty_cells_and_studies_without_a_row_are_missing() -> None:
    targets = targets_of("grade", "1", "", "N/A", "n/a", "0", None, "null", " ")
    assert targets.missing == ("st-1", "st-2", "st-3", "st-5", "st-6", "st-7")
    assert targets.by_study == {"st-0": 1, "st-4": 0}


def test_an_absent_column_is_answered_with_the_nearest() -> None:
    with pytest.raises(LabelError, match="no column 'graed'; did you mean 'grade'"):
        targets_of("graed>=3", "1", "2")
    with pytest.raises(LabelError, match="no column 'zzz'; it has grade"):
        targets_of("zzz", "1", "2")


def test_a_column_that_says_who_a_row_is_about_is_no_target() -> None:
    with pytest.raises(LabelError, match=r"'patient_id' says who .* Name a column of findings"):
        targets_of("patient_id", "1", "2")


def test_no_joined_table_at_all_is_said_so() -> None:
    with pytest.raises(LabelError, match="none of the 2 studies found fits a row of the label table"):
        targets_of("grade", None, None)


def test_one_class_only_is_refused() -> None:
    with pytest.raises(LabelError, match=r"2 studies .* 'grade>=1', all of one class: .* Name another --target, or "):
        targets_of("grade>=1", "2", "3", "")
    with pytest.raises(LabelError, match="no study has a value"):
        targets_of("grade", "", "n/a")


@pytest.mark.parametrize("target", ["grade", "grade>=2"])
def test_a_label_that_is_nan_stops_the_training_and_an_empty_one_leaves_the_study_out(target: str) -> None:
    with pytest.raises(LabelError, match=r"line 4 .* column 'grade' is NaN\. Mend it, or leave it empty"):
        targets_of(target, "1", "2", "NaN")
    assert len(targets_of(target, "1", "2", "").by_study) == 2


def test_a_cell_that_is_no_number_is_named_by_its_line_not_its_content() -> None:
    with pytest.raises(LabelError, match=r"line 3 .* column 'grade' is no number") as refusal:
        targets_of("grade>=2", "1", "MEIER", "3")
    assert "MEIER" not in refusal.value.reason


def test_infinite_is_no_number() -> None:
    with pytest.raises(LabelError, match="line 2"):
        targets_of("grade>=2", "inf", "1")


def test_a_column_of_many_values_wants_a_threshold() -> None:
    ages = [str(age) for age in range(40, 61)]
    with pytest.raises(LabelError, match=r"21 different values.*grade>=3"):
        targets_of("grade", *ages)
    assert len(targets_of("grade", *ages[:20]).classes) == 20


def test_targets_do_not_show_which_study_has_which_class_in_a_repr() -> None:
    assert "by_study" not in repr(targets_of("grade", "0", "1"))


def test_spiculation_of_the_lidc_nodules_counts_as_its_table_says(shared: Path) -> None:
    table = read_label_table(shared / "data" / "ct_lidc_nodules" / "labels.csv")
    studies = [Study(name, name, "folder", facts=row) for name, row in table.by_study.items()]
    targets = assign_targets(studies, parse_target("spiculation>=3"))
    lines = (shared / "data" / "ct_lidc_nodules" / "labels.csv").read_text().splitlines()
    place = lines[0].split(",").index("spiculation")
    expected = sum(int(line.split(",")[place]) >= 3 for line in lines[1:])
    assert sum(targets.by_study.values()) == expected
    assert len(targets.by_study) == 134
