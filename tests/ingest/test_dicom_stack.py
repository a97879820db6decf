"""Which slices make one grid, which series is several, and which is refused and why."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medmllm.errors import MedmllmError
from medmllm.ingest import dicom_stack
from medmllm.ingest.dicom_stack import arrange
from tests.ingest.dicom_slices import TURNED, a_slice, code_of


def test_slices_in_any_order_make_one_grid_from_the_lowest_up() -> None:
    stack = arrange([a_slice(5.0), a_slice(0.0), a_slice(2.5)])
    assert [header.position for header in stack.slices] == [(-4.0, 8.0, 0.0), (-4.0, 8.0, 2.5), (-4.0, 8.0, 5.0)]
    assert stack.shape == (6, 5, 3)
    assert stack.spacing_mm == (2.0, 3.0, 2.5)
    # LPS to RAS turns the first two axes: a row runs to the left, a column to the back.
    assert stack.affine.tolist() == [[-2, 0, 0, 4], [0, -3, 0, -8], [0, 0, 2.5, 0], [0, 0, 0, 1]]
    assert stack.warnings == ()


def test_a_sagittal_stack_grows_along_row_cross_column() -> None:
    slices = [a_slice(orientation=TURNED, position=(x, 0.0, 0.0)) for x in (0.0, 3.0)]
    # row = +P, column = -S (down): row x column = P x (-S) = -L, so the stack starts at the left-most slice.
    assert [header.position[0] for header in arrange(slices).slices if header.position] == [3.0, 0.0]


def test_a_tilted_gantry_keeps_its_shear_and_is_remarked() -> None:
    slices = [a_slice(position=(-4.0, 8.0 - 0.3 * z, z)) for z in (0.0, 2.0, 4.0)]
    stack = arrange(slices)
    assert stack.affine[:3, 2].tolist() == pytest.approx([0.0, 0.6, 2.0])  # RAS: forward while going up
    ((code, reason),) = stack.warnings
    assert code == "gantry_tilt"
    assert f"{np.degrees(np.arctan(0.3)):.1f} degrees" in reason


def test_ct_without_rescale_is_remarked_and_mr_is_not() -> None:
    bare = [a_slice(z, slope=None) for z in (0.0, 2.0)]
    assert [code for code, _ in arrange(bare).warnings] == ["no_rescale"]
    assert arrange([replace(header, modality="MR") for header in bare]).warnings == ()


def test_an_unknown_frame_of_reference_agrees_with_any() -> None:
    assert arrange([a_slice(0.0), a_slice(2.0, frame_of_reference_uid=None)]).shape == (6, 5, 2)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"photometric": "MONOCHROME1"}, "monochrome1", "1 of 2 slices"),
        ({"has_modality_lut": True}, "lut_and_rescale", "1 of 2 slices"),
        ({"frame_of_reference_uid": None}, "no_frame_of_reference", "1 of 2 slices"),
    ],
)
def test_what_a_reader_of_the_values_should_know_is_remarked(changes: dict[str, Any], code: str, said: str) -> None:
    ((found, reason),) = arrange([a_slice(0.0), a_slice(2.0, **changes)]).warnings
    assert found == code
    assert said in reason


def test_values_outside_the_image_are_named_where_all_slices_name_the_same() -> None:
    outside = {"slope": 2.0, "intercept": -1000.0, "padding": (-2000, -1990)}
    assert arrange([a_slice(0.0, **outside), a_slice(2.0, **outside)]).padding == (-5000.0, -4980.0)
    assert arrange([a_slice(0.0, **outside), a_slice(2.0)]).padding is None
    assert arrange([a_slice(0.0), a_slice(2.0)]).padding is None
    falling = a_slice(slope=-1.0, padding=(0, 5))
    assert falling.rescaled_padding == (-5.0, 0.0)
    assert replace(falling, has_modality_lut=True).rescaled_padding is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"frames": 2}, "multi_frame"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC")}, "mosaic"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer"),
        ({"samples": 3, "photometric": "RGB"}, "colour"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "position": None}, "secondary_capture"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.77.1.4", "position": None}, "no_position"),  # a photograph
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7.2", "position": None}, "secondary_capture"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "position": None, "samples": 3}, "colour"),
        ({"photometric": "PALETTE COLOR"}, "colour"),
        ({"photometric": ""}, "colour"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "VFRAME")}, "mosaic"),
        ({"bits_allocated": 1}, "unsupported_bits"),
        ({"pixel_spacing_mm": None}, "no_pixel_spacing"),
        ({"position": None}, "no_position"),
        ({"orientation": None}, "no_position"),
        ({"truncated": True}, "truncated_pixels"),
        ({"transfer_syntax": "1.2.840.10008.1.2.4.100"}, "unsupported_transfer_syntax"),
        ({"rows": 7}, "mixed_sizes"),
        ({"orientation": TURNED}, "mixed_orientation"),
        ({"pixel_spacing_mm": (3.0, 2.01)}, "mixed_spacing"),
        ({"frame_of_reference_uid": "1.5"}, "mixed_frames_of_reference"),
        ({"position": (-4.0, 8.0, 2.0)}, "doubled_slice"),
        ({"position": (-4.0, 8.0, 6.0)}, "missing_slice"),
        ({"position": (-4.0, 9.0, 4.0)}, "shifted_slice"),
    ],
)
def test_one_odd_slice_refuses_the_series_with_its_own_code(changes: dict[str, Any], code: str) -> None:
    assert code_of([a_slice(0.0), a_slice(2.0), a_slice(**({"position": (-4.0, 8.0, 4.0)} | changes))]) == code


def test_secondary_captures_that_have_a_place_stack_like_any_other() -> None:
    slices = [a_slice(z, sop_class_uid="1.2.840.10008.5.1.4.1.1.7") for z in (0.0, 2.0)]
    assert arrange(slices).shape == (6, 5, 2)


@pytest.mark.parametrize(("thickness", "depth", "said"), [(5.5, 5.5, "what the header says"), (None, 1.0, "unknown")])
def test_a_single_slice_is_as_deep_as_its_header_says_and_a_warning_tells(
    thickness: float | None, depth: float, said: str
) -> None:
    stack = arrange([a_slice(thickness_mm=thickness)])
    assert stack.shape == (6, 5, 1)
    assert stack.spacing_mm == pytest.approx((2.0, 3.0, depth))
    ((code, reason),) = stack.warnings
    assert code == "single_slice"
    assert said in reason


def test_an_orientation_that_is_none_is_refused() -> None:
    bent = (1.0, 0, 0, 0.6, 0.8, 0)
    assert code_of([a_slice(0.0, orientation=bent), a_slice(2.0, orientation=bent)]) == "bad_orientation"


def test_a_series_that_declares_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_stack, "LARGEST_VOXELS", 59)
    assert code_of([a_slice(0.0), a_slice(2.0)]) == "too_large"


def test_a_private_transfer_syntax_is_not_quoted() -> None:
    with pytest.raises(MedmllmError) as refusal:
        arrange([a_slice(transfer_syntax="1.3.6.MEIER")])
    assert "MEIER" not in refusal.value.reason


def test_frames_of_reference_of_which_every_slice_has_its_own_tell_nothing() -> None:
    stack = arrange([a_slice(2.0 * k, frame_of_reference_uid=f"1.{k}") for k in range(3)])
    assert stack.frame_of_reference_uid is None
    assert [code for code, _ in stack.warnings] == ["frames_of_reference_differ"]


def test_two_frames_of_reference_are_refused() -> None:
    assert code_of([a_slice(2.0 * k, frame_of_reference_uid=f"1.{k // 2}") for k in range(4)]) == (
        "mixed_frames_of_reference"
    )


@pytest.mark.parametrize(
    ("numbers", "told"), [((1, 3, 5), True), ((5, 3, 1), True), ((1, 2, 3), False), ((1, 3, 6), False)]
)
def test_numbers_and_gaps_that_leave_out_every_other_slice_are_remarked(numbers: tuple[int, ...], told: bool) -> None:
    stack = arrange([a_slice(10.0 * k, instance=number, thickness_mm=5.0) for k, number in enumerate(numbers)])
    assert [code for code, _ in stack.warnings] == (["slices_left_out"] if told else [])


def test_numbers_of_rounds_are_no_gaps() -> None:
    stack = arrange([a_slice(5.0 * k, instance=2 * k, thickness_mm=5.0) for k in range(4)])
    assert stack.warnings == ()


def test_a_slice_whose_pixels_do_not_fit_its_header_is_refused() -> None:
    assert code_of([a_slice(0.0), a_slice(2.0, misfit=True), a_slice(4.0)]) == "pixel_length"


def test_frames_that_were_cut_short_are_no_film() -> None:
    assert code_of([a_slice(frames=3, truncated=True)]) == "truncated_pixels"
    assert code_of([a_slice(frames=3)]) == "multi_frame"


@pytest.mark.parametrize("changes", [{"slope": math.nan}, {"intercept": math.inf}])
def test_a_rescale_that_is_no_number_is_refused_before_any_pixel_is_read(changes: dict[str, float]) -> None:
    assert code_of([a_slice(0.0), a_slice(2.0, **changes)]) == "bad_rescale"


@pytest.mark.parametrize(
    ("padding", "bits", "signed", "told"),
    [
        ((63536, 63536), 12, False, True),  # -2000 without a sign, as some scanners write it
        ((4095, 4095), 12, False, False),
        ((-2000, -2000), 12, True, False),
        ((-2049, -2048), 12, True, True),
        ((0, 2048), 12, True, True),
        (None, 12, True, False),
        ((63536, 63536), 0, False, False),  # the header does not say how many bits
    ],
)
def test_a_padding_value_that_no_pixel_can_hold_is_remarked(
    padding: tuple[int, int] | None, bits: int, signed: bool, told: bool
) -> None:
    slices = [a_slice(2.0 * k, padding=padding, bits_stored=bits, high_bit=bits - 1, signed=signed) for k in range(3)]
    assert dict(arrange(slices).warnings).keys() == ({"padding_beyond_bits"} if told else set())
