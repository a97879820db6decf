"""`medmllm deidentify` accounts for every file: report, ledger, linkage table, and the odd cases in them."""

from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner

from medmllm.cli import app
from medmllm.csv_tables import read_table
from medmllm.errors import LabelError, MisuseError
from medmllm.ingest.keys import load_keyring
from medmllm.pipelines import deidentify, index
from medmllm.result_documents import DeidentificationDocument
from medmllm.table_rows import FileRow, LinkageRow, ProblemRow
from tests.deidentify_made_up import PLANTED, leaks
from tests.factories import a_volume, edit_dicom, made_up_uid, write_dicom_study, write_nifti_study
from tests.pipelines.deidentified import plant, settings


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    return plant(tmp_path)


def test_every_file_is_written_or_in_the_ledger(planted: Path, tmp_path: Path) -> None:
    (planted / "letter.pdf").write_bytes(b"%PDF")
    (planted / "empty.dcm").write_bytes(b"")
    result = deidentify.run(planted, out=tmp_path / "out", config=settings(), linkage=tmp_path / "linkage.csv")
    ledger = read_table(tmp_path / "out" / "ledger.csv", ProblemRow)
    assert sorted((row.severity, row.code) for row in ledger) == [
        ("ignored", "not_recognised"), ("refused", "empty_file"), ("refused", "recording_not_taken"),
    ]  # fmt: skip
    files = sum(file.is_file() for file in planted.rglob("*"))
    assert result.written + len(ledger) + 1 == files  # and the label table
    originals = {row.key: row.original for row in read_table(tmp_path / "linkage.csv", LinkageRow)}
    assert {originals[row.where_key] for row in ledger if row.code == "not_recognised"} == {"letter.pdf"}


def test_the_report_counts_and_names_no_value(planted: Path, tmp_path: Path) -> None:
    config = settings('notes.names=["Bartleby"]')
    deidentify.run(planted, out=tmp_path / "out", config=config)
    report = DeidentificationDocument.read(tmp_path / "out" / deidentify.REPORT)
    assert report.written == {"dicom": 2, "nifti": 1, "note": 1, "sidecar": 1}
    assert report.refused_by_code == {"recording_not_taken": 1}
    assert report.actions["removed"]["ImageComments"] == 2
    assert report.actions["removed"]["overlays"] == 2 * 8
    assert report.actions["shifted"]["StudyDate"] == 2
    assert report.placeholders["NAME"] >= 4
    assert "Bartleby" not in (tmp_path / "out" / deidentify.REPORT).read_text()


def test_a_dry_run_writes_the_report_and_the_ledger_alone(planted: Path, tmp_path: Path) -> None:
    arguments = ["deidentify", str(planted), "--out", str(tmp_path / "out"), "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 3
    assert "5 files of 2 studies would be written, 1 refused" in result.stdout
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["deidentification.json", "ledger.csv"]
    assert DeidentificationDocument.read(tmp_path / "out" / deidentify.REPORT).dry_run


def test_writing_again_leaves_no_file_of_the_earlier_run(planted: Path, tmp_path: Path) -> None:
    deidentify.run(planted, out=tmp_path / "out", config=settings())
    with pytest.raises(MisuseError, match="already holds"):
        deidentify.run(planted, out=tmp_path / "out", config=settings())
    for file in (planted / "case-b").iterdir():
        file.unlink()
    deidentify.run(planted, out=tmp_path / "out", config=settings(), overwrite=True)
    assert list((tmp_path / "out").rglob("*.nii.gz")) == []
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 2


def test_a_column_that_the_label_table_lacks_is_refused_and_the_earlier_result_stays(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "in" / "a", note=None)
    (tmp_path / "in" / "labels.csv").write_text("study_id,nodule,arm\na,17,left\n")
    deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings('table_columns=["arm"]'))
    earlier = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    for wanted, told in (
        ("nodul", "no column 'nodul'; did you mean 'nodule'"),
        ("zzz", "no column 'zzz'; it has arm, nodule$"),
        ("study_id", "names 'study_id', which says who or which study a row is about"),
    ):
        config = settings(f'table_columns=["arm", "{wanted}"]')
        with pytest.raises(LabelError, match=told):
            deidentify.run(tmp_path / "in", out=tmp_path / "out", config=config, overwrite=True)
    assert {file: file.read_bytes() for file in earlier} == earlier


