"""Regridding: what changes linearly in the patient stays what it is, and too wide a gap stays refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from medmllm.errors import GeometryError
from medmllm.geometry import stack_affine
from medmllm.ingest.dicom import read_series
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_regrid import even_out, upright_grid
from medmllm.ingest.dicom_stack import arrange
from tests.factories import a_volume, write_dicom_study

TURNED = np.array([0.8, 0.6, 0.0, -0.48, 0.64, 0.6])  # 3-4-5 triangles: two perpendicular unit vectors
NORMAL = np.cross(TURNED[:3], TURNED[3:])
ORIGIN = np.array([-31.0, 17.0, 5.0])
ROWS, COLUMNS = 5, 6


def ramp(places: np.ndarray) -> np.ndarray:
    """A value that changes linearly in the patient; places (..., 3), RAS+ mm."""
    return places @ np.array([0.3, -1.1, 0.7]) + 40.0


def places_of(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """RAS+ mm of every voxel; shape (x, y, z, 3)."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def slices_at(positions: np.ndarray) -> np.ndarray:
    """The ramp on slices at these positions (LPS); shape (slices, rows, columns), float32."""
    planes = []
    for position in positions:
        affine = stack_affine(TURNED, (3.0, 2.0), position, NORMAL)
        planes.append(ramp(places_of(affine, (COLUMNS, ROWS, 1)))[:, :, 0].T)
    return np.array(planes, dtype=np.float32)


GAPS = st.lists(st.floats(2.0, 5.0), min_size=3, max_size=12)
LEANS = st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))

SHEAR = st.one_of(st.just(0.0), st.floats(0.1, 0.6), st.floats(-0.6, -0.1))  # less may be rounding, and is left


@settings(max_examples=200, deadline=None)
@given(gaps=GAPS, lean=LEANS)
def test_uneven_slices_of_a_ramp_become_even_slices_of_it(gaps: list[float], lean: tuple[float, float]) -> None:
    heights = np.concatenate([[0.0], np.cumsum(gaps)])
    along = NORMAL + lean[0] * TURNED[:3] + lean[1] * TURNED[3:]
    positions = ORIGIN + np.outer(heights, along)
    evening = even_out(positions, NORMAL)
    found = evening.apply(slices_at(positions))
    assert evening.step @ NORMAL * (len(found) - 1) == pytest.approx(heights[-1])
    bound = (
        np.diff(heights).max() * 0.01 * 2
    )  # a slice within 1 % of its place is taken as it is; the ramp is < 1.4 / mm
    wanted = slices_at(positions[0] + np.outer(np.arange(len(found)), evening.step))
    assert np.abs(found - wanted).max() <= bound


