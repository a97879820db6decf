"""What stays of a DICOM data set: the table's actions, the options, and the rules for all else."""

from collections import Counter
from typing import Any

import pytest
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage

from medmllm.config import load_config
from medmllm.deidentify_config import DeidentifyConfig
from medmllm.errors import DicomError
from medmllm.ingest.deidentify_descriptors import Descriptors
from medmllm.ingest.deidentify_header import HeaderCleaner
from medmllm.ingest.deidentify_identifiers import Identifiers, collect
from medmllm.ingest.deidentify_private import PrivateRules
from medmllm.ingest.deidentify_profile import TABLE
from medmllm.ingest.keys import Keyring

RING = Keyring(b"a secret for these tests")


def cleaner(*overrides: str, known: Identifiers | None = None) -> HeaderCleaner:
    config = load_config(DeidentifyConfig, "deidentify", overrides=overrides)
    return HeaderCleaner(
        config.dicom, RING, Descriptors(config.descriptors), known or Identifiers(), "pt-1", Counter(),
        PrivateRules(config.dicom.private_tags),
    )  # fmt: skip


def data_set(**elements: Any) -> Dataset:
    data = Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


# --- the table -----------------------------------------------------------------------------


def test_the_table_is_the_whole_of_edition_2026c_less_its_two_repeating_groups() -> None:
    assert len(TABLE) == 655 - 3  # curves, overlay data and overlay comments go by their groups


@pytest.mark.parametrize(
    ("keyword", "action"),  # PS3.15 table E.1-1, read by eye
    [
        ("PatientName", "Z"), ("PatientID", "D"), ("PatientBirthDate", "Z"), ("PatientAge", "X"),
        ("SOPInstanceUID", "U"), ("ReferencedImageSequence", "U*"), ("InstitutionName", "D"), ("AccessionNumber", "Z"),
        ("DeviceSerialNumber", "D"), ("ImageComments", "X"), ("RequestAttributesSequence", "X"), ("StudyDate", "Z"),
        ("ContentDate", "D"), ("AcquisitionDate", "Z"), ("SeriesDate", "D"), ("OriginalAttributesSequence", "X"),
    ],
)  # fmt: skip
def test_the_table_has_the_standards_actions_with_the_most_valid_of_each_choice(keyword: str, action: str) -> None:
    named = {keyword_for_tag(tag): found for tag, found in TABLE.items()}
    assert named[keyword] == action


def test_each_action_does_what_it_says() -> None:
    made = cleaner("dicom.dates=remove").clean(data_set(
        ImageComments="x", AccessionNumber="A12345", DeviceSerialNumber="77", SOPInstanceUID="1.2.3",
        ContentDate="20200102", StudyDate="20200102", SeriesDate="20200102", ContentTime="101500",
    ))  # fmt: skip
    assert "ImageComments" not in made
    assert (made.AccessionNumber, made.DeviceSerialNumber) == ("", "REMOVED")
    assert made.SOPInstanceUID == RING.uid("1.2.3")
    assert (made.ContentDate, made.StudyDate, made.ContentTime) == ("19000101", "", "000000")


# --- options -------------------------------------------------------------------------------


def test_patient_characteristics_are_kept_when_they_are_of_their_form_and_dropped_on_request() -> None:
    patient = data_set(PatientAge="067Y", PatientSex="F", PatientSize="1.70", PatientWeight="70", EthnicGroup="Sorbian")
    kept = cleaner().clean(patient)
    assert (kept.PatientAge, kept.PatientSex, kept.PatientSize, kept.PatientWeight) == ("067Y", "F", 1.7, 70)
    assert "EthnicGroup" not in kept
    dropped = cleaner("dicom.patient_characteristics=false").clean(patient)
    assert [element.keyword for element in dropped] == ["PatientSex"]
    assert dropped.PatientSex == ""


@pytest.mark.parametrize(("age", "kept"), [("089Y", "089Y"), ("090Y", "090Y"), ("101Y", "090Y"), ("MEIE", "")])
def test_an_age_above_89_is_not_told(age: str, kept: str) -> None:
    assert cleaner().clean(data_set(PatientAge=age)).PatientAge == kept


