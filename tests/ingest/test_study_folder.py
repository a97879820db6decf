"""A folder becomes studies: found by UID, by folder or by BIDS; nothing is lost and nothing is named."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmllm.errors import IngestError, MedmllmError, MisuseError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import StudyIndex, index_folder, read_volume
from medmllm.ingest.walk import FoundFile, walk
from tests.factories import (
    a_volume,
    edit_dicom,
    write_dicom_study,
    write_nifti,
    write_nifti_study,
)
from tests.ingest.indexed import KEYS, codes, index, original, study_named

# --- DICOM ---------------------------------------------------------------------------------


def test_a_dicom_study_is_found_by_its_uids_however_its_files_are_scattered(tmp_path: Path) -> None:
    uid = write_dicom_study(tmp_path / "one", patient="MEIER", note=None)
    write_dicom_study(tmp_path / "two", a_volume(seed=2), patient="MEIER", series=2, note=None)
    other = write_dicom_study(tmp_path / "three", a_volume(seed=3), patient="HUBER", note=None)
    for number, file in enumerate(sorted(tmp_path.rglob("*.dcm"))):
        place = tmp_path / "mess" / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / f"{number}.txt")
    found = index(tmp_path)
    assert {original(found, study.study_key) for study in found.studies} == {uid, other}
    study = study_named(found, uid)
    assert study.layout == "dicom"
    assert study.patient_key == KEYS.patient("MEIER")
    assert [(series.shape, series.spacing_mm) for series in study.series] == [((6, 5, 4), (2.0, 3.0, 4.0))] * 2
    assert found.problems == ()
    values = {float(read_volume(series).voxels.sum()) for series in study.series}
    assert values == {float(a_volume(seed=seed).voxels.sum()) for seed in (1, 2)}


def test_a_series_that_is_no_regular_grid_is_refused_by_its_headers(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, leave_out=[1])
    found = index(tmp_path)
    (series,) = found.studies[0].series
    assert series.refusal is not None
    assert series.refusal.code == "missing_slice"
    assert (series.shape, series.spacing_mm) == (None, None)
    (problem,) = found.problems
    assert (problem.where_key, problem.study_key) == (series.series_key, found.studies[0].study_key)
    assert problem.severity == "refused"
    with pytest.raises(IngestError, match="1 slice is missing") as refusal:
        read_volume(series)
    assert series.series_key in refusal.value.reason
    assert refusal.value.code == "missing_slice"


def test_copies_of_a_file_are_left_out_although_every_slice_has_one_sop_instance_uid(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    edit_dicom(tmp_path, SOPInstanceUID="1.2.3")
    shutil.copy(tmp_path / "0002.dcm", tmp_path / "copy")
    found = index(tmp_path)
    assert [series.shape for series in found.studies[0].series] == [(6, 5, 4)]
    assert codes(found) == {"duplicate_file": 1}


def test_another_image_at_the_same_place_is_no_copy(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    shutil.copy(tmp_path / "0002.dcm", tmp_path / "0009.dcm")
    edit_dicom(tmp_path, only=[4], RescaleIntercept=-1000)
    assert codes(index(tmp_path)) == {"doubled_slice": 1}


def test_a_series_of_two_acquisitions_becomes_two_volumes(tmp_path: Path) -> None:
    for number in (1, 2):
        write_dicom_study(tmp_path / str(number), a_volume(seed=number), note=None)
        edit_dicom(tmp_path / str(number), AcquisitionNumber=number)
    found = index(tmp_path)
    sums = [float(read_volume(series).voxels.sum()) for series in found.studies[0].series]
    assert sums == [float(a_volume(seed=number).voxels.sum()) for number in (1, 2)]
    assert codes(found) == {"split_series": 2}
    assert len({series.series_key for series in found.studies[0].series}) == 2


def test_studies_without_a_patient_id_are_patients_of_their_own(tmp_path: Path) -> None:
    for number in (1, 2):
        write_dicom_study(tmp_path / str(number), study=number, note=None)
        edit_dicom(tmp_path / str(number), PatientID="")
    found = index(tmp_path)
    assert len({study.patient_key for study in found.studies}) == 2
    assert codes(found) == {"no_patient_id": 2}


def test_two_patients_in_one_study_are_refused(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    edit_dicom(tmp_path, only=[3], PatientID="HUBER")
    found = index(tmp_path)
    assert codes(found) == {"mixed_patients": 1}
    with pytest.raises(IngestError):
        read_volume(found.studies[0].series[0])


def test_files_with_emptied_uids_are_taken_by_folder_and_remarked(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "a", note=None)
    edit_dicom(tmp_path / "a", StudyInstanceUID="", SeriesInstanceUID="", SOPInstanceUID="")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    found = index(tmp_path)
    assert [series.shape for study in found.studies for series in study.series] == [(6, 5, 4)] * 2
    assert codes(found) == {"no_uid": 2}


def test_a_tilted_gantry_is_a_warning_and_its_volume_is_read(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, a_volume(tilt_deg=12.0))
    found = index(tmp_path)
    assert [(problem.code, problem.severity) for problem in found.problems] == [("gantry_tilt", "warning")]
    assert read_volume(found.studies[0].series[0]).voxels.shape == (6, 5, 4)


# --- NIfTI and BIDS ------------------------------------------------------------------------


def test_a_folder_with_nifti_files_is_one_study_and_one_patient(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "s" / "b", {"flair": a_volume(seed=1), "t1": a_volume(seed=2)})
    write_nifti_study(tmp_path / "s" / "a", {"flair": a_volume(seed=3)}, note=None)
    found = index(tmp_path)
    assert [original(found, study.study_key) for study in found.studies] == ["s/a", "s/b"]
    assert [[series.description for series in study.series] for study in found.studies] == [["flair"], ["flair", "t1"]]
    assert len({study.patient_key for study in found.studies}) == 2
    assert [len(study.notes) for study in found.studies] == [0, 1]
    assert {series.modality for study in found.studies for series in study.series} == {None}
    assert read_volume(found.studies[0].series[0]).voxels.tolist() == a_volume(seed=3).voxels.tolist()


def test_a_study_has_the_same_keys_alone_and_among_others(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a")
    write_nifti_study(tmp_path / "b")
    among = study_named(index(tmp_path), "a")
    (alone,) = index(tmp_path / "a").studies
    assert (alone.study_key, alone.patient_key) == (among.study_key, among.patient_key)


def test_header_and_voxel_file_of_a_pair_are_one_series(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(np.ones((4, 3, 2), np.int16), np.eye(4)), tmp_path / "a.hdr")
    found = index(tmp_path)
    (series,) = found.studies[0].series
    assert [file.name for file in series.files] == ["a.hdr", "a.img"]
    assert read_volume(series).voxels.sum() == 24
    assert found.problems == ()


def test_damaged_voxels_are_refused_with_the_series_key(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a" / "x.nii.gz", a_volume())
    data = (tmp_path / "a" / "x.nii.gz").read_bytes()
    (tmp_path / "a" / "x.nii.gz").write_bytes(data[:-20])
    (series,) = index(tmp_path).studies[0].series
    assert series.refusal is None
    with pytest.raises(MedmllmError) as refusal:
        read_volume(series)
    assert series.series_key in refusal.value.reason


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    for place in (
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/func/sub-01_ses-1_bold.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_FLAIR.nii.gz",
        "derivatives/tool/sub-01/anat/sub-01_T1w.nii.gz",
    ):
        write_nifti(tmp_path / place, a_volume())
    (tmp_path / "sub-01" / "ses-1" / "note.txt").write_text("HISTORY: first")
    (tmp_path / "sub-02" / "note.txt").write_text("HISTORY: other")
    (tmp_path / "sub-01" / "both.txt").write_text("of which session?")
    (tmp_path / "sub-02" / "anat" / "sub-02_FLAIR.json").write_text('{"Modality": "MR"}')
    (tmp_path / "dataset_description.json").write_text("{}")
    (tmp_path / "README").write_text("A data set.")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t60\nsub-02\t61\nsub-03\t62\n")
    return tmp_path


def test_bids_subjects_and_sessions_are_patients_and_studies(bids: Path) -> None:
    found = index(bids)
    names = [original(found, study.study_key) for study in found.studies]
    assert names == ["sub-01/ses-1", "sub-01/ses-2", "sub-02"]
    assert [original(found, study.patient_key) for study in found.studies] == ["sub-01", "sub-01", "sub-02"]
    assert {study.layout for study in found.studies} == {"bids"}
    assert [len(study.series) for study in found.studies] == [2, 1, 1]
    assert {series.modality for study in found.studies for series in study.series} == {"MR"}
    assert [study.facts.get("age") for study in found.studies] == ["60", "60", "61"]
    assert [len(study.notes) for study in found.studies] == [1, 0, 1]
    assert codes(found) == {
        "bids_not_raw": 1, "orphan_note": 1, "bids_sidecar": 2, "not_a_note": 1,
        "row_without_study": 1,
    }  # fmt: skip


def test_one_bids_subject_indexed_alone_keeps_its_keys(bids: Path) -> None:
    whole = {study.study_key: study.patient_key for study in index(bids).studies}
    for study in index(bids / "sub-01").studies:
        assert whole[study.study_key] == study.patient_key


def test_bids_studies_join_a_table_by_subject_and_session(bids: Path) -> None:
    (bids / "participants.tsv").write_text("study_id,grade\nsub-01_ses-2,7\nsub-02,8\n".replace(",", "\t"))
    found = index(bids)
    assert [study.facts.get("grade") for study in found.studies] == [None, "7", "8"]


def test_a_participant_may_be_listed_without_the_prefix(bids: Path) -> None:
    (bids / "participants.tsv").write_text("participant_id\tage\n01\t60\n")
    assert [study.facts.get("age") for study in index(bids).studies] == ["60", "60", None]


def test_a_file_called_like_bids_outside_a_subjects_folder_is_an_ordinary_study(tmp_path: Path) -> None:
    write_nifti(tmp_path / "x" / "sub-01_T1w.nii.gz", a_volume())
    assert [study.layout for study in index(tmp_path).studies] == ["folder"]


# --- the whole -----------------------------------------------------------------------------


def test_the_order_of_studies_does_not_depend_on_the_secret(tmp_path: Path) -> None:
    for name in "dacb":
        write_nifti_study(tmp_path / name)
    for secret in (b"first secret, long enough", b"other secret, long enough"):
        found = index_folder(tmp_path, keyring=Keyring(secret))
        assert [original(found, study.study_key) for study in found.studies] == ["a", "b", "c", "d"]


def test_originals_show_in_no_repr_and_in_no_problem(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "HUBER_ANNA", patient="MEIER", leave_out=[1])
    write_nifti_study(tmp_path / "KOCH")
    (tmp_path / "KOCH" / "KOCH.pdf").write_text("%PDF")
    (tmp_path / "labels.csv").write_text("study_id,name\nKOCH,SCHMIDT\nWEBER,x\n")
    found = index(tmp_path)
    shown = repr(found)
    assert [name for name in ("HUBER", "ANNA", "MEIER", "KOCH", "SCHMIDT", "WEBER") if name in shown] == []
    assert all(name not in row.model_dump_json() for row in found.problems for name in ("HUBER", "MEIER", "KOCH"))


def test_the_linkage_names_every_key_in_use(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "a", leave_out=[1])
    write_nifti_study(tmp_path / "b")
    (tmp_path / "junk").write_text("x")
    found = index(tmp_path)
    used = {study.study_key for study in found.studies} | {study.patient_key for study in found.studies}
    used |= {series.series_key for study in found.studies for series in study.series}
    used |= {problem.where_key for problem in found.problems}
    assert used == {row.key for row in found.linkage}
    assert {row.kind for row in found.linkage} == {"patient", "study", "series", "file"}


def test_file_names_that_are_no_utf8_are_indexed(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    write_nifti(tmp_path / "x.nii", a_volume())
    odd = b"M\xfcller.nii"
    shutil.move(tmp_path / "x.nii", (str(tmp_path / "study") + "/").encode() + odd)
    found = index(tmp_path)
    assert read_volume(found.studies[0].series[0]).voxels.shape == (6, 5, 4)
    assert any("M\\udcfcller.nii" in row.original for row in found.linkage)


def test_progress_counts_every_file_once(bids: Path) -> None:
    counted: list[int] = []
    index_folder(bids, keyring=KEYS, advance=counted.append)
    assert sum(counted) == sum(isinstance(entry, FoundFile) for entry in walk(bids))


@pytest.mark.parametrize("make", [False, True], ids=["absent", "empty"])
def test_a_root_that_is_absent_or_empty_is_a_misuse(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "root").mkdir()
    with pytest.raises(MisuseError):
        index(tmp_path / "root")


def accounted(found: StudyIndex, root: Path) -> set[str]:
    """Every path, relative to the root, that the index knows the fate of."""
    inside: set[Path] = set()
    for study in found.studies:
        inside.update(file for series in study.series for file in series.files)
        inside.update(reference.file for reference in (*study.notes, *study.recordings))
    fates = {str(file.relative_to(root)) for file in inside}
    problems = {problem.where_key for problem in found.problems}
    return fates | {row.original for row in found.linkage if row.kind == "file" and row.key in problems}


def test_every_file_of_the_hard_cases_has_a_fate(shared: Path) -> None:
    root = shared / "torture" / "open"
    found = index(root)
    files = {file.relative for file in walk(root) if isinstance(file, FoundFile)}
    assert files - accounted(found, root) == set()
    assert len(files) > 600


def test_the_messy_folder_holds_three_image_series(shared: Path) -> None:
    found = index(shared / "torture" / "open" / "dir_mess_open" / "data")
    series = [(series.modality, series.refusal is None) for study in found.studies for series in study.series]
    # One of the two MR series has two volumes.
    assert sorted(series) == [("CT", True), ("MR", True), ("MR", True), ("MR", True)]


def test_the_lidc_cohort_is_indexed_and_joined(shared: Path) -> None:
    root = shared / "data" / "ct_lidc_nodules"
    found = index(root / "studies", root / "labels.csv")
    assert len(found.studies) == 134
    assert all(study.facts and len(study.series) == len(study.notes) == 1 for study in found.studies)
    assert found.problems == ()
    assert read_volume(found.studies[0].series[0]).voxels.shape == (51, 51, 51)
