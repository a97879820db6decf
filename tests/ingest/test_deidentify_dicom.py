"""One DICOM file: the policy, the pixels in every encoding, hostile files, and the validator's opinion."""

import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
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
    SecondaryCaptureImageStorage,
)

from medmllm.config import load_config
from medmllm.deidentify_config import DeidentifyConfig
from medmllm.errors import DicomError, IngestError, MedmllmError
from medmllm.ingest.deidentify_descriptors import Descriptors
from medmllm.ingest.deidentify_dicom import Cleaned, DicomRun, Owner, deidentify_dicom, owner_in_header
from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.keys import Keyring
from tests.deidentify_made_up import leaks, write_planted
from tests.factories import a_volume, edit_dicom, write_dicom_study

CAPTURE = str(SecondaryCaptureImageStorage)
RING = Keyring(b"a secret for these tests")
DCIODVFY = Path(sys.executable).parent / "dciodvfy"


@pytest.fixture
def slice_file(tmp_path: Path) -> Path:
    write_dicom_study(tmp_path / "in", a_volume((4, 3, 1)), note=None)
    return tmp_path / "in" / "0001.dcm"


def clean(source: Path, *overrides: str, known: Identifiers | None = None) -> tuple[Path, Cleaned]:
    """De-identify one file into a folder beside it; return the new file."""
    config = load_config(DeidentifyConfig, "deidentify", overrides=overrides)
    run = DicomRun(config.dicom, RING, Descriptors(config.descriptors), Counter())
    owner = Owner("pt-1", "st-1", "se-1", known or Identifiers())
    into = source.parent.parent / "out"
    done = deidentify_dicom(source, RING.file(str(source)), owner, run, into=into)
    return into / done.series_key / f"{RING.file(str(source))}.dcm", done


def refused(source: Path, *overrides: str, known: Identifiers | None = None) -> str:
    with pytest.raises(IngestError) as caught:
        clean(source, *overrides, known=known)
    assert list((source.parent.parent / "out").rglob("*.*")) == []
    return caught.value.code


# --- the policy ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "code", "take"),
    [
        ({"SOPClassUID": CAPTURE}, "object_not_taken", f'dicom.objects=["{CAPTURE}"]'),
        ({"SOPClassUID": "1.2.3.4"}, "object_not_taken", 'dicom.objects=["1.2.3.4"]'),
        ({"Modality": "US"}, "modality_not_taken", "dicom.refused_modalities=[]"),
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation", 'dicom.take_anyway=["burned_in"]'),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen_capture", 'dicom.take_anyway=["screen"]'),
        ({"ConversionType": "WSD"}, "screen_capture", 'dicom.take_anyway=["screen"]'),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour_image", 'dicom.take_anyway=["colour"]'),
    ],
)  # fmt: skip
def test_an_image_that_may_show_a_name_is_refused_unless_the_settings_take_it(
    slice_file: Path, elements: dict[str, Any], code: str, take: str
) -> None:
    edit_dicom(slice_file.parent, **elements)
    assert refused(slice_file) == code
    assert clean(slice_file, take)[0].is_file()


def test_an_overlay_in_unused_pixel_bits_is_refused_and_one_of_its_own_dropped(slice_file: Path) -> None:
    data = pydicom.dcmread(slice_file)
    data.add_new(0x60000010, "US", 3)
    data.save_as(slice_file)
    assert refused(slice_file) == "overlay_in_pixels"
    data.add_new(0x60003000, "OW", b"\1\0")
    data.save_as(slice_file)
    assert 0x60000010 not in pydicom.dcmread(clean(slice_file)[0])


def test_a_recognisable_face_is_written_and_said(slice_file: Path) -> None:
    assert not clean(slice_file)[1].shows_a_face
    edit_dicom(slice_file.parent, RecognizableVisualFeatures="YES")
    assert clean(slice_file)[1].shows_a_face


