"""A CT whose values cannot be Hounsfield units is found, and one that is merely unusual is not."""

from collections.abc import Callable

import numpy as np
import pytest

from medmllm.errors import MedmllmError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_volume
from medmllm.quality.hounsfield import is_double_rescaled_and_clamped, looks_like_twice_rescaled_ct, shares_of
from medmllm.quality.image import check_volume
from medmllm.records import FloatArray, Volume
from tests.quality.phantoms import BOUNDS, KEY, PADDING, POLICY, SIZE, a_scan, a_trunk, codes, padded

WRONG_SCALE = {
    "ct_double_rescale", "ct_not_rescaled", "ct_wrong_unit", "ct_impossible_values", "ct_only_air", "ct_air_level",
    "ct_inverted", "ct_slice_offset",
}  # fmt: skip
RNG = np.random.default_rng(4)


def of_values(mean: float, deviation: float) -> FloatArray:
    return RNG.normal(mean, deviation, SIZE).astype(np.float32)


def test_a_trunk_in_air_is_a_plausible_ct() -> None:
    assert codes(a_scan(a_trunk())) == set()


# --- rescaled twice ------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("clamped", [False, True])
def test_slope_and_intercept_applied_twice_are_found(slope: float, clamped: bool) -> None:
    hu = np.maximum(a_trunk(), -1000.0) if clamped else a_trunk()
    assert codes(a_scan(hu * slope - 1024)) & WRONG_SCALE == {"ct_double_rescale"}


@pytest.mark.parametrize("padding", PADDING)
def test_padding_is_not_taken_for_a_second_rescale_and_does_not_hide_one(padding: float) -> None:
    hu = padded(a_trunk(), padding)
    assert codes(a_scan(hu)) == set()
    assert codes(a_scan(hu - 1024)) & WRONG_SCALE == {"ct_double_rescale"}


def test_a_second_rescale_is_found_where_all_air_was_clamped_and_no_fat_is_in_view() -> None:
    head = np.full(SIZE, -1024.0, dtype=np.float32)  # doubled, air is one value, as padding is
    head[8:30, 8:30] = of_values(35.0, 8.0)[8:30, 8:30]
    assert codes(a_scan(head)) & WRONG_SCALE == set()
    assert codes(a_scan(head - 1024)) & WRONG_SCALE == {"ct_double_rescale"}


@pytest.mark.parametrize("clamp", [-1024.0, -1000.0])
def test_a_second_rescale_is_found_where_all_that_fell_below_was_cut_off(clamp: float) -> None:
    twice = np.maximum(a_trunk() - 1024, clamp)
    (found,) = (f for f in check_volume(a_scan(twice), KEY, BOUNDS) if f.code == "ct_double_rescale")
    assert found.value == pytest.approx(np.mean(twice == clamp))
    assert found.bound == 0.25
    assert f"have exactly the lowest value, {clamp:.0f} HU" in found.reason