def test_columns_to_keep_are_held_to_a_named_table_and_wait_for_one_where_there_is_none(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "in" / "a", note=None)
    (tmp_path / "bare.csv").write_text("study_id\na\n")
    config = settings('table_columns=["nodule"]')
    with pytest.raises(LabelError, match="no column 'nodule'"):
        deidentify.run(tmp_path / "in", out=tmp_path / "one", config=config, labels=tmp_path / "bare.csv")
    assert deidentify.run(tmp_path / "in", out=tmp_path / "two", config=config).studies == 1


def test_names_in_notes_are_told_by_the_settings_and_by_a_name_column_and_words_to_keep_stay(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "in" / "a", note="HISTORY: Seen by Brannigan. Zylberstein coughs. Dr. Watson agrees.")
    written = {}
    for run, (table, *overrides) in {
        "as it is": ("study_id,arm\na,x\n",),
        "settings": ("study_id,arm\na,x\n", 'notes.names=["Brannigan"]', 'notes.keep=["Watson"]'),
        "table": ("study_id,surname\na,Zylberstein\n",),
    }.items():
        (tmp_path / "in" / "labels.csv").write_text(table)
        deidentify.run(tmp_path / "in", out=tmp_path / run, config=settings(*overrides))
        (note,) = (tmp_path / run).rglob("*.txt")
        written[run] = note.read_text().removeprefix("HISTORY: ").rstrip()
    assert written == {
        "as it is": "Seen by Brannigan. Zylberstein coughs. Dr. [NAME] agrees.",
        "settings": "Seen by [NAME]. Zylberstein coughs. Dr. Watson agrees.",
        "table": "Seen by Brannigan. [NAME] coughs. Dr. [NAME] agrees.",
    }


def test_what_was_shared_is_indexed_without_a_problem_and_each_of_its_files_listed_once(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "in" / "a")
    (tmp_path / "in" / "labels.csv").write_text("study_id,arm\na,x\n")
    (tmp_path / "in" / "scan.pdf").write_text("%PDF")  # a row for the ledger
    shared = tmp_path / "shared"
    deidentify.run(tmp_path / "in", out=shared, config=settings('table_columns=["arm"]'))
    for _ in range(2):  # the second run goes by what the first one kept
        assert index.run(shared, out=tmp_path / "index").problems_by_code == {}
        rows = {row.file_key: row for row in read_table(tmp_path / "index" / "files.csv", FileRow)}
        files = [file for file in shared.rglob("*") if file.is_file()]
        assert len(rows) == len(files) == len(read_table(tmp_path / "index" / "files.csv", FileRow))
        told = {file.name: rows[load_keyring().file(str(file.relative_to(shared)))] for file in files}
        for name in ("ledger.csv", "deidentification.json"):
            assert told.pop(name).status == "ignored"
        assert {row.status for row in told.values()} == {"used"}


def test_the_linkage_table_may_lie_neither_among_the_results_nor_be_encrypted_into_nothing(
    planted: Path, tmp_path: Path
) -> None:
    with pytest.raises(MisuseError, match="may not lie among the results"):
        deidentify.run(planted, out=tmp_path / "out", config=settings(), linkage=tmp_path / "out" / "linkage.csv")
    result = CliRunner().invoke(app, ["deidentify", str(planted), "--out", str(tmp_path / "o"), "--encrypt-linkage"])
    assert (result.exit_code, (tmp_path / "o").exists()) == (2, False)


