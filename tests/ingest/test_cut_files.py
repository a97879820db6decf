"""A slice whose file was cut short, emptied or overwritten is never passed over in silence."""

from pathlib import Path

import pydicom
import pytest

from medmllm.errors import MedmllmError
from medmllm.ingest import opening
from medmllm.ingest.damaged import named_by
from medmllm.ingest.dicom_stack import arrange
from medmllm.ingest.recognise import Kind, may_be_a_slice, recognise
from medmllm.ingest.study_folder import StudyIndex
from medmllm.ingest.walk import FileProblem, FoundFile
from tests.factories import a_volume, edit_dicom, write_dicom_study
from tests.ingest.dicom_slices import a_slice
from tests.ingest.indexed import codes, index, original

IMPLICIT = "1.2.840.10008.1.2"


def problem_of(file: Path, content: bytes) -> FileProblem:
    file.write_bytes(content)
    problem = recognise(FoundFile(str(file), file.name, len(content))).problem
    assert problem is not None
    return problem


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", IMPLICIT])
def test_a_slice_cut_anywhere_before_its_pixels_is_refused(tmp_path: Path, syntax: str) -> None:
    write_dicom_study(tmp_path, note=None)
    file = tmp_path / "0004.dcm"
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    pydicom.dcmwrite(file, data, implicit_vr=syntax == IMPLICIT, little_endian=True)
    whole = file.read_bytes()
    pixels = whole.index(b"\xe0\x7f\x10\x00")
    assert pixels > 900
    fates = {problem_of(file, whole[:length]).severity for length in range(0, pixels, 7)}
    assert fates == {"refused"}


@pytest.mark.parametrize("length", [0, 1, 100, 130, 140, 180, 400])
def test_a_series_that_lost_its_last_slice_to_a_cut_file_is_warned_of(tmp_path: Path, length: int) -> None:
    write_dicom_study(tmp_path, note=None)
    last = tmp_path / "0004.dcm"
    last.write_bytes(last.read_bytes()[:length])
    found = index(tmp_path)
    (study,) = found.studies
    warned = [problem for problem in found.problems if problem.code == "damaged_beside"]
    assert [(problem.where_key, problem.severity) for problem in warned] == [(study.series[0].series_key, "warning")]
    assert warned[0].reason.startswith("1 file in its folder cannot be read")
    assert "again" in warned[0].reason
    assert sum(problem.severity == "refused" for problem in found.problems) == 1


def test_a_series_whose_files_are_whole_is_not_warned_of(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, leave_out=[3])
    (tmp_path / "empty.html").write_bytes(b"")
    (tmp_path / "blob.bin").write_bytes(bytes(500))
    (tmp_path / "._0001.dcm").write_bytes(b"\0\5\x16\7" + bytes(500))  # what macOS leaves beside every file
    assert "damaged_beside" not in codes(index(tmp_path))


# --- which series a cut file speaks of -----------------------------------------------------


def cut_before_pixels(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"\xe0\x7f\x10\x00") - 20])


def write_flat(folder: Path, patients: list[str]) -> None:
    """Write one CT series of each patient, all files in one folder: P-0001.dcm ..."""
    for patient in patients:
        write_dicom_study(folder / patient, patient=patient, study=patient, note=None)
        for file in sorted((folder / patient).glob("*.dcm")):
            file.rename(folder / f"{patient}-{file.name}")


def warned_of(found: StudyIndex) -> dict[str, int]:
    """Files that cannot be read, by the patient of the series that is warned of."""
    told = {problem.where_key: problem.reason for problem in found.problems if problem.code == "damaged_beside"}
    count = {
        original(found, study.patient_key): series.damaged_beside for study in found.studies for series in study.series
    }
    keys = {original(found, study.patient_key): study.series[0].series_key for study in found.studies}
    assert {patient for patient, many in count.items() if many} == {name for name, key in keys.items() if key in told}
    return {patient: many for patient, many in count.items() if many}


@pytest.mark.parametrize("order", [["A", "B", "C"], ["C", "B", "A"]])
def test_a_cut_file_that_names_its_series_speaks_of_no_other_in_its_folder(tmp_path: Path, order: list[str]) -> None:
    write_flat(tmp_path, order)
    cut_before_pixels(tmp_path / "B-0004.dcm")
    assert warned_of(index(tmp_path)) == {"B": 1}
    (tmp_path / "A-0004.dcm").write_bytes(b"")  # may have been anybody's
    assert warned_of(index(tmp_path)) == {"A": 1, "B": 2, "C": 1}


