"""What announces a name, a date or a number in the notes of many houses, and what merely resembles it in a report."""

import time

import pytest

from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.deidentify_note import PAGE
from medmllm.ingest.deidentify_spelling import KnownNames, Likeness
from tests.ingest.test_deidentify_note import scrub

NAMES = [
    # initials, also A, which is a word elsewhere; surnames that are everyday words
    ("Dr. A. Zwick, Dr. J.R. Zwick, Dr. J.Zwick", "Dr. [NAME], Dr. [NAME], Dr. [NAME]"),
    ("Dictated by: A. Zwick", "Dictated by: [NAME]"),
    ("Dr. Young, Mrs. Brown and Mr. Long", "Dr. [NAME], Mrs. [NAME] and Mr. [NAME]"),
    ("Dictated by: Brown, John", "Dictated by: [NAME]"),
    ("Mary Brown called", "[NAME] called"),
    ("Sister Mary Miller called", "Sister [NAME] called"),
    ("Herr Prof. Zwick, Herr Prof. XXXX", "Herr Prof. [NAME], Herr Prof. XXXX"),
    # no blank, a new line, capitals, several behind one title
    ("Dr.Zwick saw", "Dr.[NAME] saw"),
    ("seen by Dr.\nZwick today", "seen by Dr.\n[NAME] today"),
    ("Dr. Zwick\nFINDINGS: clear", "Dr. [NAME]\nFINDINGS: clear"),
    ("DR. ZWICK DESCRIBES EDEMA; DR. J. ZWICK; DR. MARY ZWICK", "DR. [NAME] DESCRIBES EDEMA; DR. [NAME]; DR. [NAME]"),
    ("Drs. Zwick and Quast; Drs. Zwick, Quast and Roe saw", "Drs. [NAME]; Drs. [NAME] saw"),
    ("the nurse Zwick, doctor Quast, dr. Roe", "the nurse [NAME], doctor [NAME], dr. [NAME]"),
    # before a credential what follows the last word that is no name
    ("Radiologist Jane Roe, MD", "Radiologist [NAME], MD"),
    ("Physician Roe, DO", "Physician [NAME], DO"),
    # labels, and what the next label holds
    ("Attending MD: Zwick", "Attending MD: [NAME]"),
    ("Nom: ZWICK Prénom: Jean", "Nom: [NAME] Prénom: [NAME]"),
    ("Patient: ZWICK QUAST\nCT", "Patient: [NAME]\nCT"),
    ("Paciente: Zwick Quast, Juan", "Paciente: [NAME]"),
    ("Imię i nazwisko: Jan Zwick", "Imię i nazwisko: [NAME]"),
    ("氏名：山田太郎 性別：男", "氏名：[NAME] 性別：男"),
    ("姓名: 王小明", "姓名: [NAME]"),
    ("환자명: 김철수", "환자명: [NAME]"),
    ("Zwick, Hans MD; ZWICK, HANS, MD", "[NAME] MD; [NAME], MD"),
    ("Hans Zwick, M.D., Ph.D.", "[NAME], M.D., Ph.D."),
    ("Electronically signed: Zwick, Hans", "Electronically signed: [NAME]"),
    ("Befunder: Zwick/Quast; Drs. Zwick/Quast", "Befunder: [NAME]; Drs. [NAME]"),
    ("Patient:ZWICK,HANS", "Patient:[NAME]"),
    ("Reported by: Zwick H", "Reported by: [NAME]"),
    ("Prepared by: Zwick, gez. Quast", "Prepared by: [NAME], gez. [NAME]"),
    ("Пациент: Цвик Иван\nВрач: Квасть", "Пациент: [NAME]\nВрач: [NAME]"),
    ("报告医师：王小明", "报告医师：[NAME]"),
    # titles of other languages
    ("Dott.ssa Zwick, Dra. Quast, Docteur Roe", "Dott.ssa [NAME], Dra. [NAME], Docteur [NAME]"),
    ("Mevrouw Zwick, mw. J. de Vries, de heer Quast", "Mevrouw [NAME], mw. [NAME], de heer [NAME]"),
    ("Oberarzt Zwick, Fru Quast, Sayın Roe", "Oberarzt [NAME], Fru [NAME], Sayın [NAME]"),
    # HL7
    ("PV1|1|I|||1234^ZWICK^JOHN|x", "PV1|1|I|||[NAME]|x"),
    ("PID|||ZWICK^JOHN^A||M", "PID|||[NAME]||M"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "left"), NAMES)
