"""Pixels in every encoding come through bit for bit; what hides in them or beside them does not."""

import shutil
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from medmllm.ingest.deidentify_identifiers import Identifiers
from tests.factories import edit_dicom
from tests.ingest.deidentified import clean, refused, write_slice


@pytest.fixture
def slice_file(tmp_path: Path) -> Path:
    return write_slice(tmp_path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_native_pixels_are_the_same_bytes_in_the_same_syntax(slice_file: Path, syntax: str) -> None:
    data = pydicom.dcmread(slice_file)
    pixels = data.PixelData
    data.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(slice_file, data, implicit_vr=implicit, little_endian=little, force_encoding=True)
    made = pydicom.dcmread(clean(slice_file)[0])
    assert made.file_meta.TransferSyntaxUID == syntax
    assert made.PixelData == pixels
    assert made.pixel_array.shape == (3, 4)
    assert made.PixelSpacing == data.PixelSpacing


def test_a_deflated_file_is_written_as_the_explicit_little_endian_it_holds(slice_file: Path) -> None:
    data = pydicom.dcmread(slice_file)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(slice_file)
    made = pydicom.dcmread(clean(slice_file)[0])
    assert made.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert made.PixelData == data.PixelData


def compress(file: Path, pixel_data: bytes, **elements: Any) -> None:
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.PixelData = pixel_data
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.save_as(file)


def frame_with_comment(text: bytes, seed: int = 1) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 4000, (3, 4), dtype=np.uint16)
    plain = bytes(imagecodecs.jpegls_encode(pixels))
    return plain[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + plain[2:]


def values(pixel_data: bytes, count: int = 1) -> list[list[list[int]]]:
    return [imagecodecs.jpegls_decode(frame).tolist() for frame in generate_frames(pixel_data, number_of_frames=count)]


@pytest.mark.parametrize("fragments", [1, 3])
def test_compressed_frames_keep_items_offsets_and_values_and_lose_their_comments(
    slice_file: Path, fragments: int
) -> None:
    pixels = encapsulate([frame_with_comment(b"Kim Ott"), frame_with_comment(b"Waldhof", 2)], fragments)
    compress(slice_file, pixels, NumberOfFrames=2)
    made = pydicom.dcmread(clean(slice_file)[0]).PixelData
    assert made == pixels.replace(b"Kim Ott", bytes(7)).replace(b"Waldhof", bytes(7))
    assert values(made, 2) == values(pixels, 2)


def test_a_comment_that_is_cut_by_the_end_of_a_fragment_goes(slice_file: Path) -> None:
    frame = frame_with_comment(b"Kim Ott")
    cut = frame.index(b"m O")
    pieces = [frame[:cut], frame[cut:] + b"\0" * (len(frame[cut:]) % 2), b"more"]
    pixels = b"\xfe\xff\0\xe0\0\0\0\0"
    for piece in pieces:
        pixels += b"\xfe\xff\0\xe0" + struct.pack("<I", len(piece)) + piece
    compress(slice_file, pixels + b"\xfe\xff\xdd\xe0Kim!")  # the end mark's length is text too
    file, _ = clean(slice_file)
    assert [word for word in (b"Kim", b"m Ott", b"more") if word in file.read_bytes()] == []
    assert values(pydicom.dcmread(file).PixelData) == values(encapsulate([frame]))


@pytest.mark.parametrize("table", [b"Kim ", b"\0\0\0\0\1\0\0\0", b"\0\0", bytes(4) * 3, bytes(4) * 2])
def test_an_offset_table_that_does_not_lead_to_frames_is_refused(slice_file: Path, table: bytes) -> None:
    whole = encapsulate([frame_with_comment(b"a"), frame_with_comment(b"b", 2)], has_bot=False)
    compress(slice_file, whole[:4] + struct.pack("<I", len(table)) + table + whole[8:], NumberOfFrames=2)
    assert refused(slice_file) == "pixels_unreadable"


def test_an_extended_offset_table_is_held_against_the_frames(slice_file: Path) -> None:
    frames = [frame_with_comment(b"a"), frame_with_comment(b"bcd", 2)]
    pixels, offsets, lengths = encapsulate_extended(frames)
    compress(slice_file, pixels, NumberOfFrames=2, ExtendedOffsetTable=offsets, ExtendedOffsetTableLengths=lengths)
    assert pydicom.dcmread(clean(slice_file)[0]).ExtendedOffsetTable == offsets
    shutil.rmtree(slice_file.parent.parent / "out")
    for keyword, wrong in (("", b"Kim Ott!" * 2), ("Lengths", b"Kim Ott!" * 2), ("", offsets[:8])):
        edit_dicom(slice_file.parent, ExtendedOffsetTable=offsets, ExtendedOffsetTableLengths=lengths)
        edit_dicom(slice_file.parent, **{f"ExtendedOffsetTable{keyword}": wrong})
        assert refused(slice_file) == "pixels_unreadable"


@pytest.mark.parametrize(("frames", "code"), [(1, "pixels_unreadable"), (3, "truncated_pixels")])
def test_frames_that_the_header_does_not_count_are_refused(slice_file: Path, frames: int, code: str) -> None:
    pixels = encapsulate([frame_with_comment(b"a"), frame_with_comment(b"b", 2)])
    compress(slice_file, pixels, NumberOfFrames=frames)
    assert refused(slice_file) == code


def test_pixels_that_are_compressed_or_not_against_what_the_file_says_are_refused(slice_file: Path) -> None:
    native, run_lengths, compressed = (
        str(syntax).encode() for syntax in (ExplicitVRLittleEndian, RLELossless, JPEGLSLossless)
    )
    whole = slice_file.read_bytes()
    assert whole.count(native + b"\0") == 1
    slice_file.write_bytes(whole.replace(native + b"\0", run_lengths + b"\0"))
    assert refused(slice_file) == "pixels_unreadable"
    slice_file.write_bytes(whole)
    compress(slice_file, encapsulate([frame_with_comment(b"a")]))
    whole = slice_file.read_bytes()
    assert whole.count(compressed) == 1
    slice_file.write_bytes(whole.replace(compressed, native.ljust(len(compressed), b"\0")))
    assert refused(slice_file) == "pixels_unreadable"


def test_a_huge_compressed_frame_and_one_of_countless_items_are_refused_unread(
    slice_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medmllm.ingest.deidentify_pixels.LARGEST_FRAME_BYTES", 30)
    compress(slice_file, encapsulate([frame_with_comment(b"a")]))
    assert refused(slice_file) == "too_large"
    monkeypatch.undo()
    monkeypatch.setattr("medmllm.ingest.deidentify_pixels.MOST_ITEMS", 2)
    compress(slice_file, encapsulate([frame_with_comment(b"a")], 3))
    assert refused(slice_file) == "too_large"


def test_a_known_name_that_is_left_in_a_compressed_frame_is_refused(slice_file: Path) -> None:
    known = Identifiers()
    known.add_name("Ambrosius")
    frame = frame_with_comment(b"")
    compress(slice_file, encapsulate([frame[:-2] + b"ambrosius" + frame[-2:]]))
    assert refused(slice_file, known=known) == "text_in_pixels"


def test_run_lengths_lose_what_stands_behind_their_values(slice_file: Path) -> None:
    data = pydicom.dcmread(slice_file)
    pixels = data.pixel_array
    data.compress(RLELossless)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([frame + b"Kim Ott!"])
    data.save_as(slice_file)
    made = pydicom.dcmread(clean(slice_file)[0])
    assert b"Kim" not in made.PixelData
    np.testing.assert_array_equal(made.pixel_array, pixels)


def test_what_follows_the_image_in_its_pixel_data_is_left_out(slice_file: Path) -> None:
    data = pydicom.dcmread(slice_file)
    pixels = data.PixelData
    data.PixelData = pixels + b"MEIER "
    data.save_as(slice_file)
    assert pydicom.dcmread(clean(slice_file)[0]).PixelData == pixels


def test_pixel_data_that_say_they_are_too_short_are_refused_whatever_follows_them(slice_file: Path) -> None:
    data = pydicom.dcmread(slice_file)
    data.PixelData = data.PixelData[:20]
    data.DataSetTrailingPadding = b"MEIER " * 4
    data.save_as(slice_file)
    assert refused(slice_file) == "truncated_pixels"


@pytest.mark.parametrize("cut", [1, 20, 24, 30, 36])
def test_pixels_that_end_early_are_refused(slice_file: Path, cut: int) -> None:
    slice_file.write_bytes(slice_file.read_bytes()[:-cut])
    assert refused(slice_file) in ("truncated_pixels", "no_pixels")