@settings(max_examples=200, deadline=None)
@given(lean=st.tuples(SHEAR, SHEAR), count=st.integers(2, 9))
def test_a_sheared_ramp_is_the_same_ramp_upright(lean: tuple[float, float], count: int) -> None:
    step = 4.0 * (NORMAL + lean[0] * TURNED[:3] + lean[1] * TURNED[3:])
    affine = stack_affine(TURNED, (3.0, 2.0), ORIGIN, step)
    sheared = slices_at(ORIGIN + np.outer(np.arange(count), step))
    grid = upright_grid((COLUMNS, ROWS, count), affine)
    across = grid.affine[:3, 2]
    assert across @ grid.affine[:3, :2] == pytest.approx([0.0, 0.0], abs=1e-9)  # upright
    assert np.linalg.norm(across) == pytest.approx(4.0)
    found = grid.apply(sheared, np.nan).transpose(2, 1, 0)
    places = places_of(grid.affine, grid.shape)
    index = (places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    covered = np.all((index >= -1e-5) & (index <= np.array([COLUMNS, ROWS, count]) - 1 + 1e-5), axis=-1)
    assert np.array_equal(~np.isnan(found), covered)
    assert found[covered] == pytest.approx(ramp(places)[covered], abs=1e-3)
    corners = np.array([[0, 0, 0], [COLUMNS - 1, ROWS - 1, count - 1]])  # nothing is cut off
    back = (corners @ affine[:3, :3].T + affine[:3, 3] - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    assert np.all(back >= -1e-5)
    assert np.all(back <= np.array(grid.shape) - 1 + 1e-5)


def test_a_missing_slice_is_put_between_its_neighbours_and_the_others_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = a_volume((6, 5, 7))
    write_dicom_study(tmp_path, truth, leave_out=[3])
    files = sorted(tmp_path.glob("*.dcm"))
    for regrid in ("never", "tilted"):
        with pytest.raises(GeometryError, match="1 slice is missing"):
            read_series(files, regrid=regrid)
    with caplog.at_level(logging.WARNING):
        volume = read_series(files, regrid="uneven")
    assert "slices_interpolated: 1 of 7 slices" in caplog.text
    whole = tmp_path / "whole"
    write_dicom_study(whole, truth)
    wanted = read_series(sorted(whole.glob("*.dcm")))
    assert volume.affine == pytest.approx(wanted.affine)
    kept = [0, 1, 2, 4, 5, 6]
    assert np.array_equal(volume.voxels[:, :, kept], wanted.voxels[:, :, kept])
    between = (wanted.voxels[:, :, 2] + wanted.voxels[:, :, 4]) / 2
    assert volume.voxels[:, :, 3] == pytest.approx(between)


def test_a_missing_block_is_refused_though_regridding_was_asked_for(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, a_volume((6, 5, 9)), leave_out=[3, 4, 5])
    with pytest.raises(GeometryError, match=r"16\.00 mm apart, more than 3 times the 4\.00 mm") as refusal:
        read_series(sorted(tmp_path.glob("*.dcm")), regrid="uneven")
    assert refusal.value.code == "large_gap"


def test_a_slice_beside_the_others_is_refused_though_regridding_was_asked_for() -> None:
    positions = np.outer([0.0, 3.0, 5.0, 9.0], [0.0, 0.0, 1.0])
    positions[1, 0] = 2.0
    with pytest.raises(GeometryError, match=r"slice 1 of 4 lies 2\.00 mm beside") as refusal:
        even_out(positions, np.array([0.0, 0.0, 1.0]))
    assert refusal.value.code == "shifted_slice"


@pytest.mark.parametrize("regrid", ["tilted", "uneven"])
def test_a_tilted_series_is_straightened_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, regrid: str
) -> None:
    write_dicom_study(tmp_path, a_volume(tilt_deg=-18.5, turn_deg=33.0))
    files = sorted(tmp_path.glob("*.dcm"))
    tilted = read_series(files)
    with caplog.at_level(logging.WARNING):
        upright = read_series(files, regrid=regrid)
    assert "straightened: the slices are sheared by 18.5 degrees" in caplog.text
    assert upright.affine[:3, 2] @ upright.affine[:3, :2] == pytest.approx([0.0, 0.0], abs=1e-4)
    places = places_of(upright.affine, upright.voxels.shape)
    index = np.moveaxis((places - tilted.affine[:3, 3]) @ np.linalg.inv(tilted.affine[:3, :3]).T, -1, 0)
    last = np.array(tilted.voxels.shape)[:, None, None, None] - 1
    inside = np.all((index > -1e-3) & (index < last + 1e-3), axis=0)
    wanted = map_coordinates(tilted.voxels, index, order=1, mode="nearest")
    assert upright.voxels[inside] == pytest.approx(wanted[inside], abs=0.5)  # positions have a few decimals
    assert np.all(upright.voxels[~inside] == tilted.voxels.min())
    assert 0 < np.count_nonzero(~inside) < wanted.size / 2


def test_an_upright_regular_series_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dicom_study(tmp_path)
    files = sorted(tmp_path.glob("*.dcm"))
    with caplog.at_level(logging.WARNING):
        volume = read_series(files, regrid="uneven")
    assert np.array_equal(volume.voxels, read_series(files).voxels)
    assert caplog.text == ""


def test_the_headers_alone_tell_the_grid_that_will_come(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, a_volume(tilt_deg=20.0), leave_out=[1])
    files = sorted(tmp_path.glob("*.dcm"))
    stack = arrange([read_header(file) for file in files], regrid="uneven")
    volume = read_series(files, regrid="uneven")
    assert volume.voxels.shape == stack.shape
    assert [code for code, _ in stack.warnings] == ["slices_interpolated", "straightened"]


def test_a_lean_within_rounding_stays_in_the_affine() -> None:
    step = 4.0 * NORMAL + 0.004 * TURNED[:3] + 2.0 * TURNED[3:]
    affine = stack_affine(TURNED, (3.0, 2.0), ORIGIN, step)
    grid = upright_grid((COLUMNS, ROWS, 7), affine)
    assert grid.shape == (COLUMNS, ROWS + 4, 7)  # 6 steps of 2 mm, 3 mm between rows; no column for 0.024 mm
    assert grid.affine[:3, 2] == pytest.approx((affine @ [0, -2 / 3, 1, 0])[:3])
