"""Slices placed in the patient: order, gap, step and affine, against arithmetic done here."""

import numpy as np
import pytest

from medmllm.errors import GeometryError
from medmllm.geometry import (
    same_orientation,
    shear_deg,
    slice_gap,
    slice_normal,
    slice_order,
    slice_step,
    stack_affine,
)

AXIAL = np.array([1.0, 0, 0, 0, 1, 0])
UP = np.array([0.0, 0.0, 1.0])


def heights(*mm: float) -> np.ndarray:
    return np.array([[0.0, 0.0, z] for z in mm])


def test_gap_of_an_oblique_stack_is_measured_along_its_normal() -> None:
    normal = np.array([0.0, -0.6, 0.8])  # a 3-4-5 triangle, so the length is exactly 1
    positions = np.outer([4.0, 0.0, 2.0], normal)  # out of order on purpose
    assert slice_gap(positions, normal) == pytest.approx(2.0)


def test_a_missing_slice_is_refused_and_named() -> None:
    with pytest.raises(GeometryError, match=r"slices 1 and 2 of 4 lie 4\.00 mm apart.*1 slice is missing") as refusal:
        slice_gap(heights(0, 2, 6, 8), UP)  # the slice at 4 mm is gone
    assert refusal.value.code == "missing_slice"


def test_several_missing_slices_are_counted() -> None:
    with pytest.raises(GeometryError, match="3 slices are missing"):
        slice_gap(heights(0, 2, 4, 10, 12, 16), UP)  # 6, 8 and 14 mm are gone


def test_uneven_gaps_are_not_called_missing_slices() -> None:
    with pytest.raises(GeometryError, match="uneven") as refusal:
        slice_gap(heights(0, 2, 4, 6.9), UP)
    assert refusal.value.code == "uneven_gap"


def test_a_gap_may_be_off_by_one_percent_and_no_more() -> None:
    assert slice_gap(heights(0, 5, 10, 15.049), UP) == pytest.approx(5.0)
    with pytest.raises(GeometryError):
        slice_gap(heights(0, 5, 10, 15.06), UP)


def test_positions_rounded_to_two_decimals_still_make_a_regular_stack() -> None:
    exact = np.arange(9) * 0.625
    rounded = np.floor(exact * 100 + 0.5) / 100  # 0.63 and 0.62 mm in turn: 1.6 % apart
    assert np.ptp(np.diff(rounded)) > 0.009
    assert slice_gap(heights(*rounded), UP) == pytest.approx(0.625, abs=0.006)


@pytest.mark.parametrize("gap", [0.625, 1.25, 2.375])
def test_positions_rounded_to_one_decimal_still_make_a_regular_stack(gap: float) -> None:
    exact = 30.05 + np.arange(13) * gap
    rounded = np.round(exact, 1)
    assert np.ptp(np.diff(rounded)) > 0.09
    assert slice_step(heights(*rounded), UP) == pytest.approx([0.0, 0.0, gap], abs=0.1 / 12 + 1e-9)


@pytest.mark.parametrize(
    "places",
    [
        (0, 2, 4.2, 6.2),  # rounding to tenths moves no gap by 0.2
        (0, 2, 4.12, 6.12),  # and two decimals are rounded to hundredths
        (0, 0.3, 0.6, 1.0),  # a third of the gap might be more than rounding
        (0, 0.1, 0.2, 0.4),  # here a slice is missing
        (0, 0.01, 0.02, 0.04),  # and here, of a specimen
    ],
)
def test_more_than_rounding_is_uneven(places: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError):
        slice_gap(heights(*places), UP)


def test_two_slices_at_one_place_are_refused_as_doubled() -> None:
    with pytest.raises(GeometryError, match="1 of 4 slices lie where another") as refusal:
        slice_gap(heights(0, 2, 2, 4), UP)
    assert refusal.value.code == "doubled_slice"


