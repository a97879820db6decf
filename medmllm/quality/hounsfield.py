"""Tell whether the values of a CT can be Hounsfield units.

    voxels of a CT -> QualityFindings: rescaled twice, never rescaled, another unit, only air, no tissue, no air

Water is 0 and air -1000 HU by definition, so a patient has most voxels of soft tissue and fat within -250..250 and
hardly any below air. Rescaled twice (-1024 added once more), soft tissue lies near -984, fat near -1124, lung and air
from -1624 down, and nothing but dense bone is left near 0; many exporters then cut all below -1024 off. Never rescaled,
air lies near 24 and tissue near 1064. Where air lies else, and which sign it has, is `air`'s business.
Values outside the scanned circle (padding: -2000, -3024, -2048 ...) repeat exactly and are told apart by that; a crop
may hold no air, or no tissue, so neither alone is an error. DICOM PS3.3 C.11.1 (rescale), C.7.5.1.1.2 (padding).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medmllm.config import QualityBounds
from medmllm.quality.air import AIR_HU, BELOW_AIR_HU, SPIKE_SHARE, check_air, share_between
from medmllm.records import FloatArray, QualityFinding

TISSUE_HU = (-250.0, 250.0)  # fat, water, soft tissue, contrast
DEEP_SHARE = 0.02  # of the scanned voxels, below air: noise and metal stay under it
LITTLE_TISSUE = 0.02
MOST_HU = 32_000.0  # metal reaches 30,710 on an extended scale
MOST_COUNTED = 200_000
STORED_TISSUE = (924.0, 1224.0)  # -100..200 HU plus 1024
BELOW_STORED_TISSUE = (450.0, 850.0)  # between stored lung and stored fat
STORED_PEAK = 2.0
STORED_LEAST = -100.0
TWICE_SOFT = (-1150.0, -924.0)  # -126..100 HU less 1024: fat to contrast; lung lies above, up to its emphysema
TWICE_TISSUE = (-1274.0, -774.0)  # TISSUE_HU less 1024
TWICE_AIR = (-2124.0, -1524.0)  # air and lung, too
CLAMPED_AT = (-1100.0, -900.0)  # where exporters cut values off: -1024, -1000
CLAMPED_SHARE = 0.25  # air, lung and fat; the corners outside a scanned circle are 0.215
CLAMPED_TISSUE_HU = 100.0  # above the clamp: 0..100 HU before the second rescale
CLAMPED_BONE_HU = (324.0, 774.0)  # above the clamp: bone, where lungs that were masked thin out
CLAMPED_BRIGHT_HU = 200.0  # above the clamp: bone or contrast, so more than air


@dataclass(frozen=True, slots=True)
class Shares:
    """Of which values a CT consists."""

    padding: float  # of all voxels: exact repeated values below air
    low: float  # of all voxels: below air, padding included
    deep: float  # of the scanned voxels (all but padding): below air
    tissue: float  # of the scanned voxels
    twice: float  # of the scanned voxels: where fat, water and soft tissue lie when rescaled twice
    scanned: FloatArray  # values of the scanned voxels


def shares_of(values: FloatArray) -> Shares:
    """Return what a CT consists of; `values` are finite, flat, and not empty."""
    low = values < BELOW_AIR_HU
    lowest = values[low]
    counted = lowest[:: max(1, lowest.size // MOST_COUNTED)]
    found, counts = np.unique(counted, return_counts=True)
    least = SPIKE_SHARE * values.size * (counted.size / lowest.size if lowest.size else 1)
    spikes = found[counts >= max(least, 2)]
    padding = np.isin(values, spikes) if spikes.size else np.zeros(values.shape, dtype=bool)
    scanned = values[~padding]
    return Shares(
        padding=float(padding.mean()),
        low=float(low.mean()),
        deep=share_between(scanned, -np.inf, BELOW_AIR_HU),
        tissue=share_between(scanned, *TISSUE_HU),
        twice=share_between(scanned, *TWICE_SOFT),
        scanned=scanned,
    )


def check_hounsfield(
    values: FloatArray,
    where: str,
    bounds: QualityBounds,
    *,
    in_plane_mm: float,
    whole: bool,
    padding: tuple[float, float] | None,
) -> Iterator[QualityFinding]:
    """Yield what speaks against Hounsfield units.

    Args:
        values: Finite voxels of a CT, flat.
        where: series_key.
        bounds: Of the policy.
        in_plane_mm: The smaller of the two in-plane fields of view.
        whole: More than a handful of distinct values: an image, not a mask.
        padding: Lowest and highest value outside the image, where the header names it.
    """
    shares = shares_of(values)
    wrong = (
        *_scale_findings(values, shares, where, whole=whole),
        *check_air(values, where, bounds, padding=padding),
        *_only_air(values, shares, where),
    )
    wrong_scale = wrong[0] if wrong else None
    if wrong_scale is not None:
        yield wrong_scale
    if shares.padding > bounds.padding_share:
        yield QualityFinding(
            "padding", where, shares.padding, bounds.padding_share,
            f"{shares.padding:.0%} of the voxels are padding outside the scanned circle (bound "
            f"{bounds.padding_share:.0%})",
        )  # fmt: skip
    if wrong_scale is not None or not shares.scanned.size:
        return
    if shares.tissue < LITTLE_TISSUE:
        yield QualityFinding(
            "ct_without_tissue", where, shares.tissue, LITTLE_TISSUE,
            f"{shares.tissue:.1%} of the voxels lie from {TISSUE_HU[0]:.0f} to {TISSUE_HU[1]:.0f} HU, where fat, water "
            f"and soft tissue are (bound {LITTLE_TISSUE:.0%}). Are the values HU?",
        )  # fmt: skip
    air = share_between(shares.scanned, -np.inf, AIR_HU) + shares.padding
    if in_plane_mm >= bounds.body_mm and air == 0:
        yield QualityFinding(
            "ct_without_air", where, air, 0.0,
            f"no voxel lies below {AIR_HU:.0f} HU although the field of view reaches {in_plane_mm:.0f} mm (bound "
            f"{bounds.body_mm:.0f} mm). Are the values HU?",
        )  # fmt: skip


def _scale_findings(values: FloatArray, shares: Shares, where: str, *, whole: bool) -> Iterator[QualityFinding]:
    """Yield what can only be a wrong scale, the surest first."""
    highest, lowest = float(values.max()), float(values.min())
    if highest > MOST_HU:
        beyond = share_between(values, MOST_HU, np.inf)
        yield QualityFinding(
            "ct_impossible_values", where, highest, MOST_HU,
            f"{beyond:.2%} of the voxels lie above {MOST_HU:.0f} HU, up to {highest:.0f}: negative numbers read as "
            "unsigned? Correct Pixel Representation (0028,0103) or the padding value.",
        )  # fmt: skip
    yield from _double_rescale(values, shares, where)
    if whole and lowest >= -1.5 and highest <= 255:
        yield QualityFinding(
            "ct_wrong_unit", where, highest, 255.0,
            f"the values lie from {lowest:.4g} to {highest:.4g}: a CT in HU spans more. A windowed or normalised "
            "export: take the original series.",
        )  # fmt: skip
    stored = stored_tissue(shares.scanned)
    if stored is not None:
        yield QualityFinding(
            "ct_not_rescaled", where, stored, STORED_PEAK,
            f"values lie {stored:.0f} times denser from {STORED_TISSUE[0]:.0f} to {STORED_TISSUE[1]:.0f} than below "
            f"(bound {STORED_PEAK:g}), and hardly any below {STORED_LEAST:.0f}: stored values, to which slope and "
            "intercept were never applied. Export the series again.",
        )  # fmt: skip


def _double_rescale(values: FloatArray, shares: Shares, where: str) -> Iterator[QualityFinding]:
    """Yield whether slope and intercept were applied twice, the values kept as they came out or cut off."""
    if is_double_rescaled(shares):
        yield QualityFinding(
            "ct_double_rescale", where, shares.low, DEEP_SHARE,
            f"{shares.low:.0%} of the voxels lie below {BELOW_AIR_HU:.0f} HU (bound {DEEP_SHARE:.0%}), and only "
            f"{shares.tissue:.1%} from {TISSUE_HU[0]:.0f} to {TISSUE_HU[1]:.0f} HU, where tissue is: slope and "
            "intercept were applied twice. Export the series again, or set the intercept to 0.",
        )  # fmt: skip
    clamped = is_double_rescaled_and_clamped(values, shares)
    if clamped is not None:
        yield QualityFinding(
            "ct_double_rescale", where, clamped, CLAMPED_SHARE,
            f"{clamped:.0%} of the voxels have exactly the lowest value, {values.min():.0f} HU (bound "
            f"{CLAMPED_SHARE:.0%}), most others lie where soft tissue or bone would then be, and "
            f"{shares.tissue:.1%} from {TISSUE_HU[0]:.0f} to {TISSUE_HU[1]:.0f} HU, where tissue is: slope and "
            "intercept were applied twice, and what fell below was cut off. Export the series again.",
        )  # fmt: skip


def _only_air(values: FloatArray, shares: Shares, where: str) -> Iterator[QualityFinding]:
    """Yield whether nothing lies above air."""
    high = float(np.percentile(shares.scanned, 99.9)) if shares.scanned.size else float(values.min())
    if high < AIR_HU:
        yield QualityFinding(
            "ct_only_air", where, high, AIR_HU,
            f"99.9 % of the voxels lie below {high:.0f} HU (bound {AIR_HU:.0f} HU): nothing but air, or soft tissue "
            "alone whose rescale was applied twice.",
        )  # fmt: skip


def is_double_rescaled(shares: Shares) -> bool:
    """Say whether values of a CT went through slope and intercept twice.

    Either there is more below air than noise and metal explain, and less than half as much tissue; or, where all air
    was clamped to one value that looks like padding, hardly any tissue is left, and most lies where it would then be.
    """
    if shares.deep >= DEEP_SHARE and shares.tissue < shares.deep / 2:
        return True
    return shares.low >= DEEP_SHARE and shares.tissue < LITTLE_TISSUE and shares.twice >= 0.5


def is_double_rescaled_and_clamped(values: FloatArray, shares: Shares) -> float | None:
    """Return the share of voxels cut off at the lowest value after a second rescale; None when there was none.

    Then hardly anything lies near 0, and what was not cut off is water and soft tissue just above the clamp, or bone
    with a gap below it. Lungs alone, the rest masked, lie in that gap; an empty scan has nothing bright.
    """
    lowest = float(values.min())
    clamped = share_between(values, lowest, lowest)
    if not CLAMPED_AT[0] <= lowest <= CLAMPED_AT[1] or clamped < CLAMPED_SHARE or shares.tissue >= LITTLE_TISSUE:
        return None
    above = values[values > lowest] - lowest
    if not above.size or float(np.percentile(values, 99.9)) - lowest < CLAMPED_BRIGHT_HU:
        return None
    soft, bone = share_between(above, 0, CLAMPED_TISSUE_HU), share_between(above, *CLAMPED_BONE_HU)
    gap = share_between(above, CLAMPED_TISSUE_HU, CLAMPED_BONE_HU[0])
    return clamped if soft >= 0.5 or bone > gap else None


def looks_like_twice_rescaled_ct(values: FloatArray) -> bool:
    """Say the same of an image whose modality is unknown, where other kinds of values are to be expected.

    Nearly all voxels must lie where twice rescaled air, lung, fat and soft tissue lie, and some in both places.
    """
    air, tissue = share_between(values, *TWICE_AIR), share_between(values, *TWICE_TISSUE)
    return min(air, tissue) >= 0.05 and air + tissue >= 0.7 and share_between(values, *TISSUE_HU) < 0.05


def stored_tissue(scanned: FloatArray) -> float | None:
    """Return how many times denser values lie where stored soft tissue does than just below; None when no sign.

    Bone thins out towards higher values, and comes with fat or marrow below 0; stored tissue makes a narrow peak, and
    what was stored unsigned does not go below 0.
    """
    share = share_between(scanned, *STORED_TISSUE)
    if share < 0.05 or float(np.percentile(scanned, 0.1)) < STORED_LEAST:
        return None
    per_unit, below_per_unit = (
        share_between(scanned, *between) / (between[1] - between[0]) for between in (STORED_TISSUE, BELOW_STORED_TISSUE)
    )
    return min(per_unit / max(below_per_unit, 1e-9), 1000.0) if per_unit > STORED_PEAK * below_per_unit else None
