"""An image that is there twice is read once, however it was written; what differs in a pixel is another image."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from medmllm.ingest import copies
from tests.factories import edit_dicom, write_dicom_study
from tests.ingest.indexed import codes, index


def other_meta(data: pydicom.Dataset) -> None:
    data.file_meta.ImplementationVersionName = "OTHER_1"


def more_elements(data: pydicom.Dataset) -> None:
    data.InstitutionName = "X"


def compressed(data: pydicom.Dataset) -> None:
    data.compress(RLELossless, generate_instance_uid=False)


def implicit(data: pydicom.Dataset) -> None:
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


@pytest.mark.parametrize("change", [other_meta, more_elements, compressed, implicit])
def test_the_same_image_written_another_way_is_left_out(
    tmp_path: Path, change: Callable[[pydicom.Dataset], None]
) -> None:
    write_dicom_study(tmp_path, note=None)
    data = pydicom.dcmread(tmp_path / "0002.dcm")
    change(data)
    data.save_as(tmp_path / "0009.dcm", implicit_vr=change is implicit, little_endian=True)
    found = index(tmp_path)
    assert [series.shape for series in found.studies[0].series] == [(6, 5, 4)]
    assert codes(found) == {"duplicate_image": 1}


def test_one_pixel_makes_another_image(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    data = pydicom.dcmread(tmp_path / "0002.dcm")
    data.PixelData = data.PixelData[:-2] + bytes([data.PixelData[-2] ^ 1, data.PixelData[-1]])
    data.InstitutionName = "X"
    data.save_as(tmp_path / "0009.dcm")
    assert codes(index(tmp_path)) == {"doubled_slice": 1}


def test_volumes_under_one_uid_are_kept_apart_by_what_the_headers_say(tmp_path: Path) -> None:
    for number in (1, 2):
        write_dicom_study(tmp_path / str(number), note=None)  # the same pixels, twice
        edit_dicom(tmp_path / str(number), SOPInstanceUID="1.2.3", AcquisitionNumber=number)
    found = index(tmp_path)
    assert [series.shape for series in found.studies[0].series] == [(6, 5, 4)] * 2


def test_many_images_of_one_uid_and_place_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom_study(tmp_path, note=None)
    for number in range(copies.MOST_DECODED):
        shutil.copy(tmp_path / "0002.dcm", tmp_path / f"1{number}.dcm")
        edit_dicom(tmp_path, only=[4 + number], InstitutionName="X" * number)
    monkeypatch.setattr(copies, "read_slice", lambda header: pytest.fail("decoded"))
    assert codes(index(tmp_path))["doubled_slice"] == 1


def test_slices_repeated_under_another_uid_are_left_out_of_the_volume(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    for number in (0, 2):
        shutil.copy(tmp_path / f"{number + 1:04d}.dcm", tmp_path / f"{9 + number:04d}.dcm")
    edit_dicom(tmp_path, only=[4], SOPInstanceUID="1.2.3", InstanceNumber=20)
    edit_dicom(tmp_path, only=[5], SOPInstanceUID="1.2.4", InstanceNumber=21)
    found = index(tmp_path)
    (series,) = found.studies[0].series
    assert (series.shape, len(series.files), series.refusal) == ((6, 5, 4), 4, None)
    assert codes(found) == {"duplicate_slices": 1}


@pytest.mark.parametrize("change", [{"PixelData": bytes(60)}, {"RescaleSlope": 3}])
def test_another_image_at_the_place_of_a_slice_is_not_left_out(tmp_path: Path, change: dict[str, object]) -> None:
    write_dicom_study(tmp_path, note=None)
    shutil.copy(tmp_path / "0002.dcm", tmp_path / "0009.dcm")
    edit_dicom(tmp_path, only=[4], SOPInstanceUID="1.2.3", **change)
    assert codes(index(tmp_path)) == {"doubled_slice": 1}