def test_device_identity_and_uids_are_kept_on_request_alone() -> None:
    device = data_set(StationName="CT2", DeviceSerialNumber="4711", SOPInstanceUID="1.2.3")
    made = cleaner("dicom.device_identity=true", "dicom.uids=keep").clean(device)
    assert (made.StationName, made.DeviceSerialNumber, made.SOPInstanceUID) == ("CT2", "4711", "1.2.3")


def test_full_dates_are_kept_on_request_but_never_the_birth_date() -> None:
    made = cleaner("dicom.dates=keep").clean(data_set(StudyDate="20200102", PatientBirthDate="19500102"))
    assert (made.StudyDate, made.PatientBirthDate) == ("20200102", "")


def test_a_date_that_is_none_is_emptied_and_its_time_too() -> None:
    made = cleaner().clean(data_set(StudyDate="Meiers birthday", StudyTime="noon", AcquisitionTime="10:15:30"))
    assert (made.StudyDate, made.StudyTime, made.AcquisitionTime) == ("", "", "101530")


def test_descriptions_are_cleaned_or_removed() -> None:
    described = data_set(SeriesDescription="t2_tse_sag Meier", StudyDescription="Lieblingspatient", ProtocolName="Head")
    made = cleaner().clean(described)
    assert (made.SeriesDescription, made.StudyDescription, made.ProtocolName) == ("t2 tse sag", "", "Head")
    made = cleaner("dicom.descriptors=remove").clean(described)
    assert ("SeriesDescription" in made, made.ProtocolName) == (False, "REMOVED")


# --- outside the table ---------------------------------------------------------------------


def test_uids_of_the_standard_stay_and_all_others_are_replaced_alike_everywhere() -> None:
    inside = data_set(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID="1.2.3")
    data = data_set(
        SOPClassUID=CTImageStorage, SOPInstanceUID="1.2.3", FrameOfReferenceUID="1.2.840.10008.1.4.1.1",
        SourceImageSequence=Sequence([inside]),
    )  # fmt: skip
    made = cleaner().clean(data)
    assert (made.SOPClassUID, made.FrameOfReferenceUID) == (CTImageStorage, "1.2.840.10008.1.4.1.1")
    item = made.SourceImageSequence[0]
    assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (CTImageStorage, made.SOPInstanceUID)
    assert made.SOPInstanceUID.startswith("2.25.")
    assert len(made.SOPInstanceUID) <= 64


def test_a_uid_that_only_starts_like_one_of_the_standard_is_replaced() -> None:
    made = cleaner().clean(data_set(FrameOfReferenceUID="1.2.840.10008.19530417"))
    assert made.FrameOfReferenceUID == RING.uid("1.2.840.10008.19530417")


def test_text_that_no_rule_names_is_emptied_and_in_a_sequence_replaced_so_that_it_stays_valid() -> None:
    view = data_set(FrameLabel="Meier")
    made = cleaner().clean(data_set(FrameLabel="Meier", ConvolutionKernel="B30f", ViewCodeSequence=Sequence([view])))
    assert (made.FrameLabel, made.ConvolutionKernel) == ("", "B30f")
    assert made.ViewCodeSequence[0].FrameLabel == "REMOVED"


def test_a_known_name_empties_text_and_codes_that_would_stay_but_for_technical_words() -> None:
    data = data_set(PatientName="Koch^Head", Manufacturer="Koch GmbH", BodyPartExamined="KOCH", ScanOptions="HEAD")
    made = cleaner(known=collect(data)).clean(data)
    assert (made.Manufacturer, made.BodyPartExamined, made.ScanOptions) == ("REMOVED", "", "HEAD")


@pytest.mark.parametrize(
    ("keyword", "text", "left"),
    [
        ("FilterType", "19530417", "REMOVED"),
        ("GridID", "17.04.1953", "REMOVED"),
        ("ReceiveCoilName", "ZYLBERSTEINQ", "REMOVED"),
        ("ConvolutionKernel", "b17041953", "REMOVED"),
        ("StackID", "04/17/53", "REMOVED"),
        ("BodyPartExamined", "HEADZYLBERSTEIN", ""),
        ("ScanOptions", "530417", ""),
        ("SoftwareVersions", "of 17-apr-1953", "REMOVED"),
        ("ManufacturerModelName", "Philips", "Philips"),  # the patient's given name is Philip
    ],
)
def test_a_birth_date_and_a_name_within_a_word_empty_the_text_that_would_stay(
    keyword: str, text: str, left: str
) -> None:
    data = data_set(PatientName="Zylberstein^Philip", PatientBirthDate="19530417", **{keyword: text})
    assert cleaner(known=collect(data)).clean(data)[keyword].value == left


