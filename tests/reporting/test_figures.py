"""Where things are drawn: an off-centre block of the patient must stand where a radiologist looks for it."""

import math
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from medmllm.errors import GeometryError
from medmllm.records import Volume
from medmllm.reporting.figures import (
    PLANES,
    CanonicalGrid,
    PlanePicture,
    attribution_scale,
    colour_bar,
    draw_planes,
    intensity_window,
    lay_over,
    to_gray,
)
from tests.reporting import made_up
from tests.reporting.html_page import decode

WINDOW = (-1000.0, 1000.0)
STORAGE = ("RAS", "LPS", "LAS", "PIR", "SAL", "IPR")


def drawn(codes: str, **changes: object) -> dict[str, PlanePicture]:
    volume, voxel = made_up.phantom(codes)
    return {p.plane.name: p for p in draw_planes(volume, through=voxel, window=WINDOW, **changes)}  # type: ignore[arg-type]


def bright_centre(uri: str) -> tuple[float, float]:
    """Return where the bright block lies, as fractions of the width from the left and of the height from the top."""
    gray = decode(uri)[..., 0]
    rows, columns = np.nonzero(gray > 200)
    return (columns.mean() + 0.5) / gray.shape[1], (rows.mean() + 0.5) / gray.shape[0]


@pytest.mark.parametrize("codes", STORAGE)
def test_what_lies_in_the_patients_left_is_drawn_on_the_right_of_axial_and_coronal_pictures(codes: str) -> None:
    pictures = drawn(codes)  # the block lies left, anterior, superior
    for name in ("axial", "coronal"):
        across, down = bright_centre(pictures[name].raw)
        assert across > 0.6, f"{name}: patient left must be on the picture's right"
        assert down < 0.4, f"{name}: anterior or superior must be up"


@pytest.mark.parametrize("codes", STORAGE)
def test_what_lies_anterior_is_drawn_on_the_left_of_the_sagittal_picture(codes: str) -> None:
    across, down = bright_centre(drawn(codes)["sagittal"].raw)
    assert across < 0.4
    assert down < 0.4