def test_a_name_is_replaced_whole_in_the_forms_that_real_notes_have(text: str, left: str) -> None:
    assert scrub(text) == left
    assert scrub(left) == left


@pytest.mark.parametrize(
    "clinical",
    [
        "THESE DO NOT ENHANCE. NODULES DO NOT CALCIFY. EFFUSIONS, DO WE DRAIN? STENT THROMBOSIS, DO NOT MOVE.",
        "Adenovirus NP swab. Neurology MD. Type A, B and C, MD. Attending RN. ANA POSITIVE, ALI VERSUS ARDS.",
        "Ann Arbor stage II, Ann Arbor IIIS, ANN ARBOR STAGE IIB. Charcot Marie Tooth. Pierre Robin sequence.",
        "Austin Flint murmur. Robert Jones Bandage. Bruce Protocol. Philip Gland. Paul Bunnell test. Simon filter.",
        "Infant born at 30 weeks. Preterm Infant, born 3 weeks ago. Baby Girl (born via C-section).",
        "PRIOR DR. COMPARISON. MRS. ELEVATED CHOLINE. KNOWN MS. STABLE. MR. CHEST. Sig. Take one.",
        "Patient: Ambulatory\nPatient: Supine\nPt: Stable, awake.",
        "via Foley 16, place Stent 5, via PICC 5, 2 FA MD RD, 12 LEAD EKG.",
        "Lesion 3 may correspond; L3 may compress; LESIONS 2 AND 3 MAY CAUSE; nodule 2 may well be. L5 May Indicate.",
        "AT T12 3RD RIB, L1 2ND, C5 6TH, S1 4TH; AT L4 5MM, L5 3CM; G2 3HU; T2 1EA; OBR|71260^ROUTINE^CHEST.",
        "98 F with chills, 102F with rigors, 45M with pain, 100 m with a stick, WALKS 100 M WITH, 90 m with.",
        "0.5.10.15.20.25.30 min. 250000-300000 IU.",
    ],
)
def test_what_resembles_a_name_a_date_or_an_address_in_a_report_stays(clinical: str) -> None:
    assert scrub(clinical) == clinical


@pytest.mark.parametrize(
    "written",
    [
        "17/Mar/1951", "Mar-17-1951", "2020年1月2日", "昭和26年3月17日", "2020년 1월 2일", "2020. 1. 2.",
        "2 stycznia 2020", "2 Ağustos 2020", "2 maj 2020", "2 января 2020", "mars 2020", "12 May", "3-4-15", "12/30/15",
    ],
)  # fmt: skip
def test_a_date_of_another_language_or_order_is_replaced(written: str) -> None:
    assert scrub(f"CT of {written}: clear.") == "CT of [DATE]: clear."


@pytest.mark.parametrize(
    "counted",
    [
        "10-12-15 mm", "3/6/12 months", "5/10/15 min", "2-3-12 o'clock", "1.2.15 cm", "Apgar 8/9/10", "ribs 8/9/10",
        "version 3.2.10", "v3.2.10", "T1/2/12", "30/60/90", "Levels 2-3-04",
    ],
)  # fmt: skip
def test_three_counted_or_measured_numbers_are_no_date(counted: str) -> None:
    assert scrub(f"It is {counted}, then.") == f"It is {counted}, then."


@pytest.mark.parametrize("before", ["ON", "on", "since", "From"])
def test_a_day_in_may_is_a_date_behind_a_word_that_says_so(before: str) -> None:
    assert scrub(f"{before} 12 MAY THE PATIENT CAME") == f"{before} [DATE] THE PATIENT CAME"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("NHS number 943 476 5919", "NHS number [ID]"), ("SSN: 123 45 6789.", "SSN: [ID]."),
        ("CPR 170351-1234", "CPR [ID]"), ("19510317-1234", "[ID]"), ("DNI 12345678Z", "DNI [ID]"),
        ("no. 1234567-8", "no. [ID]"), ("MRN: 123 456 789", "MRN: [ID]"),
        ("UID 1.2.840.113619.2.55.3.604688119.971", "UID [ID]"),
        ("Job ID: 12345", "Job ID: [ID]"), ("Aufnahmenummer 12345", "Aufnahmenummer [ID]"),
        ("0532 123 45 67", "[PHONE]"), ("089 1234567 12 mm", "[PHONE] 12 mm"), ("01 23 45 67 89", "[PHONE]"),
        ("03-1234-5678", "[PHONE]"), ("Tél : 12 34 56", "Tél [PHONE]"), ("Tlf 12 34 56", "Tlf [PHONE]"),
        ("14 High Street, London SW1A 1AA", "[ADDRESS], [ADDRESS]"), ("London NW3 2QG", "[ADDRESS]"),
        ("12 OAK STREET, SPRINGFIELD, IL 60614", "[ADDRESS]"),
        ("12, rue de la Paix, 75002 Paris", "[ADDRESS], [ADDRESS]"),
        ("Via Roma 5", "[ADDRESS]"), ("via Roma 5, 00184 Roma", "[ADDRESS], [ADDRESS]"),
        ("92 ans", "[AGE] ans"), ("93 jaar", "[AGE] jaar"), ("Alter: 92", "Alter: [AGE]"), ("edad 95", "edad [AGE]"),
        ("92M with pain, 93 F w/ pain", "[AGE]M with pain, [AGE] F w/ pain"),
    ],
)  # fmt: skip
def test_a_number_goes_whole_and_what_is_measured_beside_it_stays(text: str, left: str) -> None:
    assert scrub(text) == left
    assert scrub(left) == left


