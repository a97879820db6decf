"""Siemens mosaics: every tile at the place where it was measured, or one refused mosaic."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medmllm.errors import DicomError
from medmllm.ingest.dicom import read_series
from medmllm.ingest.dicom_frames import frames_of
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_mosaic import read_tiling
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_volume
from tests.factories import a_volume, write_dicom_study

SLICES = 5  # of 7 columns and 6 rows: a square of 3 x 3 tiles, four of them empty


def csa_header(**tags: list[str]) -> bytes:
    """Write a CSA header of the second kind (SV10), as nibabel's documentation describes it."""
    content = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, items in tags.items():
        vr = b"IS" if name == "NumberOfImagesInMosaic" else b"FD"
        content += struct.pack("<64si4s3i", name.encode(), len(items), vr, 0, len(items), 77)
        for item in items:
            text = item.encode() + b"\0"
            content += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return content


def write_mosaic(
    folder: Path, *, direction: float = 1.0, number: int = 1, turn_deg: float = 24.0, **changes: object
) -> Path:
    """Write slices, and beside them the mosaic of them; tiles run along the normal, or against it."""
    volume = a_volume((7, 6, SLICES), turn_deg=turn_deg, seed=number)
    write_dicom_study(folder / f"slices{number}", volume, note=None)
    slices = [pydicom.dcmread(file) for file in sorted((folder / f"slices{number}").glob("*.dcm"))]
    ordered = slices[:: int(direction)]
    tiles = np.zeros((9, 6, 7), dtype=np.int16)
    tiles[:SLICES] = [data.pixel_array for data in ordered]
    mosaic, row, column = ordered[0], *np.array(ordered[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    mosaic.PixelData = tiles.reshape(3, 3, 6, 7).transpose(0, 2, 1, 3).tobytes()
    mosaic.Rows, mosaic.Columns = 18, 21
    mosaic.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    # The corner of the whole image about the slice's centre: 3.0 mm between rows, 2.0 between columns.
    corner = np.array(mosaic.ImagePositionPatient, dtype=float) - row * 2.0 * (21 - 7) / 2 - column * 3.0 * (18 - 6) / 2
    mosaic.ImagePositionPatient = [f"{part:.10f}" for part in corner]
    mosaic.SpacingBetweenSlices, mosaic.SliceThickness = 4.0, 3.0
    mosaic.InstanceNumber = number
    mosaic.SOPInstanceUID = generate_uid()
    mosaic.SeriesInstanceUID = "1.2.3.4.5"
    normal = np.cross(row, column) * direction
    tags = {"NumberOfImagesInMosaic": [str(SLICES)], "SliceNormalVector": [f"{part:.8f}" for part in normal]}
    tags |= changes.pop("csa", {})  # type: ignore[call-overload, operator]
    block = mosaic.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", changes.pop("blob", csa_header(**tags)))
    for keyword, value in changes.items():
        setattr(mosaic, keyword, value)
    (folder / "mosaics").mkdir(exist_ok=True)
    file = folder / "mosaics" / f"{number}.dcm"
    mosaic.save_as(file)
    return file


def read_all_tiles(file: Path):
    count = len(frames_of(read_header(file)))
    return read_series([file] * count, range(count))


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_the_tiles_of_a_mosaic_are_its_slices(tmp_path: Path, direction: float) -> None:
    mosaic = read_all_tiles(write_mosaic(tmp_path, direction=direction))
    slices = read_series(sorted((tmp_path / "slices1").glob("*.dcm")))
    assert mosaic.voxels.tolist() == slices.voxels.tolist()
    assert mosaic.affine == pytest.approx(slices.affine, abs=1e-5)


def test_each_time_point_of_mosaics_is_a_volume(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_mosaic(tmp_path, number=number, AcquisitionNumber=1)
    index = index_folder(tmp_path / "mosaics", keyring=Keyring(bytes(32)))
    (study,) = index.studies
    assert [series.shape for series in study.series] == [(7, 6, SLICES)] * 3
    for number, series in enumerate(study.series, start=1):
        slices = read_series(sorted((tmp_path / f"slices{number}").glob("*.dcm")))
        assert read_volume(series).voxels.tolist() == slices.voxels.tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"csa": {"SliceNormalVector": []}},
        {"csa": {"SliceNormalVector": ["0", "0.6", "0.8"]}},
        {"csa": {"NumberOfImagesInMosaic": ["0"]}},
        {"csa": {"NumberOfImagesInMosaic": ["99999"]}},
        {"csa": {"NumberOfImagesInMosaic": ["17"]}},  # 5 tiles beside each other: 21 columns are no multiple
        {"SpacingBetweenSlices": None},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
    ],
)
def test_a_mosaic_whose_tiles_have_no_place_is_refused_as_one(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DicomError) as refusal:
        read_all_tiles(write_mosaic(tmp_path, **changes))
    assert refusal.value.code == "mosaic"


def test_more_tiles_than_any_scanner_makes_are_not_believed(tmp_path: Path) -> None:
    assert read_tiling(read_header(write_mosaic(tmp_path))) is not None
    assert read_tiling(read_header(write_mosaic(tmp_path, csa={"NumberOfImagesInMosaic": ["4097"]}))) is None


def test_a_mosaic_without_its_private_header_is_refused(tmp_path: Path) -> None:
    file = write_mosaic(tmp_path)
    data = pydicom.dcmread(file)
    data.remove_private_tags()
    data.save_as(file)
    with pytest.raises(DicomError, match="CSA header") as refusal:
        read_all_tiles(file)
    assert refusal.value.code == "mosaic"


@pytest.mark.parametrize("cut", [0, 7, 40, 101, 150])
def test_a_damaged_private_header_is_an_error_of_ours(tmp_path: Path, cut: int) -> None:
    whole = csa_header(NumberOfImagesInMosaic=["5"], SliceNormalVector=["0", "0", "1"])
    with pytest.raises(DicomError):
        read_all_tiles(write_mosaic(tmp_path, turn_deg=0.0, blob=whole[:cut]))


def test_a_mosaic_of_another_maker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DicomError) as refusal:
        read_all_tiles(write_mosaic(tmp_path, ImageType=["ORIGINAL", "PRIMARY", "VFRAME"]))
    assert refusal.value.code == "mosaic"


def test_real_mosaics_are_cut_as_nibabel_cuts_them(shared: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom import dicomwrappers
    for case in ("mr_mosaic_cor", "mr_mosaic_tilted_decub"):  # nibabel cannot decode the third
        for file in sorted((shared / "torture" / "open" / case / "data").iterdir()):
            theirs = dicomwrappers.wrapper_from_file(file)
            ours = read_all_tiles(file)
            rows_first = np.eye(4)[[1, 0, 2, 3]]
            affine = np.diag([-1.0, -1, 1, 1]) @ theirs.affine @ rows_first
            voxels = theirs.get_data().transpose(1, 0, 2)
            if np.linalg.det(affine) * np.linalg.det(ours.affine) < 0:
                affine, voxels = affine @ np.diag([1.0, 1, -1, 1]), voxels[:, :, ::-1]
            assert ours.affine == pytest.approx(affine, abs=1e-4)
            assert np.array_equal(ours.voxels, voxels)
