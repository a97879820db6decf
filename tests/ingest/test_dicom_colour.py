"""Colours: red, green and blue as they were written, whatever the file keeps them as."""

from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.pixels import convert_color_space
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from medmllm.errors import DicomError
from medmllm.ingest.dicom_colour import adobe_transform, read_colour
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_pixels import read_slice
from tests.factories import edit_dicom
from tests.ingest.dicom_slices import encapsulated, write_slice

COLOURS = np.random.default_rng(3).integers(0, 256, (40, 48, 3)).astype(np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(40) * k, np.arange(48) * 2) for k in (1, 2, 3)], axis=2).astype(np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One image of 40 rows and 48 columns that holds COLOURS, pixel by pixel."""
    return write_slice(
        tmp_path, COLOURS, Rows=40, Columns=48, SamplesPerPixel=3, PlanarConfiguration=0,
        PhotometricInterpretation="RGB", BitsAllocated=8, BitsStored=8, HighBit=7,
    )  # fmt: skip


def code_of(file: Path) -> str:
    with pytest.raises(DicomError) as refusal:
        read_colour(read_header(file))
    return refusal.value.code


def test_colours_come_back_pixel_by_pixel(file: Path) -> None:
    colours = read_colour(read_header(file))
    assert colours.dtype == np.uint8
    assert np.array_equal(colours, COLOURS)


def test_colours_come_back_plane_by_plane(file: Path) -> None:
    edit_dicom(file.parent, only=[0], PixelData=COLOURS.transpose(2, 0, 1).tobytes(), PlanarConfiguration=1)
    assert np.array_equal(read_colour(read_header(file)), COLOURS)


def test_colours_of_16_bits_are_read(file: Path) -> None:
    many = COLOURS.astype("<u2") * 257
    edit_dicom(file.parent, only=[0], PixelData=many.tobytes(), BitsAllocated=16, BitsStored=16, HighBit=15)
    assert np.array_equal(read_colour(read_header(file)), many)


def test_big_endian_colours_are_read(file: Path) -> None:
    many = COLOURS.astype(">u2") * 257
    data = pydicom.dcmread(file)
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.PixelData = many.tobytes()
    assert list(data.iterall())
    pydicom.dcmwrite(file, data, implicit_vr=False, little_endian=False, force_encoding=True)
    colours = read_colour(read_header(file))
    assert np.array_equal(colours, many)
    assert colours.dtype == np.uint16


def test_run_length_encoded_colours_are_read(file: Path) -> None:
    data = pydicom.dcmread(file)
    data.compress(RLELossless, COLOURS)
    data.save_as(file)
    assert np.array_equal(read_colour(read_header(file)), COLOURS)
    edit_dicom(file.parent, only=[0], Rows=60000, Columns=60000)
    assert code_of(file) == "truncated_pixels"


def test_ybr_is_turned_into_rgb(file: Path) -> None:
    # PS3.3 C.7.6.3.1.2: Y = .299 R + .587 G + .114 B; Cb and Cr about 128
    grey_red = np.tile(np.array([[76, 85, 255]], dtype=np.uint8), (40 * 48, 1))  # pure red
    edit_dicom(file.parent, only=[0], PixelData=grey_red.tobytes(), PhotometricInterpretation="YBR_FULL")
    assert read_colour(read_header(file))[3, 4].tolist() == pytest.approx([254, 0, 0], abs=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_its_colours(file: Path, bits: int) -> None:
    stored = (np.arange(40 * 48) % 7).astype(np.uint8)
    top = 2**bits - 1
    edit_dicom(
        file.parent, only=[0], PixelData=stored.tobytes(), SamplesPerPixel=1, PhotometricInterpretation="PALETTE COLOR"
    )
    data = pydicom.dcmread(file)
    for colour, entries in (("Red", [0, top, 3]), ("Green", [1, 0, 4]), ("Blue", [2, 5, top])):
        table = np.array(entries, dtype=f"<u{bits // 8}").tobytes()
        data.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [3, 2, bits])
        data.add_new(f"{colour}PaletteColorLookupTableData", "OW", table + bytes(len(table) % 2))
    data.save_as(file)
    colours = read_colour(read_header(file))
    first = [[0, 1, 2]] * 3 + [[top, 0, 5]] + [[3, 4, top]] * 3  # stored 0 to 6; the palette starts at 2
    assert colours.reshape(-1, 3)[:7].tolist() == first


LOSSLESS = {
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_encode,
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda values: imagecodecs.jpeg2k_encode(
        values, codecformat="j2k", reversible=True, level=0, mct=True
    ),
    "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_encode,
}


@pytest.mark.parametrize("syntax", [syntax for syntax in LOSSLESS if syntax != "1.2.840.10008.1.2.4.57"])
def test_lossless_compression_gives_the_colours_back(file: Path, syntax: str) -> None:
    interpretation = "YBR_RCT" if syntax.endswith(".90") else "RGB"
    encapsulated(file, syntax, LOSSLESS[syntax](COLOURS), PhotometricInterpretation=interpretation)
    assert np.array_equal(read_colour(read_header(file)), COLOURS)


def test_ybr_in_a_lossless_frame_is_turned_into_rgb(file: Path) -> None:
    ybr = convert_color_space(COLOURS, "RGB", "YBR_FULL")
    encapsulated(file, "1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode(ybr), PhotometricInterpretation="YBR_FULL")
    assert np.abs(read_colour(read_header(file)).astype(int) - COLOURS).max() <= 2


@pytest.mark.parametrize(
    ("stored_as", "interpretation"),
    [("YCBCR", "YBR_FULL_422"), ("YCBCR", "YBR_FULL"), ("RGB", "RGB")],
)
def test_jpeg_colours_are_what_the_interpretation_says(file: Path, stored_as: str, interpretation: str) -> None:
    frame = imagecodecs.jpeg8_encode(SMOOTH, level=98, colorspace="RGB", outcolorspace=stored_as)
    assert adobe_transform(without_marker(frame)) is None
    encapsulated(file, "1.2.840.10008.1.2.4.50", without_marker(frame), PhotometricInterpretation=interpretation)
    assert np.abs(read_colour(read_header(file)).astype(int) - SMOOTH).max() <= 12


def without_marker(frame: bytes) -> bytes:
    """Take the Adobe marker out of a JPEG frame."""
    start = frame.find(b"\xff\xee")
    return (
        frame if start < 0 else frame[:start] + frame[start + 2 + int.from_bytes(frame[start + 2 : start + 4], "big") :]
    )


def test_the_adobe_marker_of_a_jpeg_wins_over_the_interpretation(file: Path) -> None:
    frame = without_marker(imagecodecs.jpeg8_encode(SMOOTH, level=98, colorspace="RGB", outcolorspace="RGB"))
    marked = frame[:2] + bytes.fromhex("ffee 000e 41646f6265 0064 0000 0000 00") + frame[2:]
    assert adobe_transform(marked) == 0
    encapsulated(file, "1.2.840.10008.1.2.4.50", marked, PhotometricInterpretation="YBR_FULL_422")
    assert np.abs(read_colour(read_header(file)).astype(int) - SMOOTH).max() <= 12


def test_a_frame_of_a_film_is_read(file: Path) -> None:
    both = np.stack([COLOURS, SMOOTH])
    edit_dicom(file.parent, only=[0], PixelData=both.tobytes(), NumberOfFrames=2)
    header = read_header(file)
    assert np.array_equal(read_colour(replace(header, frame=1)), SMOOTH)
    with pytest.raises(DicomError) as refusal:
        read_colour(replace(header, frame=2))
    assert refusal.value.code == "no_such_frame"


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1}, "not_colour"),
        ({"PhotometricInterpretation": "HSV"}, "unsupported_colour"),
        ({"SamplesPerPixel": 4}, "unsupported_colour"),
        ({"PixelRepresentation": 1}, "unsupported_colour"),
        ({"PixelData": bytes(100)}, "pixels_unreadable"),
    ],
)
def test_what_is_no_colour_or_no_more_is_refused(file: Path, elements: dict[str, object], code: str) -> None:
    edit_dicom(file.parent, only=[0], **elements)
    assert code_of(file) == code


def test_grey_values_behind_a_header_of_colours_are_refused(file: Path) -> None:
    encapsulated(file, "1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode(COLOURS[..., 0].copy()))
    assert code_of(file) == "pixels_unreadable"


def test_colours_are_no_values_of_a_slice(file: Path) -> None:
    with pytest.raises(DicomError) as refusal:
        read_slice(read_header(file))
    assert refusal.value.code == "colour"


@pytest.mark.parametrize(
    ("segments", "transform"), [("ffee 0004 4142", None), ("fffe 0004 4142 ffda", None), ("", None)]
)
def test_a_frame_without_an_adobe_marker_says_nothing(segments: str, transform: int | None) -> None:
    assert adobe_transform(bytes.fromhex("ffd8" + segments)) is transform


def test_a_palette_in_segments_is_read(file: Path) -> None:
    stored = (np.arange(40 * 48) % 5).astype(np.uint8)
    edit_dicom(
        file.parent, only=[0], PixelData=stored.tobytes(), SamplesPerPixel=1, PhotometricInterpretation="PALETTE COLOR"
    )
    data = pydicom.dcmread(file)
    # PS3.3 C.7.9.2: a discrete segment of one entry (opcode 0), then a line of four entries up to 500 (opcode 1)
    segments = np.array([0, 1, 100, 1, 4, 500], dtype="<u2").tobytes()
    for colour in ("Red", "Green", "Blue"):
        data.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [5, 0, 16])
        data.add_new(f"Segmented{colour}PaletteColorLookupTableData", "OW", segments)
    data.save_as(file)
    assert read_colour(read_header(file))[0, :6, 1].tolist() == [100, 200, 300, 400, 500, 100]


def test_a_palette_that_is_shorter_than_it_says_is_refused(file: Path) -> None:
    edit_dicom(file.parent, only=[0], SamplesPerPixel=1, PhotometricInterpretation="PALETTE COLOR")
    data = pydicom.dcmread(file)
    data.PixelData = bytes(40 * 48)
    for colour in ("Red", "Green", "Blue"):
        data.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        data.add_new(f"{colour}PaletteColorLookupTableData", "OW", bytes(100))
    data.save_as(file)
    assert code_of(file) == "bad_lookup_table"
