"""The quick walk over a plain file: the same header as pydicom's, or nothing at all."""

import random
import struct
from dataclasses import fields
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medmllm.errors import MedmllmError
from medmllm.ingest import dicom_header, dicom_part10
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_part10 import walk
from medmllm.ingest.dicom_template import Templates
from medmllm.ingest.dicom_wish import compile_keywords
from medmllm.ingest.opening import RegularFile
from tests.factories import edit_dicom, write_dicom_study

WANTED = compile_keywords(("PatientID", "Rows", "EchoTime", "ModalityLUTSequence"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_dicom_study(tmp_path / "ct", patient="MEIER-1", note=None)
    return tmp_path / "ct" / "0001.dcm"


def walked(file: Path):
    with RegularFile(file) as opened:
        return walk(opened, WANTED)


def both(file: Path) -> list[object]:
    """What the quick walk and pydicom make of a file: all fields, or the error's code."""
    found: list[object] = []
    real = dicom_header.walk
    for read in (real, lambda number, wanted: None):
        dicom_header.walk = read  # type: ignore[assignment]
        try:
            header = read_header(file)
            found.append({field.name: getattr(header, field.name) for field in fields(header)})
        except MedmllmError as error:
            found.append(error.code)
        finally:
            dicom_header.walk = real
    return found


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_plain_file_is_walked_and_says_what_pydicom_says(file: Path, syntax: str) -> None:
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = syntax
    nested = Dataset()
    nested.PatientID = "not this one"
    nested.is_undefined_length_sequence_item = True
    outer = Dataset()
    outer.ReferencedStudySequence = Sequence([nested])
    data.ReferencedStudySequence = Sequence([outer, outer])
    data["ReferencedStudySequence"].is_undefined_length = True
    data.EchoTime = 12.5
    dcmwrite(file, data)
    found = walked(file)
    assert found is not None
    assert found.values == {"PatientID": "MEIER-1", "Rows": "5", "EchoTime": "12.5"}
    assert file.read_bytes()[found.pixel_place :] == data.PixelData
    assert found.pixel_bytes == len(data.PixelData)
    assert "MEIER" not in repr(found)
    quick, thorough = both(file)
    assert quick == thorough


def test_a_large_private_element_is_stepped_over(file: Path) -> None:
    data = pydicom.dcmread(file)
    data.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", bytes(100_001 + 1))
    dcmwrite(file, data)
    quick, thorough = both(file)
    assert walked(file) is not None
    assert quick == thorough


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("agent", [None, "", "  ", "Ultravist 370"])
def test_how_a_series_was_acquired_is_told_alike(file: Path, syntax: str, agent: str | None) -> None:
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = syntax
    data.ConvolutionKernel, data.SliceThickness = ["I30f", "3 "], "1.50"
    data.AcquisitionDateTime = "20200102101530.25"
    if agent is not None:
        data.ContrastBolusAgent = agent
    dcmwrite(file, data)
    quick, thorough = both(file)
    assert quick == thorough
    told = read_header(file).told
    assert (told.kernel, told.thickness_mm, told.acquired) == ("I30f\\3", 1.5, "20200102101530.250000")
    assert told.contrast is {None: False, "": None, "  ": None}.get(agent, True)


@pytest.mark.parametrize("content", [[], [Dataset()]])
def test_a_sequence_counts_when_it_holds_something(file: Path, content: list[Dataset]) -> None:
    edit_dicom(file.parent, only=[0], ModalityLUTSequence=Sequence(content))
    found = walked(file)
    assert found is not None
    assert found.sequences == ({"ModalityLUTSequence"} if content else set())


def test_what_is_out_of_the_ordinary_is_left_to_pydicom(file: Path, tmp_path: Path) -> None:
    plain = file.read_bytes()
    odd = tmp_path / "odd.dcm"
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(odd, data, little_endian=False, implicit_vr=False)
    assert walked(odd) is None
    rows = plain.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    variants = {
        "no preamble": plain[132:],
        "another VR than the dictionary's": plain.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0SS"),
        "no VR at all": plain.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0\x01\x02"),
        "out of order": plain[:rows] + plain[rows + 10 : rows + 20] + plain[rows : rows + 10] + plain[rows + 20 :],
        "cut within an element": plain[: rows + 5],
        "an unknown transfer syntax": plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
    }
    for name, content in variants.items():
        odd.write_bytes(content)
        assert walked(odd) is None, name


@pytest.mark.parametrize(
    ("vr", "value", "text"), [("SS", -2000, "63536"), ("US", 63536, "63536"), ("OW", b"\x30\xf8", None)]
)
def test_a_value_of_either_sign_is_walked_as_an_unsigned_one(
    file: Path, vr: str, value: object, text: str | None
) -> None:
    data = pydicom.dcmread(file)
    data.add_new("PixelPaddingValue", vr, value)
    data.save_as(file)
    with RegularFile(file) as opened:
        found = walk(opened, compile_keywords(("PixelPaddingValue",)))
    assert (found and found.values["PixelPaddingValue"]) == text
    quick, thorough = both(file)
    assert quick == thorough


@pytest.mark.parametrize(
    ("character_set", "patient", "quick"),
    [
        (None, "MÜLLER", True),
        ("ISO_IR 100", "MÜLLER", True),
        ("ISO_IR 192", "山田 Ü", True),
        ("ISO_IR 144", "Люк", False),
    ],
)
def test_texts_are_decoded_as_pydicom_decodes_them(
    file: Path, character_set: str | None, patient: str, quick: bool
) -> None:
    data = pydicom.dcmread(file)
    if character_set:
        data.SpecificCharacterSet = character_set
    data.PatientID = patient
    dcmwrite(file, data)
    with RegularFile(file) as opened:
        found = walk(opened, compile_keywords(("SpecificCharacterSet", "PatientID")))
    assert (found is not None) == quick
    one, other = both(file)
    assert one == other


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SOPInstanceUID", b"\r1.2.3 "),
        ("SOPInstanceUID", b"1.2.3\x0b"),
        ("EchoTime", b"\x1f.16"),
        ("EchoTime", b"1_0 "),
        ("EchoTime", b"1-2 "),
        ("EchoTime", b"\x001 2"),
        ("InstanceNumber", b"1e400 "),
        ("InstanceNumber", b"1.0 "),
        ("PatientName", b"MEIER^A="),
        ("PatientName", b"MEIER \\M "),
    ],
)
def test_what_pydicom_cleans_in_a_way_of_its_own_is_left_to_it(file: Path, keyword: str, value: bytes) -> None:
    data = pydicom.dcmread(file)
    setattr(data, keyword, "1" * len(value))
    dcmwrite(file, data)
    content = file.read_bytes()
    assert content.count(b"1" * len(value)) == 1
    file.write_bytes(content.replace(b"1" * len(value), value))
    with RegularFile(file) as opened:
        assert walk(opened, compile_keywords((keyword,))) is None
    one, other = both(file)
    assert one == other


