"""Folders of notes or recordings alone are studies where folders of images would be, and nobody's notes are mixed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from medmllm.ingest.study_folder import StudyIndex
from tests.factories import a_volume, write_dicom_study, write_nifti, write_nifti_study
from tests.ingest.indexed import codes, index, original, study_named


def put_file(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".wav"):
            soundfile.write(root / name, np.zeros(100), 4000)
        else:
            (root / name).write_text("HISTORY: made up\n")


def held(found: StudyIndex) -> dict[str, tuple[int, int, int]]:
    """Name -> series, notes and recordings of each study."""
    return {
        original(found, study.study_key): (len(study.series), len(study.notes), len(study.recordings))
        for study in found.studies
    }


def test_a_folder_of_a_note_or_a_recording_alone_is_a_study_and_has_the_keys_of_one_with_an_image(
    tmp_path: Path,
) -> None:
    for name in ("s/a", "s/b"):
        write_nifti_study(tmp_path / name, note=None)
    put_file(tmp_path, "s/note/note.txt", "s/sound/1.wav", "s/sound/2.wav")
    found = index(tmp_path)
    assert held(found) == {"s/a": (1, 0, 0), "s/b": (1, 0, 0), "s/note": (0, 1, 0), "s/sound": (0, 0, 2)}
    assert [(problem.code, problem.severity) for problem in found.problems] == [("no_images", "warning")] * 2
    write_nifti(tmp_path / "s" / "note" / "image.nii.gz", a_volume())
    with_image, without = study_named(index(tmp_path), "s/note"), study_named(found, "s/note")
    assert (with_image.study_key, with_image.patient_key) == (without.study_key, without.patient_key)


def test_a_cohort_of_notes_alone_is_a_study_per_folder_and_a_table_makes_the_same_ones(tmp_path: Path) -> None:
    put_file(tmp_path, "a/note.txt", "b/note.txt", "c/x/note.txt", "about.txt")
    found = index(tmp_path)
    assert held(found) == {"a": (0, 1, 0), "b": (0, 1, 0), "c/x": (0, 1, 0)}
    assert codes(found) == {"no_images": 3, "orphan_note": 1}
    (tmp_path / "labels.csv").write_text("study_id,x\na,1\nb,2\nc/x,3\n")
    listed = index(tmp_path)
    assert [study.study_key for study in listed.studies] == [study.study_key for study in found.studies]
    assert codes(listed) == {"orphan_note": 1}


def test_a_folder_with_nothing_but_files_about_the_data_set_is_no_study(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a", note=None)
    write_nifti_study(tmp_path / "b", note=None)
    put_file(tmp_path, "docs/README.md", "docs/Authors.txt", "code/requirements.txt", "c/readmission.txt")
    found = index(tmp_path)
    assert held(found) == {"a": (1, 0, 0), "b": (1, 0, 0), "c": (0, 1, 0)}
    assert codes(found) == {"no_images": 1, "not_a_note": 3}


def test_beside_one_study_of_a_nifti_folder_another_folder_is_the_next_patient(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a", note=None)
    put_file(tmp_path, "a/report/1.txt", "b/note.txt", "c/note.txt")
    assert held(index(tmp_path)) == {"a": (1, 1, 0), "b": (0, 1, 0), "c": (0, 1, 0)}


def test_a_folder_beside_the_images_of_one_patient_or_of_one_dicom_study_belongs_to_them(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "p" / "scan", note=None)
    write_nifti_study(tmp_path / "q" / "scan", note=None)
    put_file(tmp_path, "p/report/note.txt")
    assert held(index(tmp_path)) == {"p/scan": (1, 1, 0), "q/scan": (1, 0, 0)}
    uid = write_dicom_study(tmp_path / "export" / "DICOM", note=None)
    put_file(tmp_path, "export/report/note.txt")
    assert held(index(tmp_path / "export")) == {uid: (1, 1, 0)}


def test_a_note_and_the_sounds_in_a_folder_below_it_are_one_study(tmp_path: Path) -> None:
    put_file(tmp_path, "a/note.txt", "a/audio/heart.wav", "b/note.txt")
    assert held(index(tmp_path)) == {"a": (0, 1, 1), "b": (0, 1, 0)}


def test_a_folder_that_is_itself_one_study_goes_by_its_own_name(tmp_path: Path) -> None:
    put_file(tmp_path, "P7/note.txt", "P8/note.txt")
    among = study_named(index(tmp_path), "P7")
    (alone,) = index(tmp_path / "P7").studies
    assert (alone.study_key, alone.patient_key) == (among.study_key, among.patient_key)
    assert len(alone.notes) == 1


@pytest.mark.parametrize(("kind", "most"), [("txt", 3), ("wav", 10)])
def test_more_files_than_are_one_patients_are_no_study_unless_a_table_lists_their_folder(
    tmp_path: Path, kind: str, most: int
) -> None:
    for number in range(most):
        put_file(tmp_path, f"all/{number}.{kind}")
    assert len(index(tmp_path).studies) == 1
    put_file(tmp_path, f"all/more.{kind}")
    found = index(tmp_path)
    assert found.studies == ()
    assert len(found.problems) == most + 1
    assert "with at most 3 notes or 10 recordings, or where a label table lists it" in found.problems[0].reason
    (tmp_path / "labels.csv").write_text("study_id,x\nall,1\n")
    (study,) = index(tmp_path).studies
    assert len(study.notes) + len(study.recordings) == most + 1


def test_a_note_is_an_orphan_above_several_folders_that_are_studies(tmp_path: Path) -> None:
    put_file(tmp_path, "site/a/note.txt", "site/b/note.txt", "site/list.txt")
    found = index(tmp_path)
    assert held(found) == {"site/a": (0, 1, 0), "site/b": (0, 1, 0)}
    (orphan,) = [problem for problem in found.problems if problem.code == "orphan_note"]
    assert orphan.reason == "the note lies beside 2 studies: put it into the folder of one"