def test_a_name_is_found_wherever_a_long_line_is_cut() -> None:
    for place in range(PAGE - 40, PAGE + 5):
        line = "a" * (place - 9) + " went to Dr. Zwick there. " + "word " * 20
        assert "Zwick" not in scrub(line), place


def test_a_name_of_several_words_is_found_written_as_one() -> None:
    assert scrub("Mccoy and VANDERBERG came", names="MC COY^VAN DER BERG") == "[NAME] and [NAME] came"


def test_a_short_patient_number_costs_no_measurement() -> None:
    clinical = "b=1000, b 1000 s, TR 1000, 1000 ml, 1000.5, 12.1000"
    assert scrub(f"{clinical}; 1000 seen, no. 1000.", number="1000") == f"{clinical}; [ID] seen, no. [ID]."


@pytest.mark.parametrize(
    ("name", "clinical"),
    [
        ("Wall^Jane", "Chest wall mass. Wall thickening. CHEST WALL; no wall motion."),
        ("Low^Short", "Low lung volumes, a short course; LOW SIGNAL."),
        ("Leber^Hans", "Die Leber ist groß. Leber 14 cm."),
        ("Delgado^Ana", "Asas de intestino delgado dilatadas."),
        ("Izquierdo^Campos", "Pulmón izquierdo, campos pulmonares claros."),
        ("PROVIDER^NOT IN SYSTEM", "Referred to oncology; care provider; the system."),
    ],
)
def test_a_person_called_like_a_word_of_reports_costs_none_of_it(name: str, clinical: str) -> None:
    assert scrub(clinical, names=name) == clinical


def test_a_person_called_like_a_word_of_reports_is_found_where_it_stands_like_a_name() -> None:
    text = "Told Wall of it. WALL, ZOFIA; Mr. Wall; Zofia Wall has wall pain. Frau Leber, Dr. Stein, Dr. Mary Long."
    assert scrub(text, names="Wall^Zofia") == (
        "Told [NAME] of it. [NAME], [NAME]; Mr. [NAME]; [NAME] [NAME] has wall pain. Frau [NAME], Dr. [NAME], "
        "Dr. [NAME]."
    )


def test_a_word_of_a_patient_number_is_a_name_where_it_is_written_like_one() -> None:
    assert scrub("a glioma; told Glioma", number="GLIOMA-001") == "a glioma; told [NAME]"
    assert scrub("MEIER 1960 came, Meier", number="MEIER_1960") == "[NAME] 1960 came, [NAME]"


def test_a_second_word_behind_a_title_is_no_surname() -> None:
    assert scrub("Dr. Zwick Long bone series") == "Dr. [NAME] Long bone series"


def test_a_department_called_by_an_everyday_word_costs_the_notes_nothing() -> None:
    assert scrub("Emergency imaging", phrase="Imaging") == "Emergency imaging"
    known = Identifiers()
    known.add_phrase("Radiology of Quellenhausen")
    assert known.phrases


def test_a_hostile_word_of_a_megabyte_and_a_chain_of_titles_cost_no_minutes() -> None:
    start = time.perf_counter()
    assert KnownNames(["muller", "jurgen"]).likeness("muller" * 160_000) is Likeness.NONE
    assert scrub("Dr. " * 25_000) == "Dr. " * 25_000
    assert time.perf_counter() - start < 20.0