def test_a_class_in_the_file_meta_alone_is_enough_and_none_is_refused(slice_file: Path) -> None:
    edit_dicom(slice_file.parent, SOPClassUID=None)
    assert pydicom.dcmread(clean(slice_file)[0]).SOPClassUID.name == "CT Image Storage"
    data = pydicom.dcmread(slice_file)
    del data.file_meta.MediaStorageSOPClassUID
    pydicom.dcmwrite(slice_file, data, enforce_file_format=False)
    (slice_file.parent.parent / "out" / "se-1").mkdir(exist_ok=True)
    with pytest.raises(DicomError, match="an object of no class"):
        clean(slice_file)


# --- pixels --------------------------------------------------------------------------------


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


def test_an_object_that_lacks_its_uids_gets_some(slice_file: Path) -> None:
    edit_dicom(slice_file.parent, SOPInstanceUID=None, SeriesInstanceUID=None, StudyInstanceUID=None)
    made = pydicom.dcmread(clean(slice_file)[0])
    assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID == RING.uid(RING.file(str(slice_file)))
    assert (made.StudyInstanceUID, made.SeriesInstanceUID) == (RING.uid("st-1"), RING.uid("se-1"))


def test_objects_of_two_series_that_name_each_other_do_so_afterwards(tmp_path: Path) -> None:
    made = []
    for number in (1, 2):
        folder = tmp_path / str(number) / "in"
        write_dicom_study(folder, a_volume((4, 3, 1)), note=None)
        edit_dicom(folder, StudyInstanceUID="1.2.3", SeriesInstanceUID=f"1.2.3.{number}", FrameOfReferenceUID="1.2.4",
                   SOPInstanceUID=f"1.2.3.{number}.1")  # fmt: skip
        data = pydicom.dcmread(folder / "0001.dcm")
        other, series = pydicom.Dataset(), pydicom.Dataset()
        other.ReferencedSOPClassUID, other.ReferencedSOPInstanceUID = data.SOPClassUID, f"1.2.3.{3 - number}.1"
        series.SeriesInstanceUID, series.ReferencedInstanceSequence = f"1.2.3.{3 - number}", [other]
        data.ReferencedSeriesSequence = [series]
        data.save_as(folder / "0001.dcm")
        made.append(pydicom.dcmread(clean(folder / "0001.dcm")[0]))
    one, two = made
    for this, that in ((one, two), (two, one)):
        reference = this.ReferencedSeriesSequence[0]
        assert reference.SeriesInstanceUID == that.SeriesInstanceUID
        assert reference.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == that.SOPInstanceUID
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert len({one.SOPInstanceUID, two.SOPInstanceUID, one.SeriesInstanceUID, two.SeriesInstanceUID}) == 4


def test_text_beyond_ascii_is_written_as_utf8(slice_file: Path) -> None:
    edit_dicom(slice_file.parent, SpecificCharacterSet="ISO_IR 100", Manufacturer="Röntgen-Müller")
    made = pydicom.dcmread(clean(slice_file)[0])
    assert (made.SpecificCharacterSet, made.Manufacturer) == ("ISO_IR 192", "Röntgen-Müller")


# --- hostile files -------------------------------------------------------------------------


