"""`medmllm deidentify`: nothing planted comes through, the image is the same, and what stands beside it is scrubbed."""

import contextlib
import json
import logging
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from medmllm.cli import app
from medmllm.csv_tables import read_table
from medmllm.errors import MedmllmError
from medmllm.ingest.keys import load_keyring
from medmllm.ingest.study_folder import read_study_note, read_volume
from medmllm.pipelines import deidentify
from medmllm.table_rows import LinkageRow, ProblemRow
from tests.deidentify_made_up import PLANTED, leaks
from tests.factories import a_volume, edit_dicom, made_up_uid, write_dicom_study, write_nifti_study
from tests.pipelines.deidentified import plant, settings, studies_of


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    return plant(tmp_path)


def tree(folder: Path) -> dict[str, bytes]:
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {name: data for name, data in files.items() if name != deidentify.REPORT}


# --- nothing leaves ------------------------------------------------------------------------


def test_everything_planted_is_found_in_the_input_so_that_its_absence_means_something(planted: Path) -> None:
    assert sorted(leaks(planted)) == sorted(PLANTED)
    assert len(PLANTED) >= 16


@pytest.mark.parametrize("overrides", [(), ("take_recordings=true", "dicom.dates=remove", "dicom.descriptors=remove")])
def test_nothing_planted_is_in_any_byte_of_the_result(
    planted: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    deidentify.run(planted, out=tmp_path / "out", config=settings(*overrides))
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 2
    assert leaks(tmp_path / "out") == []


def test_nothing_planted_is_logged_or_printed_at_any_level(
    planted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (planted / PLANTED["folder name"] / f"{PLANTED['file name']}-cut.dcm").write_bytes(
        (planted / PLANTED["folder name"] / f"{PLANTED['file name']}0.dcm").read_bytes()[:-200]
    )
    with caplog.at_level(logging.DEBUG):
        result = CliRunner().invoke(
            app, ["--log-level", "debug", "deidentify", str(planted), "--out", str(tmp_path / "out")]
        )
    printed = capfd.readouterr()
    assert result.exit_code == 3
    assert result.exc_info is not None
    assert result.exc_info[0] is SystemExit
    everything = (result.output, result.stderr, caplog.text, printed.out, printed.err)
    assert leaks(*(text.encode() for text in everything)) == []


def test_two_runs_with_one_secret_are_the_same_bytes_and_another_secret_gives_others(
    planted: Path, tmp_path: Path, site_secret: Path
) -> None:
    for name in ("one", "two"):
        deidentify.run(planted, out=tmp_path / name, config=settings())
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    site_secret.write_text("0123456789abcdef" * 4)
    deidentify.run(planted, out=tmp_path / "three", config=settings())
    assert tree(tmp_path / "one").keys().isdisjoint(tree(tmp_path / "three").keys() - {"ledger.csv", "labels.csv"})


# --- the same image ------------------------------------------------------------------------


def test_a_deidentified_study_loads_to_the_same_voxels_and_affine(planted: Path, tmp_path: Path) -> None:
    deidentify.run(planted, out=tmp_path / "out", config=settings())
    before = {study.layout: study for study in studies_of(planted)}
    after = {study.layout: study for study in studies_of(tmp_path / "out")}
    assert sorted(after) == ["dicom", "folder"]
    for layout, study in after.items():
        assert len(study.series) == len(before[layout].series) == 1
        old, new = read_volume(before[layout].series[0]), read_volume(study.series[0])
        np.testing.assert_array_equal(new.voxels, old.voxels)
        np.testing.assert_array_equal(new.affine, old.affine)
        assert new.modality == old.modality


def test_the_header_says_what_was_done_and_keeps_what_is_technical(planted: Path, tmp_path: Path) -> None:
    deidentify.run(planted, out=tmp_path / "out", config=settings())
    first, second = (pydicom.dcmread(file) for file in sorted((tmp_path / "out").rglob("*.dcm")))
    assert first.PatientIdentityRemoved == "YES"
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [(item.CodeValue, item.CodingSchemeDesignator) for item in first.DeidentificationMethodCodeSequence]
    assert codes == [(code, "DCM") for code in ("113100", "113105", "113107", "113108", "113111")]
    assert first.PatientName == first.PatientID == load_keyring().patient(PLANTED["patient number"])
    assert (first.PatientAge, first.PatientSex, first.PatientBirthDate) == ("090Y", "F", "")
    assert first.SeriesDescription == "CT Thorax B30f"
    assert first[0x0019100C].value == 800
    assert (0x0019, 0x100E) not in first
    assert first.preamble == bytes(128)
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert "SourceApplicationEntityTitle" not in first.file_meta
    assert first.StudyInstanceUID == second.StudyInstanceUID != PLANTED["original study UID"]
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


def test_references_still_point_at_the_right_file(planted: Path, tmp_path: Path) -> None:
    deidentify.run(planted, out=tmp_path / "out", config=settings())
    for file in (tmp_path / "out").rglob("*.dcm"):
        data = pydicom.dcmread(file)  # each slice was made to refer to itself
        assert data.SourceImageSequence[0].ReferencedSOPInstanceUID == data.SOPInstanceUID
        assert data.SourceImageSequence[0].ReferencedSOPClassUID == data.SOPClassUID
        deep = data.ViewCodeSequence[0].SourceImageSequence[0].ReferencedImageSequence[0]
        assert deep.ReferencedSOPInstanceUID == data.SOPInstanceUID


def test_dates_keep_their_intervals_within_a_patient_and_not_between_two(tmp_path: Path) -> None:
    for patient, study, day in (("A", 1, "20200102"), ("A", 2, "20200301"), ("B", 3, "20200102")):
        folder = tmp_path / "in" / f"{patient}{study}"
        write_dicom_study(folder, a_volume((4, 3, 2)), patient=patient, study=study, note=None)
        edit_dicom(folder, StudyDate=day, AcquisitionDateTime=f"{day}101500.25")
    deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings())
    dates = {}
    for file in (tmp_path / "out").rglob("*.dcm"):
        data = pydicom.dcmread(file)
        day = date.fromisoformat(data.StudyDate)
        dates[data.StudyInstanceUID] = day, data.AcquisitionDateTime
    ring = load_keyring()
    one, two, three = (dates[ring.uid(made_up_uid(*key))] for key in (("A", 1), ("A", 2), ("B", 3)))
    assert two[0] - one[0] == date(2020, 3, 1) - date(2020, 1, 2)
    assert one[0] < date(2020, 1, 2)
    assert one[0] != three[0]
    assert one[1] == f"{one[0]:%Y%m%d}101500.25"


# --- what stands beside the images ---------------------------------------------------------


def test_a_note_is_scrubbed_with_what_the_headers_tell_and_keeps_its_findings(planted: Path, tmp_path: Path) -> None:
    deidentify.run(planted, out=tmp_path / "out", config=settings())
    study = next(study for study in studies_of(tmp_path / "out") if study.layout == "dicom")
    note = read_study_note(study)
    assert note is not None
    assert "has a 3.5 x 2 cm mass at T12." in note.text
    assert note.text.startswith("HISTORY: Mr. [NAME], [NAME], MRN: [ID], born [DATE], has")
    assert "Lives at [ADDRESS], [EMAIL]." in note.text
    assert "Dictated by: [NAME]. Referred from [ADDRESS]." in note.text


def test_a_colleague_whom_another_studys_header_tells_goes_out_of_all_notes_where_the_name_is_written_as_one(
    tmp_path: Path,
) -> None:
    said = "HISTORY: Brannigan was told of brannigan ulcers. Cross section. Zwetschge. Tablespoon saw it.\n"
    for number, patient in enumerate(("A", "B"), 1):
        folder = tmp_path / "in" / f"case-{patient}"
        write_dicom_study(folder, a_volume((4, 3, 2)), patient=patient, study=number, note=said)
    referring = {"ReferringPhysicianName": "Brannigan^Ada", "OperatorsName": "Cross"}
    edit_dicom(tmp_path / "in" / "case-B", PatientName="Zwetschge^Anna", **referring)
    (tmp_path / "in" / "labels.csv").write_text("patient_id,doctor\nA,\nB,Tablespoon\n")
    deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings())
    texts = sorted(path.read_text() for path in (tmp_path / "out").rglob("note.txt"))
    assert texts == [
        # of B, whose own header tells all
        "HISTORY: [NAME] was told of [NAME] ulcers. Cross section. [NAME]. [NAME] saw it.\n",
        # of A: of another study count the names of staff alone, where they are written like one
        "HISTORY: [NAME] was told of brannigan ulcers. Cross section. Zwetschge. [NAME] saw it.\n",
    ]


