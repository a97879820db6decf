"""A name that is told in one spelling is found in the others; ordinary words are not taken for it."""

import unicodedata
from collections import Counter
from pathlib import Path

import pydicom
import pytest

from medmllm.ingest.deidentify_dicom import identifiers_in
from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.deidentify_note import NoteScrubber
from medmllm.ingest.deidentify_spelling import folded
from medmllm.ingest.keys import Keyring
from medmllm.ingest.masking import mask_note
from medmllm.ingest.study_folder import index_folder, read_study_note
from tests.factories import edit_dicom, write_dicom_study
from tests.ingest.deidentified import clean


def knowing(*names: str, number: str = "", guesses: str = "") -> Identifiers:
    known = Identifiers()
    for name in names:
        known.add_name(name)
    known.add_number(number)
    known.guesses |= set(guesses.split())
    return known


def scrub(text: str, known: Identifiers) -> str:
    return NoteScrubber(known, None, frozenset(), Counter()).scrub(text)


SPELLINGS = {
    "Müller": "Müller Mueller Muller MÜLLER MUELLER müller mueller muller",
    "Mueller": "Müller Mueller Muller MÜLLER",
    "Muller": "Müller Muller",
    "Jürgen": "Jürgen Juergen Jurgen",
    "Juergen": "Jürgen Juergen Jurgen",
    "Größler": "Größler Groessler Grossler GRÖSSLER",
    "Groessler": "Größler Grossler",
    "Çelik": "Çelik Celik ÇELİK CELIK çelik celik",
    "Ayşe": "Ayşe Ayse AYŞE",
    "Wałęsa": "Wałęsa Walesa WAŁĘSA",
    "Łukasz": "Łukasz Lukasz łukasz",
    "Żółkiewski": "Żółkiewski Zolkiewski ZOLKIEWSKI",
    "Zolkiewski": "Żółkiewski",
    "Nguyễn": "Nguyễn Nguyen NGUYỄN",
    "Sørensen": "Sørensen Sorensen Soerensen SØRENSEN Sörensen",
    "Sorensen": "Sørensen",
    "Åse": "Åse Aase Ase",
    "Aase": "Åse",
    "Máire": "Máire Maire",
    "Đorđević": "Đorđević Djordjevic Dordevic",
    "İnci": "İnci Inci INCI",
    "O'Brien": "OBrien Brien",
    "Karl-Theodor": "Karltheodor KarlTheodor",
}


@pytest.mark.parametrize("told", SPELLINGS)
def test_a_name_told_in_one_spelling_is_replaced_in_the_others_composed_or_not(told: str) -> None:
    for form in ("NFC", "NFD"):
        known = knowing(unicodedata.normalize(form, told))
        for word in SPELLINGS[told].split():
            for written in ("NFC", "NFD"):
                text = unicodedata.normalize(written, f"Seen: ({word}) came.")
                assert scrub(text, known) == "Seen: ([NAME]) came.", (told, form, word, written)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Krawczyks Frau", "[NAME] Frau"),
        ("Krawczyk's, Krawczyk’s, zbigniew's", "[NAME], [NAME], [NAME]"),
        ("Krawczyk_Zbigniew", "[NAME]_[NAME]"),
        ("ct_krawczyk_1966.dcm", "ct_[NAME]_1966.dcm"),
        ("Krawczyk1951", "[NAME]1951"),
        ("KrawczykZbigniew", "[NAME]"),
        ("Kraw\u00adczyk", "[NAME]"),
        ("see ID77x99_3 and _id77x99_", "see [ID]_3 and _[ID]_"),
        ("ID77x990 and xID77x99", "ID77x990 and xID77x99"),
    ],
)  # fmt: skip
def test_what_stands_right_beside_a_name_or_number_does_not_hide_it(text: str, left: str) -> None:
    assert scrub(text, knowing("Krawczyk^Zbigniew", number="ID77x99")) == left


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "山田太郎さん、患者は山田氏です。やまだ Yamada",
         "[NAME]さん、患者は[NAME]氏です。[NAME] [NAME]"),
        ("Wang^Xiaoming=王^小明", "王小明; 王先生; 小明; 国王", "[NAME]; [NAME]先生; [NAME]; 国王"),
        ("Kim^Cheolsu=김^철수", "김철수는 철수", "[NAME]는 [NAME]"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダタロウ", "[NAME]"),
        ("Ivanov^Ivan=Иванов^Иван", "ИВАНОВ Иван", "[NAME] [NAME]"),
    ],
)  # fmt: skip
def test_names_in_other_scripts_are_found_also_where_no_space_parts_words(name: str, text: str, left: str) -> None:
    assert scrub(text, knowing(name)) == left


