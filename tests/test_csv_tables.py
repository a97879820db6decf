"""Tables: what is written is read back the same, and what cannot be read says where."""

import csv
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medmllm.csv_tables import as_lines, check_writable, read_table, sole_writer, table_writer, write_table
from medmllm.documents import Document
from medmllm.errors import MedmllmError, MisuseError, PackageError
from medmllm.records import Refusal
from medmllm.table_rows import ROWS, LedgerRow, LinkageRow, OutOfFoldRow, PredictionRow, ProblemRow, SeriesRow, StudyRow

STUDY, PATIENT, SERIES, FILE = (
    "st-0123456789abcdef",
    "pt-0123456789abcdef",
    "se-0123456789abcdef",
    "fi-0123456789abcdef",
)


def series(**changes: object) -> SeriesRow:
    fields: dict[str, object] = {
        "series_key": SERIES, "study_key": STUDY, "kind": "nifti", "modality": None, "files": 3, "size_x": 5,
        "size_y": 6, "size_z": None, "spacing_x_mm": 0.1, "spacing_y_mm": 1 / 3, "spacing_z_mm": None,
        "status": "refused", "code": "bad_geometry", "reason": 'gap of 4 mm, "one" slice is missing',
        "plane": "axial", "kernel": None, "contrast": "no", "thickness_mm": 2.5, "time_order": None,
        "manufacturer": "GE", "model": None, "field_strength_t": 1.5, "apart": "EchoTime=90",
    }  # fmt: skip
    return SeriesRow.model_validate(fields | changes)


def prediction(**changes: object) -> PredictionRow:
    fields: dict[str, object] = {
        "study_key": STUDY, "patient_key": PATIENT, "predicted": "b", "probability": 0.7,
        "probabilities": {"a, or [not]": 0.3, "b": 0.7}, "interval_low": 0.5, "interval_high": 0.75,
        "conformal_set": {}, "abstained": None,
        "modalities_used": "image+text", "training_patient": True, "weights_digest": "0a" * 32,
    }  # fmt: skip
    return PredictionRow.model_validate(fields | changes)


OTHERS: list[Document] = [
    StudyRow(
        study_key=STUDY, patient_key=PATIENT, layout="bids", series=2, refused_series=1, notes=0, recordings=3,
        in_table=False,
    ),
    ProblemRow(where_key=FILE, study_key=None, severity="ignored", code="x", reason="äöü", retryable=True),
    LinkageRow(key=STUDY, kind="study", original="1.2.840.1", description=""),
    LedgerRow(study_key=STUDY, patient_key=PATIENT, stage="read", code="x", reason="two\nlines", retryable=False),
]  # fmt: skip


def cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