def test_a_series_with_a_cut_slice_is_not_written_as_a_shorter_one(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "in" / "a", a_volume((6, 5, 5)), note=None)
    last = sorted((tmp_path / "in" / "a").glob("*.dcm"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-20])
    result = deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings())
    ledger = read_table(tmp_path / "out" / "ledger.csv", ProblemRow)
    assert (result.written, {row.code for row in ledger}, len(ledger)) == (0, {"truncated_pixels"}, 5)
    assert all("would pass for a whole series" in row.reason for row in ledger)


def test_slices_that_may_be_lost_beside_a_series_are_told_as_no_copy_tells_of_them(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "in" / "a", a_volume((6, 5, 5)), note=None)
    last = sorted((tmp_path / "in" / "a").glob("*.dcm"))[-1]
    last.write_bytes(last.read_bytes()[:400])
    result = deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings())
    ledger = read_table(tmp_path / "out" / "ledger.csv", ProblemRow)
    (warned,) = (row for row in ledger if row.code == "damaged_beside")
    assert (result.written, warned.severity) == (4, "warning")
    assert warned.reason.startswith("1 file of its series or in its folder cannot be read")


@pytest.mark.parametrize(
    ("name", "encoding", "severity"),
    [("Müller", "cp1252", "warning"), ("Świątek", "cp1250", "refused"), ("Иванов", "cp1251", "refused")],
)
def test_a_note_in_which_names_could_not_be_found_for_its_encoding_is_not_written(
    name: str, encoding: str, severity: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in" / "case"
    write_dicom_study(folder, a_volume((4, 3, 2)), note=None)
    edit_dicom(folder, SpecificCharacterSet="ISO_IR 192", PatientName=name)
    text = f"HISTORY: {name} coughs."
    (folder / "note.txt").write_bytes(text.encode(encoding))
    deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings())
    (told,) = (row for row in read_table(tmp_path / "out" / "ledger.csv", ProblemRow) if row.code == "note_encoding")
    assert told.severity == severity
    assert name not in told.reason
    written = [file.read_text("utf-8") for file in (tmp_path / "out").rglob("*.txt")]
    assert written == (["HISTORY: [NAME] coughs."] if severity == "warning" else [])


