"""Notes: what tells who goes, what tells what the matter is stays word for word."""

from collections import Counter
from pathlib import Path

import pytest

from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.deidentify_note import NoteScrubber


def scrub(
    text: str, *, names: str = "", number: str = "", phrase: str = "", keep: str = "", days: int | None = None
) -> str:
    known = Identifiers()
    known.add_name(names)
    known.add_number(number)
    known.add_phrase(phrase)
    return NoteScrubber(known, days, frozenset(keep.split()), Counter()).scrub(text)


@pytest.mark.parametrize(
    "clinical",
    [
        "A 3.5 x 2 cm mass at T12, L4-L5 and C5/6; 12 x 8 x 3 mm; 10-15 mm; 1.5T; SUV 12.5; TE 30, TR 2000.",
        "WHO grade 2, Gleason 3+4=7, BI-RADS 4A, Bosniak II, T2N0M0, stage IIIB, Fazekas 2/3, ASPECTS 8, 5/5 strength.",
        "Given 5 mg/kg, 150000/uL platelets, 250000 cells, 120/80 mmHg, 37.5 C, 100 ml of contrast, 1000000 IU, 40 %.",
        "Hodgkin lymphoma, Crohn's disease, Graves disease, Parkinson, Bell palsy, Down syndrome, Virchow node.",
        "Drained by Drip. No drug. Dry cough. mrs is lower case. Dressler. Frauds. Missing. Mister.",
        "A 45-year-old man, 89 yo woman, aged 12, age 60. In 2015 and the 1990s. Twice in 10 days; 3 of 12 nodes.",
        "XXXX-year-old. Dr. XXXX saw XXXX XXXX on XXXX. Comparison: XXXX, XXXX. [NAME] came on [DATE], ID [ID].",
        "Series 4, image 12 of 140. Slices 3-7. CPT 71260. Fields 1/2. 24/7. May represent. March fracture. Sept 3.",
        "Right Lower Lobe. Chest Tube. Swan Ganz. Foley. Port-A-Cath. Le Fort II. Mc Burney. Patient Denies Pain.",
        "24 Hr. Holter. 8 Fr. Foley. Version 1.2.10.4, 3.II, stage III.2. 12000 Platelets, 71260 Chest, CPT, 71260 CT.",
        "Patient: Yes, I do.\nPatient: Okay\nPatient: Hm\nPatient: Alert and so. Patient: Augmentin, Detro LA",
        "Patient: Honestly, I'm fine. Benign Primary Bone Cysts. Internal Medicine clinic. Urine Creatine.",
        "Lobar Pneumonia * see. WBC, 12000 Leukocytes. 1. i. 12 mm. 10^3/uL, T^2. Preterm, born at 30 weeks.",
        "OB-Gyn, PD FS, CA 19-9, CC: chest pain, Neoplasm Name: Pilocytic Astrocytoma. The patient DRINKS ALCOHOL.",
    ],
)
def test_clinical_content_stays_word_for_word(clinical: str) -> None:
    assert scrub(clinical) == clinical


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Seen by Dr. Smith and Mrs Van der Berg.", "Seen by Dr. [NAME] and Mrs [NAME]."),
        ("Herr Müller, Frau Dr. Schmidt-Huber", "Herr [NAME], Frau Dr. [NAME]"),
        ("Prof. Dr. med. Weber", "Prof. Dr. med. [NAME]"),
        ("Electronically signed by: JOHN Q. DOE\nFINDINGS: clear", "Electronically signed by: [NAME]\nFINDINGS: clear"),
        ("Dictated by John Doe.", "Dictated by [NAME]."),
        ("Jane Roe, MD reviewed", "[NAME], MD reviewed"),
        ("Patient Max Muster came", "Patient [NAME] came"),
        ("His wife Mary Miller called", "His wife [NAME] called"),
        ("Name: Muster, Max", "Name: [NAME]"),
        ("Dr. Smith Findings clear", "Dr. [NAME] Findings clear"),
        ("Patient: Smith, John", "Patient: [NAME]"),
        ("PATIENT: SMITH, JOHN\nCT", "PATIENT: [NAME]\nCT"),
        ("Patient: Smith, J., 45", "Patient: [NAME]., 45"),
        ("Patient: Smith", "Patient: [NAME]"),
        ("Pat.: Smith, male", "Pat.: [NAME], male"),
        ("PATIENT NAME: Smith^John", "PATIENT NAME: [NAME]"),
        ("of SMITH^JOHN^^DR here", "of [NAME] here"),
        ("seen; Name: Müller, Jürgen", "seen; Name: [NAME]"),
        ("Patient Müller, Jürgen, born in spring", "Patient [NAME], born in spring"),
        ("Patientin Łucja Żak, geb. Wer", "Patientin [NAME], geb. Wer"),
        ("CT: Hansen, Frieda, *17", "CT: [NAME], *17"),
        ("Frieda Hansen (born here)", "[NAME] (born here)"),
        ("Hr. Hansen, dhr. Jansen, mevr. de Vries", "Hr. [NAME], dhr. [NAME], mevr. [NAME]"),
        ("In 2020 Mr Wu, 2 Dr. Smith", "In 2020 Mr [NAME], 2 Dr. [NAME]"),
        ("i.A. Krause, i.V. Kontrastmittel", "i.A. [NAME], i.V. Kontrastmittel"),
        ("Hausarzt: Hansen", "Hausarzt: [NAME]"),
        ("Befundet von: Krause", "Befundet von: [NAME]"),
        ("Dr. Mu\u0308ller", "Dr. [NAME]"),
    ],
)  # fmt: skip
def test_a_name_that_something_announces_is_replaced(text: str, left: str) -> None:
    assert scrub(text) == left