def test_slices_that_all_lie_at_one_place_are_refused_as_doubled() -> None:
    with pytest.raises(GeometryError) as refusal:
        slice_gap(heights(7, 7, 7), UP)
    assert refusal.value.code == "doubled_slice"


def test_a_single_slice_has_no_gap() -> None:
    with pytest.raises(GeometryError, match="Slice Thickness does not tell") as refusal:
        slice_gap(heights(3), UP)
    assert refusal.value.code == "single_slice"


def test_order_follows_the_normal_whichever_way_it_points() -> None:
    positions = heights(4, 0, 2)
    assert slice_order(positions, UP).tolist() == [1, 2, 0]
    assert slice_order(positions, -UP).tolist() == [0, 2, 1]


def test_a_sheared_stack_keeps_its_sideways_step() -> None:
    positions = np.array([[0.0, 1.5, 8.0], [0, 0, 0], [0, 0.75, 4.0]])
    assert slice_step(positions, UP) == pytest.approx(np.array([0.0, 0.75, 4.0]))


def test_one_slice_shifted_sideways_is_refused() -> None:
    positions = np.array([[0.0, 0, 0], [0.5, 0, 4], [0, 0, 8]])
    with pytest.raises(GeometryError, match=r"slice 1 of 3 lies 0\.50 mm from its place") as refusal:
        slice_step(positions, UP)
    assert refusal.value.code == "shifted_slice"


def test_shear_of_a_three_four_five_triangle() -> None:
    assert shear_deg(np.array([0, 3.0, 4.0]), UP) == pytest.approx(np.degrees(np.arctan2(3, 4)))
    assert shear_deg(np.array([0, 0, 4.0]), UP) == 0.0


@pytest.mark.parametrize(
    ("orientation", "complaint"),
    [([1.0, 0, 0, 0, 0.9, 0], "lengths 1.0000 and 0.9000"), ([1.0, 0, 0, 0.6, 0.8, 0], "not perpendicular")],
)
def test_directions_that_are_no_orientation_are_refused(orientation: list[float], complaint: str) -> None:
    with pytest.raises(GeometryError, match=complaint) as refusal:
        slice_normal(np.array(orientation))
    assert refusal.value.code == "bad_orientation"


def test_jitter_in_the_seventh_digit_is_the_same_orientation_and_half_a_degree_is_not() -> None:
    jittered = AXIAL + np.array([0, 2e-7, 0, 0, 0, -3e-7])
    turned = np.array([np.cos(0.009), np.sin(0.009), 0, -np.sin(0.009), np.cos(0.009), 0])
    assert same_orientation(np.array([AXIAL, jittered]))
    assert not same_orientation(np.array([AXIAL, turned]))


def test_affine_of_an_oblique_stack_puts_a_voxel_where_the_standard_does() -> None:
    # PS3.3 equation C.7.6.2.1-1, written out for column 3, row 2, slice 1, then LPS -> RAS.
    orientation = np.array([0.6, 0.8, 0.0, 0.0, 0.0, -1.0])
    first, step = np.array([10.0, -20.0, 30.0]), np.array([-3.2, 2.4, 0.0])
    between_rows, between_columns = 1.5, 0.5
    lps = first + 3 * between_columns * orientation[:3] + 2 * between_rows * orientation[3:] + step
    affine = stack_affine(orientation, (between_rows, between_columns), first, step)
    assert affine @ [3, 2, 1, 1] == pytest.approx([-lps[0], -lps[1], lps[2], 1.0])


def test_positions_of_two_decimals_keep_an_oblique_stack_regular() -> None:
    normal = np.array([1.0, 1.0, 1.0]) / np.sqrt(3)
    exact = np.arange(300)[:, None] * 0.916 * normal + [-64.517, -3.986, -73.743]
    step = slice_step(np.round(exact, 2), normal)
    assert np.allclose(step, 0.916 * normal, atol=1e-4)