@pytest.mark.parametrize(
    ("what", "voxels", "found"),
    [
        ("brain and skull", {-1024: 60, -990: 25, -300: 15}, True),
        ("skull and little else", {-1024: 80, -990: 4, -800: 2, -400: 14}, True),
        ("masked lungs with severe emphysema", {-1024: 60, -980: 17, -850: 21, -300: 1, 30: 1}, False),
        ("noisy air in the scanned circle, and a wire", {-1024: 22, -1000: 77, 2000: 1}, False),
        ("as many at the lowest value, and tissue", {-1024: 60, -990: 25, -300: 12, 30: 3}, False),
        ("cut off elsewhere", {-700: 60, -660: 25, -300: 15}, False),
        ("noisy air alone", {-1024: 30, -1000: 70}, False),
    ],
)  # fmt: skip
def test_values_cut_off_after_a_second_rescale_are_told_from_masks_and_empty_scans(
    what: str, voxels: dict[int, int], found: bool
) -> None:
    values = np.repeat(np.array(list(voxels), dtype=np.float32), list(voxels.values()))
    assert (is_double_rescaled_and_clamped(values, shares_of(values)) is not None) is found, what


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("lungs alone, the rest padded", lambda: padded(of_values(-850.0, 60.0), -2000.0)),
        ("a small body in noisy air", lambda: np.where(abs(a_trunk()) < 300, a_trunk(), of_values(-1000.0, 60.0))),
        ("a nodule cube", lambda: np.where(of_values(0, 1) > 1.5, of_values(30, 20), of_values(-870, 40))),
        ("bone", lambda: np.abs(of_values(250.0, 400.0)) + of_values(-60.0, 30.0)),
        ("bone without fat", lambda: RNG.uniform(-60.0, 1900.0, SIZE).astype(np.float32)),
        ("a clip in soft tissue", lambda: np.where(of_values(0, 1) > 1.8, of_values(1060, 20), of_values(40, 15))),
        ("soft tissue without air", lambda: of_values(40.0, 20.0)),
        ("streaks of metal", lambda: np.where(of_values(0, 1) > 2.2, of_values(-1800, 300), a_trunk())),
    ],
)  # fmt: skip
def test_an_unusual_ct_is_not_taken_for_a_wrong_scale(what: str, make: Callable[[], FloatArray]) -> None:
    assert codes(a_scan(make(), spacing_mm=2.0)) & WRONG_SCALE == set(), what


def test_the_share_below_air_is_the_value_and_the_reason_says_it() -> None:
    volume = a_scan(a_trunk() - 1024)
    (finding,) = [f for f in check_volume(volume, KEY, BOUNDS) if f.code == "ct_double_rescale"]
    assert finding.where == KEY
    assert finding.value == pytest.approx(np.mean(volume.voxels < -1100))
    assert finding.bound == 0.02
    assert f"{finding.value:.0%} of the voxels lie below -1100 HU (bound 2%)" in finding.reason


def test_of_an_unknown_modality_only_the_clear_picture_of_a_second_rescale_is_found() -> None:
    hu = a_trunk()
    assert codes(a_scan(hu - 1024, modality=None)) == {"ct_double_rescale"}
    assert codes(a_scan(hu, modality=None)) == set()
    phase = RNG.uniform(-4096, 4095, SIZE).astype(np.float32)  # of an MR, in plain NIfTI
    assert not looks_like_twice_rescaled_ct(phase.ravel())
    assert codes(a_scan(hu - 1024, modality="PT")) == {"negative_values"}


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        ({-2000: 40, -1000: 60}, True),
        ({-1000: 100}, False),  # no air
        ({-2000: 100}, False),  # no tissue
        ({-2000: 30, -1000: 35, 4000: 35}, False),  # much elsewhere
        ({-2000: 40, -1000: 52, 0: 8}, False),  # and something where tissue belongs
    ],
)
def test_a_second_rescale_of_an_unknown_modality_needs_air_and_tissue_and_little_else(
    shares: dict[int, int], found: bool
) -> None:
    values = np.repeat(np.array(list(shares), dtype=np.float32), list(shares.values()))
    assert looks_like_twice_rescaled_ct(values) is found


def test_padding_is_an_exact_value_that_many_voxels_share() -> None:
    values = padded(a_trunk(), -2000.0).ravel()
    share = np.mean(values == -2000.0)
    found = shares_of(values)
    assert found.padding == pytest.approx(share)
    assert found.scanned.size == values.size - np.count_nonzero(values == -2000.0)
    assert shares_of(a_trunk().ravel() - 1024).padding == 0.0  # noise repeats no value


# --- never rescaled, other units -----------------------------------------------------------


def test_stored_values_are_found() -> None:
    assert codes(a_scan(np.maximum(a_trunk(), -1024) + 1024)) & WRONG_SCALE == {"ct_not_rescaled"}
    assert codes(a_scan(of_values(40.0, 20.0) + 1024)) & WRONG_SCALE == {"ct_not_rescaled"}  # a crop of soft tissue