@pytest.mark.parametrize(
    "written",
    [
        "2020-01-02", "01/02/2020", "1/2/20", "02.01.2020", "2.1.20", "Jan 2, 2020", "2 January 2020", "2. Januar 2020",
        "January 2nd, 2020", "March 2019", "03/2019", "20200102", "January 2", "12 Oct", "2nd of May 2020",
        "02-01-2020", "17.3.51", "17MAR1951", "17. Mrz 1951", "17.III.1951", "17. III. 51", "17 mars 1951",
        "1er mars 1951",
        "17 marzo 1951", "17 de marzo de 1951", "17 marzo de 1951", "17 maart 1951", "17 Mar 51", "17-Mar-51",
        "17. août 1951",
    ],
)  # fmt: skip
def test_a_date_is_replaced_in_whatever_form(written: str) -> None:
    assert scrub(f"CT of {written}: clear.") == "CT of [DATE]: clear."


def test_a_birth_date_is_replaced_right_behind_its_mark_and_at_the_end_of_a_sentence() -> None:
    assert scrub("geb. 17.3.51. Also geb.17.03.51, geb.17.3.1951. *17.3.51") == (
        "geb. [DATE]. Also geb.[DATE], geb.[DATE]. *[DATE]"
    )


@pytest.mark.parametrize(
    ("written", "moved"),
    [
        ("2020-01-11", "2020-01-01"), ("January 11, 2020", "2020-01-01"), ("11 Jan 2020", "2020-01-01"),
        ("11.01.2020", "2020-01-01"), ("11. Mrz 2020", "2020-03-01"), ("11 marzo de 2020", "2020-03-01"),
        ("11 juillet 2020", "[DATE]"), ("1/2/2020", "[DATE]"), ("2020-13-45", "2020-13-45"), ("2020-02-31", "[DATE]"),
    ],
)  # fmt: skip
def test_dates_beyond_doubt_are_shifted_on_request(written: str, moved: str) -> None:
    assert scrub(f"CT of {written}.", days=-10) == f"CT of {moved}."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("MRN: 1234567", "MRN: [ID]"), ("acc# A-12345", "acc# [ID]"), ("SSN 123-45-6789", "SSN [ID]"),
        ("accession number 55019", "accession number [ID]"), ("case 90417733 seen", "case [ID] seen"),
        ("specimen S20-12345", "specimen [ID]"), ("id ABC1234567", "id [ID]"), ("call (312) 555-1234", "call [PHONE]"),
        ("Tel: 555-1234", "Tel [PHONE]"), ("+49 89 1234567", "[PHONE]"), ("089/1234567", "[PHONE]"),
        ("Telefon 09131 85-0", "Telefon [PHONE]"), ("Tel 0228/12", "Tel [PHONE]"),
        ("53111 Bonn", "[ADDRESS]"), ("aus 01234 Bad Quellenhausen.", "aus [ADDRESS]."),
        ("Hof, 53111 Bonn", "Hof, [ADDRESS]"),
        ("pager 12345", "pager [PHONE]"), ("mail a.b@c-d.org now", "mail [EMAIL] now"),
        ("see www.x.org/a?b.", "see [URL]."),
        ("12 Oak Street, Springfield, IL 60614.", "[ADDRESS]."), ("Hauptstraße 5, 80331 München", "[ADDRESS]"),
        ("12 rue de Rivoli", "[ADDRESS]"), ("in Springfield, IL 60614", "in [ADDRESS]"), ("P.O. Box 12", "[ADDRESS]"),
        ("a 93-year-old", "a [AGE]-year-old"), ("age 101.", "age [AGE]."), ("aged 90", "aged [AGE]"),
    ],
)  # fmt: skip
def test_numbers_addresses_and_great_ages_are_replaced(text: str, left: str) -> None:
    assert scrub(text) == left


