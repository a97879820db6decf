"""A constant that was added to some slices of a CT is found; what anatomy does from slice to slice is not."""

from dataclasses import replace

import numpy as np
import pytest

from medmllm.errors import MedmllmError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_volume
from medmllm.quality.image import check_volume
from medmllm.quality.slice_offsets import constant_step, offsets_between, step_above_cut
from medmllm.records import FloatArray
from tests.quality.phantoms import BOUNDS, KEY, SIZE, a_scan, a_trunk, codes, padded

RNG = np.random.default_rng(8)
CODE = "ct_slice_offset"
LOWEST = -2000.0  # of the volume: what the slices below do not reach


def shifted(hu: FloatArray, first: int, last: int, offset: float) -> FloatArray:
    """The same with a constant on slices `first` to `last`."""
    changed = hu.copy()
    changed[:, :, first : last + 1] += offset
    return changed


def noise(mean: float, deviation: float) -> FloatArray:
    return RNG.normal(mean, deviation, SIZE[:2]).astype(np.float32)


@pytest.mark.parametrize("offset", [1024.0, -1024.0, 1000.0, 310.0])
def test_a_constant_on_the_upper_half_of_the_slices_is_found_and_named(offset: float) -> None:
    volume = a_scan(shifted(a_trunk(), 6, 11, offset))
    (found,) = (f for f in check_volume(volume, KEY, BOUNDS) if f.code == CODE)
    assert found.value == pytest.approx(abs(offset), abs=3)
    assert found.bound == BOUNDS.slice_offset_hu == 300.0
    assert "between slices 6 and 7" in found.reason


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_compared_along_whichever_axis_counts_them(axis: int) -> None:
    along = np.moveaxis(shifted(a_trunk(), 6, 11, 1024.0), 2, axis)
    spacing = np.insert([1.0, 1.0], axis, 5.0)
    volume = replace(a_scan(along), affine=np.diag([*spacing, 1.0]))
    (found,) = (f for f in check_volume(volume, KEY, BOUNDS) if f.code == CODE)
    assert "between slices 6 and 7 " in found.reason


def test_one_slice_alone_steps_up_and_down_again() -> None:
    steps = offsets_between(shifted(a_trunk(), 4, 4, 1024.0), 300.0)
    assert [after for after, _ in steps] == [3, 4]
    assert [step for _, step in steps] == pytest.approx([1024.0, -1024.0], abs=3)


def test_the_largest_step_is_named_whichever_way_it_goes() -> None:
    hu = shifted(shifted(a_trunk(), 3, 11, 400.0), 8, 11, -1024.0)
    (found,) = (f for f in check_volume(a_scan(hu), KEY, BOUNDS) if f.code == CODE)
    assert found.value == pytest.approx(1024, abs=3)
    assert "between slices 8 and 9 " in found.reason
    assert "by -102" in found.reason
    assert "; 2 neighbours differ so" in found.reason


def test_a_step_within_the_bound_and_other_modalities_pass() -> None:
    assert CODE not in codes(a_scan(a_trunk()))
    assert CODE not in codes(a_scan(shifted(a_trunk(), 6, 11, 290.0)))
    assert CODE in codes(a_scan(shifted(a_trunk(), 6, 11, 290.0)), slice_offset_hu=200.0)
    assert CODE not in codes(a_scan(shifted(a_trunk() + 1100, 6, 11, 1024.0), modality="MR"))


def test_padding_put_in_afterwards_stays_and_does_not_hide_the_step() -> None:
    assert CODE in codes(a_scan(padded(shifted(a_trunk(), 6, 11, 1024.0), -2000.0)))


def test_where_a_body_ends_or_liver_follows_lung_no_constant_explains_the_step() -> None:
    body, table = noise(40, 15), np.indices(SIZE[:2])[0] > 34
    air = np.where(table, 300, noise(-1000, 15)).astype(np.float32)
    on_table = np.where(table, np.float32(300), body)
    assert np.median(air - on_table) < -1000  # most voxels step, yet not the table
    assert constant_step(on_table, air, -2000.0) is None
    assert constant_step(noise(-850, 60), noise(60, 45), -2000.0) is None  # all step, each its own way


def test_an_even_slice_tells_no_dark_from_bright() -> None:
    even = np.full(SIZE[:2], 40.0, dtype=np.float32)
    assert constant_step(even, even + 1024, -2000.0) is None


