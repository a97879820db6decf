"""What stands in the files of a synthetic series, read back with pydicom alone."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medmllm.errors import ConfigError, GeometryError
from medmllm.ingest.synthetic_dicom import Acquisition, SeriesIdentity, write_ct_series
from medmllm.records import Volume

IDENTITY = SeriesIdentity("SYN-0001", "2.25.1", "2.25.2")


def a_volume(affine: np.ndarray | None = None) -> Volume:
    """4 columns, 3 rows, 5 slices; every voxel's value tells its place."""
    x, y, z = np.ogrid[:4, :3, :5]
    voxels = (100 * x + 10 * y + z).astype(np.float32)
    if affine is None:
        affine = np.array([[-2.0, 0, 0, 11], [0, -3.0, 0, 12], [0, 0, 5.0, -13], [0, 0, 0, 1]])
    return Volume(voxels, affine, "2.25.3", "CT")


def written(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def test_rows_columns_and_positions_go_where_the_standard_wants_them(tmp_path: Path) -> None:
    write_ct_series(a_volume(), tmp_path, IDENTITY)
    third = written(tmp_path)[2]
    assert (third.Rows, third.Columns) == (3, 4)
    assert list(third.PixelSpacing) == [3.0, 2.0]  # between rows, then between columns
    assert list(third.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert list(third.ImagePositionPatient) == [-11, -12, -3]  # RAS (11, 12, -13 + 2 * 5) in LPS
    assert third.SliceLocation == -3
    hu = third.pixel_array * third.RescaleSlope + third.RescaleIntercept
    assert hu.tolist() == [[2, 102, 202, 302], [12, 112, 212, 312], [22, 122, 222, 322]]


def test_a_tilted_stack_is_written_as_it_stands(tmp_path: Path) -> None:
    affine = np.array([[-2.0, 0, 0, 0], [0, -3.0, 1.0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
    write_ct_series(a_volume(affine), tmp_path, IDENTITY)
    assert [list(header.ImagePositionPatient) for header in written(tmp_path)[:3]] == [
        [0, 0, 0],
        [0, -1, 5],
        [0, -2, 10],
    ]


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2, -1024), (1, 0)])
def test_stored_values_times_slope_plus_intercept_give_hounsfield_units(
    tmp_path: Path, slope: int, intercept: int
) -> None:
    volume = a_volume()
    write_ct_series(volume, tmp_path, IDENTITY, Acquisition(slope=slope, intercept=intercept))
    for slice_, header in enumerate(written(tmp_path)):
        assert (header.RescaleSlope, header.RescaleIntercept) == (slope, intercept)
        hu = header.pixel_array * float(slope) + intercept
        np.testing.assert_allclose(hu.T, volume.voxels[:, :, slice_], atol=slope / 2)


def test_each_slice_is_what_pydicom_writes_of_the_same_elements(tmp_path: Path) -> None:
    write_ct_series(a_volume(), tmp_path / "series", IDENTITY, Acquisition(instance_numbers=(9, 10, 8, 101, 7)))
    files = sorted((tmp_path / "series").iterdir())
    uids = set()
    for file in files:
        header = pydicom.dcmread(file)
        assert [element.tag for element in header]  # every element is decoded, then encoded again
        header.save_as(tmp_path / "copy", enforce_file_format=True)
        assert (tmp_path / "copy").read_bytes() == file.read_bytes()
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        uids.add(header.SOPInstanceUID)
    assert len(uids) == 5
    assert [pydicom.dcmread(file).InstanceNumber for file in files] == [9, 10, 8, 101, 7]


def test_a_slice_left_out_leaves_its_neighbours_where_they_were(tmp_path: Path) -> None:
    write_ct_series(a_volume(), tmp_path, IDENTITY, leave_out=(1,), names=["e", "d", "c", "b", "a"])
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a", "b", "c", "e"]
    assert [float(header.ImagePositionPatient[2]) for header in written(tmp_path)] == [7, 2, -3, -13]


def test_a_value_beyond_sixteen_bits_is_refused(tmp_path: Path) -> None:
    volume = a_volume()
    volume.voxels[0, 0, 0] = 40000
    with pytest.raises(ConfigError, match="41024"):
        write_ct_series(volume, tmp_path, IDENTITY)


def test_left_handed_axes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="left-handed"):
        write_ct_series(a_volume(np.diag([2.0, -3.0, 5.0, 1.0])), tmp_path, IDENTITY)