def test_known_names_are_replaced_in_any_order_and_case_as_whole_words() -> None:
    text = "MEIER, Hans; hans meier; Meier's cyst of Hansen; Meierhof"
    assert scrub(text, names="Meier^Hans") == "[NAME], [NAME]; [NAME] [NAME]; Meier's cyst of Hansen; Meierhof"


def test_a_patient_called_like_a_disease_or_a_word_costs_neither() -> None:
    assert scrub("Mr. Graves has Graves disease. Graves came.", names="Graves") == (
        "Mr. [NAME] has Graves disease. [NAME] came."
    )
    text = "Long bone fracture, white matter. Zofia White had a long history. Long, Zofia."
    assert scrub(text, names="White^Long^Zofia") == (
        "Long bone fracture, white matter. [NAME] [NAME] had a long history. [NAME], [NAME]."
    )


def test_known_numbers_and_phrases_are_replaced_wherever_they_stand() -> None:
    assert scrub("No. 4711-08x? 4711-08 at Saint  Mary", number="4711-08", phrase="saint mary") == (
        "No. 4711-08x? [ID] at [ADDRESS]"
    )


def test_words_that_the_settings_keep_are_no_names() -> None:
    assert scrub("Dr. Watson saw Meier", names="Meier", keep="watson meier") == "Dr. Watson saw Meier"


def test_scrubbing_twice_is_scrubbing_once() -> None:
    text = "Dr. Smith, MRN 1234567, 1/2/2020, 12 Oak Street, age 95, Tel: 555-1234, a@b.org, Meier"
    once = scrub(text, names="Meier")
    assert scrub(once, names="Meier") == once
    assert once.count("[") == 8


def test_real_notes_keep_their_words(shared: Path) -> None:
    counts: Counter[str] = Counter()
    scrubber = NoteScrubber(Identifiers(), None, frozenset(), counts)
    words = changed = 0
    for file in sorted((shared / "data" / "ct_mr_medpix" / "studies").glob("*/note.txt")):
        text = file.read_text(encoding="utf-8")
        left = Counter(text.split()) - Counter(scrubber.scrub(text).split())
        words, changed = words + len(text.split()), changed + left.total()
    assert words > 80_000
    assert changed / words < 0.002  # dates, most of them
    assert counts["NAME"] == 0  # the notes were published without any