def test_a_cut_file_is_told_on_its_series_wherever_it_lies(tmp_path: Path) -> None:
    write_flat(tmp_path, ["A", "B"])
    for file in sorted(tmp_path.glob("*.dcm")):  # a folder for every slice
        (tmp_path / file.stem).mkdir()
        file.rename(tmp_path / file.stem / "1")
    cut_before_pixels(tmp_path / "A-0004" / "1")
    (tmp_path / "B-0004" / "1").write_bytes(b"")  # names none, and lies beside none
    found = index(tmp_path)
    assert warned_of(found) == {"A": 1}
    (reason,) = (problem.reason for problem in found.problems if problem.code == "damaged_beside")
    assert reason.startswith("1 file of this series cannot be read")


@pytest.mark.parametrize(("uid", "warned"), [(None, {}), ("1.2.3", {"A": 1})])
def test_a_cut_file_that_was_copied_again_is_no_lost_slice(
    uid: str | None, warned: dict[str, int], tmp_path: Path
) -> None:
    write_flat(tmp_path, ["A"])
    if uid:  # all slices have one, as some programs give it: it does not tell which of them was cut
        for number, file in enumerate(sorted(tmp_path.glob("*.dcm"))):
            edit_dicom(tmp_path, only=[number], SOPInstanceUID=uid)
            assert pydicom.dcmread(file).SOPInstanceUID == uid
    part = tmp_path / "A-0004.dcm.part"
    part.write_bytes((tmp_path / "A-0004.dcm").read_bytes())
    cut_before_pixels(part)
    found = index(tmp_path)
    assert codes(found)["no_pixels"] == 1
    assert warned_of(found) == warned


def test_in_a_list_a_cut_file_is_told_on_the_series_it_names(tmp_path: Path) -> None:
    write_flat(tmp_path / "data", ["A", "B"])
    for patient in "AB":
        (tmp_path / patient).mkdir()
        for file in (tmp_path / "data").glob(f"{patient}-*.dcm"):
            file.rename(tmp_path / patient / file.name)
    cut_before_pixels(tmp_path / "A" / "A-0004.dcm")
    (tmp_path / "A" / "A-0004.dcm").rename(tmp_path / "B" / "lost.dcm")
    (tmp_path / "list.csv").write_text("study_id,patient_id,path\n1,A,A\n2,B,B\n")
    assert warned_of(index(tmp_path / "list.csv")) == {"A": 1}


def test_a_slice_that_a_list_names_and_that_is_not_there_is_told_on_the_series_beside(tmp_path: Path) -> None:
    write_flat(tmp_path, ["A"])
    lines = ["study_id,patient_id,path", *(f"1,A,{file.name}" for file in sorted(tmp_path.glob("*.dcm"))), "1,A,t1.nii"]
    (tmp_path / "list.csv").write_bytes("\r\n".join(lines).encode())
    assert warned_of(index(tmp_path / "list.csv")) == {}
    (tmp_path / "A-0004.dcm").unlink()
    assert warned_of(index(tmp_path / "list.csv")) == {"A": 1}


