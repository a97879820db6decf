"""`medmllm index`: three tables, exit codes, and originals in the linkage table alone."""

import json
import shutil
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from medmllm.cli import app
from medmllm.csv_tables import read_table
from medmllm.errors import LabelError, MisuseError
from medmllm.ingest import stock, study_folder
from medmllm.ingest.keys import Keyring
from medmllm.pipelines import index
from medmllm.table_rows import FileRow, LinkageRow, ProblemRow, SeriesRow, StudyRow
from tests.factories import a_volume, edit_dicom, write_dicom_study, write_nifti_study

KEYS = Keyring(bytes.fromhex("5ec0de" * 10 + "beef"))  # as in the fixture site_secret


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """One good CT, one CT that lacks a slice, one NIfTI study, a file of no use, and a label table."""
    root = tmp_path / "studies"
    write_dicom_study(root / "HUBER", patient="HUBER", study=1)
    write_dicom_study(root / "MEIER", patient="MEIER", study=2, leave_out=[1])
    write_nifti_study(root / "KOCH", {"t1": a_volume((3, 4, 5))}, note=None)
    (root / "KOCH" / "scan.pdf").write_text("%PDF")
    (root / "labels.csv").write_text("study_id,grade\nKOCH,3\n")
    return root


def test_the_tables_say_what_was_found(studies: Path, tmp_path: Path) -> None:
    result = index.run(studies, out=tmp_path / "out")
    assert (result.studies, result.series, result.problems, result.refused) == (3, 3, 2, 1)
    assert (result.patients, result.problems_by_code) == (3, {"missing_slice": 1, "not_recognised": 1})
    rows = read_table(tmp_path / "out" / "studies.csv", StudyRow)
    assert sorted((row.layout, row.series, row.refused_series, row.notes, row.in_table) for row in rows) == [
        ("dicom", 1, 0, 1, False),
        ("dicom", 1, 1, 1, False),
        ("folder", 1, 0, 0, True),
    ]
    series = read_table(tmp_path / "out" / "series.csv", SeriesRow)
    assert {row.study_key for row in series} == {row.study_key for row in rows}
    good = next(row for row in series if row.kind == "dicom" and row.status == "readable")
    assert (good.size_x, good.size_y, good.size_z, good.files) == (6, 5, 4, 4)
    assert (good.spacing_x_mm, good.spacing_y_mm, good.spacing_z_mm) == (2.0, 3.0, 4.0)
    assert (good.plane, good.kernel, good.contrast, good.thickness_mm) == ("axial", None, "no", 4.0)
    bad = next(row for row in series if row.status == "refused")
    assert (bad.code, bad.size_x) == ("missing_slice", None)
    assert bad.reason is not None
    assert "1 slice is missing" in bad.reason
    problems = read_table(tmp_path / "out" / "problems.csv", ProblemRow)
    assert sorted((row.severity, row.code) for row in problems) == [
        ("ignored", "not_recognised"),
        ("refused", "missing_slice"),
    ]


def test_no_original_identifier_is_in_any_table(studies: Path, tmp_path: Path) -> None:
    index.run(studies, out=tmp_path / "out")
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "headers.sqlite").stat().st_mode & 0o777 == 0o600
    assert len(written) > 500
    names = ("HUBER", "MEIER", "KOCH", "t1.nii", "scan.pdf", "1.2.826", "20200102", str(studies))
    assert [name for name in names if name.encode() in written] == []


def test_every_file_stands_in_files_csv_once_with_what_became_of_it(studies: Path, tmp_path: Path) -> None:
    index.run(studies, out=tmp_path / "out", linkage=tmp_path / "guarded.csv")
    rows = read_table(tmp_path / "out" / "files.csv", FileRow)
    names = {KEYS.file(str(path.relative_to(studies))): path.name for path in studies.rglob("*") if path.is_file()}
    assert sorted(row.file_key for row in rows) == sorted(names)
    fates = Counter((row.kind, row.status, row.code) for row in rows)
    assert fates == {
        ("dicom", "used", None): 4,
        ("dicom", "refused", "missing_slice"): 3,
        ("nifti", "used", None): 1,
        ("note", "used", None): 2,
        ("table", "used", None): 1,
        ("other", "ignored", "not_recognised"): 1,
    }
    series = {row.series_key for row in read_table(tmp_path / "out" / "series.csv", SeriesRow)}
    assert {row.series_key for row in rows if row.kind in ("dicom", "nifti")} == series
    sizes = {KEYS.file(str(path.relative_to(studies))): path.stat().st_size for path in studies.rglob("*")}
    assert all(row.bytes == sizes[row.file_key] for row in rows)