def test_letters_name_the_edges_of_each_plane() -> None:
    edges = {plane.name: plane.left + plane.right + plane.top + plane.bottom for plane in PLANES}
    assert edges == {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


@pytest.mark.parametrize("codes", STORAGE)
def test_marks_point_at_the_chosen_voxel(codes: str) -> None:
    for picture in drawn(codes).values():
        across, down = bright_centre(picture.raw)
        assert picture.mark_x / 100 == pytest.approx(across, abs=0.03)
        assert picture.mark_y / 100 == pytest.approx(down, abs=0.03)


@pytest.mark.parametrize("codes", STORAGE)
def test_pictures_have_the_proportions_of_the_patient_at_one_scale(codes: str) -> None:
    pictures = drawn(codes)  # 40 x 48 x 20 voxels of 4, 3.5 and 6 mm
    right_left, front_back, head_feet = 40 * 4.0, 48 * 3.5, 20 * 6.0
    scale = 400 / front_back  # the longest side gets 400 pixels
    sizes = {name: (picture.width, picture.height) for name, picture in pictures.items()}
    assert sizes == {
        "axial": (round(right_left * scale), 400),
        "coronal": (round(right_left * scale), round(head_feet * scale)),
        "sagittal": (400, round(head_feet * scale)),
    }
    assert decode(pictures["coronal"].raw).shape[:2] == sizes["coronal"][::-1]


def test_slices_are_counted_from_left_posterior_and_inferior() -> None:
    volume, voxel = made_up.phantom("RAS")
    numbers = {p.plane.name: p.slice_number for p in draw_planes(volume, through=voxel, window=WINDOW)}
    assert numbers == {"sagittal": voxel[0] + 1, "coronal": voxel[1] + 1, "axial": voxel[2] + 1}


@pytest.mark.parametrize("codes", STORAGE)
def test_turning_agrees_with_nibabel(codes: str) -> None:
    volume, voxel = made_up.phantom(codes)
    expected = nib.as_closest_canonical(nib.Nifti1Image(volume.voxels, volume.affine))
    grid = CanonicalGrid.of(volume)
    np.testing.assert_array_equal(grid.turn(volume.voxels), expected.get_fdata(dtype=np.float32))
    assert grid.spacing_mm == pytest.approx(expected.header.get_zooms())
    there = expected.affine @ [*grid.turn_voxel(voxel), 1]
    assert there == pytest.approx(volume.affine @ [*voxel, 1])


def test_obliquity_is_the_angle_between_the_series_and_the_patient() -> None:
    c, s = math.cos(math.radians(20)), math.sin(math.radians(20))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag([4.0, 3.5, 6.0])
    affine = np.eye(4)
    affine[:3, :3] = turn
    volume, _ = made_up.phantom("LPS", affine=affine)
    assert CanonicalGrid.of(volume).obliquity_degrees == pytest.approx(20, abs=1e-6)


@pytest.mark.parametrize(("sign", "strongest"), [(1.0, 0), (-1.0, 2)])
def test_the_block_is_red_where_it_raises_and_blue_where_it_lowers_the_logit(sign: float, strongest: int) -> None:
    volume, voxel = made_up.phantom("LPS")
    attribution = made_up.attribution_of(volume, sign=sign)
    for picture in draw_planes(volume, through=voxel, window=WINDOW, attribution=attribution, scale=1e-3):
        assert picture.overlay is not None
        pixels = decode(picture.overlay)
        row, column = int(picture.mark_y / 100 * picture.height), int(picture.mark_x / 100 * picture.width)
        assert pixels[row, column].argmax() == strongest
        opposite = pixels[picture.height - row, picture.width - column]
        assert np.ptp(opposite) < 12, "far from the block the picture stays gray"


def test_no_plane_is_drawn_of_an_axis_with_a_single_slice() -> None:
    volume, _ = made_up.phantom("RAS")
    flat = replace(volume, voxels=volume.voxels[:, :, 10:11])
    assert [p.plane.name for p in draw_planes(flat, through=(3, 4, 0), window=WINDOW)] == ["axial"]


def test_an_attribution_on_another_grid_is_refused() -> None:
    volume, voxel = made_up.phantom("RAS")
    with pytest.raises(GeometryError, match=r"shape \(20, 48, 40\)"):
        draw_planes(volume, through=voxel, window=WINDOW, attribution=np.zeros((20, 48, 40)), scale=1.0)


def test_a_voxel_outside_the_volume_is_refused() -> None:
    volume, _ = made_up.phantom("RAS")
    with pytest.raises(GeometryError, match=r"voxel \(40, 0, 0\) lies outside"):
        draw_planes(volume, through=(40, 0, 0), window=WINDOW)


def test_the_window_ends_are_black_and_white_and_a_missing_value_is_black() -> None:
    values = np.array([[-2000.0, -1000.0, 0.0, 1000.0, np.nan]], np.float32)
    assert to_gray(values, WINDOW).tolist() == [[0, 0, 128, 255, 0]]


def test_a_series_of_one_value_can_be_drawn() -> None:
    volume = Volume(np.full((3, 4, 5), 7, np.float32), np.eye(4), None, None)
    assert intensity_window(volume) == (7, 7)
    assert len(draw_planes(volume, through=(1, 1, 1), window=(7, 7))) == 3


def test_the_colour_covers_in_proportion_to_the_attribution() -> None:
    gray = np.full((1, 4), 100, np.uint8)
    mixed = lay_over(gray, np.array([[0.0, 0.5, 1.0, 9.0]]), 1.0)
    red = mixed[0, :, 0].astype(float) - 100
    assert red[0] == 0
    assert red[1] == pytest.approx(red[2] / 2, abs=1)
    assert red[3] == red[2], "beyond the scale the colour does not change"


def test_the_colour_bar_shows_the_colours_of_the_overlay() -> None:
    gray = np.full((1, 2), 128, np.uint8)
    lowest, highest = lay_over(gray, np.array([[-5.0, 5.0]]), 5.0)[0].tolist()
    numbers = [[int(n) for n in one.split()] for one in re.findall(r"rgb\(([^)]+)\)", colour_bar())]
    assert numbers == [lowest, [128, 128, 128], highest]
    assert lowest[2] > lowest[0], "blue"
    assert highest[0] > highest[2], "red"


def test_the_scale_is_where_voxels_beyond_hold_a_tenth_of_all_attribution() -> None:
    attribution = np.zeros((10, 10, 3), np.float32)
    attribution[:, :, 1] = np.arange(1, 101).reshape(10, 10) * np.where(np.arange(10) % 2, 1, -1)
    assert 100 + 99 + 98 + 97 + 96 < 0.1 * 5050 < 100 + 99 + 98 + 97 + 96 + 95
    assert attribution_scale(attribution) == 95


def test_a_small_region_sets_the_scale_however_large_the_noise_around_it() -> None:
    attribution = np.random.default_rng(1).normal(0, 1e-7, (60, 50, 40)).astype(np.float32)
    attribution[10:13, 20:23, 30:33] = 1e-3
    assert attribution_scale(attribution) == pytest.approx(1e-3)


def test_there_is_no_scale_without_any_attribution() -> None:
    assert attribution_scale(np.zeros((4, 3, 2), np.float32)) is None


def test_values_of_a_large_volume_are_sampled_along_every_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medmllm.reporting.figures.SAMPLED_VOXELS", 256)
    ramp = np.arange(64, dtype=np.float32)  # 64 * 16 * 8 / 256 voxels: steps of 32 would see two columns only
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 64
        size = np.roll([64, 16, 8], axis)
        volume = Volume(np.ascontiguousarray(np.broadcast_to(ramp.reshape(shape), size)), np.eye(4), None, None)
        assert intensity_window(volume) == pytest.approx((0.63, 62.37), abs=1.5)


def test_one_voxel_of_a_large_map_still_has_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medmllm.reporting.figures.SAMPLED_VOXELS", 10)
    attribution = np.zeros((10, 10, 3), np.float32)
    attribution[3, 3, 1] = -2  # not among the voxels sampled
    assert attribution_scale(attribution) == 2
