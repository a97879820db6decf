"""A masked note is the same note, character by character, without what tells who it is about."""

from pathlib import Path

import pytest

from medmllm.ingest.keys import Keyring
from medmllm.ingest.masking import mask, mask_note
from medmllm.ingest.study_folder import index_folder, read_study_note
from medmllm.records import Note, Section, Study
from tests.factories import edit_dicom, write_dicom_study


@pytest.mark.parametrize(
    ("text", "scrubbed", "shown"),
    [
        ("Mr. Meier, seen 3.5.2020.", "Mr. [NAME], seen [DATE].", "Mr. XXXXX, seen X.X.XXXX."),
        ("one\nMeier two\n", "one\n[NAME] two\n", "one\nXXXXX two\n"),
        ("at 12 Main Street,\nSpringfield. Cough", "at [ADDRESS]. Cough", "at XX XXXX XXXXXX,\nXXXXXXXXXXX. Cough"),
        ("cough", "cough", "cough"),
        ("Seen, Mu\u0308ller.", "Seen, [NAME].", "Seen, XXXXXXX."),
        ("92M with 12 mm", "[AGE]M with 12 mm", "XXM with 12 mm"),
        ("Mr. Smith m. 9 mm", "Mr. [NAME] m. 9 mm", "Mr. XXXXX m. 9 mm"),
        ("MRN:4711 came", "MRN: [ID] came", "MRN:XXXX came"),
        ("a cough since May", "a cough [DATE] more", "a cough XXXXX XXX"),  # not what scrubbing leaves
        ("[NAME] has seen Ann", "[NAME] has seen [NAME]", "[XXXX] has seen XXX"),
    ],
)
def test_what_the_scrubbed_text_lacks_is_shown_as_x_in_its_place(text: str, scrubbed: str, shown: str) -> None:
    assert mask(text, scrubbed) == shown
    assert len(shown) == len(text)


def test_a_long_line_is_shown_as_many_short_ones_are() -> None:
    line = "Dr. Smith saw 3.5.2020 it again, 12 mm. "
    scrubbed = line.replace("Smith", "[NAME]").replace("3.5.2020", "[DATE]")
    assert mask(4000 * line, 4000 * scrubbed) == 4000 * mask(line, scrubbed)


def test_names_that_only_the_header_or_a_folder_tells_are_masked_and_sections_stay(tmp_path: Path) -> None:
    note = "HISTORY: Zwetschge has a 3 cm mass, Crohn disease. Told Oxenhandler of it. IMPRESSION: Mass."
    write_dicom_study(tmp_path / "Oxenhandler", patient="4711", note=note)
    edit_dicom(tmp_path / "Oxenhandler", PatientName="Zwetschge^Anna")
    (study,) = index_folder(tmp_path, keyring=Keyring(b"the secret of these tests")).studies
    read = read_study_note(study)
    assert read is not None
    masked = mask_note(read, study)
    assert masked.text == note.replace("Zwetschge", "X" * 9).replace("Oxenhandler", "X" * 11)
    assert masked.sections == read.sections
    assert "Zwetschge" in read.text


def test_a_note_without_headers_goes_by_what_announces_a_name() -> None:
    note = Note("Dictated by: Ann Wigglesworth, MD\nMass at T12.", (Section("", 0, 45),))
    nobody = Study("st-" + "0" * 16, "pt-" + "0" * 16, "folder")
    assert mask_note(note, nobody).text == "Dictated by: XXX XXXXXXXXXXXX, XX\nMass at T12."


def test_a_column_of_class_names_tells_no_persons_name() -> None:
    note = Note("Fracture, told Tablespoon.", ())
    facts = {"class_name": "fracture", "doctor_name": "Tablespoon"}
    study = Study("st-" + "0" * 16, "pt-" + "0" * 16, "folder", facts=facts)
    assert mask_note(note, study).text == "Fracture, told XXXXXXXXXX."
