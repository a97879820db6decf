"""`medmllm index`: three tables, exit codes, and originals in the linkage table alone."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medmllm.cli import app
from medmllm.csv_tables import LinkageRow, ProblemRow, SeriesRow, StudyRow, read_table
from medmllm.errors import LabelError, MedmllmError, MisuseError
from medmllm.pipelines import index
from tests.factories import a_volume, write_dicom_study, write_nifti_study


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
    written = "".join(file.read_text() for file in (tmp_path / "out").iterdir())
    assert len(written) > 500
    assert [name for name in ("HUBER", "MEIER", "KOCH", "t1", "scan.pdf", "20200102") if name in written] == []


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


def test_a_linkage_table_that_cannot_be_written_is_an_error_of_ours(studies: Path, tmp_path: Path) -> None:
    with pytest.raises(MedmllmError, match="cannot write the linkage table"):
        index.run(studies, out=tmp_path / "out", linkage=tmp_path / "absent" / "linkage.csv")


def test_results_are_written_over_only_when_asked(studies: Path, tmp_path: Path) -> None:
    index.run(studies, out=tmp_path / "out")
    with pytest.raises(MisuseError, match=r"already holds studies\.csv"):
        index.run(studies, out=tmp_path / "out")
    assert index.run(studies, out=tmp_path / "out", overwrite=True).studies == 3


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
