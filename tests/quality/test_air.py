"""Air far below -1000 HU, or at +1000, is found; padding, streaks and dense bone are not taken for it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from medmllm.quality.air import level_below_air, share_between, steepness
from medmllm.quality.image import check_volume
from medmllm.records import FloatArray, QualityFinding, Volume
from tests.quality.phantoms import BOUNDS, KEY, PADDING, SIZE, a_scan, a_trunk, codes, padded

LEVELS = {"ct_air_level", "ct_inverted"}
WRONG_SCALE = LEVELS | {"ct_double_rescale", "ct_not_rescaled", "ct_wrong_unit", "ct_impossible_values"}
RNG = np.random.default_rng(6)


def the(code: str, volume: Volume) -> QualityFinding:
    (found,) = (finding for finding in check_volume(volume, KEY, BOUNDS) if finding.code == code)
    return found


def of_values(mean: float, deviation: float) -> FloatArray:
    return RNG.normal(mean, deviation, SIZE).astype(np.float32)


# --- values times a factor -----------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_values_times_a_factor_are_told_by_where_their_air_lies(factor: float) -> None:
    hu = np.round(a_trunk())  # whole numbers, as scanners store
    found = the("ct_air_level", a_scan(factor * hu))
    below = (factor * hu)[factor * hu < -1100]
    assert found.value == pytest.approx(np.median(below), rel=0.01)
    assert found.bound == -1100.0
    level = below.size - sum(count for _, count in Counter(below.tolist()).most_common(2))  # two may be padding
    assert f"{level / hu.size:.0%} of the voxels lie at a level near" in found.reason
    assert "ct_air_level" not in codes(a_scan(hu))


def test_the_share_at_one_level_below_air_has_a_bound_in_the_policy() -> None:
    spoilt = a_scan(2 * a_trunk())
    share = np.mean(spoilt.voxels < -1100)
    assert "ct_air_level" in codes(spoilt, below_air_share=float(share) - 0.01)
    assert "ct_air_level" not in codes(spoilt, below_air_share=float(share) + 0.01)


def test_of_values_times_ten_the_loss_of_all_tissue_may_be_told_first() -> None:
    assert codes(a_scan(10 * a_trunk())) & WRONG_SCALE == {"ct_double_rescale"}


@pytest.mark.parametrize("padding", PADDING)
def test_padding_is_one_exact_value_and_no_level_of_air(padding: float) -> None:
    hu = padded(a_trunk(), padding)
    hu[0] = -4000.0  # outside a resampled grid: a second value
    assert level_below_air(hu.ravel(), None) == (0.0, 0.0)
    assert codes(a_scan(hu)) & LEVELS == set()


def test_padding_that_was_compressed_with_loss_is_known_by_its_name() -> None:
    tissue = np.where(a_trunk() < -900, np.float32(40), a_trunk())  # no air in view
    fringe = np.where(padded(tissue, -3024.0) == -3024.0, of_values(-3024, 30), tissue)
    named = replace(a_scan(fringe), padding=(-3024.0, -3024.0))
    assert codes(named) & LEVELS == set()
    assert "ct_air_level" in codes(a_scan(fringe))  # not named, and no air anywhere: nothing tells it from x3 air


@pytest.mark.parametrize("padding", [-1024.0, 0.0, 3071.0])
def test_padding_that_is_named_elsewhere_hides_no_level(padding: float) -> None:
    # Stored 0 is padding in many headers: with an intercept of -1024 that is air, and nothing below it is padding.
    assert "ct_air_level" in codes(replace(a_scan(2 * a_trunk()), padding=(padding, padding)))


def test_air_near_minus_1000_speaks_for_hu_whatever_lies_below() -> None:
    hu = a_trunk()
    hu[:4] = of_values(-3024, 30)[:4]  # 1 column in 10
    assert codes(a_scan(hu)) & LEVELS == set()


def test_streaks_of_metal_in_a_crop_without_air_spread_and_make_no_level() -> None:
    tissue = of_values(40.0, 20.0)
    streaks = -1100 - RNG.exponential(400.0, SIZE).astype(np.float32)
    hu = np.where(RNG.random(SIZE) < 0.08, streaks, tissue)
    below = hu[hu < -1100]
    middle = np.median(below)
    assert np.mean(abs(below - middle) <= 0.1 * abs(middle)) < 0.6  # what PEAK asks about
    assert codes(a_scan(hu, spacing_mm=2.0)) & LEVELS == set()


# --- the wrong sign ------------------------------------------------------------------------


def test_air_that_is_bright_is_found_and_its_share_is_the_value() -> None:
    hu = a_trunk()
    found = the("ct_inverted", a_scan(-hu))
    assert found.value == pytest.approx(np.mean((hu >= -1100) & (hu <= -900)))
    assert found.bound == BOUNDS.bright_air_share == 0.1
    assert "ct_inverted" not in codes(a_scan(hu))


@pytest.mark.parametrize(
    ("what", "voxels"),
    [
        ("dense bone, which thins out upwards", np.abs(of_values(300.0, 600.0))),
        ("bone of all densities", RNG.uniform(-60.0, 1900.0, SIZE).astype(np.float32)),
        ("a plastic of 990 HU in air", np.where(np.indices(SIZE)[0] < 15, of_values(990, 20), of_values(-1000, 15))),
        ("a little of it, and no air", np.where(np.indices(SIZE)[0] < 3, of_values(990, 20), of_values(0, 15))),
    ],
)  # fmt: skip
def test_what_else_is_bright_is_not_taken_for_air(what: str, voxels: FloatArray) -> None:
    assert codes(a_scan(voxels, spacing_mm=2.0)) & LEVELS == set(), what


def test_teeth_and_dense_bone_spread_above_plus_1000_where_bright_air_ends() -> None:
    of_each = ((1100, 200, 8000), (2200, 300, 1600), (50, 30, 6000), (-100, 30, 1680))  # dentine, enamel, gum, fat
    tooth = np.concatenate([RNG.normal(*each) for each in of_each]).reshape(SIZE)
    assert np.mean((tooth > 900) & (tooth < 1100)) > 0.1
    assert steepness(tooth) > 2
    assert codes(a_scan(tooth, spacing_mm=0.4)) & WRONG_SCALE == set()


@pytest.mark.parametrize("padding", [-2000.0, -3024.0])
def test_padding_above_bright_air_does_not_hide_it(padding: float) -> None:
    assert "ct_inverted" in codes(a_scan(-padded(a_trunk(), padding)))
    assert "ct_inverted" in codes(a_scan(-a_trunk(noise=100)))


def test_densities_near_plus_1000_are_counted_per_unit() -> None:
    values = np.repeat(np.array([1000.0, 700.0, 0.0]), [20, 10, 70])
    assert steepness(values) == pytest.approx((0.2 / 200) / (0.1 / 400))
    assert steepness(np.full(9, 1000.0)) == 1000.0
    assert share_between(np.empty(0), 0, 1) == 0.0
