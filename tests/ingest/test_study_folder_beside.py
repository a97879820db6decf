"""What lies beside a study's images belongs to it: notes, recordings and its row of the label table."""

import csv
import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile

from medmllm.errors import IngestError, NoteError
from medmllm.ingest.study_folder import read_study_note
from tests.factories import (
    write_dicom_study,
    write_nifti_cohort,
    write_nifti_study,
)
from tests.ingest.indexed import KEYS, codes, index, original, study_named

Form = Literal["NFC", "NFD"]


def test_notes_and_sounds_belong_to_the_study_whose_images_lie_in_the_nearest_folder(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "p" / "a" / "dicom", study=1, note=None)
    write_dicom_study(tmp_path / "p" / "b" / "dicom", study=2, note=None)
    (tmp_path / "p" / "a" / "report").mkdir()
    (tmp_path / "p" / "a" / "report" / "2.txt").write_text("IMPRESSION: second\n")
    (tmp_path / "p" / "a" / "1.md").write_text("HISTORY: first\n")
    (tmp_path / "p" / "between.txt").write_text("whose?")
    soundfile.write(tmp_path / "p" / "b" / "heart.wav", np.zeros(100), 4000)
    found = index(tmp_path)
    with_notes = next(study for study in found.studies if study.notes)
    note = read_study_note(with_notes)
    assert note is not None
    assert note.text == "HISTORY: first\n\n\nIMPRESSION: second\n"
    assert [part.name for part in note.sections] == ["history", "impression"]
    assert sorted((len(study.notes), len(study.recordings)) for study in found.studies) == [(0, 1), (2, 0)]
    (orphan,) = found.problems
    assert (orphan.code, orphan.severity) == ("orphan_note", "ignored")
    assert "2 studies" in orphan.reason


