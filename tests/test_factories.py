"""The makers make what they say, read back by the readers of the package."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_study_note, read_volume
from medmllm.ingest.tables import read_label_table
from tests.factories import a_volume, edit_dicom, write_dicom_study, write_nifti_cohort, write_nifti_study

KEYRING = Keyring(b"a secret of thirty-two bytes ....")


@pytest.mark.parametrize(("turn_deg", "tilt_deg"), [(0.0, 0.0), (8.0, 0.0), (0.0, 15.0), (-5.0, -20.0)])
def test_a_written_dicom_study_reads_back_as_the_volume_it_was(
    tmp_path: Path, turn_deg: float, tilt_deg: float
) -> None:
    volume = a_volume(turn_deg=turn_deg, tilt_deg=tilt_deg)
    uid = write_dicom_study(tmp_path / "study", volume, note="HISTORY: told")
    (study,) = index_folder(tmp_path, keyring=KEYRING).studies
    assert study.study_key == KEYRING.study(uid)
    (series,) = study.series
    back = read_volume(series)
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-6)
    note = read_study_note(study)
    assert note is not None
    assert note.text == "HISTORY: told"


def test_a_tilt_leans_the_stack_by_its_angle() -> None:
    step = a_volume(spacing_mm=(2.0, 3.0, 4.0), tilt_deg=45.0).affine[:3, 2]
    np.testing.assert_allclose(step, [0.0, 4.0, 4.0], atol=1e-12)


def test_two_series_of_one_study_share_its_uid_and_another_study_does_not(tmp_path: Path) -> None:
    first = write_dicom_study(tmp_path / "a")
    second = write_dicom_study(tmp_path / "b", series=2, note=None)
    other = write_dicom_study(tmp_path / "c", study=2)
    assert first == second != other
    found = index_folder(tmp_path, keyring=KEYRING).studies
    assert sorted(len(study.series) for study in found) == [1, 2]
    assert len({study.patient_key for study in found}) == 1


def test_elements_are_changed_and_deleted_in_the_slices_named(tmp_path: Path) -> None:
    write_dicom_study(tmp_path)
    edit_dicom(tmp_path, Modality="MR", KVP=None)
    edit_dicom(tmp_path, only=[2], InstanceNumber=77)
    headers = [pydicom.dcmread(file) for file in sorted(tmp_path.glob("*.dcm"))]
    assert [header.Modality for header in headers] == ["MR"] * 4
    assert not any("KVP" in header for header in headers)
    assert [header.InstanceNumber for header in headers] == [1, 2, 77, 4]


def test_a_nifti_study_holds_the_volumes_and_the_note_asked_for(tmp_path: Path) -> None:
    volumes = {"t1": a_volume(seed=2), "flair": a_volume(seed=3)}
    write_nifti_study(tmp_path / "s1", volumes, note=None)
    (study,) = index_folder(tmp_path, keyring=KEYRING).studies
    assert study.notes == ()
    assert {series.description for series in study.series} == {"t1", "flair"}
    for series in study.series:
        back = read_volume(series)
        np.testing.assert_array_equal(back.voxels, volumes[str(series.description)].voxels)
        np.testing.assert_allclose(back.affine, volumes[str(series.description)].affine, atol=1e-5)


def test_the_nifti_cohort_tells_its_outcome_in_image_note_and_grade(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path, patients=30, without_image=[1], without_note=[4])
    with labels.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 30 + 10
    assert len({row["patient_id"] for row in rows}) == 30
    by_key = {KEYRING.study(row["study_id"]): row for row in rows}
    # A folder with a note alone is known as a study by the table only.
    found = index_folder(tmp_path / "studies", keyring=KEYRING, table=read_label_table(labels)).studies
    assert {study.study_key for study in found} == set(by_key)
    without = {"image": [], "note": []}
    for study in found:
        row = by_key[study.study_key]
        positive = row["outcome"] == "1"
        assert (int(row["grade"]) >= 3) == positive
        note = read_study_note(study)
        if note is None:
            without["note"].append(row["study_id"])
        else:
            assert ("marked" in note.text) == positive
        if not study.series:
            without["image"].append(row["study_id"])
        else:
            assert (read_volume(study.series[0]).voxels.max() > 150) == positive
    assert without == {"image": [rows[1]["study_id"]], "note": [rows[4]["study_id"]]}