def rewrite(file: Path, syntax: str) -> None:
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(file, data, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)


@pytest.mark.parametrize(
    ("syntax", "course"),
    [(ExplicitVRLittleEndian, "explicit_elements"), (ImplicitVRLittleEndian, "implicit_elements")],
)
def test_neighbours_with_the_same_elements_are_recognised_and_give_their_own_values(
    file: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, course: str
) -> None:
    neighbours = sorted(file.parent.glob("*.dcm"))
    for neighbour in neighbours:
        rewrite(neighbour, syntax)
    walks = []
    slowly = getattr(dicom_part10._Walk, course)
    monkeypatch.setattr(
        dicom_part10._Walk, course,
        lambda self, place: (type(self) is dicom_part10._Walk and walks.append(1), slowly(self, place)),
    )  # fmt: skip
    monkeypatch.setattr(dicom_part10, "TEMPLATES", Templates())
    found = [read_header(neighbour) for neighbour in neighbours]
    assert (len(neighbours), len(walks)) == (4, 2)
    assert [header.position for header in found] == [both(neighbour)[1]["position"] for neighbour in neighbours]  # type: ignore[index]
    assert len({header.sop_uid for header in found}) == 4


TOLD_BY_ONE = {
    "SpecificCharacterSet": "ISO_IR 100", "ImageType": "ORIGINAL\\PRIMARY\\AXIAL", "PatientName": "MÜLLER^HANS",
    "PatientID": "MEIER-1", "SeriesDescription": "Thorax 3.0", "AcquisitionNumber": "3", "InstanceNumber": "7",
    "EchoTime": "12.50", "TriggerTime": "100", "AcquisitionTime": "112936.500", "AcquisitionDate": "20200117",
    "ConvolutionKernel": "B30f", "ContrastBolusAgent": "ISOVUE", "SliceThickness": "2.50", "NumberOfFrames": "1",
    "RescaleSlope": "1.5", "RescaleIntercept": "-1024", "SeriesNumber": "4", "KVP": "120",
    "FrameOfReferenceUID": "1.2.3.4", "SpacingBetweenSlices": "2.50",
}  # fmt: skip


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_neighbour_that_differs_in_any_one_value_gets_its_own(
    file: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pydicom.dcmread(file)
    for keyword, value in TOLD_BY_ONE.items():
        setattr(data, keyword, value)
    data.save_as(file)
    rewrite(file, syntax)
    whole = file.read_bytes()
    monkeypatch.setattr(dicom_part10, "TEMPLATES", Templates())
    for _ in range(3):
        read_header(file)
    (template,) = dicom_part10.TEMPLATES._kept
    said = {wish.keyword: (start, end) for wish, start, end in template.values}
    assert said.keys() >= TOLD_BY_ONE.keys()
    file.write_bytes(whole.replace(b"ISO_IR 100", b"ISO_IR 144"))  # Cyrillic
    one, other = both(file)
    assert one == other
    for start, end in said.values():
        for place, byte in ((start, b"3"), (end - 1, b"0"), (start, b" "), (start + 1, b"\\")):
            file.write_bytes(whole[:place] + byte + whole[place + 1 :])
            one, other = both(file)
            assert one == other
        file.write_bytes(whole[:start] + b" " * (end - start) + whole[end:])
        one, other = both(file)
        assert one == other
        file.write_bytes(whole)
        one, other = both(file)
        assert one == other


def test_a_neighbour_of_another_transfer_syntax_or_cut_short_is_told_so(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(file, ExplicitVRLittleEndian)
    monkeypatch.setattr(dicom_part10, "TEMPLATES", Templates())
    for _ in range(3):
        assert read_header(file).truncated is False
    whole = file.read_bytes()
    # As long as the other one, so that the data set starts at the same place.
    file.write_bytes(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1))
    assert read_header(file).transfer_syntax == "1.2.840.10008.1.2.5"
    file.write_bytes(whole[:-1])
    assert read_header(file).truncated is True


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("change", [b"\x00", b"\xff", b"2"])
def test_a_header_is_recognised_only_if_every_byte_that_decides_is_the_same(
    file: Path, change: bytes, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(file, syntax)
    implicit = syntax == ImplicitVRLittleEndian
    monkeypatch.setattr(dicom_part10, "TEMPLATES", Templates())
    whole = file.read_bytes()
    for _ in range(3):
        assert walked(file)
    (template,) = dicom_part10.TEMPLATES._kept
    assert template.fits(whole, template.place, template.wanted, implicit=implicit)
    assert not template.fits(whole, template.place, template.wanted, implicit=not implicit)
    for place in template.places.tolist():
        changed = whole[:place] + change + whole[place + 1 :]
        assert template.fits(changed, template.place, template.wanted, implicit=implicit) == (changed == whole)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_cut_around_the_start_of_its_pixels_is_the_same_either_way(file: Path, syntax: str) -> None:
    rewrite(file, syntax)
    whole = file.read_bytes()
    place = whole.rindex(b"\xe0\x7f\x10\x00")
    outcomes = set()
    for more in range(16):
        file.write_bytes(whole[: place + more])
        one, other = both(file)
        assert one == other
        outcomes.add(one if isinstance(one, str) else one["truncated"])  # type: ignore[index]
    assert {"no_pixels", True} <= outcomes <= {"no_pixels", "dicom_unreadable", True}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example(seed=60735501)  # the patient's name alone changes, and with it whether the scanner may be told
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_gives_pydicoms_header_or_pydicoms_refusal(file: Path, seed: int) -> None:
    for _ in range(3):  # so that its course is known, and only fits what takes the same
        assert walked(file)
    rng = random.Random(seed)
    content = bytearray(file.read_bytes()[: rng.choice([None, None, rng.randrange(132, 1600)])])
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(128, min(len(content), 1600))] = rng.choice([0, 1, 0x20, 0x5C, 0xFF, rng.randrange(256)])
    damaged = file.with_name("damaged.bin")
    damaged.write_bytes(content)
    quick, thorough = both(damaged)
    assert quick == thorough


def test_the_hard_cases_give_the_same_headers_either_way(shared: Path) -> None:
    files = [file for file in (shared / "torture" / "open").rglob("*") if file.is_file() and not file.is_symlink()]
    differ = [file.name for file in files for quick, thorough in [both(file)] if quick != thorough]
    assert differ == []
    assert sum(walked(file) is not None for file in files) > 400