def test_an_encrypted_linkage_table_is_read_back_with_its_passphrase_alone(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMLLM_LINKAGE_PASSPHRASE", "correct horse")
    table = tmp_path / "linkage.json"
    CliRunner().invoke(
        app, ["deidentify", str(planted), "--out", str(tmp_path / "out"), "--linkage", str(table), "--encrypt-linkage"]
    )
    assert table.stat().st_mode & 0o777 == 0o600
    assert leaks(table.read_bytes()) == []
    assert not [file.name for file in tmp_path.iterdir() if file.name not in ("in", "out", "linkage.json")]
    shown = CliRunner().invoke(app, ["linkage", str(table)])
    assert shown.exit_code == 0
    assert f"patient,{PLANTED['patient number']}," in shown.stdout
    monkeypatch.setenv("MEDMLLM_LINKAGE_PASSPHRASE", "wrong horse")
    refused = CliRunner().invoke(app, ["linkage", str(table)])
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_an_object_that_is_no_image_is_refused_or_cleaned_into_its_study(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "in", a_volume((4, 3, 2)), note=None)
    report = pydicom.dcmread(tmp_path / "in" / "0001.dcm")
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # Basic Text SR
    report.SOPInstanceUID, report.Modality = made_up_uid("report"), "SR"
    report.VerifyingOrganization = "Saint Eustache"
    report.save_as(tmp_path / "in" / "report.dcm")
    deidentify.run(tmp_path / "in", out=tmp_path / "one", config=settings())
    ledger = read_table(tmp_path / "one" / "ledger.csv", ProblemRow)
    assert [(row.severity, row.code) for row in ledger] == [("refused", "object_not_taken")]
    deidentify.run(tmp_path / "in", out=tmp_path / "two", config=settings(f'dicom.objects=["{report.SOPClassUID}"]'))
    # with this list the images are the strangers; the report lies where they would
    (made,) = (tmp_path / "two").rglob("*.dcm")
    first = sorted((tmp_path / "one").rglob("*.dcm"))[0]
    assert made.relative_to(tmp_path / "two").parts[:3] == first.relative_to(tmp_path / "one").parts[:3]
    assert pydicom.dcmread(made).VerifyingOrganization == "REMOVED"


def test_several_images_notes_gradients_and_great_ages_of_one_study(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "case-x"
    write_nifti_study(folder, {"Meier": a_volume((5, 4, 3)), "Huber": a_volume((5, 4, 2)), "dwi": a_volume((5, 4, 6))})
    (folder / "zweite.md").write_text("Frau Huber, 3 cm.\n")
    (folder / "dwi.bval").write_text("0 1000\n")
    (tmp_path / "in" / "labels.csv").write_text("study_id,age\ncase-x,93\n")
    deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings('table_columns=["age"]'))
    names = sorted(file.name for file in (tmp_path / "out").rglob("st-*/*"))
    assert names == ["dwi.bval", "dwi.nii.gz", "image.nii.gz", "image_2.nii.gz", "note-001.txt", "note-002.md"]
    assert next((tmp_path / "out").rglob("note-002.md")).read_text() == "Frau [NAME], 3 cm.\n"
    assert (tmp_path / "out" / "labels.csv").read_text().endswith(",90\n")


def test_a_face_that_can_be_recognised_is_a_warning_and_no_refusal(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "in", a_volume((4, 3, 1)), note=None)
    edit_dicom(tmp_path / "in", RecognizableVisualFeatures="YES")
    result = deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings())
    (row,) = read_table(tmp_path / "out" / "ledger.csv", ProblemRow)
    assert (row.severity, row.code, result.refused, result.written) == ("warning", "recognisable_face", 0, 1)


def test_a_name_that_one_series_tells_is_looked_for_in_every_other(tmp_path: Path) -> None:
    one, other = PLANTED["family name"], PLANTED["mother's birth name"]
    for series, (name, maker) in enumerate([(one, other), (other, one)]):
        folder = tmp_path / "in" / str(series)
        write_dicom_study(folder, a_volume((4, 3, 2)), series=series, note=None)
        edit_dicom(folder, PatientName=f"{name}^Anna", Manufacturer=f"{maker} Ltd")
    assert deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings()).written == 4
    assert leaks(tmp_path / "out") == []


def test_a_study_of_two_patients_is_refused(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "in", a_volume((4, 3, 2)), patient="A", note=None)
    edit_dicom(tmp_path / "in", only=[1], PatientID="B")
    result = deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings())
    assert (result.written, result.refused) == (0, 2)


def test_a_full_disk_stops_the_run_in_one_line(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medmllm.ingest.deidentify_writing.os.replace", full)
    result = CliRunner().invoke(app, ["deidentify", str(planted), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "cannot be written: No space left on device" in result.stderr
    assert list((tmp_path / "out").rglob("*.partial")) == []
