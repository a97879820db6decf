"""Pixels of single slices: exact values through every codec, and no made-up ones."""

import struct
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from medmllm.errors import DicomError, IngestError
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_pixels import RLE_HEADER_BYTES, coded_size, read_slice
from tests.factories import edit_dicom
from tests.ingest.dicom_slices import encapsulated, write_slice

STORED = np.random.default_rng(6).integers(0, 4096, (5, 6)).astype(np.uint16)  # 12 bits


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One slice of 5 rows and 6 columns that holds STORED, slope 1 and intercept -1024."""
    return write_slice(tmp_path, STORED, BitsStored=12, HighBit=11, RescaleSlope=1, RescaleIntercept=-1024)


def code_of(file: Path) -> str:
    with pytest.raises(DicomError) as refusal:
        read_slice(read_header(file))
    return refusal.value.code


def test_values_are_stored_values_times_slope_plus_intercept(file: Path) -> None:
    edit_dicom(file.parent, only=[0], RescaleSlope="0.25", RescaleIntercept="-100.5")
    values = read_slice(read_header(file))
    assert values.dtype == np.float32
    assert values == pytest.approx(STORED * 0.25 - 100.5)


def test_values_are_written_where_asked(file: Path) -> None:
    room = np.full((5, 6), np.nan, dtype=np.float32)
    assert read_slice(read_header(file), out=room) is room
    assert room.tolist() == (STORED.astype(float) - 1024).tolist()


def test_without_rescale_the_stored_values_come_back(file: Path) -> None:
    edit_dicom(file.parent, only=[0], RescaleSlope=None, RescaleIntercept=None)
    assert read_slice(read_header(file)).tolist() == STORED.tolist()


def test_signed_values_of_12_bits_are_extended_and_overlay_bits_above_them_cleared(file: Path) -> None:
    signed = np.random.default_rng(7).integers(-2048, 2048, (5, 6))
    overlay = np.random.default_rng(8).integers(0, 16, (5, 6)) << 12
    stored = ((signed & 0xFFF) | overlay).astype("<u2")
    edit_dicom(file.parent, only=[0], PixelData=stored.tobytes(), PixelRepresentation=1, RescaleIntercept=0)
    assert read_slice(read_header(file)).tolist() == signed.tolist()


def test_values_above_overlay_bits_are_shifted_down(file: Path) -> None:
    stored = ((STORED << 4) | 5).astype("<u2")  # High Bit 15: the values stand at the upper end
    edit_dicom(file.parent, only=[0], PixelData=stored.tobytes(), HighBit=15, RescaleIntercept=0)
    assert read_slice(read_header(file)).tolist() == STORED.tolist()


@pytest.mark.parametrize("room", [False, True])
def test_32_bit_values_are_rescaled_before_they_are_rounded(file: Path, room: bool) -> None:
    stored = np.array([[2**31 + 1 + row * 6 + column for column in range(6)] for row in range(5)])
    edit_dicom(
        file.parent, only=[0], PixelData=stored.astype("<u4").tobytes(), BitsAllocated=32, BitsStored=32, HighBit=31,
        RescaleIntercept=str(-(2**31)),
    )  # fmt: skip
    out = np.zeros((5, 6), dtype=np.float32) if room else None
    assert read_slice(read_header(file), out=out).tolist() == (stored - 2**31).tolist()


def test_8_bit_values_are_read(file: Path) -> None:
    stored = (STORED % 256).astype(np.uint8)
    edit_dicom(
        file.parent, only=[0], PixelData=stored.tobytes(), BitsAllocated=8, BitsStored=8, HighBit=7, RescaleIntercept=0
    )
    assert read_slice(read_header(file)).tolist() == stored.tolist()


@pytest.mark.parametrize("high_bit", [11, 15])
def test_big_endian_is_read(file: Path, high_bit: int) -> None:
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.HighBit = high_bit
    data.PixelData = (STORED << (high_bit - 11)).astype(">u2").tobytes()
    assert list(data.iterall())  # decoded, so that they are encoded anew
    pydicom.dcmwrite(file, data, implicit_vr=False, little_endian=False, force_encoding=True)
    assert (read_slice(read_header(file)) + 1024).tolist() == STORED.tolist()


def test_rle_is_read(file: Path) -> None:
    data = pydicom.dcmread(file)
    data.compress(RLELossless, STORED)
    data.save_as(file)
    assert (read_slice(read_header(file)) + 1024).tolist() == STORED.tolist()


def test_rle_of_32_bits_is_read(file: Path) -> None:
    edit_dicom(file.parent, only=[0], BitsAllocated=32, BitsStored=32, HighBit=31, RescaleIntercept=0)
    wide = STORED.astype(np.uint32) * 70_001
    planes = [imagecodecs.packbits_encode(plane.tobytes()) for plane in wide.astype(">u4").view("u1").reshape(-1, 4).T]
    starts = [RLE_HEADER_BYTES + sum(len(plane) for plane in planes[:number]) for number in range(4)]
    encapsulated(file, RLELossless, struct.pack("<16I", 4, *starts, *[0] * 11) + b"".join(planes))
    assert read_slice(read_header(file)).tolist() == wide.astype(np.float32).tolist()


LOSSLESS = {
    "1.2.840.10008.1.2.4.57": lambda values: imagecodecs.ljpeg_encode(values, bitspersample=12),
    "1.2.840.10008.1.2.4.70": lambda values: imagecodecs.ljpeg_encode(values, bitspersample=12),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda values: imagecodecs.jpeg2k_encode(
        values, codecformat="j2k", reversible=True, level=0, resolutions=1
    ),
    "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_encode,
}


def large(file: Path) -> np.ndarray:
    """Make the slice 40 rows by 48 columns: some encoders want more than 5 by 6. Return its stored values."""
    values = np.random.default_rng(9).integers(0, 4096, (40, 48)).astype(np.uint16)
    edit_dicom(file.parent, only=[0], PixelData=values.tobytes(), Rows=40, Columns=48)
    return values


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_compression_gives_the_values_back(file: Path, syntax: str) -> None:
    values = large(file)
    encapsulated(file, syntax, LOSSLESS[syntax](values))
    assert (read_slice(read_header(file)) + 1024).tolist() == values.tolist()


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_a_compressed_frame_cut_short_is_refused(file: Path, syntax: str) -> None:
    frame = LOSSLESS[syntax](large(file))
    encapsulated(file, syntax, frame[: len(frame) * 2 // 3])
    assert code_of(file) in ("truncated_pixels", "pixels_unreadable")


def test_a_lossless_jpeg_frame_that_lacks_its_last_bytes_is_refused(file: Path) -> None:
    frame = LOSSLESS["1.2.840.10008.1.2.4.70"](large(file))
    encapsulated(file, "1.2.840.10008.1.2.4.70", frame[:-10])  # the decoder alone makes up the last values
    assert code_of(file) == "truncated_pixels"


def test_signed_values_in_jpeg_2000_keep_their_sign(file: Path) -> None:
    signed = np.random.default_rng(10).integers(-2048, 2048, (40, 48)).astype(np.int16)
    large(file)
    edit_dicom(file.parent, only=[0], PixelRepresentation=1, RescaleIntercept=0, BitsStored=16, HighBit=15)
    frame = imagecodecs.jpeg2k_encode(signed, codecformat="j2k", reversible=True, level=0, resolutions=1)
    encapsulated(file, "1.2.840.10008.1.2.4.90", frame)
    assert read_slice(read_header(file)).tolist() == signed.tolist()


def test_lossy_jpeg_of_8_bits_is_close(file: Path) -> None:
    values = (np.add.outer(np.arange(40), np.arange(48)) * 2).astype(np.uint8)
    large(file)
    edit_dicom(file.parent, only=[0], BitsAllocated=8, BitsStored=8, HighBit=7, RescaleIntercept=0)
    encapsulated(file, "1.2.840.10008.1.2.4.50", imagecodecs.jpeg8_encode(values, level=98))
    assert np.abs(read_slice(read_header(file)) - values).max() <= 6


def test_a_frame_in_several_fragments_is_put_together(file: Path) -> None:
    values = large(file)
    frame = imagecodecs.jpegls_encode(values)
    frame += bytes(len(frame) % 2)
    encapsulated(file, "1.2.840.10008.1.2.4.80", frame)
    data = pydicom.dcmread(file)
    data.PixelData = encapsulate([frame], fragments_per_frame=4)
    data.save_as(file)
    assert (read_slice(read_header(file)) + 1024).tolist() == values.tolist()


def test_a_frame_that_declares_another_size_is_refused_before_it_is_decoded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = bytes.fromhex("ffd8 fff7 000b 10 ffff ffff 01 011100") + bytes(20) + b"\xff\xd9"
    encapsulated(file, "1.2.840.10008.1.2.4.80", bomb)
    with pytest.raises(DicomError, match=r"says it has \(65535, 65535\).*says \(5, 6\)"):
        read_slice(read_header(file))


def test_a_frame_of_colours_behind_a_grey_header_is_refused(file: Path) -> None:
    large(file)
    colours = np.zeros((40, 48, 3), dtype=np.uint8)
    encapsulated(file, "1.2.840.10008.1.2.4.50", imagecodecs.jpeg8_encode(colours))
    assert code_of(file) == "pixels_unreadable"


def test_noise_instead_of_a_frame_is_refused(file: Path) -> None:
    encapsulated(file, "1.2.840.10008.1.2.4.90", bytes(64))
    assert code_of(file) == "pixels_unreadable"


@pytest.mark.parametrize("bits", [1, 12, 64])
def test_pixels_of_other_widths_are_refused(file: Path, bits: int) -> None:
    edit_dicom(file.parent, only=[0], BitsAllocated=bits, BitsStored=1, HighBit=0, PixelData=bytes(240))
    assert code_of(file) == "unsupported_bits"


def test_run_lengths_that_lack_a_segment_or_its_end_are_refused(file: Path) -> None:
    data = pydicom.dcmread(file)
    data.compress(RLELossless, STORED)
    whole = next(generate_frames(data.PixelData, number_of_frames=1))
    encapsulated(file, RLELossless, whole[:40])  # not even its own header
    assert code_of(file) == "pixels_unreadable"
    encapsulated(file, RLELossless, whole)
    edit_dicom(file.parent, only=[0], Rows=6)  # its segments hold five
    assert code_of(file) == "truncated_pixels"
    edit_dicom(file.parent, only=[0], Rows=5, BitsAllocated=8, BitsStored=8, HighBit=7)  # two segments, one byte
    assert code_of(file) == "pixels_unreadable"


def test_run_lengths_that_go_on_behind_the_image_are_read_to_its_end(file: Path) -> None:
    planes = STORED.astype("<u2").reshape(-1).view(np.uint8).reshape(-1, 2)
    high, low = (imagecodecs.packbits_encode(planes[:, k].tobytes() + bytes(7)) for k in (1, 0))  # a byte each
    head = struct.pack("<16I", 2, 64, 64 + len(high), *[0] * 13)
    whole = head + high + low
    encapsulated(file, RLELossless, whole + bytes(len(whole) % 2))
    assert (read_slice(read_header(file)) + 1024).tolist() == STORED.tolist()


def test_inverted_grey_values_are_what_they_are(file: Path) -> None:
    edit_dicom(file.parent, only=[0], PhotometricInterpretation="MONOCHROME1")
    assert (read_slice(read_header(file)) + 1024).tolist() == STORED.tolist()


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"BitsStored": 17}, "bad_bits"),
        ({"BitsStored": 0, "HighBit": 0}, "bad_bits"),
        ({"HighBit": 15, "BitsStored": 8, "BitsAllocated": 8}, "bad_bits"),
        ({"HighBit": 10}, "bad_bits"),
        ({"BitsStored": None}, "bad_bits"),
        ({"PixelRepresentation": None}, "bad_bits"),
        ({"PixelData": bytes(20)}, "truncated_pixels"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(file: Path, elements: dict[str, object], code: str) -> None:
    edit_dicom(file.parent, only=[0], **elements)
    assert code_of(file) == code


def test_a_slope_too_large_for_any_number_is_refused(file: Path) -> None:
    edit_dicom(file.parent, only=[0], RescaleSlope="1e400")
    assert code_of(file) == "bad_rescale"


def test_a_slice_that_vanished_is_an_error_of_ours(file: Path) -> None:
    header = read_header(file)
    with pytest.raises(IngestError):
        read_slice(replace(header, file=file.with_name("gone.dcm")))


@pytest.mark.parametrize(
    ("encoded", "size"),
    [
        ("ffd8 ffe0 0004 aabb ffff c3 000b 10 0003 0005 01", (3, 5)),  # an APP0 segment and a fill byte before
        ("ffd8 ffc4 0003 00 fff7 000b 10 0102 0304 01", (0x0102, 0x0304)),  # DHT is no frame header
        ("ff4f ff51 0029 0000 0000000a 00000014 00000001 00000002", (18, 9)),  # extent less origin
        ("ff4f ff51 0029", None),
        ("ffd8 ffe0 0004 aabb", None),
        ("ffd8 0000 0000 0000 0000 0000", None),
        ("89504e47", None),
        ("", None),
    ],
)
def test_the_size_that_a_frame_declares(encoded: str, size: tuple[int, int] | None) -> None:
    assert coded_size(bytes.fromhex(encoded)) == size


def test_file_meta_alone_decides_the_codec(file: Path) -> None:
    data = pydicom.dcmread(file)
    assert isinstance(data.file_meta, FileMetaDataset)
    encapsulated(file, "1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode(STORED))
    assert (read_slice(read_header(file)) + 1024).tolist() == STORED.tolist()


@pytest.mark.parametrize("name", ["x_ct1_jpll", "x_ct1_jlsl", "x_ct1_j2kr", "x_ct1_rle"])
def test_four_codecs_give_the_same_real_slice(shared: Path, name: str) -> None:
    def values(case: str) -> np.ndarray:
        folder = shared / "torture" / "open" / case / "data"
        return read_slice(read_header(next(path for path in folder.iterdir() if path.is_file())))

    assert np.array_equal(values(name), values("x_ct1_rle"))
    assert np.ptp(values(name)) > 1000


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"])
def test_lossless_jpeg_without_its_huffman_table_is_an_error_of_ours_and_ends_nothing(file: Path, syntax: str) -> None:
    frame = imagecodecs.ljpeg_encode(STORED, bitspersample=12)
    assert frame.count(b"\xff\xc4") == 1
    encapsulated(file, syntax, frame.replace(b"\xff\xc4", b"\xff\x27"))
    with pytest.raises(DicomError) as refusal:
        read_slice(read_header(file))
    assert refusal.value.code == "pixels_unreadable"


def test_a_slope_of_zero_is_refused_where_it_would_make_an_image_constant(file: Path) -> None:
    edit_dicom(file.parent, only=[0], RescaleSlope=0)
    assert code_of(file) == "bad_rescale"


def test_an_empty_slice_may_have_a_slope_of_zero(file: Path) -> None:
    pixels = bytes(len(pydicom.dcmread(file).PixelData))
    edit_dicom(file.parent, only=[0], RescaleSlope=0, RescaleIntercept=7, PixelData=pixels)
    assert set(read_slice(read_header(file)).ravel()) == {7.0}


def test_signed_pixels_in_an_unsigned_jpeg_2000_stream_keep_their_sign(file: Path) -> None:
    data = pydicom.dcmread(file)
    values = np.arange(-15, 15, dtype=np.int16).reshape(data.Rows, data.Columns)
    encoded = imagecodecs.jpeg2k_encode(
        (values & 0xFFF).astype(np.uint16), level=0, reversible=True, codecformat="j2k", bitspersample=12
    )
    data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelData = encapsulate([encoded])
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    data.save_as(file)
    assert np.array_equal(read_slice(read_header(file)), values)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"])
def test_a_frame_may_be_padded_with_any_number_of_zeros(file: Path, syntax: str) -> None:
    encode = {"80": imagecodecs.jpegls_encode, "90": j2k}[syntax[-2:]]
    frame = encode(STORED)
    assert (
        read_slice(read_header(encapsulated(file, syntax, frame + bytes(500)))).tolist() == (STORED - 1024.0).tolist()
    )
    assert code_of(encapsulated(file, syntax, frame[:-2] + bytes(500))) == "truncated_pixels"


def test_a_jpeg_2000_frame_may_be_a_whole_jp2_file(file: Path) -> None:
    boxed = imagecodecs.jpeg2k_encode(STORED, codecformat="JP2", reversible=True)
    assert boxed[4:8] == b"jP  "
    header = read_header(encapsulated(file, "1.2.840.10008.1.2.4.90", boxed))
    assert read_slice(header).tolist() == (STORED - 1024.0).tolist()


def j2k(pixels: np.ndarray) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", reversible=True)


@pytest.mark.parametrize("said", [1, 3])
def test_compressed_frames_are_as_many_as_the_header_says(file: Path, said: int) -> None:
    data = pydicom.dcmread(encapsulated(file, "1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode(STORED)))
    data.PixelData = encapsulate([imagecodecs.jpegls_encode(STORED)] * 2)
    data.NumberOfFrames = said
    data.save_as(file)
    with pytest.raises(DicomError, match=f"has 2 compressed frames where the header says {said}"):
        read_slice(read_header(file))
