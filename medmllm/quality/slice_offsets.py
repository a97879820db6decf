"""Tell whether a constant was added to some slices of a CT and not to their neighbours.

    neighbouring slices -> median step of their voxels -> does a constant explain it? -> QualityFinding

So it happens where two programs exported a series' slices, or a few were rescaled twice or never: every voxel of a
slice, dark and bright, then steps by the same 1000 or so. Anatomy never does that. Where a head ends, or a lung turns
into liver, bright voxels step and dark ones do not, or each goes its own way. Many exporters cut off what a second
rescale brings below -1024: then only what is left above the cut, tissue and bone, can tell.
"""

from collections.abc import Iterator

import numpy as np

from medmllm.config import QualityBounds
from medmllm.records import FloatArray, QualityFinding

MOST_IN_PLANE = 32  # voxels looked at along each axis of a slice
FEWEST = 50  # voxels, and of either half
MANY = 0.1  # of the voxels step further than the bound: look closer
NEAR_HU = 150.0  # of the median step: noise and what anatomy changes from slice to slice
NEAR_SHARE = 0.3  # of either half; bone edges of thick slices leave 0.37
NEAR_ABOVE_CUT = 0.5  # of what is left above a cut
ALIKE = 0.9  # correlation of these: 0.94 to 1 in slices that follow each other, 0.2 where a body ends, 0.75 by chance
SLOPE = (0.5, 1.5)  # of the next slice on this one; 1 once a constant is taken off, near 0 between unlike slices


def check_slice_offsets(voxels: FloatArray, where: str, bounds: QualityBounds) -> Iterator[QualityFinding]:
    """Yield whether slices of a CT lie a constant number of HU above or below their neighbours.

    Args:
        voxels: Finite; shape (x, y, z), HU, z across the slices.
        where: series_key.
        bounds: Of the policy.
    """
    steps = offsets_between(voxels, bounds.slice_offset_hu)
    if steps:
        after, worst = max(steps, key=lambda step: abs(step[1]))
        more = f"; {len(steps)} neighbours differ so" if len(steps) > 1 else ""
        yield QualityFinding(
            "ct_slice_offset", where, abs(worst), bounds.slice_offset_hu,
            f"between slices {after + 1} and {after + 2} all that is no padding or cut off steps alike, by "
            f"{worst:+.0f} HU (bound {bounds.slice_offset_hu:.0f} HU){more}: some slices were rescaled twice or never. "
            "Export them again.",
        )  # fmt: skip


def offsets_between(voxels: FloatArray, bound: float) -> list[tuple[int, float]]:
    """Return (slice, step in HU to the next one) where a constant of more than `bound` HU explains the step."""
    every = [max(1, size // MOST_IN_PLANE) for size in voxels.shape[:2]]
    slices = voxels[:: every[0], :: every[1]].reshape(-1, voxels.shape[2])
    far = (abs(np.diff(slices, axis=1)) > bound).mean(axis=0)
    lowest = float(slices.min())
    steps = []
    for k in np.flatnonzero(far > MANY):
        this, following = slices[:, k], slices[:, k + 1]
        step = constant_step(this, following, lowest)
        step = step_above_cut(this, following, lowest) if step is None else step
        if step is not None and abs(step) > bound:
            steps.append((int(k), step))
    return steps


def constant_step(this: FloatArray, following: FloatArray, lowest: float) -> float | None:
    """Return the number of HU by which all of one slice lies above another; None when no constant explains it.

    Voxels at the volume's lowest value in both slices do not count: padding is often put in after the fact.
    """
    image = (this > lowest) | (following > lowest)
    this, following = this[image], following[image]
    if this.size < FEWEST:
        return None
    change = following - this
    median = float(np.median(change))
    dark = this < np.percentile(this, [5, 95]).mean()
    halves = (dark, ~dark)
    if min(np.count_nonzero(half) for half in halves) < FEWEST / 2:
        return None
    if any((abs(change[half] - median) <= NEAR_HU).mean() < NEAR_SHARE for half in halves):
        return None
    lower, upper = ((float(np.median(this[half])), float(np.median(following[half]))) for half in halves)
    slope = (upper[1] - lower[1]) / (upper[0] - lower[0]) if upper[0] > lower[0] else 0.0
    return median if SLOPE[0] <= slope <= SLOPE[1] else None


def step_above_cut(this: FloatArray, following: FloatArray, lowest: float) -> float | None:
    """Return the same where all that is lower in one of the slices was cut off to one value, which tells no step.

    What is left may be soft tissue alone, without dark and bright: so it must rise and fall in both slices alike.
    """
    cuts = [values[values > lowest].min(initial=np.inf) for values in (this, following)]  # of each slice: above padding
    left = (this > cuts[0]) & (following > cuts[1])
    this, following = this[left], following[left]
    if this.size < FEWEST:
        return None
    change = following - this
    median = float(np.median(change))
    near = abs(change - median) <= NEAR_HU
    if near.mean() < NEAR_ABOVE_CUT:
        return None
    this, following = this[near], following[near]
    if not (np.ptp(this) and np.ptp(following)):
        return None
    alike = float(np.corrcoef(this, following)[0, 1])
    slope = alike * float(following.std()) / float(this.std())
    return median if alike >= ALIKE and SLOPE[0] <= slope <= SLOPE[1] else None