def test_the_label_table_is_joined_by_keys_and_keeps_listed_columns_but_no_dates(planted: Path, tmp_path: Path) -> None:
    config = settings('table_columns=["grade", "seen_on", "remark"]')
    deidentify.run(planted, out=tmp_path / "out", config=config)
    study = next(study for study in studies_of(tmp_path / "out") if study.layout == "folder")
    assert dict(study.facts) == {"grade": "3", "seen_on": "", "remark": ""}
    header = (tmp_path / "out" / "labels.csv").read_text().splitlines()[0]
    assert header == "patient_id,study_id,grade,seen_on,remark"


def test_names_and_birth_dates_of_the_label_table_are_found_within_words_of_sidecars_and_cells(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "case-x"
    write_nifti_study(folder, {"t1": a_volume((5, 4, 3))}, note=None)
    said = {"Units": "xZYLBERSTEINx", "ReconMethodName": "of_481106", "EchoTime": 0.5}
    (folder / "t1.json").write_text(json.dumps(said))
    (tmp_path / "in" / "labels.csv").write_text(
        "study_id,name,birth_date,arm\ncase-x,Zylberstein,06.11.1948,dezylbersteined\n"
    )
    deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings('table_columns=["arm"]'))
    assert json.loads(next((tmp_path / "out").rglob("t1.json")).read_text()) == {"EchoTime": 0.5}
    assert (tmp_path / "out" / "labels.csv").read_text().endswith(",\n")


