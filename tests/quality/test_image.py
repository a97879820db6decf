"""Each check of a volume finds what it is for, and lets a near miss pass; nothing is changed."""

import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from medmllm.quality.image import (
    check_volume,
    count_not_finite,
    sample,
    shear_of,
    signal_to_noise,
)
from medmllm.records import FloatArray, Volume
from tests.quality.phantoms import BOUNDS, KEY, SIZE, a_scan, a_trunk, codes, with_grid


def of(volume: Volume, code: str) -> tuple[float | None, float | None]:
    """Value and bound of the first finding with a code."""
    return next((f.value, f.bound) for f in check_volume(volume, KEY, BOUNDS) if f.code == code)


def an_mr() -> FloatArray:
    """A head with smooth values, in a background of 0."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in SIZE), indexing="ij")
    values = 300 + 200 * np.cos(3 * x) + 40 * z + np.random.default_rng(3).normal(0, 5, SIZE)
    return np.where(np.hypot(x, y) < 0.9, values, 0.0).astype(np.float32)


def grid(x: float, y: float, z: float) -> FloatArray:
    return np.diag([x, y, z, 1.0])


# --- geometry ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "found", "passed"),
    [
        ("spacing_implausible", grid(2, 2, 10.5), grid(2, 2, 9.5)),
        ("spacing_implausible", grid(0.019, 0.5, 0.5), grid(0.021, 0.5, 0.5)),
        ("spacing_implausible", grid(2, 2, 10.001), grid(2, 2, np.float32(10) + np.float32(1e-6))),  # 10.000001
        ("anisotropic", grid(0.3, 0.3, 9.3), grid(0.3, 0.3, 8.7)),  # 31 and 29 times
        ("extent_implausible", grid(25.5, 9, 5), grid(24.5, 9, 5)),  # 40 columns: 1,020 and 980 mm
        ("short_coverage", grid(1, 1, 0.4), grid(1, 1, 0.45)),  # 12 slices: 4.8 and 5.4 mm
    ],
)  # fmt: skip
def test_an_implausible_grid_is_found(code: str, found: FloatArray, passed: FloatArray) -> None:
    volume = a_scan(an_mr(), modality="MR")
    assert code in codes(with_grid(volume, found))
    assert code not in codes(with_grid(volume, passed))


@pytest.mark.parametrize("degrees", [19.0, 21.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axes_far_off_the_patients_are_told_in_degrees_in_any_order(degrees: float, axis: int) -> None:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    first, second = {0, 1, 2} - {axis}
    turn[[first, second, first, second], [first, second, second, first]] = cosine, cosine, -sine, sine
    lying = (turn @ grid(9, 9, 5))[:, [1, 2, 0, 3]] * [1, -1, 1, 1]  # turned, its axes in another order, one reversed
    volume = with_grid(a_scan(an_mr(), modality="MR"), lying)
    if degrees < BOUNDS.oblique_deg:
        assert "oblique" not in codes(volume)
    else:
        assert of(volume, "oblique") == (pytest.approx(degrees), 20.0)


def test_extent_is_measured_along_the_patient_whatever_the_axes() -> None:
    volume = a_scan(np.moveaxis(an_mr(), 0, 2), modality="MR")  # shape (36, 12, 40)
    upright = with_grid(volume, grid(9, 5, 30.0))  # 1,200 mm along S-I: a whole body
    assert "extent_implausible" not in codes(upright)
    lying = grid(9, 5, 30.0)[[2, 1, 0, 3]]  # the third axis runs right to left
    assert "extent_implausible" in codes(with_grid(volume, lying))
    (finding,) = [f for f in check_volume(with_grid(volume, lying), KEY, BOUNDS) if f.code == "extent_implausible"]
    assert finding.value == pytest.approx(1200)
    assert "right-left field of view is 1200 mm (bound 1000 mm)" in finding.reason


def test_shear_beyond_a_gantrys_tilt_is_found() -> None:
    for tilt, expected in ((30.0, False), (36.0, True)):
        affine = grid(2, 2, 5)
        affine[1, 2] = 5 * np.tan(np.deg2rad(tilt))
        volume = with_grid(a_scan(an_mr(), modality="MR"), affine)
        assert shear_of(affine) == pytest.approx(tilt)
        assert ("sheared" in codes(volume)) is expected


def test_few_slices_are_found() -> None:
    assert "few_slices" in codes(a_scan(an_mr()[:, :, :2], modality="MR"))
    assert "few_slices" not in codes(a_scan(an_mr()[:, :, :3], modality="MR"))


# --- values --------------------------------------------------------------------------------


def test_a_single_nan_anywhere_is_found_and_the_rest_is_still_looked_at() -> None:
    voxels = np.tile(an_mr(), (4, 4, 6))
    assert "nan_voxels" not in codes(a_scan(voxels, modality="MR", spacing_mm=1))
    voxels[1, 1, 1] = np.nan  # between the voxels that are looked at
    voxels[2, 3, 1] = -np.inf
    volume = a_scan(voxels, modality="MR", spacing_mm=1)
    assert of(volume, "nan_voxels") == (2.0, 0.0)
    assert count_not_finite(np.full((4, 4, 4), 3e38, dtype=np.float32)) == 0  # their sum overflows


def test_a_slice_of_nan_is_not_called_blank_as_well() -> None:
    voxels = an_mr()
    voxels[:, :, 5] = np.nan
    assert codes(a_scan(voxels, modality="MR")) == {"nan_voxels"}


def test_a_volume_of_nothing_but_nan_gets_one_finding() -> None:
    assert codes(a_scan(np.full(SIZE, np.nan), modality="MR")) == {"nan_voxels"}


def test_one_value_everywhere_is_found_and_one_other_voxel_is_enough() -> None:
    voxels = np.full(SIZE, 7.0)
    assert codes(a_scan(voxels, modality="MR")) == {"constant"}
    voxels[1, 2, 3] = 8.0
    assert "constant" not in codes(a_scan(voxels, modality="MR"))
    large = np.zeros((110, 110, 110))
    assert "constant" in codes(a_scan(large, modality="MR"))
    large[1, 1, 1] = 8.0  # between the voxels that are looked at
    assert "constant" not in codes(a_scan(large, modality="MR"))


def test_eight_values_are_few_and_nine_are_not() -> None:
    levels = np.arange(np.prod(SIZE)).reshape(SIZE)
    assert "few_values" in codes(a_scan(levels % 8, modality="MR"))
    assert "few_values" not in codes(a_scan(levels % 9, modality="MR"))


@pytest.mark.parametrize(("modality", "found"), [("MR", True), ("PT", True), ("CT", False), (None, False)])
def test_negative_values_are_found_where_there_should_be_none(modality: str | None, found: bool) -> None:
    voxels = an_mr()
    voxels[:5, :5] = -3.0
    assert ("negative_values" in codes(a_scan(voxels, modality=modality))) is found


def test_one_negative_voxel_in_a_thousand_passes() -> None:
    voxels = np.abs(an_mr())
    voxels.ravel()[::1100] = -1.0  # interpolation rings
    assert "negative_values" not in codes(a_scan(voxels, modality="MR"))


def test_values_cut_off_at_the_top_are_found() -> None:
    voxels = an_mr()
    top = np.percentile(voxels, 85)
    assert "clipped" in codes(a_scan(np.minimum(voxels, top), modality="MR"))
    assert "clipped" not in codes(a_scan(np.minimum(voxels, np.percentile(voxels, 95)), modality="MR"))


def test_values_cut_off_at_the_bottom_are_found_in_ct_unless_it_is_air() -> None:
    assert "clipped" in codes(a_scan(np.maximum(a_trunk(), -160.0)))
    assert "clipped" not in codes(a_scan(np.maximum(a_trunk(), -1000.0)))
    assert "clipped" not in codes(a_scan(an_mr(), modality="MR"))  # a background of 0


def test_an_image_that_is_mostly_background_is_found() -> None:
    voxels = np.zeros(SIZE, dtype=np.float32)
    voxels[:3, :3] = an_mr()[18:21, 18:21]  # 9 of 1,440 columns
    assert "mostly_background" in codes(a_scan(voxels, modality="MR"))
    voxels[:7, :7] = an_mr()[16:23, 16:23]  # 49 of 1,440: 3 %
    assert "mostly_background" not in codes(a_scan(voxels, modality="MR"))


# --- noise and slices ----------------------------------------------------------------------


def test_pure_noise_is_found_and_an_image_is_not() -> None:
    noise = np.random.default_rng(5).normal(100, 20, SIZE)
    assert "noisy" in codes(a_scan(noise, modality="MR"))
    assert signal_to_noise(noise.astype(np.float32)) == pytest.approx(2 * 2.326, rel=0.05)  # 1st to 99th percentile
    assert codes(a_scan(an_mr(), modality="MR")) == set()


def test_the_noise_of_a_smooth_image_is_that_which_was_added() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1000, 60)[:, None, None], (60, 40, 30))
    voxels = ramp + np.random.default_rng(6).normal(0, 10, ramp.shape)
    assert signal_to_noise(voxels.astype(np.float32)) == pytest.approx(980 / 10, rel=0.05)


def test_noise_in_an_empty_background_is_still_noise() -> None:
    voxels = np.zeros(SIZE)
    voxels[5:20, 5:20] = np.random.default_rng(5).normal(100, 20, SIZE)[5:20, 5:20]  # 16 % of it
    assert "noisy" in codes(a_scan(voxels, modality="MR"))


def test_blank_slices_between_others_are_found_and_at_the_ends_are_not() -> None:
    voxels = an_mr()
    voxels[:, :, [0, 1, 11]] = 0
    assert "blank_slices" not in codes(a_scan(voxels, modality="MR"))
    voxels[:, :, [4, 5]] = 0
    assert of(a_scan(voxels, modality="MR"), "blank_slices") == (2.0, 0.0)


def test_a_slice_unlike_both_its_neighbours_is_found_and_a_step_is_not() -> None:
    voxels = an_mr()
    voxels[:, :, 6:] *= 3.0  # two stations
    assert "slice_jump" not in codes(a_scan(voxels, modality="MR"))
    ramp = an_mr() + 400.0 * np.arange(12)  # each slice 8 % of the range brighter than the one below
    assert "slice_jump" not in codes(a_scan(ramp, modality="MR"), slice_jump=0.05)
    voxels = an_mr()
    voxels[:, :, 6] += 600.0
    assert "slice_jump" in codes(a_scan(voxels, modality="MR"))


# --- how it is done ------------------------------------------------------------------------


def test_a_large_volume_is_looked_at_on_a_regular_subset() -> None:
    voxels = np.arange(300 * 200 * 90, dtype=np.float32).reshape(300, 200, 90)
    found = sample(voxels)
    assert 300_000 < found.size <= 1_000_000
    np.testing.assert_array_equal(found, voxels[::2, ::2, ::2].ravel())
    thin = sample(np.zeros((3000, 1000, 3), dtype=np.float32))
    assert thin.size == 1000 * 334 * 3  # no slice of three is left out


def test_checks_change_nothing_and_read_flipped_and_read_only_arrays() -> None:
    voxels = a_trunk()
    flipped = voxels[::-1, :, ::-1]
    flipped.flags.writeable = False
    before = flipped.copy()
    assert codes(a_scan(flipped)) == codes(a_scan(voxels)) == set()
    np.testing.assert_array_equal(flipped, before)


def test_a_large_ct_costs_a_fraction_of_a_second() -> None:
    voxels = np.random.default_rng(1).normal(0, 20, (60, 512, 512)).astype(np.float32)
    voxels[:, :150] -= 1000
    volume = Volume(voxels.transpose(2, 1, 0), grid(0.8, 0.8, 5), None, "CT")
    taken = []
    for _ in range(3):
        start = time.process_time()
        assert list(check_volume(volume, KEY, BOUNDS)) == []
        taken.append(time.process_time() - start)
    assert min(taken) < 1.0


def test_real_mr_and_teaching_files_are_not_refused(shared) -> None:  # type: ignore[no-untyped-def]
    from medmllm.ingest.nifti import read_volume
    from tests.quality.phantoms import POLICY

    files = sorted((shared / "data" / "brain_mr_lgg" / "studies").rglob("*.nii.gz"))[::10]
    files += sorted((shared / "data" / "ct_lidc_nodules" / "studies").rglob("*.nii.gz"))[::10]
    assert len(files) > 30
    found = {f.code for file in files for f in check_volume(read_volume(file), KEY, POLICY.bounds)}
    assert found == set()
    assert nib.load(files[0]).shape[0] > 3


@pytest.mark.parametrize(("count", "said"), [(1, "1 file of the series"), (2, "2 files of the series")])
def test_files_that_cannot_be_read_beside_a_series_are_counted(count: int, said: str) -> None:
    scan = replace(a_scan(a_trunk()), damaged_beside=count)
    (found,) = (f for f in check_volume(scan, KEY, BOUNDS) if f.code == "damaged_beside")
    assert (found.value, found.bound) == (count, 0.0)
    assert found.reason.startswith(said)
    assert "damaged_beside" not in codes(a_scan(a_trunk()))
