"""Tell whether the values of a CT can be Hounsfield units.

    voxels of a CT -> QualityFindings: rescaled twice, never rescaled, another unit, only air, no tissue, no air

Water is 0 and air -1000 HU by definition, so a patient has most voxels of soft tissue and fat within -250..250 and
hardly any below air. Rescaled twice (-1024 added once more), soft tissue lies near -984, fat near -1124, lung and air
from -1624 down, and nothing but dense bone is left near 0; never rescaled, air lies near 24 and tissue near 1064.
Values outside the scanned circle (padding: -2000, -3024, -2048 ...) repeat exactly and are told apart by that; a crop
may hold no air, or no tissue, so neither alone is an error. DICOM PS3.3 C.11.1 (rescale), C.7.5.1.1.2 (padding).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medmllm.config import QualityBounds
from medmllm.records import FloatArray, QualityFinding

BELOW_AIR_HU = -1100.0  # air is -1000; clamping, noise and beam hardening reach a little lower
TISSUE_HU = (-250.0, 250.0)  # fat, water, soft tissue, contrast
AIR_HU = -900.0  # lungs lie above
DEEP_SHARE = 0.02  # of the scanned voxels, below air: noise and metal stay under it
LITTLE_TISSUE = 0.02
MOST_HU = 32_000.0  # metal reaches 30,710 on an extended scale
SPIKE_SHARE = 0.005  # an exact value below air that so many voxels share is padding, or clamped
MOST_COUNTED = 200_000
STORED_TISSUE = (924.0, 1224.0)  # -100..200 HU plus 1024
BELOW_STORED_TISSUE = (450.0, 850.0)  # between stored lung and stored fat
STORED_PEAK = 2.0
STORED_LEAST = -100.0
TWICE_SOFT = (-1150.0, -924.0)  # -126..100 HU less 1024: fat to contrast; lung lies above, up to its emphysema
TWICE_TISSUE = (-1274.0, -774.0)  # TISSUE_HU less 1024
TWICE_AIR = (-2124.0, -1524.0)  # air and lung, too


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
        deep=_share(scanned, -np.inf, BELOW_AIR_HU),
        tissue=_share(scanned, *TISSUE_HU),
        twice=_share(scanned, *TWICE_SOFT),
        scanned=scanned,
    )


def _share(values: FloatArray, low: float, high: float) -> float:
    """Return the share of values from `low` to `high`; 0 of none."""
    return float(np.count_nonzero((values >= low) & (values <= high)) / max(values.size, 1))


def check_hounsfield(
    values: FloatArray, where: str, bounds: QualityBounds, *, in_plane_mm: float, whole: bool
) -> Iterator[QualityFinding]:
    """Yield what speaks against Hounsfield units.

    Args:
        values: Finite voxels of a CT, flat.
        where: series_key.
        bounds: Of the policy.
        in_plane_mm: The smaller of the two in-plane fields of view.
        whole: More than a handful of distinct values: an image, not a mask.
    """
    shares = shares_of(values)
    wrong_scale = next(_scale_findings(values, shares, where, whole=whole), None)
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
    air = _share(shares.scanned, -np.inf, AIR_HU) + shares.padding
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
        beyond = _share(values, MOST_HU, np.inf)
        yield QualityFinding(
            "ct_impossible_values", where, highest, MOST_HU,
            f"{beyond:.2%} of the voxels lie above {MOST_HU:.0f} HU, up to {highest:.0f}: negative numbers read as "
            "unsigned? Correct Pixel Representation (0028,0103) or the padding value.",
        )  # fmt: skip
    if is_double_rescaled(shares):
        yield QualityFinding(
            "ct_double_rescale", where, shares.low, DEEP_SHARE,
            f"{shares.low:.0%} of the voxels lie below {BELOW_AIR_HU:.0f} HU (bound {DEEP_SHARE:.0%}), and only "
            f"{shares.tissue:.1%} from {TISSUE_HU[0]:.0f} to {TISSUE_HU[1]:.0f} HU, where tissue is: slope and "
            "intercept were applied twice. Export the series again, or set the intercept to 0.",
        )  # fmt: skip
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
    high = float(np.percentile(shares.scanned, 99.9)) if shares.scanned.size else lowest
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


def looks_like_twice_rescaled_ct(values: FloatArray) -> bool:
    """Say the same of an image whose modality is unknown, where other kinds of values are to be expected.

    Nearly all voxels must lie where twice rescaled air, lung, fat and soft tissue lie, and some in both places.
    """
    air, tissue = _share(values, *TWICE_AIR), _share(values, *TWICE_TISSUE)
    return min(air, tissue) >= 0.05 and air + tissue >= 0.7 and _share(values, *TISSUE_HU) < 0.05


def stored_tissue(scanned: FloatArray) -> float | None:
    """Return how many times denser values lie where stored soft tissue does than just below; None when no sign.

    Bone thins out towards higher values, and comes with fat or marrow below 0; stored tissue makes a narrow peak, and
    what was stored unsigned does not go below 0.
    """
    share = _share(scanned, *STORED_TISSUE)
    if share < 0.05 or float(np.percentile(scanned, 0.1)) < STORED_LEAST:
        return None
    per_unit, below_per_unit = (
        _share(scanned, *between) / (between[1] - between[0]) for between in (STORED_TISSUE, BELOW_STORED_TISSUE)
    )
    return min(per_unit / max(below_per_unit, 1e-9), 1000.0) if per_unit > STORED_PEAK * below_per_unit else None