@pytest.mark.parametrize(
    ("keyword", "text", "left"),
    [
        ("FilterType", "20110305", "REMOVED"),
        ("SequenceName", "5.3.2011", "REMOVED"),
        ("ScanOptions", "2011-03-05", ""),
        ("Manufacturer", "Acme since 05/03/11", "REMOVED"),
        ("SoftwareVersions", ["syngo CT VA44A", "5.7.1.1", "12345678"], ["syngo CT VA44A", "5.7.1.1", "12345678"]),
        ("SequenceName", "*ep_b1000#1", "*ep_b1000#1"),
        ("ConvolutionKernel", ["Br38f", "3"], ["Br38f", "3"]),
        ("FilterType", "LARGE BOWTIE FIL", "LARGE BOWTIE FIL"),
        ("ConvolutionKernel", "the kernel that Dr X likes", "REMOVED"),
        ("ReceiveCoilName", "Spule Müller", "REMOVED"),
    ],
)
def test_technical_text_is_kept_if_it_is_of_its_kinds_form_and_no_date(keyword: str, text: Any, left: Any) -> None:
    assert cleaner().clean(data_set(**{keyword: text}))[keyword].value == left


def test_codes_may_look_like_dates_and_hold_no_sentence() -> None:
    code = data_set(CodeValue="19531204", CodingSchemeDesignator="SCT", CodingSchemeVersion="20180401", CodeMeaning="x")
    made = cleaner().clean(data_set(AnatomicRegionSequence=Sequence([code]))).AnatomicRegionSequence[0]
    assert (made.CodeValue, made.CodingSchemeVersion) == ("19531204", "20180401")
    code.CodeValue = "Mrs X"
    assert cleaner().clean(code).CodeValue == "REMOVED"


def test_explanations_are_cleaned_word_by_word() -> None:
    data = data_set(WindowCenterWidthExplanation=["WINDOW1", "NORMAL"], LUTExplanation="Lieblingspatient")
    made = cleaner().clean(data)
    assert list(made.WindowCenterWidthExplanation) == ["WINDOW1", "NORMAL"]
    assert made.LUTExplanation == "REMOVED"  # of real world values it may not be empty
    assert cleaner("dicom.descriptors=remove").clean(data).WindowCenterWidthExplanation == ""


def test_a_patients_number_or_birth_date_as_a_binary_or_private_number_goes() -> None:
    data = data_set(PatientID="90417733", PatientBirthDate="19530417")
    data.add_new("SimpleFrameList", "UL", [1, 90417733])
    data.add_new("DiffusionBValue", "FD", 19530417.0)
    data.add_new("EffectiveEchoTime", "FD", 90.0)
    block = data.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "90417733")
    block.add_new(0x0E, "UN", b"1.0\\19530417")
    made = cleaner(known=collect(data)).clean(data)
    assert (made.SimpleFrameList, made.DiffusionBValue, made.EffectiveEchoTime) == (None, None, 90.0)
    assert [tag for tag in (0x0019100C, 0x0019100E) if tag in made] == []


def test_a_number_that_is_none_or_the_patients_is_emptied() -> None:
    data = data_set(PatientID="90417733")
    data.add_new("InstanceNumber", "IS", "90417733")
    data.add_new("SeriesNumber", "IS", "12")
    data.add_new("KVP", "DS", "")
    data["KVP"]._value = "Meier"
    made = cleaner(known=collect(data)).clean(data)
    assert (made.InstanceNumber, made.SeriesNumber, made.KVP) == (None, 12, None)


def test_empty_values_among_several_keep_their_places() -> None:
    made = cleaner().clean(data_set(ImageType=["ORIGINAL", "PRIMARY", "", "RT"]))
    assert list(made.ImageType) == ["ORIGINAL", "PRIMARY", "", "RT"]


