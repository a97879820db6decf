"""Tell whether the air of a CT lies where air is: at -1000 HU, not at a multiple of it, and not at +1000.

    values of a CT -> QualityFindings: air_level far below -1000 (values times a factor), inverted (air is bright)

Air is the one large level of a CT below tissue. Times a factor, it makes a narrow peak far below -1000 and leaves
nothing near -1000; with the sign turned, a narrow peak near +1000, where else only dense bone, teeth and metal lie, and
these spread, downwards or upwards. What else lies far below air does neither: padding repeats one exact value, the
streaks of metal spread, and lossy compression leaves padding a fringe about the value that the header names.
DICOM PS3.3 C.11.1, C.7.5.1.1.2.
"""

from collections.abc import Iterator

import numpy as np

from medmllm.config import QualityBounds
from medmllm.records import FloatArray, QualityFinding

BELOW_AIR_HU = -1100.0  # air is -1000; clamping, noise and beam hardening reach a little lower
AIR_HU = -900.0  # lungs lie above
PADDINGS = 2  # exact values below air that may be padding: outside the circle, and outside a resampled grid
SPIKE_SHARE = 0.005  # an exact value below air that so many voxels share is padding, or clamped
FRINGE_HU = 150.0  # about a named padding value, once it was compressed with loss
PEAK = 0.6  # of the voxels below air, within a tenth of their median: a level, not streaks
BRIGHT_AIR = (900.0, 1100.0)
BELOW_BRIGHT_AIR = (500.0, 900.0)  # bone is denser here than above; the lungs of an inverted chest are at its end
STEEPER = 2.0  # times denser in BRIGHT_AIR than below
ABOVE_BRIGHT_AIR = 0.5  # of what lies in BRIGHT_AIR: more above is bone or teeth; noise of 140 HU leaves that much


def check_air(
    values: FloatArray, where: str, bounds: QualityBounds, *, padding: tuple[float, float] | None
) -> Iterator[QualityFinding]:
    """Yield what speaks against air at -1000 HU.

    Args:
        values: Finite voxels of a CT, flat.
        where: series_key.
        bounds: Of the policy.
        padding: Lowest and highest value outside the image, where the header names it.
    """
    share, level = level_below_air(values, padding)
    near = share_between(values, BELOW_AIR_HU, AIR_HU)
    if share > bounds.below_air_share and near < share / 2:
        yield QualityFinding(
            "ct_air_level", where, level, BELOW_AIR_HU,
            f"{share:.0%} of the voxels lie at a level near {level:.0f} HU that is no padding (bounds "
            f"{bounds.below_air_share:.0%}, {BELOW_AIR_HU:.0f} HU), and {near:.1%} near -1000, where air is: were the "
            "values multiplied or shifted? Export the series again.",
        )  # fmt: skip
    bright, dark = share_between(values, *BRIGHT_AIR), share_between(values, -np.inf, AIR_HU)
    if bright > bounds.bright_air_share and dark < bright / 4 and is_peak_of_air(values, bright):
        yield QualityFinding(
            "ct_inverted", where, bright, bounds.bright_air_share,
            f"{bright:.0%} of the voxels make a peak near +1000 HU (bound {bounds.bright_air_share:.0%}), and only "
            f"{dark:.1%} lie below {AIR_HU:.0f} HU: air is bright, so the values seem to have the wrong sign. Export "
            "the series again.",
        )  # fmt: skip


def level_below_air(values: FloatArray, padding: tuple[float, float] | None) -> tuple[float, float]:
    """Return the share of voxels that make one level below air, padding left out, and that level; (0, 0): none."""
    low = values[values < BELOW_AIR_HU]
    if padding is not None:
        low = low[(low < padding[0] - FRINGE_HU) | (low > padding[1] + FRINGE_HU)]
    level = without_spikes(low, values.size)
    if not level.size:
        return 0.0, 0.0
    middle = float(np.median(level))
    if share_between(level, 1.1 * middle, 0.9 * middle) < PEAK:
        return 0.0, 0.0
    return level.size / values.size, middle


def without_spikes(part: FloatArray, count: int) -> FloatArray:
    """Return some of an image's `count` values without the few exact ones that so many share that they are padding."""
    found, counts = np.unique(part, return_counts=True)
    commonest = np.argsort(-counts, kind="stable")[:PADDINGS]
    spikes = found[commonest[counts[commonest] >= max(SPIKE_SHARE * count, 2)]]
    return part[~np.isin(part, spikes)]


def is_peak_of_air(values: FloatArray, bright: float) -> bool:
    """Say whether the share `bright` near +1000 HU is a narrow peak: values thin out below it, and above it too."""
    above = without_spikes(values[values > BRIGHT_AIR[1]], values.size).size / values.size
    return above <= ABOVE_BRIGHT_AIR * bright and steepness(values) >= STEEPER


def steepness(values: FloatArray) -> float:
    """Return how many times denser values lie near +1000 HU than from there down to 500, at most 1000."""
    above, below = (share_between(values, *span) / (span[1] - span[0]) for span in (BRIGHT_AIR, BELOW_BRIGHT_AIR))
    return min(above / max(below, 1e-9), 1000.0)


def share_between(values: FloatArray, low: float, high: float) -> float:
    """Return the share of values from `low` to `high`; 0 of none.

    >>> share_between(np.array([-1000.0, 0, 40, 50]), 0, 40)
    0.5
    """
    return float(np.count_nonzero((values >= low) & (values <= high)) / max(values.size, 1))
