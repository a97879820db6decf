"""Headers of single DICOM files: what is recognised, what is refused, and what must not be read."""

import io
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medmllm.errors import DicomError, IngestError
from medmllm.ingest import dicom_header
from medmllm.ingest.dicom_header import DicomHeader, read_header, read_with_pixels
from medmllm.ingest.dicom_stack import refusal_of
from medmllm.ingest.dicom_stream import looks_like_dicom
from tests.factories import a_volume, edit_dicom, write_dicom_study


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The first slice of a small CT: 6 columns, 5 rows."""
    write_dicom_study(tmp_path / "ct", patient="MEIER-1", note=None)
    return tmp_path / "ct" / "0001.dcm"


def edited(file: Path, **elements: object) -> DicomHeader:
    edit_dicom(file.parent, only=[0], **elements)
    return read_header(file)


def code_of(file: Path) -> str:
    with pytest.raises(IngestError) as refusal:
        read_header(file)
    assert "MEIER" not in refusal.value.reason
    return refusal.value.code


def test_a_header_says_what_the_file_says(file: Path) -> None:
    header, data = read_header(file), pydicom.dcmread(file)
    assert (header.rows, header.columns, header.frames, header.samples) == (5, 6, 1, 1)
    assert header.patient_id == "MEIER-1"
    assert (header.study_uid, header.series_uid) == (data.StudyInstanceUID, data.SeriesInstanceUID)
    assert header.pixel_spacing_mm == (3.0, 2.0)  # between rows, then between columns
    assert header.position == tuple(data.ImagePositionPatient)
    assert header.orientation == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert (header.modality, header.transfer_syntax) == ("CT", "1.2.840.10008.1.2.1")
    assert header.has_rescale
    assert not header.truncated
    assert not header.has_modality_lut


def test_nothing_of_a_header_shows_in_its_repr(file: Path) -> None:
    assert "MEIER" not in repr(read_header(file))


def test_a_file_without_mark_and_meta_is_read_as_implicit_little_endian(file: Path) -> None:
    data = pydicom.dcmread(file)
    bare = io.BytesIO()
    pydicom.dcmwrite(bare, Dataset(data), implicit_vr=True, little_endian=True)
    file.write_bytes(bare.getvalue())
    header = read_header(file)
    assert header.transfer_syntax == "1.2.840.10008.1.2"
    assert header.rows == 5
    assert len(read_with_pixels(file).PixelData) == 60


def test_big_endian_is_read_and_its_pixel_length_checked(file: Path) -> None:
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert list(data.iterall())  # decoded, so that they are encoded anew
    pydicom.dcmwrite(file, data, implicit_vr=False, little_endian=False, force_encoding=True)
    assert read_header(file).position == tuple(data.ImagePositionPatient)
    assert not read_header(file).truncated
    file.write_bytes(file.read_bytes()[:-10])
    assert read_header(file).truncated


def deflate(file: Path, tail: bytes = b"", instead: bytes | None = None) -> None:
    """Rewrite a file deflated; `tail` is appended to the plain data set, `instead` takes its place."""
    data = pydicom.dcmread(file)
    plain = io.BytesIO()
    pydicom.dcmwrite(plain, Dataset(data), implicit_vr=False, little_endian=True)
    meta = data.file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = io.BytesIO()
    head.write(bytes(128) + b"DICM")
    pydicom.filewriter.write_file_meta_info(head, meta)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    file.write_bytes(
        head.getvalue() + packer.compress((plain.getvalue() if instead is None else instead) + tail) + packer.flush()
    )


def test_a_deflated_file_is_read(file: Path) -> None:
    pixels = pydicom.dcmread(file).PixelData
    deflate(file)
    assert read_header(file).columns == 6
    assert read_header(file).transfer_syntax == DeflatedExplicitVRLittleEndian
    assert read_with_pixels(file).PixelData == pixels


def test_a_deflated_bomb_is_inflated_no_further_than_needed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deflate(file, tail=bytes(50_000_000))
    monkeypatch.setattr(dicom_header, "HEADER_INFLATES_TO", 4000)
    monkeypatch.setattr(dicom_header, "IMAGE_INFLATES_TO", 10_000)
    assert read_header(file).rows == 5
    with pytest.raises(DicomError, match="more than 10,000 bytes") as refusal:
        read_with_pixels(file)
    assert refusal.value.code == "deflated_too_large"


def test_a_deflated_header_longer_than_what_is_looked_at_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deflate(file)
    monkeypatch.setattr(dicom_header, "HEADER_INFLATES_TO", 300)
    assert code_of(file) == "dicom_unreadable"


def test_a_deflated_file_of_empty_elements_costs_no_time(file: Path) -> None:
    deflate(file, instead=bytes(30_000_000))
    start = time.process_time()
    assert code_of(file) == "dicom_unreadable"
    assert time.process_time() - start < 2


@pytest.mark.parametrize("left", [10, 200])
def test_pixel_data_cut_short_are_seen_by_their_length(file: Path, left: int) -> None:
    whole = file.read_bytes()
    place = whole.rindex(b"\xe0\x7f\x10\x00OW")
    file.write_bytes(whole[: place + 12 + 10] if left == 10 else whole[:-1])
    assert read_header(file).truncated


def test_pixel_data_that_declare_less_than_rows_and_columns_need_are_cut_short(file: Path) -> None:
    assert edited(file, PixelData=bytes(58), DataSetTrailingPadding=bytes(100)).truncated


def test_bytes_after_the_pixel_data_do_no_harm(file: Path) -> None:
    assert not edited(file, PixelData=bytes(64)).truncated


def test_an_image_without_pixels_is_damaged(file: Path) -> None:
    edit_dicom(file.parent, only=[0], PixelData=None)
    assert code_of(file) == "no_pixels"
    edit_dicom(file.parent, only=[1], Rows=None)
    assert code_of(file.with_name("0002.dcm")) == "no_pixels"


@pytest.mark.parametrize(
    "sop_class",
    [EncapsulatedPDFStorage, "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.2"],
)
def test_pdf_segmentation_and_dose_are_no_images(file: Path, sop_class: str) -> None:
    edit_dicom(file.parent, only=[0], SOPClassUID=sop_class)
    assert code_of(file) == "not_an_image"


def test_a_report_is_no_image(file: Path) -> None:
    edit_dicom(file.parent, only=[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Rows=None, PixelData=None)
    assert code_of(file) == "not_an_image"


def test_a_waveform_with_rows_but_no_pixels_is_no_image(file: Path) -> None:
    edit_dicom(file.parent, only=[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.9.1.1", PixelData=None)
    assert code_of(file) == "not_an_image"


def test_a_dicomdir_is_told_by_its_file_meta(file: Path) -> None:
    data = pydicom.dcmread(file)
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    data.save_as(file)
    assert code_of(file) == "dicomdir"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"hello", "not_dicom"),
        (bytes(128) + b"DICM", "no_pixels"),
        (bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04", "no_pixels"),
        (bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x09\x00" + bytes(9), "dicom_unreadable"),
    ],
)
def test_junk_is_refused_with_one_typed_error(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "junk").write_bytes(content)
    assert code_of(tmp_path / "junk") == code


def test_sequences_nested_ten_thousand_deep_are_refused(tmp_path: Path) -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = (struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item) * 10_000
    meta = struct.pack("<HH2sH", 2, 0x0010, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    (tmp_path / "deep").write_bytes(bytes(128) + b"DICM" + meta + nested)
    assert code_of(tmp_path / "deep") == "dicom_unreadable"


@pytest.mark.parametrize(
    ("keyword", "value", "field"),
    [
        ("PixelSpacing", None, "pixel_spacing_mm"),
        ("PixelSpacing", [0, 1], "pixel_spacing_mm"),
        ("ImagePositionPatient", [1, 2], "position"),
        ("ImagePositionPatient", None, "position"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 1], "orientation"),
        ("PatientID", "", "patient_id"),
        ("StudyInstanceUID", None, "study_uid"),
        ("Modality", "Meier Hans", "modality"),
    ],
)
def test_what_is_missing_or_makes_no_sense_is_none(file: Path, keyword: str, value: object, field: str) -> None:
    assert getattr(edited(file, **{keyword: value}), field) is None


def test_values_are_stripped_and_image_type_is_split(file: Path) -> None:
    header = edited(file, PatientID=" 12 ", ImageType=["ORIGINAL", "PRIMARY", "localizer "])
    assert header.patient_id == "12"
    assert header.image_type == ("ORIGINAL", "PRIMARY", "LOCALIZER")


def test_a_modality_lookup_table_is_noticed(file: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [2, 0, 16], bytes(4), "US"
    assert edited(file, ModalityLUTSequence=Sequence([table])).has_modality_lut


def test_odd_values_are_neither_logged_nor_warned_of(file: Path) -> None:
    edit_dicom(file.parent, only=[0], SpecificCharacterSet="ISO_IR 100")
    data = file.read_bytes()
    file.write_bytes(data.replace(b"MEIER-1 ", b"MEIER\x01\xff ").replace(b"ISO_IR 100", b"MEIER-5678"))
    script = (
        "import logging, pathlib, sys; logging.basicConfig(); path = pathlib.Path(sys.argv[1]);"
        "from medmllm.ingest.dicom_header import read_header, read_with_pixels;"
        "print(read_header(path).rows, len(read_with_pixels(path).PixelData))"
    )
    # In a process of its own: pytest puts its own filters above those of a program.
    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == "5 60\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("start", "dicom"),
    [
        ("0800 0500 4353 0a00 49534f5f", True),  # (0008,0005) CS, explicit
        ("0800 0000 0400 0000 90010000", True),  # (0008,0000), implicit, 4 bytes
        ("0008 0005 4353 000a 49534f5f", True),  # the same in big endian
        ("0200 0000 554c 0400 b0000000", True),  # file meta without preamble
        ("0800 0500 4353", False),  # too short to tell
        ("0800 0500 ffff ffff 49534f5f", False),
        ("2000 0d00 5549 4000 312e322e", False),  # a group no data set starts with
        ("7b22 6122 3a20 317d 0a0a0a0a", False),
    ],
)
def test_a_file_without_mark_is_dicom_only_if_it_starts_with_a_plausible_element(start: str, dicom: bool) -> None:
    assert looks_like_dicom(bytes.fromhex(start)) is dicom


@pytest.mark.parametrize(
    ("elements", "padding"),
    [
        ({"PixelPaddingValue": -2000, "PixelRepresentation": 1}, (-2000, -2000)),
        ({"PixelPaddingValue": 63536, "PixelRepresentation": 0}, (63536, 63536)),
        ({"PixelPaddingValue": 63536, "PixelRepresentation": 1}, (-2000, -2000)),
        ({"PixelPaddingValue": 7, "PixelPaddingRangeLimit": -3, "PixelRepresentation": 1}, (-3, 7)),
        ({"PixelPaddingRangeLimit": -3, "PixelRepresentation": 1}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("quick", [False, True])
def test_the_values_of_pixels_outside_the_image_are_signed_as_the_pixels_are(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    elements: Mapping[str, int],
    padding: tuple[int, int] | None,
    implicit: bool,
    quick: bool,
) -> None:
    if not quick:
        monkeypatch.setattr(dicom_header, "walk", lambda number, wanted: None)
    data = pydicom.dcmread(file)
    data.PixelRepresentation = elements.get("PixelRepresentation", 1)
    for keyword, value in elements.items():
        data.add_new(keyword, "SS" if value < 0 else "US", value)  # whatever Pixel Representation says
    assert list(data.iterall())
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    pydicom.dcmwrite(file, data, implicit_vr=implicit, little_endian=True, force_encoding=True)
    assert read_header(file).padding == padding


def test_padding_that_is_no_number_is_no_padding(file: Path) -> None:
    data = pydicom.dcmread(file)
    data.add_new("PixelPaddingValue", "OW", b"\1\2\3\4")
    data.save_as(file)
    assert read_header(file).padding is None


def test_pixel_data_without_a_vr_in_an_explicit_file_are_found(file: Path) -> None:
    plain = file.read_bytes()
    place = plain.rindex(b"\xe0\x7f\x10\0OW")
    bare = plain[: place + 4] + plain[place + 8 :]
    odd = bytearray(bare)
    rows = odd.index(b"\x28\0\x10\0US\2\0")
    odd[rows + 4 : rows + 8] = b"\2\0\0\0"  # this one too, so that the quick walk leaves it to pydicom
    file.write_bytes(bytes(odd))
    assert read_header(file).pixel_place == place + 8


def many_items(undefined: bool) -> bytes:
    """Return a Referenced Image Sequence of 200,000 empty items, explicit little endian."""
    items = bytes.fromhex("feff00e0 00000000") * 200_000
    length = 0xFFFFFFFF if undefined else len(items)
    end = bytes.fromhex("feffdde0 00000000") if undefined else b""
    return struct.pack("<HH2sHI", 0x0028, 0x3000, b"SQ", 0, length) + items + end


@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_of_endless_items_cost_no_time(file: Path, undefined: bool) -> None:
    whole = file.read_bytes()
    place = whole.rindex(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    # An odd character set, so that the file is left to pydicom.
    file.write_bytes(whole[:place].replace(b"ISO_IR 192", b"ISO_IR  13") + many_items(undefined) + whole[place:])
    start = time.process_time()
    code = code_of(file) if undefined else read_header(file).has_modality_lut
    assert code == ("too_large" if undefined else True)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(("written", "number"), [("3.0", 3), (" 12 ", 12), ("3.5", None), ("IM7", None)])
def test_an_instance_number_that_is_none_costs_no_image(tmp_path: Path, written: str, number: int | None) -> None:
    write_dicom_study(tmp_path, note=None)
    file = sorted(tmp_path.glob("*.dcm"))[0]
    data = pydicom.dcmread(file)
    data["InstanceNumber"] = pydicom.DataElement("InstanceNumber", "LO", written)
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.save_as(file, implicit_vr=True, little_endian=True)
    assert read_header(file).instance == number


# --- what contradicts itself -----------------------------------------------------------------


def test_a_slice_of_another_thickness_among_many_alike_keeps_its_own(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, a_volume((6, 5, 9)), note=None)
    edit_dicom(tmp_path, SliceThickness="2.5")
    edit_dicom(tmp_path, only=[7], SliceThickness="5.0")
    headers = [read_header(file) for file in sorted(tmp_path.glob("*.dcm"))]
    assert [header.thickness_mm for header in headers] == [2.5] * 7 + [5.0, 2.5]
    assert [dict(header.acquisition)["SliceThickness"] for header in headers] == ["2.5"] * 7 + ["5.0", "2.5"]


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("text", ["1,5", "1\\2", "nan"])
def test_a_rescale_that_is_no_number_leaves_the_slice_in_its_series_which_is_refused(
    file: Path, keyword: str, text: str
) -> None:
    spelt(file, keyword, text)
    refusal = refusal_of(read_header(file))
    assert refusal is not None
    assert refusal[0] == "bad_rescale"


@pytest.mark.parametrize(
    ("keyword", "code"), [("PixelSpacing", "no_pixel_spacing"), ("ImagePositionPatient", "no_position")]
)
def test_a_place_with_decimal_commas_is_no_place(file: Path, keyword: str, code: str) -> None:
    spelt(file, keyword, "0,5\\0,5\\0,5"[: 7 if keyword == "PixelSpacing" else 11])
    refusal = refusal_of(read_header(file))
    assert refusal is not None
    assert refusal[0] == code


def spelt(file: Path, keyword: str, text: str) -> None:
    """Write a value as it is spelt, which pydicom would not."""
    data = pydicom.dcmread(file)
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    data[tag] = pydicom.DataElement(tag, "LO", text)
    data.save_as(file)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    file.write_bytes(file.read_bytes().replace(head + b"LO", head + b"DS"))
