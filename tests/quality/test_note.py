"""Each check of a note finds what it is for, lets a near miss pass, and never quotes the note."""

import pytest

from medmllm.ingest.notes import find_sections
from medmllm.quality.note import SMALL_WORDS, body_of, check_note, guess_language, placeholder_share
from medmllm.records import Note
from tests.quality.phantoms import BOUNDS

KEY = "st-" + "b" * 16


def a_note(text: str) -> Note:
    return Note(text, tuple(find_sections(text)))


def codes(text: str | None, **bounds: object) -> set[str]:
    note = None if text is None else a_note(text)
    return {finding.code for finding in check_note(note, KEY, BOUNDS.model_copy(update=bounds))}


def test_a_note_without_words_is_empty_or_has_only_headings() -> None:
    assert codes(None) == codes(" \n") == {"note_empty"}
    assert codes("HISTORY:\nFINDINGS: \n") == {"note_only_headings"}
    assert codes("HISTORY: 3.\nFINDINGS: --\n") == {"note_only_headings"}
    assert codes("HISTORY: cough for weeks\nFINDINGS:\n") == set()


def test_headings_do_not_count_as_words() -> None:
    assert codes("CLINICAL HISTORY: cough, fever\n") == {"note_too_short"}
    assert codes("CLINICAL HISTORY: cough, fever, chills\n") == set()
    assert body_of(a_note("Seen today.\nHISTORY: cough: dry\n")) == "Seen today.\n\n cough: dry\n"


def test_a_note_of_a_guessed_encoding_is_remarked_without_a_word_of_it() -> None:
    note = Note("HISTORY: cough for weeks", (), guessed_encoding="Windows-1252")
    (found,) = check_note(note, KEY, BOUNDS)
    assert (found.code, found.where) == ("note_encoding", KEY)
    assert "Windows-1252" in found.reason
    assert "cough" not in found.reason


WRITTEN = {
    "de": "Kein Nachweis einer Blutung. Die Ventrikel sind nicht erweitert und das Marklager ist unauffällig.",
    "en": "There is no evidence of haemorrhage and the ventricles are not enlarged.",
    "es": "No se observa hemorragia en el parénquima y los ventrículos son de tamaño normal para la edad.",
    "fr": "Il n'y a pas de saignement et les ventricules ne sont pas dilatés dans la région du tronc.",
    "it": "Non si osserva emorragia nella sede della lesione e i ventricoli sono di dimensioni nella norma.",
    "nl": "Er is geen bloeding en de ventrikels zijn niet verwijd, het beeld is van een normaal onderzoek.",
    "pt": "Não há hemorragia e os ventrículos são de tamanho normal para a idade, sem sinais de uma lesão do tronco.",
}


@pytest.mark.parametrize("language", sorted(SMALL_WORDS))
def test_a_language_that_is_not_among_the_allowed_ones_is_found(language: str) -> None:
    assert guess_language(WRITTEN[language]) == language
    others = tuple(sorted(set(SMALL_WORDS) - {language}))
    assert codes(WRITTEN[language], note_languages=others) == {"note_language"}
    assert codes(WRITTEN[language], note_languages=(language,)) == set()


@pytest.mark.parametrize("text", ["Stable nodule RUL, 4 mm. Calcified.", "St. n. OP, Z. n. RTx", "de que no se"])
def test_telegram_style_or_words_of_two_languages_give_no_guess_and_no_finding(text: str) -> None:
    assert guess_language(text) is None
    assert codes(text, note_languages=("fr",)) == set()


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("XXXX XXXX cough fever", 0.5),
        ("seen by ___ on [**2019-3-4**] today", 1 / 3),
        ("[NAME] has a cough <DATE> XXXX", 0.5),
        ("XX chromosome, XXL gown", 0.0),
    ],
)
def test_the_share_of_placeholders_is_counted(text: str, share: float) -> None:
    assert placeholder_share(text) == pytest.approx(share)


def test_a_note_of_which_little_is_left_is_found() -> None:
    assert codes("XXXX XXXX with cough, fever, XXXX") == {"note_placeholders"}  # 3 of 6
    assert codes("XXXX with cough, fever and chills") == set()  # 1 of 6


def test_no_finding_quotes_the_note() -> None:
    for text in ("Mustermann", WRITTEN["de"] + " Mustermann", "XXXX XXXX XXXX Mustermann"):
        findings = list(check_note(a_note(text), KEY, BOUNDS.model_copy(update={"note_languages": ("fr",)})))
        assert findings
        assert [f for f in findings if "Mustermann" in f.reason or "Marklager" in f.reason] == []
        assert {f.where for f in findings} == {KEY}


def test_real_notes_are_not_refused_and_none_is_taken_for_another_language(shared) -> None:  # type: ignore[no-untyped-def]
    files = sorted((shared / "data" / "ct_mr_medpix" / "studies").rglob("note.txt"))
    assert len(files) == 671
    only_english = {"note_languages": ("en",)}
    found = [code for file in files for code in codes(file.read_text(), **only_english)]
    assert found.count("note_language") == 0
    assert len(found) <= 5
