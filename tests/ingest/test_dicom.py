"""A whole series: its voxels and places, and the slice that spoils it."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medmllm.errors import DicomError, GeometryError
from medmllm.ingest.dicom import read_series
from tests.factories import a_volume, edit_dicom, write_dicom_study


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


@pytest.mark.parametrize(
    ("turn_deg", "tilt_deg"), [(0.0, 0.0), (33.0, 0.0), (0.0, -18.5)], ids=["axial", "oblique", "tilted"]
)
def test_every_voxel_comes_back_at_its_place(tmp_path: Path, turn_deg: float, tilt_deg: float) -> None:
    truth = a_volume(turn_deg=turn_deg, tilt_deg=tilt_deg)
    write_dicom_study(tmp_path, truth)
    volume = read_series(files_of(tmp_path)[::-1])
    assert volume.voxels.dtype == np.float32
    to_truth = np.linalg.inv(truth.affine) @ volume.affine
    for index in np.ndindex(*volume.voxels.shape):
        place = to_truth @ [*index, 1]
        assert place == pytest.approx(np.round(place), abs=1e-3)
        x, y, z = np.round(place[:3]).astype(int)
        assert volume.voxels[index] == truth.voxels[x, y, z]
    assert volume.modality == "CT"
    assert volume.frame_of_reference_uid is not None


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path: Path) -> None:
    write_dicom_study(tmp_path)
    plain = read_series(files_of(tmp_path)).voxels + 1024
    for number in range(4):
        edit_dicom(tmp_path, only=[number], RescaleSlope=number + 1, RescaleIntercept=0)
    scaled = read_series(files_of(tmp_path)).voxels
    assert scaled == pytest.approx(plain * np.array([1, 2, 3, 4]))


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, leave_out=[2])
    with pytest.raises(GeometryError, match="1 slice is missing"):
        read_series(files_of(tmp_path))


def test_pixels_that_cannot_be_decoded_name_their_slice_not_their_file(tmp_path: Path) -> None:
    write_dicom_study(tmp_path)
    edit_dicom(tmp_path, only=[2], BitsStored=99)
    with pytest.raises(DicomError) as refusal:
        read_series(files_of(tmp_path))
    assert refusal.value.reason.endswith("(slice 2 of 4)")
    assert "dcm" not in refusal.value.reason


def test_of_several_damaged_slices_the_first_is_named_whichever_fails_first(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, a_volume((6, 5, 30)))
    edit_dicom(tmp_path, only=[7, 8, 21, 29], BitsStored=99)
    for _ in range(5):
        with pytest.raises(DicomError, match=r"\(slice 7 of 30\)"):
            read_series(files_of(tmp_path))


def test_pixels_outside_the_image_keep_their_values_and_are_named(tmp_path: Path) -> None:
    write_dicom_study(tmp_path)
    outside = np.full((5, 6), -2000, dtype="<i2")
    outside[2, 3] = 40
    edit_dicom(
        tmp_path, PixelData=outside.tobytes(), PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleSlope=1,
        RescaleIntercept=-1024,
    )  # fmt: skip
    for file in files_of(tmp_path):
        data = pydicom.dcmread(file)
        data.add_new("PixelPaddingValue", "SS", -2000)
        data.save_as(file)
    volume = read_series(files_of(tmp_path))
    assert volume.padding == (-3024.0, -3024.0)
    assert volume.voxels[3, 2].tolist() == [-984.0] * 4
    assert np.count_nonzero(volume.voxels == -3024.0) == 29 * 4


def test_no_files_are_no_series() -> None:
    with pytest.raises(DicomError, match="no files"):
        read_series([])


def test_a_volume_begins_on_a_boundary_of_large_pages(tmp_path: Path) -> None:
    write_dicom_study(tmp_path)
    assert read_series(files_of(tmp_path)).voxels.ctypes.data % 2**21 == 0