def test_a_header_without_end_is_refused(slice_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medmllm.ingest.deidentify_dicom.LARGEST_HEADER_BYTES", 2**12)
    data = pydicom.dcmread(slice_file)
    data.add_new(0x00091010, "LO", "MEIER")
    data.add_new(0x00091011, "OB", bytes(2**13))
    data.save_as(slice_file)
    assert refused(slice_file) == "header_too_large"


def test_a_bomb_a_link_and_a_stranger_are_refused(slice_file: Path) -> None:
    start = slice_file.read_bytes()
    link = slice_file.with_name("link.dcm")
    link.symlink_to(slice_file)
    assert refused(link) in ("not_a_file", "unreadable")
    stranger = slice_file.with_name("stranger.dcm")
    stranger.write_bytes(b"no DICOM at all" * 20)
    assert refused(stranger) == "not_dicom"
    data = pydicom.dcmread(slice_file)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(slice_file)
    meta_end = slice_file.read_bytes().index(b"1.2.840.10008.1.2.1.99") + 200
    assert meta_end < len(start) + 400
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(squeeze.compress(bytes(2**24)) for _ in range(20)) + squeeze.flush()
    whole = slice_file.read_bytes()
    place = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    slice_file.write_bytes(whole[:place] + bomb)
    assert refused(slice_file) in ("deflated_too_large", "dicom_unreadable", "object_not_taken")


def test_damaged_files_raise_nothing_but_our_errors(tmp_path: Path) -> None:
    write_planted(tmp_path / "in")
    source = sorted((tmp_path / "in").rglob("*0.dcm"))[0]
    whole, rng = source.read_bytes(), np.random.default_rng(8)
    outcomes: Counter[str] = Counter()
    reasons: list[str] = []
    for number in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(128, len(whole), rng.integers(1, 12)):
            damaged[place] = rng.integers(0, 256)
        mutant = source.with_name(f"{number}.dcm")
        mutant.write_bytes(bytes(damaged[: rng.integers(200, len(whole))] if number % 5 == 0 else damaged))
        try:
            clean(mutant)
        except MedmllmError as error:
            outcomes[error.code] += 1
            reasons.append(error.reason)
        else:
            outcomes["written"] += 1
    assert leaks("".join(reasons).encode()) == []
    assert outcomes["written"] > 100
    assert len(outcomes) > 2


# --- whose file ----------------------------------------------------------------------------


def test_an_object_that_is_no_image_is_known_by_its_header(slice_file: Path) -> None:
    owner = owner_in_header(slice_file, RING)
    data = pydicom.dcmread(slice_file)
    assert (owner.patient_key, owner.study_key) == (RING.patient("SYN-0001"), RING.study(data.StudyInstanceUID))
    edit_dicom(slice_file.parent, StudyInstanceUID=None)
    with pytest.raises(DicomError, match="names no study"):
        owner_in_header(slice_file, RING)


# --- the validator -------------------------------------------------------------------------


def validator_errors(file: Path) -> Counter[str]:
    """Return what dciodvfy calls errors, without the values and places of single items."""
    done = subprocess.run([DCIODVFY, "-new", str(file)], capture_output=True, check=False)
    lines = (done.stderr + done.stdout).decode("latin-1").splitlines()
    return Counter(re.sub(r"\[\d+\]|<[^>]*>$", "", line) for line in lines if line.startswith("Error"))


@pytest.mark.skipif(not DCIODVFY.exists(), reason="dicom3tools is not installed here")
@pytest.mark.parametrize("overrides", [(), ("dicom.dates=remove", "dicom.descriptors=remove")])
def test_the_validator_finds_no_error_that_the_original_has_not(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    write_dicom_study(tmp_path / "plain" / "in", a_volume((4, 3, 1)), note=None)
    write_planted(tmp_path / "planted" / "in")
    sources = [tmp_path / "plain" / "in" / "0001.dcm", sorted((tmp_path / "planted").rglob("*0.dcm"))[0]]
    for source in sources:
        assert validator_errors(clean(source, *overrides)[0]) - validator_errors(source) == Counter()


@pytest.mark.skipif(not DCIODVFY.exists(), reason="dicom3tools is not installed here")
@pytest.mark.timeout(600)
def test_the_validator_finds_no_new_error_in_real_files(shared: Path, tmp_path: Path) -> None:
    checked = 0
    for case in sorted((shared / "torture" / "open").iterdir()):
        files = [file for file in sorted(case.rglob("*")) if file.is_file() and file.name != "NOTE.json"]
        for number, source in enumerate(files[:2]):
            copy = tmp_path / case.name / str(number) / "in" / "file.dcm"
            copy.parent.mkdir(parents=True)
            copy.write_bytes(source.read_bytes())
            try:
                made, _ = clean(copy)
            except IngestError:
                continue
            if not pydicom.dcmread(copy, stop_before_pixels=True, force=True).get("SOPClassUID"):
                continue  # the validator looks at nothing in the original then
            assert validator_errors(made) - validator_errors(copy) == Counter(), case.name
            checked += 1
    assert checked > 70