@pytest.mark.parametrize(
    ("name", "clinical"),
    [
        ("Löw^Åge", "Low lung volumes. Age 45; low and age. 1) Low signal.\nLow grade."),
        ("Haas^Moe", "Has a mo. of pain; has been."),
        ("Bär^Grau", "bar of bone; graue Substanz; cut Graue; Bare metal; Bars"),
        ("Grave^Cook", "Graves' disease, Graves disease; graves; cooks"),
        ("Long^Hand", "Longs hands; long hands; lung"),
        ("Philip", "Philips scanner, PHILIPS"),
        ("Ear^Lin^Lie", "Linear, linear, earlier, lines"),
        ("Müller", "Mull, mulled, Mullerian duct"),
        ("Du", "due to; Due"),
        ("Mayer", "[NAME] and XXXX: [DATE]; X, XXX_1"),
    ],
)  # fmt: skip
def test_words_that_are_no_name_stay_though_a_name_resembles_them(name: str, clinical: str) -> None:
    assert scrub(clinical, knowing(name, "Name^Date", "Xxx")) == clinical


def test_a_short_name_in_another_spelling_counts_within_a_sentence_or_beside_another() -> None:
    known = knowing("Çelik^Ayşe", "Löw")
    assert scrub("We saw Low. ayse celik came, and Ayse.", known) == "We saw [NAME]. [NAME] [NAME] came, and [NAME]."


def test_a_word_of_a_path_in_another_spelling_is_a_name_where_it_is_written_like_one() -> None:
    known = knowing(guesses="żółkiewski")
    assert scrub("Zolkiewski, ZOLKIEWSKI; zolkiewski", known) == "[NAME], [NAME]; zolkiewski"


# --- headers and sidecars ------------------------------------------------------------------


@pytest.mark.parametrize(
    "kept", ["MUELLER", "Muller", "MULLER", "muellercoil", "CT Müller", "LUXINA", "ina_lux", "KRAWCZYKS"]
)
def test_a_technical_text_that_holds_a_name_in_any_spelling_is_found(kept: str) -> None:
    for told in ("Müller", "Mueller"):
        assert knowing(told, "Lux^Ina", "Krawczyk").in_value(kept)


@pytest.mark.parametrize("technical", ["HELIX", "LUXURY", "PLUX", "Philips", "MULTI", "B30f", "PROJECTION", "Linear"])
def test_a_technical_text_that_a_name_resembles_is_none_of_its_words(technical: str) -> None:
    assert not knowing("Müller^Philip", "Lux^Ina", "Lin").in_value(technical)


@pytest.mark.parametrize("held", ["MUELLER", "Müller", "MÜLLER", "muller"])
@pytest.mark.parametrize("code", ["utf-8", "latin-1"])
def test_bytes_of_a_frame_that_hold_a_name_in_any_spelling_are_found(held: str, code: str) -> None:
    assert knowing("Müller").in_bytes(b"\xff\xfe" + held.encode(code) + b"\0")
    assert not knowing("Müller").in_bytes(b"\xff\xfeMILLER\0")


def test_technical_attributes_lose_a_name_that_the_header_tells_with_marks(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "in", note=None)
    edit_dicom(
        tmp_path / "in", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen",
        ScanOptions=["MUELLER", "HELIX"],
        ConvolutionKernel="Muller", ManufacturerModelName="CT Juergen", SoftwareVersions="V1",
    )  # fmt: skip
    made = pydicom.dcmread(clean(next((tmp_path / "in").glob("*.dcm")))[0])
    texts = [str(made.get(name, "")) for name in ("ScanOptions", "ConvolutionKernel", "ManufacturerModelName")]
    assert [text for text in texts if "u" in text.lower() and "REMOVED" not in text] == []
    assert made.SoftwareVersions == "V1"


@pytest.mark.parametrize("declared", ["", "ISO_IR 6", "ISO_IR 100"])
def test_a_name_in_utf8_is_read_whatever_character_set_the_header_declares(tmp_path: Path, declared: str) -> None:
    write_dicom_study(tmp_path, note=None)
    file = next(tmp_path.glob("*.dcm"))
    edit_dicom(tmp_path, SpecificCharacterSet=declared, PatientName="MXXller^JXXrge")
    file.write_bytes(file.read_bytes().replace(b"MXXller^JXXrge", "Müller^Jürge".encode()))
    assert {"müller", "jürge"} <= identifiers_in(file).names


def test_a_name_in_latin_1_is_read_as_before(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    edit_dicom(tmp_path, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    assert {"müller", "jürgen"} == identifiers_in(next(tmp_path.glob("*.dcm"))).names - {"ref"}


# --- pages ---------------------------------------------------------------------------------


def test_a_page_masks_the_other_spellings_of_names_of_headers_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize("NFD", "Žižková")
    note = "HISTORY: Zwillbrocks mass, heiner_zwillbrock, Zizkova, Žižková. Mueller. IMPRESSION: Mass."
    write_dicom_study(folder, patient="4711", note=note)
    edit_dicom(folder, SpecificCharacterSet="ISO_IR 100", PatientName="Zwillbrock^Heiner^Müller")
    (study,) = index_folder(tmp_path, keyring=Keyring(b"the secret of these tests")).studies
    read = read_study_note(study)
    assert read is not None
    shown = mask_note(read, study).text
    assert len(shown) == len(note)
    assert shown.replace("X", "").split() == ["HISTORY:", "mass,", "_,", ",", ".", ".", "IMPRESSION:", "Mass."]


def test_folding_leaves_text_without_marks_as_it_is_in_lower_case() -> None:
    assert folded("T2 FLAIR 4711-08/x") == "t2 flair 4711-08/x"
