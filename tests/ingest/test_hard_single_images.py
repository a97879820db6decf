"""Hard single images: right or refused, as their notes say; the values come from other decoders."""

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut
from pydicom.uid import ImplicitVRLittleEndian

from medmllm.errors import DicomError
from medmllm.ingest.dicom import read_series
from medmllm.ingest.dicom_colour import read_colour
from medmllm.ingest.dicom_header import DicomHeader, read_header
from medmllm.ingest.dicom_pixels import read_slice
from medmllm.ingest.dicom_stack import arrange

pytestmark = pytest.mark.realdata

SAME_SLICE = ("x_ct1_j2kr", "x_ct1_jlsl", "x_ct1_jpll", "x_ct1_rle")
COLOURS = ("x_htj2k_rgb", "x_palette", "x_palette_face", "x_rgb", "x_rgb_planar1")
GREY = (
    "x_big_endian", "x_ct1_j2kr", "x_ct1_rle", "x_decimal_rescale", "x_deflated_real", "x_modality_lut", "x_mono1_dx",
    "x_overlay_bits", "x_padded",
)  # fmt: skip
OTHERS = ("x_ct1_jlsl", "x_ct1_jpll", "x_mr_jpls_near", "x_pt_slope", "x_truncated")


def file_of(shared: Path, case: str) -> Path:
    (file,) = (file for file in (shared / "torture" / "open" / case / "data").iterdir() if file.is_file())
    return file


def by_pydicom(file: Path) -> np.ndarray:
    data = pydicom.dcmread(file, force=True)
    return np.asarray(apply_modality_lut(data.pixel_array, data), dtype=np.float64)


def frame_of(file: Path) -> bytes:
    data = pydicom.dcmread(file)
    return next(generate_frames(data.PixelData, number_of_frames=1))


def test_every_single_image_is_in_one_of_these_tests(shared: Path) -> None:
    cases = {folder.name for folder in (shared / "torture" / "open").glob("x_*")}
    assert cases == {*GREY, *COLOURS, *OTHERS}
    for case in cases:
        note = json.loads((shared / "torture" / "open" / case / "NOTE.json").read_text())
        assert note["outcome"] == ("refuse_or_warn" if case == "x_truncated" else "load")


@pytest.mark.parametrize("case", GREY)
def test_grey_values_are_those_of_pydicom(shared: Path, case: str) -> None:
    file = file_of(shared, case)
    values = read_slice(read_header(file))
    assert values.dtype == np.float32
    assert np.allclose(values, by_pydicom(file), rtol=1e-6, atol=1e-4)
    assert np.ptp(values) > 0 or case == "x_decimal_rescale"  # which is all air


@pytest.mark.parametrize("case", [*GREY, *OTHERS[:-1]])
def test_a_lone_slice_is_a_volume_where_it_has_a_place(shared: Path, case: str) -> None:
    file = file_of(shared, case)
    header = read_header(file)
    if header.position and header.orientation and header.pixel_spacing_mm:
        volume = read_series([file])
        assert np.array_equal(volume.voxels[:, :, 0].T, read_slice(header))
        x, y, z = header.position
        assert volume.affine[:3, 3].tolist() == [-x, -y, z]
        assert "single_slice" in {code for code, _ in arrange([header]).warnings}
    else:
        with pytest.raises(DicomError) as refusal:
            arrange([header])
        assert refusal.value.code in ("no_position", "secondary_capture")


@pytest.mark.parametrize("case", SAME_SLICE)
def test_one_slice_is_the_same_through_every_codec(shared: Path, case: str) -> None:
    assert np.array_equal(read_slice(read_header(file_of(shared, case))), by_pydicom(file_of(shared, "x_ct1_rle")))


def test_a_pet_slice_in_lossless_jpeg_is_scaled(shared: Path) -> None:
    file = file_of(shared, "x_pt_slope")
    stored = imagecodecs.jpegsof3_decode(frame_of(file))  # another decoder than the reader's
    data = pydicom.dcmread(file)
    assert float(data.RescaleSlope) == pytest.approx(0.234542)
    wanted = stored.astype(np.float64) * float(data.RescaleSlope) + float(data.RescaleIntercept)
    assert np.allclose(read_slice(read_header(file)), wanted, rtol=1e-6)


def test_near_lossless_jpeg_ls_keeps_to_its_bound(shared: Path) -> None:
    values = read_slice(read_header(file_of(shared, "x_mr_jpls_near")))
    assert values.shape == (50, 10)
    # Bands of five rows, 0 to 65535 in equal parts, are what the picture shows; NEAR is 2 in its frame.
    frame = frame_of(file_of(shared, "x_mr_jpls_near"))
    near = frame[frame.index(b"\xff\xda") + 7]
    bands = values.reshape(10, 5, 10)
    assert np.ptp(bands, axis=(1, 2)).max() <= 2 * near


def test_inverted_grey_values_are_kept_and_flagged(shared: Path) -> None:
    header = read_header(file_of(shared, "x_mono1_dx"))
    assert header.photometric == "MONOCHROME1"


def test_overlay_bits_are_no_part_of_the_values(shared: Path) -> None:
    file = file_of(shared, "x_overlay_bits")
    data = pydicom.dcmread(file)
    values = read_slice(read_header(file))
    assert values.max() < 2**data.BitsStored


@pytest.mark.parametrize("case", COLOURS)
def test_colours_are_read_as_red_green_and_blue_and_never_as_a_volume(shared: Path, case: str) -> None:
    file = file_of(shared, case)
    header = read_header(file)
    assert np.array_equal(read_colour(header), colours_of(header, pydicom.dcmread(file, force=True)))
    with pytest.raises(DicomError) as refusal:
        arrange([header])
    assert refusal.value.code == "colour"


def colours_of(header: DicomHeader, data: pydicom.Dataset) -> np.ndarray:
    if header.photometric == "PALETTE COLOR":
        data.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)  # one file names none
        return apply_color_lut(data.pixel_array, data)
    if header.transfer_syntax.endswith("4.201"):
        return imagecodecs.htj2k_decode(frame_of(header.file))  # OpenJPH; the reader goes through OpenJPEG
    return data.pixel_array


def test_a_slice_that_was_cut_short_is_refused(shared: Path) -> None:
    header = read_header(file_of(shared, "x_truncated"))
    for attempt in (lambda: read_slice(header), lambda: arrange([header])):
        with pytest.raises(DicomError) as refusal:
            attempt()
        assert refusal.value.code == "truncated_pixels"