def test_files_of_several_series_in_one_study_have_the_fate_of_their_own(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    write_nifti_study(studies / "KOCH", {"t1": a_volume((3, 4, 5)), "t2": a_volume((3, 4, 5))}, note=None)
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)), studies / "KOCH" / "bold.nii")
    (studies / "KOCH" / "cut.nii").write_bytes(b"x")
    index.run(studies, out=tmp_path / "out")
    names = {KEYS.file(str(path.relative_to(studies))): path.name for path in studies.rglob("*") if path.is_file()}
    rows = {names[row.file_key].partition(".")[0]: row for row in read_table(tmp_path / "out" / "files.csv", FileRow)}
    assert {name: (row.status, row.code, row.series) for name, row in rows.items()} == {
        "bold": ("used", None, 2), "cut": ("refused", "nifti_truncated", 1), "t1": ("used", None, 1),
        "t2": ("used", None, 1),
    }  # fmt: skip
    assert len({row.series_key for row in rows.values()}) == 4


def test_a_damaged_recording_is_refused_with_its_studys_key_in_a_second_run_too(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "in" / "a", note=None)
    (tmp_path / "in" / "a" / "heart.wav").write_bytes(b"RIFF and no more")
    for files_read in (2, 0):
        done = index.run(tmp_path / "in", out=tmp_path / "out")
        assert (done.read, done.refused) == (files_read, 1)
        rows = {row.status: row for row in read_table(tmp_path / "out" / "files.csv", FileRow)}
        (problem,) = read_table(tmp_path / "out" / "problems.csv", ProblemRow)
        assert rows["refused"].study_key == rows["used"].study_key == problem.study_key
        assert rows["refused"].code == problem.code == "recording_unreadable"
        assert rows["refused"].series_key is None


def test_files_may_be_written_as_parquet(studies: Path, tmp_path: Path) -> None:
    index.run(studies, out=tmp_path / "a")
    index.run(studies, out=tmp_path / "b", parquet=True)
    table = pd.read_parquet(tmp_path / "b" / "files.parquet")
    rows = read_table(tmp_path / "a" / "files.csv", FileRow)
    assert not (tmp_path / "b" / "files.csv").exists()
    assert list(table["file_key"]) == [row.file_key for row in rows]
    assert table["bytes"].sum() == sum(row.bytes for row in rows)
    assert table["code"].isna().sum() == sum(row.code is None for row in rows)


def test_a_second_run_opens_only_what_is_new_or_changed(studies: Path, tmp_path: Path) -> None:
    first = index.run(studies, out=tmp_path / "out")
    assert (first.files, first.read) == (12, 12)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.csv")}
    assert index.run(studies, out=tmp_path / "out").read == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.csv")} == before
    edit_dicom(studies / "HUBER", only=[2], RescaleIntercept=-1000)  # same size, other content
    write_dicom_study(studies / "NEU", patient="NEU", study=3, note=None)
    shutil.rmtree(studies / "KOCH")
    again = index.run(studies, out=tmp_path / "out")
    assert (again.files, again.read, again.studies) == (14, 5, 3)
    fresh = index.run(studies, out=tmp_path / "fresh")
    assert (fresh.files, fresh.read, fresh.problems_by_code) == (14, 14, again.problems_by_code)
    for name in before:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


