"""One DICOM file: the policy, its references, hostile files, and the validator's opinion."""

import re
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from medmllm.errors import DicomError, IngestError, MedmllmError
from medmllm.ingest.deidentify_dicom import owner_in_header
from tests.deidentify_made_up import leaks, write_planted
from tests.factories import a_volume, edit_dicom, write_dicom_study
from tests.ingest.deidentified import RING, clean, refused, write_slice

CAPTURE = str(SecondaryCaptureImageStorage)
DCIODVFY = Path(sys.executable).parent / "dciodvfy"


@pytest.fixture
def slice_file(tmp_path: Path) -> Path:
    return write_slice(tmp_path)


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