def test_part_of_a_series_uid_names_no_series(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    file = tmp_path / "0004.dcm"
    whole = file.read_bytes()
    end = whole.index(b"\x20\x00\x0e\x00") + 8 + len(pydicom.dcmread(file)["SeriesInstanceUID"].value)
    data = pydicom.dcmread(file)
    named = data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID
    for cut, expected in ((end - 1, None), (end + 1, None), (end + 12, named)):
        file.write_bytes(whole[:cut])
        assert named_by(file) == expected
    assert named_by(tmp_path / "gone.dcm") is None
    uid = named[1].encode()
    file.write_bytes(whole.replace(uid, uid[:-1] + b" "))  # padded by a blank where a zero belongs
    assert named_by(file) == (named[0], named[1][:-1], named[2])


@pytest.mark.parametrize(("name", "damaged"), [("0005.dcm", {"A": 1}), ("letter.pdf", {})])
def test_a_file_that_cannot_be_opened_goes_by_its_name(
    name: str, damaged: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_flat(tmp_path, ["A"])
    (tmp_path / name).write_bytes(b"closed")
    really = opening.os.open

    def closed(path: str, *more: int) -> int:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied")
        return really(path, *more)

    monkeypatch.setattr(opening.os, "open", closed)
    assert warned_of(index(tmp_path)) == damaged


def test_beside_a_cut_file_a_series_refused_for_another_reason_is_not_told_that_it_is_missing(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    edit_dicom(tmp_path, PixelSpacing=None)
    (tmp_path / "0004.dcm").write_bytes(b"")
    found = index(tmp_path)
    assert codes(found)["damaged_beside"] == 1
    (reason,) = (problem.reason for problem in found.problems if problem.code == "no_pixel_spacing")
    assert "may be what is missing" not in reason


# --- what is no cut slice ------------------------------------------------------------------


@pytest.mark.parametrize(
    "sop_class", ["1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.66.4", "1.3.12.2.1107.5.9.1"]
)
def test_a_report_a_segmentation_or_a_private_object_is_not_taken_for_a_cut_image(
    tmp_path: Path, sop_class: str
) -> None:
    write_dicom_study(tmp_path, note=None)
    file = tmp_path / "0001.dcm"
    edit_dicom(tmp_path, only=[0], SOPClassUID=sop_class, Rows=None, PixelData=None)
    problem = problem_of(file, file.read_bytes())
    assert (problem.severity, problem.code) == ("ignored", "not_an_image")


def test_the_file_meta_tells_what_a_report_was_meant_as_when_it_is_cut(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    file = tmp_path / "0001.dcm"
    data = pydicom.dcmread(file)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    data.save_as(file)
    whole = file.read_bytes()
    problem = problem_of(file, whole[: whole.index(b"\x08\x00\x16\x00")])
    assert (problem.severity, problem.code) == ("ignored", "not_an_image")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("7.dcm", b"<!DOCTYPE html><p>Session expired" + b" " * 200, "damaged_dicom"),
        ("IM7", bytes(700), "damaged_dicom"),
        ("7.IMA", bytes(131), "damaged_dicom"),
    ],
)
def test_what_is_called_like_a_slice_and_is_none_is_refused(
    tmp_path: Path, name: str, content: bytes, code: str
) -> None:
    problem = problem_of(tmp_path / name, content)
    assert (problem.severity, problem.code) == ("refused", code)
    assert "copy it again" in problem.reason


@pytest.mark.parametrize("name", ["Thumbs.db", "data.bin", "viewer.exe"])
def test_zeros_under_another_name_are_none_of_ours(tmp_path: Path, name: str) -> None:
    assert not may_be_a_slice(name)
    problem = problem_of(tmp_path / name, bytes(700))
    assert (problem.severity, problem.code) == ("ignored", "not_recognised")


def test_dicom_under_any_name_stays_dicom(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    file = (tmp_path / "0001.dcm").rename(tmp_path / "report.html")
    assert recognise(FoundFile(str(file), file.name, file.stat().st_size)).kind is Kind.DICOM


def test_a_slice_missing_beside_a_cut_file_is_said_to_be_perhaps_that_one(tmp_path: Path) -> None:
    for name in ("cut", "gone"):
        write_dicom_study(tmp_path / name, a_volume((6, 5, 8)), patient=name, note=None)
        middle = tmp_path / name / "0004.dcm"
        middle.write_bytes(middle.read_bytes()[:400])
    middle.unlink()
    reasons = [problem.reason for problem in index(tmp_path).problems if problem.code == "missing_slice"]
    assert len(reasons) == 2
    plain, beside = sorted(reasons, key=len)
    added = "1 file in its folder cannot be read and may be what is missing: copy that again first"
    assert beside == f"{plain}. {added}"


@pytest.mark.parametrize(("missing", "helps"), [(1, True), (2, True), (3, False), (6, False)])
def test_interpolating_is_advised_only_where_it_helps(missing: int, helps: bool) -> None:
    heights = [z for z in range(20) if not 8 <= z < 8 + missing]  # a block of neighbours is gone
    slices = [a_slice(float(z)) for z in heights]
    with pytest.raises(MedmllmError) as refusal:
        arrange(slices)
    assert refusal.value.code == "missing_slice"
    assert ("regrid" in refusal.value.reason) is helps
    if helps:
        assert arrange(slices, regrid="uneven").shape[2] == 20
    else:
        with pytest.raises(MedmllmError):
            arrange(slices, regrid="uneven")
