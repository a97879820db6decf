"""Pixel data of another length than the header says: padding passes, a frame too much or too little does not."""

import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from medmllm.ingest.dicom_header import DicomHeader, read_header
from medmllm.ingest.dicom_pixels import read_slice
from tests.factories import a_volume, edit_dicom, write_dicom_study


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The first slice of a small CT: 6 columns, 5 rows."""
    write_dicom_study(tmp_path / "ct", note=None)
    return tmp_path / "ct" / "0001.dcm"


def edited(file: Path, **elements: object) -> DicomHeader:
    edit_dicom(file.parent, only=[0], **elements)
    return read_header(file)


def write_as(file: Path, data: pydicom.Dataset, syntax: str) -> None:
    """Write as a native transfer syntax says, whatever the pixels are."""
    data.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(file, data, implicit_vr=implicit, little_endian=little, force_encoding=True)


SYNTAXES = [ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
"""Walked; read by pydicom; inflated, where the end of the file tells nothing."""


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("more", "misfit"), [(0, False), (2, False), (58, False), (60, True), (600, True)])
def test_a_frame_more_than_the_header_says_is_no_padding(file: Path, more: int, misfit: bool, syntax: str) -> None:
    data = pydicom.dcmread(file)
    data.PixelData = bytes(60 + more)  # 5 x 6 pixels take 60 bytes
    write_as(file, data, syntax)
    header = read_header(file)
    assert (header.truncated, header.misfit) == (False, misfit)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pixel_data_that_declare_too_few_bytes_are_cut_short(file: Path, syntax: str) -> None:
    data = pydicom.dcmread(file)
    data.PixelData = bytes(58)
    data.DataSetTrailingPadding = bytes(100)  # so that the file does not end with them
    write_as(file, data, syntax)
    header = read_header(file)
    assert (header.truncated, header.misfit) == (True, False)


def test_pixels_of_which_the_header_says_that_there_are_no_frames_do_not_fit_it(file: Path) -> None:
    assert edited(file, NumberOfFrames=0).misfit


@pytest.mark.parametrize(("there", "misfit"), [(2, False), (4, True)])
def test_the_byte_that_makes_a_length_even_is_padding_also_beside_a_frame_of_one(
    file: Path, there: int, misfit: bool
) -> None:
    pixel = {"Rows": 1, "Columns": 1, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    assert edited(file, PixelData=bytes(there), **pixel).misfit is misfit


def test_padding_is_held_against_one_frame_of_several(file: Path) -> None:
    assert not edited(file, NumberOfFrames=3, PixelData=bytes(3 * 60 + 58)).misfit
    assert edited(file, NumberOfFrames=3, PixelData=bytes(4 * 60)).misfit


def test_each_slice_of_many_alike_is_held_against_its_own_length(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, a_volume((6, 5, 9)), note=None)
    edit_dicom(tmp_path, PixelData=bytes(120))
    edit_dicom(tmp_path, only=[8], PixelData=bytes(60))
    assert [read_header(file).misfit for file in sorted(tmp_path.glob("*.dcm"))] == [True] * 8 + [False]


@pytest.mark.parametrize(
    ("says", "misfit"),
    [
        (ExplicitVRLittleEndian, True),
        (ImplicitVRLittleEndian, True),
        (DeflatedExplicitVRLittleEndian, True),
        (JPEGLSLossless, False),
    ],
)
def test_compressed_pixels_do_not_fit_a_native_transfer_syntax(file: Path, says: str, misfit: bool) -> None:
    data = pydicom.dcmread(file)
    data.PixelData = encapsulate([bytes(200)])  # longer than the 60 bytes that a native frame takes
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.save_as(file)
    written = file.read_bytes()
    start = 144 + int.from_bytes(written[140:144], "little")  # of the data set, after preamble and file meta
    said = says.encode().ljust(len(JPEGLSLossless), b"\0")
    rest = written[start:]
    if says == DeflatedExplicitVRLittleEndian:
        rest = zlib.compress(rest, wbits=-zlib.MAX_WBITS)
    file.write_bytes(written[:start].replace(JPEGLSLossless.encode(), said) + rest)
    assert read_header(file).misfit is misfit


def test_an_explicit_file_that_says_it_is_implicit_is_read_as_what_it_is(file: Path) -> None:
    before = read_slice(read_header(file))
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pydicom.dcmwrite(file, data, implicit_vr=False, little_endian=True, force_encoding=True)
    header = read_header(file)
    assert (header.transfer_syntax, header.truncated) == (ImplicitVRLittleEndian, False)
    assert read_slice(header).tolist() == before.tolist()