@pytest.mark.parametrize(
    ("scheme", "meaning"), [("DCM", "Head"), ("SCT", "Head"), ("99MEIER", "REMOVED"), ("L", "REMOVED")]
)
def test_the_words_of_a_code_are_kept_for_published_schemes_alone(scheme: str, meaning: str) -> None:
    code = data_set(CodeValue="1", CodingSchemeDesignator=scheme, CodeMeaning="Head")
    made = cleaner().clean(data_set(AnatomicRegionSequence=Sequence([code]))).AnatomicRegionSequence[0]
    assert made.CodeMeaning == meaning
    assert made.CodingSchemeDesignator == (scheme if meaning == "Head" else "99LOCAL")


def test_a_code_without_a_scheme_or_meaning_and_text_with_control_characters_are_not_kept() -> None:
    made = cleaner().clean(data_set(AnatomicRegionSequence=Sequence([data_set(CodeValue="Meier")]), ViewName="a\x01b"))
    assert made.AnatomicRegionSequence[0].CodeValue == "REMOVED"
    assert made.ViewName == "REMOVED"


def test_sequences_nested_without_end_are_refused() -> None:
    data = data_set(FrameLabel="deepest")
    for _ in range(20):
        data = data_set(ViewCodeSequence=Sequence([data]))
    with pytest.raises(DicomError, match="more than 16 deep") as caught:
        cleaner().clean(data)
    assert caught.value.code == "nested_too_deep"


def test_what_cannot_be_decoded_is_removed_and_counted() -> None:
    data = data_set(Rows=3)
    data.add_new(0x00181000 + 0x0051, "US", 1)
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    data._dict[Tag(0x00189087)] = RawDataElement(Tag(0x00189087), "FD", 3, b"abc", 0, False, True)
    made = cleaner()
    assert [element.keyword for element in made.clean(data)] == ["Rows"]
    assert made.actions["removed, not decodable", "DiffusionBValue"] == 1


def test_what_belongs_into_commands_file_meta_and_directories_is_removed_from_a_data_set() -> None:
    data = data_set(Rows=3)
    data.add_new(0x00001000, "UI", "1.2.3")  # Affected SOP Instance UID
    data.add_new(0x00020016, "AE", "WARD7")
    data.add_new(0x00041130, "CS", "MEIER")  # File-set ID
    assert [element.keyword for element in cleaner().clean(data)] == ["Rows"]


def test_an_attribute_of_another_kind_than_its_own_is_removed() -> None:
    data = data_set(Rows=3)
    data.add_new(0x00080070, "US", 77)  # Manufacturer
    data.add_new(0x00180015, "OB", b"MEIER\0")  # Body Part Examined
    data.add_new(0x00180050, "LO", "5 MEIER")  # Slice Thickness
    made = cleaner()
    assert [element.keyword for element in made.clean(data)] == ["Rows"]
    assert made.actions["removed, of another VR than its own", "Manufacturer"] == 1


def test_look_up_tables_are_kept_unless_a_name_is_in_them() -> None:
    known = Identifiers()
    known.add_name("Meierhof")
    table = data_set(ModalityLUTType="HU")
    table.add_new(0x00283006, "OW", b"\1\2\3\4")
    named = data_set(ModalityLUTType="HU")
    named.add_new(0x00283006, "OW", b"MEIERHOF")
    made = cleaner(known=known).clean(data_set(ModalityLUTSequence=Sequence([table, named])))
    assert made.ModalityLUTSequence[0].LUTData == b"\1\2\3\4"
    assert "LUTData" not in made.ModalityLUTSequence[1]


# --- private attributes --------------------------------------------------------------------


def test_a_listed_private_number_is_kept_with_its_creator_and_nothing_else_private() -> None:
    data = data_set(Rows=3)
    block = data.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "800")
    block.add_new(0x0E, "FD", [0.0, 0.6, 0.8])
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    data.private_block(0x0019, "ANOTHER", create=True).add_new(0x0C, "IS", "800")
    made = cleaner().clean(data)
    assert [int(element.tag) for element in made] == [0x00190010, 0x0019100C, 0x0019100E, 0x00280010]
    assert (made[0x00190010].value, made[0x0019100C].value) == ("SIEMENS MR HEADER", 800)


@pytest.mark.parametrize(
    ("vr", "value", "kept"), [("UN", b"800 ", True), ("UN", b"Meier ", False), ("LO", "800", False), ("US", 800, True)]
)
def test_a_listed_private_value_is_kept_if_it_is_a_number(vr: str, value: object, kept: bool) -> None:
    data = Dataset()
    data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, vr, value)
    assert (0x0019100C in cleaner().clean(data)) is kept