def test_stored_values_with_something_far_below_air_are_not_called_stored() -> None:
    hu = np.maximum(a_trunk(), -1024) + 1024
    hu[:2] = -150.0
    assert "ct_not_rescaled" not in codes(a_scan(hu))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_a_windowed_or_normalised_export_is_found(low: float, high: float) -> None:
    hu = np.clip(a_trunk(), -1000, 400)
    voxels = low + (hu + 1000) / 1400 * (high - low)
    assert "ct_wrong_unit" in codes(a_scan(voxels))
    assert "ct_wrong_unit" not in codes(a_scan(voxels, modality="MR"))
    assert "ct_wrong_unit" not in codes(a_scan(voxels, modality=None))


def test_a_ct_of_few_values_is_a_mask_and_no_windowed_export() -> None:
    mask = (a_trunk() > 0).astype(np.float32)
    assert codes(a_scan(mask, spacing_mm=2.0)) == {"few_values"}
    assert "few_values" not in codes(a_scan(a_trunk()))


def test_negative_padding_read_as_unsigned_is_found() -> None:
    voxels = padded(a_trunk(), 63536.0 - 1024.0)  # -2000 as an unsigned number, then rescaled
    assert codes(a_scan(voxels)) & WRONG_SCALE == {"ct_impossible_values"}
    metal = a_trunk()
    metal[20, 18] = 30_710.0
    assert codes(a_scan(metal)) & WRONG_SCALE == set()


# --- what a CT lacks -----------------------------------------------------------------------


def test_only_air_is_found_and_a_lung_is_not_only_air() -> None:
    assert codes(a_scan(of_values(-990.0, 12.0))) >= {"ct_only_air"}
    lung = codes(a_scan(of_values(-850.0, 30.0)))
    assert "ct_only_air" not in lung
    assert "ct_without_tissue" in lung


def test_two_of_a_hundred_voxels_of_tissue_are_enough() -> None:
    lung = of_values(-850.0, 30.0)
    lung.ravel()[::40] = 30.0
    assert "ct_without_tissue" not in codes(a_scan(lung))


def test_a_body_sized_ct_without_air_is_found_and_a_crop_is_not() -> None:
    tissue = of_values(40.0, 20.0)  # the smaller side has 36 voxels
    assert "ct_without_air" in codes(a_scan(tissue, spacing_mm=8.4))  # 302 mm
    assert "ct_without_air" not in codes(a_scan(tissue, spacing_mm=8.3))  # 299 mm
    tissue[0, 0, 0] = -950.0
    assert "ct_without_air" not in codes(a_scan(tissue, spacing_mm=8.4))


def test_much_padding_is_noted_and_little_is_not() -> None:
    hu = a_trunk()
    hu[:22] = -2000.0  # 22 of 40 columns
    assert "padding" in codes(a_scan(hu))
    assert "padding" not in codes(a_scan(hu), padding_share=0.6)


# --- real series ---------------------------------------------------------------------------


def real_ct(shared: object) -> list[Volume]:
    found = []
    for case in sorted((shared / "torture" / "open").iterdir()):  # type: ignore[operator]
        for study in index_folder(case / "data", keyring=Keyring(b"a secret of thirty-two bytes ....")).studies:
            for series in study.series:
                if series.modality == "CT":
                    try:
                        found.append(read_volume(series))
                    except MedmllmError:
                        continue
    return found


def refused(volume: Volume) -> bool:
    return any(
        getattr(POLICY.decisions, finding.code) == "refuse" for finding in check_volume(volume, KEY, POLICY.bounds)
    )


def test_no_real_ct_is_refused_and_each_is_after_a_second_rescale(shared: object) -> None:
    series = real_ct(shared)
    assert len(series) >= 20
    assert [volume.voxels.shape for volume in series if refused(volume)] == []
    for slope in (1.0, 2.0, 0.5):
        twice = [Volume(v.voxels * np.float32(slope) - 1024, v.affine, None, "CT") for v in series]
        assert [volume.voxels.shape for volume in twice if not refused(volume)] == []