def test_the_half_that_does_not_follow_decides() -> None:
    this = np.where(np.indices(SIZE[:2])[0] < 22, noise(-1000, 10), noise(40, 10))
    follows = constant_step(this, this + 1024, -2000.0)
    assert follows == pytest.approx(1024.0)
    only_dark = np.where(this < -500, this + 1024, this)  # tissue comes into view
    assert constant_step(this, only_dark, -2000.0) is None
    dark_follows = np.where(this < -500, this + 1024, this + 700)
    assert constant_step(this, dark_follows, -2000.0) is None


# --- what fell below was cut off -----------------------------------------------------------


@pytest.mark.parametrize("padding", [None, -2000.0])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (4, 4), (11, 11), (6, 11)])
def test_slices_rescaled_twice_are_found_where_all_below_was_cut_off(
    first: int, last: int, padding: float | None
) -> None:
    hu = np.maximum(a_trunk(), -1024)
    spoilt = np.maximum(shifted(hu, first, last, -1024.0), -1024)  # air and fat are one value there, tissue is not
    assert np.mean(spoilt[:, :, last] == -1024) > 0.5
    spoilt = spoilt if padding is None else padded(spoilt, padding)
    (found,) = (f for f in check_volume(a_scan(spoilt), KEY, BOUNDS) if f.code == CODE)
    assert found.value == pytest.approx(1024, abs=5)


def test_what_is_left_above_a_cut_must_rise_and_fall_alike() -> None:
    body = np.where(np.indices(SIZE[:2])[0] < 10, noise(200, 40), noise(40, 40)).ravel()
    air = np.maximum(noise(-1000, 15), -1010).ravel()  # a third is cut off
    assert step_above_cut(body, np.maximum(body - 1024, -1010), LOWEST) == pytest.approx(-1024)
    assert step_above_cut(body, air, LOWEST) is None  # a body ends: all step by about -1040, and not alike
    wide, apart = noise(40, 120).ravel(), noise(-984, 120).ravel()
    assert step_above_cut(wide, apart, LOWEST) is None
    near = abs(apart - wide - np.median(apart - wide)) <= 150
    assert near.mean() > 0.5  # most step by much the same, which by chance makes them rise and fall alike somewhat
    assert 0.5 < np.corrcoef(wide[near], apart[near])[0, 1] < 0.8
    stretched = (body - 90) * 3 - 984  # alike, but no constant; nothing of it is cut off
    assert np.corrcoef(body, stretched)[0, 1] == pytest.approx(1)
    assert step_above_cut(body, stretched, LOWEST) is None


def test_what_is_left_above_a_cut_must_step_alike_and_be_enough() -> None:
    body = np.where(np.indices(SIZE[:2])[0] < 10, noise(700, 20), noise(40, 20)).ravel()
    far = np.where(RNG.random(body.size) < 0.6, RNG.uniform(-3000, 3000, body.size), body - 1024)
    assert step_above_cut(body, far, LOWEST) is None
    few, enough = (np.where(np.arange(body.size) < count, body - 1024, -1100) for count in (45, 55))
    assert step_above_cut(body, few, LOWEST) is None
    assert step_above_cut(body, enough, LOWEST) == pytest.approx(-1024)
    even = np.append(np.full(60, 40.0), 0.0)
    assert step_above_cut(even, even - 1024, LOWEST) is None


NO_STRUCTURE = ("ct_classic_dcmqi", "ct_tilt_siemens")  # a segmentation; random numbers in place of the image


def test_no_real_ct_steps_so_and_all_with_structure_do_once_half_is_shifted(shared: object) -> None:
    stacks = []
    for case in sorted((shared / "torture" / "open").glob("ct_*")):  # type: ignore[attr-defined]
        for study in index_folder(case / "data", keyring=Keyring(b"a secret of thirty-two bytes ....")).studies:
            for series in study.series:
                if series.modality == "CT" and case.name not in NO_STRUCTURE:
                    try:
                        stacks.append(read_volume(series).voxels)
                    except MedmllmError:
                        continue
    stacks = [voxels for voxels in stacks if voxels.shape[2] > 1]
    assert len(stacks) >= 12
    assert [voxels.shape for voxels in stacks if offsets_between(voxels, 100.0)] == []
    missed = [v.shape for v in stacks if not offsets_between(shifted(v, v.shape[2] // 2, v.shape[2], 1024.0), 300.0)]
    assert missed == []