def test_a_damaged_recording_is_a_problem_of_the_study_that_it_lies_in(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nifti_study(tmp_path / name, note=None)
    (tmp_path / "b" / "heart.wav").write_bytes(b"RIFF and no more")
    found = index(tmp_path)
    study = study_named(found, "b")
    assert len(study.recordings) == 1
    (problem,) = found.problems
    assert (problem.study_key, problem.severity, problem.code) == (study.study_key, "refused", "recording_unreadable")
    assert original(found, problem.where_key) == "b/heart.wav"


def test_a_study_without_a_note_reads_none_and_an_empty_note_counts_as_none(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a", note=None)
    write_nifti_study(tmp_path / "b", note="  \n")
    assert [read_study_note(study) for study in index(tmp_path).studies] == [None, None]


def test_a_note_that_is_not_text_is_an_error_with_the_study_key(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "MEIER")
    (tmp_path / "MEIER" / "note.txt").write_bytes(b"\x00\x01")
    (study,) = index(tmp_path).studies
    with pytest.raises(NoteError) as refusal:
        read_study_note(study)
    assert study.study_key in refusal.value.reason
    assert "MEIER" not in refusal.value.reason


def test_a_note_too_large_to_read_refuses_its_study_rather_than_leaving_it_without(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "a", note="x " * 500_001)
    (study,) = index(tmp_path).studies
    with pytest.raises(IngestError, match="larger than") as refusal:
        read_study_note(study)
    assert refusal.value.code == "note_too_large"


def test_a_cohort_joins_its_table_by_folder_name_and_takes_its_patients(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path, patients=3, without_image=[1])
    with labels.open() as stream:
        rows = {row["study_id"]: row for row in csv.DictReader(stream)}
    found = index(tmp_path)
    assert len(found.studies) == len(rows) == 4
    for study in found.studies:
        row = rows[original(found, study.study_key).rpartition("/")[2]]
        assert study.facts["outcome"] == row["outcome"]
        assert study.patient_key == KEYS.patient(row["patient_id"])
        assert set(study.facts) == {"outcome", "grade"}
    assert sorted((len(study.series), len(study.notes)) for study in found.studies) == [(0, 1), (1, 1), (1, 1), (1, 1)]
    assert found.problems == ()


def test_a_given_table_joins_the_same_way_and_counts_as_used(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path, patients=3)
    assert index(tmp_path, labels) == index(tmp_path)
    assert index(tmp_path / "studies", labels).studies[0].facts == index(tmp_path).studies[0].facts


def test_another_table_in_the_root_is_reported_as_unused(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a")
    (tmp_path / "labels.csv").write_text("study_id,x\na,1\n")
    (tmp_path / "participants.tsv").write_text("participant_id\tx\na\t2\n")
    (tmp_path / "other.csv").write_text("study_id,x\na,3\n")
    assert index(tmp_path).studies[0].facts["x"] == "1"
    assert codes(index(tmp_path)) == {"unused_table": 1, "not_recognised": 1}
    given = index(tmp_path, tmp_path / "other.csv")
    assert given.studies[0].facts["x"] == "3"
    assert codes(given)["unused_table"] == 2


def test_a_bad_table_in_the_root_is_a_warning(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a")
    (tmp_path / "labels.csv").write_text("recording_id,label\nMEIER,1\n")
    found = index(tmp_path)
    assert [(problem.code, problem.severity) for problem in found.problems] == [("bad_labels", "warning")]
    assert found.studies[0].facts == {}


def test_dicom_studies_join_by_study_uid_and_by_the_folder_that_holds_only_them(tmp_path: Path) -> None:
    uid = write_dicom_study(tmp_path / "first" / "ct", study=1, note=None)
    write_dicom_study(tmp_path / "second" / "ct", study=2, note=None)
    (tmp_path / "labels.csv").write_text(f"study_id,patient_id,x\n{uid},P1,1\nsecond,P2,2\n")
    found = index(tmp_path)
    assert {study.facts["x"]: study.patient_key for study in found.studies} == {
        "1": KEYS.patient("P1"),
        "2": KEYS.patient("P2"),
    }
    # Both studies carry one PatientID, the table says two patients: somebody should look.
    assert codes(found) == {"patient_split_by_table": 2}


def test_a_table_by_patient_gives_all_studies_of_a_patient_their_facts(tmp_path: Path) -> None:
    for study in (1, 2):
        write_dicom_study(tmp_path / str(study), patient="MEIER", study=study, note=None)
    write_nifti_study(tmp_path / "HUBER" / "visit")
    (tmp_path / "labels.csv").write_text("patient_id,x\nMEIER,1\nHUBER,2\nNOBODY,3\n")
    found = index(tmp_path)
    assert sorted(study.facts["x"] for study in found.studies) == ["1", "1", "2"]
    assert {study.patient_key for study in found.studies} == {KEYS.patient("MEIER"), KEYS.patient("HUBER")}
    (problem,) = found.problems
    assert (problem.code, problem.where_key) == ("row_without_study", KEYS.patient("NOBODY"))
    assert problem.reason == "line 4 of the label table fits no study"


def test_a_folder_name_that_occurs_twice_is_not_guessed(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "site1" / "001")
    write_nifti_study(tmp_path / "site2" / "001")
    (tmp_path / "labels.csv").write_text("study_id,x\n001,1\n")
    found = index(tmp_path)
    assert [dict(study.facts) for study in found.studies] == [{}, {}]
    assert [(problem.code, problem.severity) for problem in found.problems] == [("ambiguous_label", "refused")] * 2
    (tmp_path / "labels.csv").write_text("study_id,x\nsite1/001,1\nsite2/001,2\n")
    assert [study.facts["x"] for study in index(tmp_path).studies] == ["1", "2"]


@pytest.mark.parametrize(("folder_form", "table_form"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("column", ["study_id", "patient_id"])
def test_accents_written_as_one_character_or_two_name_the_same_folder(
    tmp_path: Path, folder_form: Form, table_form: Form, column: str
) -> None:
    write_nifti_study(tmp_path / unicodedata.normalize(folder_form, "Müller_1"))
    note_alone = tmp_path / unicodedata.normalize(folder_form, "Größe")
    note_alone.mkdir()
    for number in range(5):
        (note_alone / f"{number}.txt").write_text("HISTORY: cough")
    rows = unicodedata.normalize(table_form, f"{column},x\nMüller_1,1\nGröße,2\n")
    (tmp_path / "labels.csv").write_text(rows, encoding="utf-8")
    found = index(tmp_path)
    assert sorted(study.facts["x"] for study in found.studies) == ["1", "2"]
    assert "row_without_study" not in codes(found)


def test_a_whole_path_wins_over_a_folder_name(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a")
    write_nifti_study(tmp_path / "b" / "a")
    (tmp_path / "labels.csv").write_text("study_id,x\na,1\n")
    found = index(tmp_path)
    assert [dict(study.facts) for study in found.studies] == [{"x": "1"}, {}]
