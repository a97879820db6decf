"""A constant that was added to some slices of a CT is found; what anatomy does from slice to slice is not."""

import numpy as np
import pytest

from medmllm.errors import MedmllmError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_volume
from medmllm.quality.image import check_volume
from medmllm.quality.slice_offsets import constant_step, offsets_between
from medmllm.records import FloatArray
from tests.quality.phantoms import BOUNDS, KEY, SIZE, a_scan, a_trunk, codes, padded

RNG = np.random.default_rng(8)
CODE = "ct_slice_offset"


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


def test_one_slice_alone_steps_up_and_down_again() -> None:
    steps = offsets_between(shifted(a_trunk(), 4, 4, 1024.0), 300.0)
    assert [after for after, _ in steps] == [3, 4]
    assert [step for _, step in steps] == pytest.approx([1024.0, -1024.0], abs=3)


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