@pytest.mark.parametrize("together", [1, 3, 10_000])
def test_processes_put_together_what_one_does_to_the_byte(
    studies: Path, tmp_path: Path, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (studies / "HUBER" / "cut.dcm").write_bytes(b"")  # damaged, beside a series
    monkeypatch.setattr(stock.threading, "active_count", lambda: 1)
    monkeypatch.setattr(study_folder, "FILES_TOGETHER", together)
    monkeypatch.setattr(index.os, "cpu_count", lambda: 2)
    for _ in range(2):
        index.run(studies, out=tmp_path / "two", linkage=tmp_path / "two.csv")
    with monkeypatch.context() as alone:
        alone.setattr(index.os, "cpu_count", lambda: 1)
        index.run(studies, out=tmp_path / "one", linkage=tmp_path / "one.csv")
    for name in ("studies.csv", "series.csv", "problems.csv", "files.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert b"damaged_beside" in (tmp_path / "two" / "problems.csv").read_bytes()


def test_a_store_that_is_damaged_or_of_another_secret_is_made_anew(
    studies: Path, tmp_path: Path, site_secret: Path
) -> None:
    index.run(studies, out=tmp_path / "out")
    (tmp_path / "out" / "headers.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert index.run(studies, out=tmp_path / "out", overwrite=True).read == 12
    site_secret.write_text("0ff1ce" * 10 + "beef\n")
    assert index.run(studies, out=tmp_path / "out", overwrite=True).read == 12


def test_the_counts_are_printed_as_json(studies: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["index", str(studies), "--out", str(tmp_path / "out"), "--json"])
    said = json.loads(result.stdout)
    assert (said["files"], said["studies"], said["refused"]) == (12, 3, 1)
    assert said["problems_by_code"] == {"missing_slice": 1, "not_recognised": 1}


def test_the_linkage_table_is_written_on_request_for_its_owner_alone(studies: Path, tmp_path: Path) -> None:
    linkage = tmp_path / "guarded.csv"
    index.run(studies, out=tmp_path / "out", linkage=linkage)
    assert linkage.stat().st_mode & 0o777 == 0o600
    rows = {row.key: row.original for row in read_table(linkage, LinkageRow)}
    patients = [rows[row.patient_key] for row in read_table(tmp_path / "out" / "studies.csv", StudyRow)]
    assert sorted(patients) == ["HUBER", "KOCH", "MEIER"]


def test_the_linkage_table_may_not_lie_among_the_results(studies: Path, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="may not lie among the results"):
        index.run(studies, out=tmp_path / "out", linkage=tmp_path / "out" / "linkage.csv")
    assert not (tmp_path / "out" / "studies.csv").exists()


def test_results_of_another_folder_are_written_over_only_when_asked(studies: Path, tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "other", note=None)
    index.run(tmp_path / "other", out=tmp_path / "out")
    with pytest.raises(MisuseError, match=r"already holds studies\.csv"):
        index.run(studies, out=tmp_path / "out")
    assert index.run(studies, out=tmp_path / "out", overwrite=True).studies == 3


def test_another_site_secret_is_told_as_a_possible_cause(studies: Path, tmp_path: Path, site_secret: Path) -> None:
    index.run(studies, out=tmp_path / "out")
    site_secret.write_text("0ff1ce" * 10 + "beef\n")
    with pytest.raises(MisuseError, match=r"already holds studies\.csv .*another site secret"):
        index.run(studies, out=tmp_path / "out")


def test_the_table_of_files_of_an_earlier_run_does_not_stay_beside_one_of_the_other_kind(
    studies: Path, tmp_path: Path
) -> None:
    for parquet, left in ((False, "files.csv"), (True, "files.parquet"), (False, "files.csv")):
        index.run(studies, out=tmp_path / "out", parquet=parquet)
        assert [file.name for file in (tmp_path / "out").glob("files.*")] == [left]


def test_a_bad_label_table_stops_the_run(studies: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LabelError):
        index.run(studies, out=tmp_path / "out", labels=tmp_path / "bad.csv")


@pytest.mark.parametrize(("make", "code"), [("good", 0), ("partly", 3), ("absent", 2), ("empty", 2)])
def test_the_command_tells_how_it_went_by_its_exit_code(tmp_path: Path, make: str, code: int) -> None:
    root = tmp_path / "studies"
    if make != "absent":
        root.mkdir()
    if make in ("good", "partly"):
        write_dicom_study(root / "MEIER", leave_out=[1] if make == "partly" else [])
    result = CliRunner().invoke(app, ["index", str(root), "--out", str(tmp_path / "out")])
    assert result.exit_code == code
    assert "MEIER" not in result.output
    if code in (0, 3):
        assert "1 studies, 1 series" in result.stdout


def test_671_real_studies_are_indexed_and_joined(shared: Path, tmp_path: Path) -> None:
    result = index.run(shared / "data" / "ct_mr_medpix", out=tmp_path / "out")
    assert (result.studies, result.series, result.problems, result.refused) == (671, 671, 0, 0)
    rows = read_table(tmp_path / "out" / "studies.csv", StudyRow)
    assert len({row.patient_key for row in rows}) == 602
    assert all(row.in_table and row.notes == 1 for row in rows)