# --- there and back ------------------------------------------------------------------------


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: type(row).__name__)
def test_a_row_is_read_back_as_it_was_written(row: Document, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    assert write_table(path, type(row), [row, row]) == 2
    assert read_table(path, type(row)) == [row, row]
    assert cells(path)[0] == list(type(row).model_fields)


def test_a_missing_value_is_an_empty_cell_and_numbers_keep_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    write_table(path, SeriesRow, [series()])
    header, row = cells(path)
    written = dict(zip(header, row, strict=True))
    assert (written["modality"], written["size_z"], written["spacing_z_mm"]) == ("", "", "")
    assert float(written["spacing_y_mm"]) == 1 / 3
    assert read_table(path, SeriesRow) == [series()]


def test_probabilities_become_one_column_per_class_in_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_table(path, PredictionRow, [prediction()], classes=("b", "a, or [not]"))
    header = cells(path)[0]
    assert header[3:7] == ["probability", "probabilities[b]", "probabilities[a, or [not]]", "interval_low"]
    assert read_table(path, PredictionRow) == [prediction()]


def test_a_class_without_a_logit_is_an_empty_cell_and_stays_absent(tmp_path: Path) -> None:
    row = OutOfFoldRow(
        study_key=STUDY, patient_key=PATIENT, arm="fused", repeat=0, fold=2, target="yes", predicted="no",
        probabilities={"no": 0.6, "yes": 0.4}, logits={"yes": -0.4}, conformal_set={}, abstained=None,
    )  # fmt: skip
    path = tmp_path / "out_of_fold.csv"
    write_table(path, OutOfFoldRow, [row], classes=("no", "yes"))
    assert cells(path)[0][9:] == [
        "logits[no]", "logits[yes]", "conformal_set[no]", "conformal_set[yes]", "abstained",
    ]  # fmt: skip
    assert cells(path)[1][9:] == ["", "-0.4", "", "", ""]
    assert read_table(path, OutOfFoldRow) == [row]


def test_a_column_that_an_earlier_version_did_not_write_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    row = LedgerRow(study_key=STUDY, patient_key=PATIENT, stage="read", code="x", reason="y", retryable=False)
    write_table(path, LedgerRow, [row])
    header, line = path.read_text().splitlines()
    place = header.split(",").index("stage")
    without = [",".join(cells[:place] + cells[place + 1 :]) for cells in (header.split(","), line.split(","))]
    path.write_text("\n".join(without) + "\n")
    with pytest.raises(
        PackageError, match=r"ledger\.csv has no column 'stage': an earlier version of medmllm"
    ) as caught:
        read_table(path, LedgerRow)
    assert caught.value.code == "missing_column"


reasons = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(st.lists(reasons, max_size=5))
def test_any_text_survives_the_way_through_a_file(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.csv"
        rows = [
            LedgerRow(study_key=STUDY, patient_key=PATIENT, stage="read", code="x", reason=text, retryable=False)
            for text in texts
        ]
        write_table(path, LedgerRow, rows)
        assert [row.reason for row in read_table(path, LedgerRow)] == texts


def test_a_carriage_return_within_a_cell_does_not_end_the_row(tmp_path: Path) -> None:
    row = LinkageRow(key=STUDY, kind="study", original="a\rb", description="c\r\nd")
    write_table(tmp_path / "linkage.csv", LinkageRow, [row, row])
    assert read_table(tmp_path / "linkage.csv", LinkageRow) == [row, row]
    scored = prediction(predicted="a\rb", probabilities={"a\rb": 0.7, "c": 0.3})
    write_table(tmp_path / "predictions.csv", PredictionRow, [scored], classes=("a\rb", "c"))
    assert read_table(tmp_path / "predictions.csv", PredictionRow) == [scored]


def test_lines_made_elsewhere_are_the_same_table(tmp_path: Path) -> None:
    rows = [LinkageRow(key=STUDY, kind="study", original=text, description="") for text in ("a", 'b,"c"', "d\re")]
    write_table(tmp_path / "whole.csv", LinkageRow, rows)
    with table_writer(tmp_path / "lines.csv", LinkageRow) as table:
        table.add_lines(as_lines(LinkageRow, rows[:2]), 2)
        table.add_lines(as_lines(LinkageRow, []), 0)
        table.add(rows[2])
    assert table.count == 3
    assert (tmp_path / "lines.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_each_row_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "studies.csv"
    with table_writer(path, StudyRow) as writer:
        for number in (1, 2):
            writer.write(OTHERS[0])  # type: ignore[arg-type]
            assert len(cells(path)) == 1 + number
            assert writer.count == number


def test_a_table_without_rows_has_its_header_and_reads_as_no_rows(tmp_path: Path) -> None:
    assert write_table(tmp_path / "empty.csv", StudyRow, []) == 0
    assert cells(tmp_path / "empty.csv") == [list(StudyRow.model_fields)]
    assert read_table(tmp_path / "empty.csv", StudyRow) == []


def test_a_table_is_replaced_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "studies.csv"
    for _ in range(2):
        write_table(path, StudyRow, [OTHERS[0]])  # type: ignore[list-item]
    assert len(cells(path)) == 2


def test_a_class_that_the_header_lacks_is_refused_not_dropped(tmp_path: Path) -> None:
    with table_writer(tmp_path / "p.csv", PredictionRow, classes=("b",)) as writer:
        with pytest.raises(PackageError, match="probabilities holds 1 classes that are not among"):
            writer.write(prediction())
        assert writer.count == 0


# --- reading what is wrong -----------------------------------------------------------------


def written(tmp_path: Path, *edits: tuple[str, str]) -> Path:
    path = tmp_path / "series.csv"
    write_table(path, SeriesRow, [series(), series(files=17)])
    text = path.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",17,", ",seventeen,", r"series\.csv, line 3: files: .*valid integer"),
        (",17,", ",,", r"line 3: files: "),
        (",17,", ",0,", r"line 3: files: .*greater than 0"),
        (",17,", ",17,MUSTERMANN,", "line 3: not as many cells as the header has"),
        (",17,5,", ",17,", "line 3: not as many cells as the header has"),
        ("files", "number", r"series\.csv has no column 'files'"),
        ("kind", "kind of file", "has no column 'kind'"),
    ],
)
def test_a_row_of_another_form_is_refused_by_line_and_column(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=message) as caught:
        read_table(written(tmp_path, (old, new)), SeriesRow)
    assert "MUSTERMANN" not in str(caught.value)


def test_a_row_cut_off_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    text = path.read_text()
    path.write_text(text[: text.rindex(",bad_geometry")])
    with pytest.raises(PackageError, match="line 3: not as many cells"):
        read_table(path, SeriesRow)


def test_the_line_is_the_one_an_editor_shows_also_after_a_cell_of_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    write_table(path, LedgerRow, [OTHERS[3]])  # type: ignore[list-item]
    path.write_text(path.read_text() + f"{STUDY},{PATIENT},nowhere,x,y,False\n")  # the first row takes lines 2 and 3
    with pytest.raises(PackageError, match=r"ledger\.csv, line 4: stage: "):
        read_table(path, LedgerRow)