def test_a_recording_is_refused_or_copied_without_its_tags(planted: Path, tmp_path: Path) -> None:
    deidentify.run(planted, out=tmp_path / "out", config=settings())
    ledger = read_table(tmp_path / "out" / "ledger.csv", ProblemRow)
    assert "recording_not_taken" in [row.code for row in ledger]
    deidentify.run(planted, out=tmp_path / "taken", config=settings("take_recordings=true"))
    (copy,) = (tmp_path / "taken").rglob("*.wav")
    assert copy.read_bytes().endswith(b"\x01\x00\xfe\xff\x2c\x01\x70\xfe")  # 1, -2, 300, -400
    assert leaks(tmp_path / "taken") == []


def test_a_sidecar_keeps_its_allowed_keys(planted: Path, tmp_path: Path) -> None:
    deidentify.run(planted, out=tmp_path / "out", config=settings())
    (sidecar,) = (tmp_path / "out").rglob("pt-*/st-*/*.json")
    assert json.loads(sidecar.read_text()) == {"EchoTime": 0.03, "Modality": "MR"}
    assert sidecar.name == "t1.json"
    assert (sidecar.parent / "t1.nii.gz").is_file()


def test_a_bids_tree_becomes_one_folder_per_study_and_stays_mr(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        folder = tmp_path / "in" / "sub-Meier" / session / "anat"
        write_nifti_study(folder, {f"sub-Meier_{session}_T1w": a_volume((5, 4, 3))}, note=None)
    deidentify.run(tmp_path / "in", out=tmp_path / "out", config=settings())
    files = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("pt-*/**/*.nii.gz"))
    assert len({file.split("/")[0] for file in files}) == 1
    assert len({file.split("/")[1] for file in files}) == 2
    assert {file.split("/")[2] for file in files} == {"T1w.nii.gz"}
    assert [study.series[0].modality for study in studies_of(tmp_path / "out")] == ["MR", "MR"]
    assert not any("meier" in file.lower() for file in files)


# --- real files ----------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_all_hard_cases_go_through_each_written_or_in_the_ledger(shared: Path, tmp_path: Path) -> None:
    root = shared / "torture" / "open"
    result = deidentify.run(root, out=tmp_path / "out", config=settings(), linkage=tmp_path / "linkage.csv")
    keys = {row.key for row in read_table(tmp_path / "linkage.csv", LinkageRow) if row.kind == "file"}
    assert len(keys) == sum(file.is_file() for file in root.rglob("*"))
    in_ledger = read_table(tmp_path / "out" / "ledger.csv", ProblemRow)
    left = [row for row in in_ledger if row.severity != "warning"]  # what is warned of was written
    assert result.written + len(left) == len(keys)
    before, after = (volumes(folder) for folder in (root, tmp_path / "out"))
    assert Counter(after) == Counter(before)  # the rest of a cut series does not become a volume either
    assert len(after) > 100


def volumes(root: Path) -> list[tuple[bytes, tuple[int, ...], int]]:
    """Return affine, shape and a digest of the voxels of every series that can be read, sorted."""
    found = []
    for series in (series for study in studies_of(root) for series in study.series if series.refusal is None):
        with contextlib.suppress(MedmllmError):
            volume = read_volume(series)
            found.append((volume.affine.tobytes(), volume.voxels.shape, hash(volume.voxels.tobytes())))
    return sorted(found)
