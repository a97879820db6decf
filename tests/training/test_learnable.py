"""A vocabulary learns what the notes say, and nobody's name: not an announced one, not one that any header tells."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_study_note
from medmllm.ingest.tables import read_label_table
from medmllm.records import Note, Section
from medmllm.training.cohort import Cohort, Member, draft_contract
from medmllm.training.fold_inputs import fold_tokenizer
from medmllm.training.learnable import Learnable, learnable, learnable_words, without_names
from medmllm.training.splits import FoldSplit
from tests.factories import edit_dicom, write_dicom_study
from tests.models.small import IMAGE, TEXT, a_sample

KEYRING = Keyring(b"the secret of these tests")
NOTE = "HISTORY: Zwetschge has a mass at T12. Seen by Dr. Wigglesworth on 3.5.2020. Tablespoon knows."
ROOMY = TEXT.model_copy(update={"tiny_vocabulary": 500})
BOTH = np.arange(2)
NONE = np.array([], dtype=int)


@pytest.fixture
def found(tmp_path: Path) -> Learnable:
    """What is learnable of a study whose header tells one name, the table another, the note a third."""
    write_dicom_study(tmp_path / "studies" / "a", patient="4711", note=NOTE)
    edit_dicom(tmp_path / "studies" / "a", PatientName="Zwetschge^Anna", ReferringPhysicianName="Hippolytus")
    table = tmp_path / "labels.csv"
    table.write_text("study_id,doctor_name,outcome\na,Tablespoon,1\n")
    (study,) = index_folder(tmp_path / "studies", keyring=KEYRING, table=read_label_table(table)).studies
    what = learnable(read_study_note(study), study, draft_contract(None, TEXT))
    assert what is not None
    return what


def test_names_of_header_table_and_note_and_dates_are_no_words_to_learn(found: Learnable) -> None:
    words = learnable_words(Note(NOTE, ()), found.text, TEXT)
    assert words == {"HISTORY:", "has", "a", "mass", "at", "T12.", "Seen", "by", "Dr.", "on", "knows."}
    assert {"zwetschge", "hippolytus", "tablespoon"} <= found.names
    assert "zwetschge" not in repr(found).casefold()


def test_words_of_sections_that_are_not_read_are_not_learnt() -> None:
    note = Note("cough xylophone", (Section("history", 0, 5), Section("findings", 6, 15)))
    assert learnable_words(note, note.text, TEXT.model_copy(update={"sections": ("history",)})) == {"cough"}


def test_a_name_that_another_patients_header_tells_is_learnt_of_nobodys_note() -> None:
    """Hippolytus stands unannounced in the notes of two patients, and in the header of a third, of the test part."""
    notes = [Note("cough, Hippolytus informed", ()), Note("cough; told HIPPOLYTUS' nurse informed", ()), Note("-", ())]
    members = [
        Member(
            replace(a_sample(k, note=None, target=0), patient_key=f"pt-{k}"),
            note,
            {},
            learnable=Learnable(note.text, frozenset({"hippolytus"} if k == 2 else ())),
        )
        for k, note in enumerate(notes)
    ]
    split = FoldSplit(0, BOTH, NONE, np.array([2]))
    for cohort, there in ((Cohort(tuple(members), ()), False), (Cohort(tuple(members[:2]), ()), True)):
        tokenizer = fold_tokenizer(cohort, split, draft_contract(None, ROOMY))
        assert tokenizer is not None
        assert {"cough", "informed"} <= tokenizer.get_vocab().keys()
        assert any("hippol" in piece for piece in tokenizer.get_vocab()) == there


@pytest.mark.parametrize("word", ["Müller", "MUELLER,", "Mullers", "(Müller/Ott)", "Krawczyk-Müller", "müller"])
def test_a_name_is_left_out_in_whatever_spelling(word: str) -> None:
    assert without_names({"pt-1": {word, "cough"}}, {"müller"}) == {"pt-1": {"cough"}}


@pytest.mark.parametrize("word", ["Long", "long-standing", "Müll", "Li", "lung", "Cross-section"])
def test_an_everyday_word_that_somebody_is_called_like_stays(word: str) -> None:
    assert without_names({"pt-1": {word}}, {"long", "müller", "li", "lung", "cross"}) == {"pt-1": {word}}


def test_a_fixed_vocabulary_learns_nothing_and_no_header_is_read_for_it(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "a", patient="4711", note=NOTE)
    (study,) = index_folder(tmp_path, keyring=KEYRING).studies
    note = read_study_note(study)
    for file in (tmp_path / "a").glob("*.dcm"):
        file.unlink()
    pretrained = TEXT.model_copy(update={"encoder": "emilyalsentzer/Bio_ClinicalBERT"})
    assert learnable(note, study, draft_contract(IMAGE, pretrained)) is None
    assert learnable(note, study, draft_contract(IMAGE, None)) is None
    assert learnable(None, study, draft_contract(IMAGE, TEXT)) is None