def test_a_name_where_a_key_belongs_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="study_key") as caught:
        read_table(written(tmp_path, (STUDY, "MUSTERMANN^ERIKA")), SeriesRow)
    assert "MUSTERMANN" not in str(caught.value)


def test_a_dict_given_as_one_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_table(path, PredictionRow, [prediction()], classes=("b", "a, or [not]"))
    for order in ("probabilities[b],probabilities", "probabilities,probabilities[b]"):
        path.write_text(path.read_text().replace('probabilities[b],"probabilities[a, or [not]]"', order))
        with pytest.raises(PackageError, match="probabilities: "):
            read_table(path, PredictionRow)


def test_a_table_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"cannot read absent\.csv: No such file"):
        read_table(tmp_path / "absent.csv", StudyRow)
    (tmp_path / "binary.csv").write_bytes(b"study_key\n\xff\xfe\n")
    with pytest.raises(PackageError, match=r"binary\.csv is not a CSV table in UTF-8"):
        read_table(tmp_path / "binary.csv", StudyRow)
    (tmp_path / "long.csv").write_text("study_key\n" + "a" * 140_000)
    with pytest.raises(PackageError, match=r"long\.csv is not a CSV table in UTF-8: field larger"):
        read_table(tmp_path / "long.csv", StudyRow)


# --- rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "key"),
    [
        (row, key)
        for row in ROWS.values()
        for key in ("study_key", "patient_key", "series_key", "where_key")
        if key in row.model_fields
    ],
)
@pytest.mark.parametrize(
    "original", ["1.2.840.113619.2.55", "DOE^JANE", "st-0123456789ABCDEF", "xx-0123456789abcdef", ""]
)
def test_no_table_but_the_linkage_takes_an_original_for_a_key(row: type[Document], key: str, original: str) -> None:
    with pytest.raises(ValidationError) as caught:
        row.model_validate({key: original})
    assert (key,) in {fault["loc"] for fault in caught.value.errors() if fault["type"] == "string_pattern_mismatch"}


def test_a_key_of_one_kind_is_not_taken_for_another() -> None:
    with pytest.raises(ValidationError, match="series_key"):
        series(series_key=STUDY)
    with pytest.raises(ValidationError, match="patient_key"):
        prediction(patient_key=STUDY)


def test_the_row_of_a_refused_study_says_what_the_refusal_says() -> None:
    refusal = Refusal("contract", "contract_mismatch", "spacing 9 mm lies outside 0.5 to 4 mm", retryable=True)
    assert LedgerRow.of(STUDY, PATIENT, refusal) == LedgerRow(
        study_key=STUDY, patient_key=PATIENT, stage="contract", code="contract_mismatch",
        reason="spacing 9 mm lies outside 0.5 to 4 mm", retryable=True,
    )  # fmt: skip


# --- the folder of the results -------------------------------------------------------------


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", overwrite=False, marker="studies.csv")
    assert (tmp_path / "a" / "b").is_dir()
    check_writable(tmp_path / "a" / "b", overwrite=False, marker="studies.csv")  # empty: nothing to lose


def test_a_folder_that_holds_results_is_refused_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "studies.csv").write_text("results")
    with pytest.raises(MisuseError, match=r"already holds studies\.csv: choose another --out, or add --overwrite"):
        check_writable(tmp_path, overwrite=False, marker="studies.csv")
    check_writable(tmp_path, overwrite=True, marker="studies.csv")
    check_writable(tmp_path, overwrite=False, marker="index.html")
    assert (tmp_path / "studies.csv").read_text() == "results"


def test_a_folder_that_cannot_be_made_is_one_clear_error_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "MUSTERMANN").write_text("a file")
    with pytest.raises(MedmllmError, match="cannot make the output folder") as caught:
        check_writable(tmp_path / "MUSTERMANN" / "out", overwrite=False, marker="studies.csv")
    assert caught.value.code == "cannot_write"
    assert not isinstance(caught.value, MisuseError)
    assert "MUSTERMANN" not in str(caught.value)


def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere: feign it
    with pytest.raises(MedmllmError, match="cannot be written to") as caught:
        check_writable(tmp_path, overwrite=False, marker="studies.csv")
    assert caught.value.code == "cannot_write"


def test_results_are_not_written_among_the_studies(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "a" / "out"):
        with pytest.raises(MisuseError, match="inside the folder of studies"):
            check_writable(out, overwrite=True, marker="x.csv", studies=tmp_path)
    assert list(tmp_path.iterdir()) == []
    check_writable(tmp_path / "out", overwrite=False, marker="x.csv", studies=tmp_path / "studies")


def test_a_second_run_into_a_folder_is_refused_while_the_first_one_writes(tmp_path: Path) -> None:
    with sole_writer(tmp_path), pytest.raises(MisuseError, match="another run is writing"), sole_writer(tmp_path):
        pass
    with sole_writer(tmp_path):  # free again
        pass
    assert list(tmp_path.iterdir()) == []
