"""Tell what is implausible about one volume: its grid, its values, how much of it is image.

    Volume -> a regular subset of its voxels -> QualityFindings

Large volumes are looked at on every second or third voxel along each axis, so a check costs a fraction of reading; NaN
is looked for everywhere. Nothing is mended. Noise: median of second differences along the first axis, as a Gaussian's
standard deviation (Immerkaer, CVIU 64, 1996, in one dimension); no claim beyond gross faults.
"""

from collections.abc import Iterator

import nibabel as nib
import numpy as np
from nibabel.affines import obliquity

from medmllm.config import QualityBounds
from medmllm.geometry import slice_axis
from medmllm.quality.hounsfield import check_hounsfield, looks_like_twice_rescaled_ct
from medmllm.quality.slice_offsets import check_slice_offsets
from medmllm.records import FloatArray, QualityFinding, Volume

MOST_VOXELS = 1_000_000  # values are looked at on a regular subset of larger volumes
MOST_LINE_VOXELS = 300_000  # and noise on a subset of whole lines
FEW_VALUES = 8
ROUNDING = 1e-5  # of a spacing, as a fraction: many a header holds 32 bits of it
SIGNED = frozenset({"CT", None})  # modalities whose values may well be negative
AXES = ("right-left", "anterior-posterior", "superior-inferior")


def check_volume(volume: Volume, where: str, bounds: QualityBounds) -> Iterator[QualityFinding]:
    """Yield what is implausible about a volume.

    Args:
        volume: As read.
        where: series_key.
        bounds: Of the policy.
    """
    yield from check_grid(volume, where, bounds)
    if volume.damaged_beside:
        many = "1 file" if volume.damaged_beside == 1 else f"{volume.damaged_beside} files"
        reason = (f"{many} of the series or in its folder cannot be read (bound 0): slices may be missing at its ends. "
                  "Copy those again that problems.csv of `medmllm index` refuses")  # fmt: skip
        yield QualityFinding("damaged_beside", where, float(volume.damaged_beside), 0.0, reason)
    bad = count_not_finite(volume.voxels)
    if bad:
        yield QualityFinding("nan_voxels", where, float(bad), 0.0, f"{bad:,} voxels are NaN or infinite (bound 0)")
    values = sample(volume.voxels)
    if not values.size:
        return
    if values.min() == values.max() and volume.voxels.min() == volume.voxels.max():
        yield QualityFinding(
            "constant", where, float(values[0]), None, f"every voxel has the value {values[0]:g}: there is no image"
        )
        return
    distinct = count_distinct(values)
    if distinct <= FEW_VALUES:
        yield QualityFinding(
            "few_values", where, float(distinct), float(FEW_VALUES),
            f"only {distinct} different values (bound {FEW_VALUES}): a mask or a label map?",
        )  # fmt: skip
    yield from check_values(values, volume, where, bounds, whole=distinct > FEW_VALUES)
    if distinct > FEW_VALUES and not bad:
        yield from check_noise(volume.voxels, where, bounds)
        slices = slices_last(volume)
        yield from check_slices(slices, where, bounds)
        if volume.modality == "CT":
            yield from check_slice_offsets(slices, where, bounds)


def slices_last(volume: Volume) -> FloatArray:
    """Return the voxels with the axis across the slices last, as in DICOM; NIfTI files may have it first."""
    axis = slice_axis(volume.spacing_mm)
    return volume.voxels if axis is None else np.moveaxis(volume.voxels, axis, 2)


def sample(voxels: FloatArray) -> FloatArray:
    """Return the finite values of a regular subset of the voxels, flat, float32."""
    step = max(1, int(np.ceil((voxels.size / MOST_VOXELS) ** (1 / 3))))
    steps = tuple(step if size >= 2 * step else 1 for size in voxels.shape)
    values = voxels[:: steps[0], :: steps[1], :: steps[2]].ravel(order="K")
    finite = np.isfinite(values)
    return values if finite.all() else values[finite]


def count_not_finite(voxels: FloatArray) -> int:
    """Return how many voxels are NaN or infinite; one sum tells at once when there are none."""
    with np.errstate(all="ignore"):
        if np.isfinite(voxels.sum(dtype=np.float64 if voxels.size < 2**16 else None)):
            return 0
    return int(voxels.size - np.count_nonzero(np.isfinite(voxels)))


def count_distinct(values: FloatArray) -> int:
    """Return how many different values there are, or `FEW_VALUES + 1` when there are more than a handful."""
    few: FloatArray = np.unique(values[:1000])
    if few.size <= FEW_VALUES:
        few = np.unique(values)
    return min(int(few.size), FEW_VALUES + 1)


# --- geometry ------------------------------------------------------------------------------


def check_grid(volume: Volume, where: str, bounds: QualityBounds) -> Iterator[QualityFinding]:
    """Yield what is implausible about the grid: spacing, extent, shear, obliquity, number of slices."""
    spacing = volume.spacing_mm
    for value, bound, wrong in (
        (min(spacing), bounds.spacing_mm[0], min(spacing) < bounds.spacing_mm[0] * (1 - ROUNDING)),
        (max(spacing), bounds.spacing_mm[1], max(spacing) > bounds.spacing_mm[1] * (1 + ROUNDING)),
    ):
        if wrong:
            reason = f"voxels lie {value:.3g} mm apart (bound {bound:g} mm). Is the unit right?"
            yield QualityFinding("spacing_implausible", where, value, bound, reason)
    ratio = max(spacing) / min(spacing)
    if ratio > bounds.anisotropy:
        reason = f"the coarsest spacing is {ratio:.0f} times the finest (bound {bounds.anisotropy:g})"
        yield QualityFinding("anisotropic", where, ratio, bounds.anisotropy, reason)
    order = np.argsort(nib.orientations.io_orientation(volume.affine)[:, 0])
    extent = [float(spacing[axis] * volume.voxels.shape[axis]) for axis in order]
    for name, value, bound in zip(AXES, extent, bounds.extent_mm, strict=True):
        if value > bound:
            reason = f"the {name} field of view is {value:.0f} mm (bound {bound:g} mm). Is the unit right?"
            yield QualityFinding("extent_implausible", where, value, bound, reason)
    if extent[2] < bounds.coverage_mm:
        reason = f"the series covers {extent[2]:.1f} mm along {AXES[2]} (bound {bounds.coverage_mm:g} mm)"
        yield QualityFinding("short_coverage", where, extent[2], bounds.coverage_mm, reason)
    shear = shear_of(volume.affine)
    if shear > bounds.shear_deg:
        reason = f"slices are shifted against each other by {shear:.0f} degrees (bound {bounds.shear_deg:g})"
        yield QualityFinding("sheared", where, shear, bounds.shear_deg, reason)
    oblique = float(np.degrees(obliquity(volume.affine)).max())
    if oblique > bounds.oblique_deg:
        reason = (
            f"the volume's axes lie up to {oblique:.0f} degrees off the patient's (bound {bounds.oblique_deg:g}), and "
            "the model sees it so: axes are put into the nearest order, not rotated"
        )
        yield QualityFinding("oblique", where, oblique, bounds.oblique_deg, reason)
    fewest = min(volume.voxels.shape)
    if fewest < bounds.slices:
        reason = f"{fewest} voxels along one axis (bound {bounds.slices})"
        yield QualityFinding("few_slices", where, float(fewest), float(bounds.slices), reason)


def shear_of(affine: FloatArray) -> float:
    """Return the largest angle between an axis and the normal of the plane of the other two, in degrees.

    >>> round(shear_of(np.array([[1.0, 0, 0, 0], [0, 1, 3, 0], [0, 0, 4, 0], [0, 0, 0, 1]])), 2)
    36.87
    """
    axes = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T
    normals = [np.cross(axes[(k + 1) % 3], axes[(k + 2) % 3]) for k in range(3)]
    cosines = [abs(float(axes[k] @ normals[k])) / float(np.linalg.norm(normals[k])) for k in range(3)]
    return float(np.degrees(np.arccos(np.clip(min(cosines), 0.0, 1.0))))


# --- values --------------------------------------------------------------------------------


def check_values(
    values: FloatArray, volume: Volume, where: str, bounds: QualityBounds, *, whole: bool
) -> Iterator[QualityFinding]:
    """Yield what is implausible about the values, by modality."""
    if volume.modality == "CT":
        in_plane = sorted(np.array(volume.spacing_mm) * volume.voxels.shape)[1]  # slices are the shortest way, mostly
        yield from check_hounsfield(
            values, where, bounds, in_plane_mm=float(in_plane), whole=whole, padding=volume.padding
        )
    elif volume.modality is None and looks_like_twice_rescaled_ct(values):
        yield QualityFinding(
            "ct_double_rescale", where, float(np.median(values)), None,
            f"the values have a median of {np.median(values):.0f} and lie nearly all where a CT's air and tissue would "
            "lie if slope and intercept were applied twice. Export the series again.",
        )  # fmt: skip
    negative = float(np.count_nonzero(values < 0) / values.size)
    if volume.modality not in SIGNED and negative > bounds.negative_share:
        reason = f"{negative:.1%} of the voxels are negative in {volume.modality} (bound {bounds.negative_share:.1%})"
        yield QualityFinding("negative_values", where, negative, bounds.negative_share, reason)
    yield from check_ends(values, volume.modality, where, bounds, whole=whole)


def check_ends(
    values: FloatArray, modality: str | None, where: str, bounds: QualityBounds, *, whole: bool
) -> Iterator[QualityFinding]:
    """Yield whether the values were cut off at an end, or hardly any differ from the background."""
    lowest, highest = float(values.min()), float(values.max())
    at_low, at_high = (float(np.count_nonzero(values == end) / values.size) for end in (lowest, highest))
    ends = [(highest, at_high)]
    if modality == "CT" and lowest > -900:  # else the lowest is air or padding; elsewhere it is the background
        ends.append((lowest, at_low))
    for end, share in ends:
        if whole and share > bounds.clipped_share:
            reason = (
                f"{share:.0%} of the voxels have exactly the value {end:g}, an end of the values (bound "
                f"{bounds.clipped_share:.0%}): clipped?"
            )
            yield QualityFinding("clipped", where, share, bounds.clipped_share, reason)
    background = max(at_low, at_high, float(np.count_nonzero(values == np.median(values)) / values.size))
    if background > bounds.background_share:
        reason = f"{background:.1%} of the voxels have one and the same value (bound {bounds.background_share:.0%})"
        yield QualityFinding("mostly_background", where, background, bounds.background_share, reason)


# --- noise and slices ----------------------------------------------------------------------


def check_noise(voxels: FloatArray, where: str, bounds: QualityBounds) -> Iterator[QualityFinding]:
    """Yield whether the image is hardly to be told from noise."""
    ratio = signal_to_noise(voxels)
    if ratio is not None and ratio < bounds.signal_to_noise:
        reason = f"the values span {ratio:.1f} times the noise from voxel to voxel (bound {bounds.signal_to_noise:g})"
        yield QualityFinding("noisy", where, ratio, bounds.signal_to_noise, reason)


def signal_to_noise(voxels: FloatArray) -> float | None:
    """Return the range of the values (1st to 99th percentile) over the noise; None when that is not defined.

    The background's exact value is left out on both sides: a masked image is not free of noise.
    """
    step = max(1, int(np.ceil((voxels.size / MOST_LINE_VOXELS) ** 0.5)))
    lines = voxels[:, ::step, ::step].astype(np.float64)
    if len(lines) < 3:
        return None
    shown = lines != lines.min()
    inner = shown[2:] & shown[1:-1] & shown[:-2]
    if np.count_nonzero(inner) < 50:
        return None
    bends = abs(lines[2:] - 2 * lines[1:-1] + lines[:-2])[inner]
    noise = 1.4826 * float(np.median(bends)) / 6**0.5
    low, high = np.percentile(lines[shown], [1, 99])
    return float(high - low) / noise if noise > 0 else None


def check_slices(voxels: FloatArray, where: str, bounds: QualityBounds) -> Iterator[QualityFinding]:
    """Yield whether slices are blank between others, or one is much brighter or darker than both its neighbours."""
    if voxels.shape[2] < 3:
        return
    step = max(1, min(voxels.shape[:2]) // 64)
    slices = voxels[::step, ::step].reshape(-1, voxels.shape[2]).astype(np.float64)
    shown = np.flatnonzero(np.ptp(slices, axis=0) > 0)
    blank = 0 if not shown.size else int(shown[-1] - shown[0] + 1 - shown.size)
    if blank > bounds.blank_slices:
        reason = f"{blank} slices between others hold one value each (bound {bounds.blank_slices})"
        yield QualityFinding("blank_slices", where, float(blank), float(bounds.blank_slices), reason)
    means = slices.mean(axis=0)
    low, high = np.percentile(slices, [1, 99])
    before, after = means[1:-1] - means[:-2], means[1:-1] - means[2:]
    against_both = np.where(before * after > 0, np.minimum(abs(before), abs(after)), 0.0)
    jump = float(against_both.max()) / float(high - low) if high > low else 0.0
    if jump > bounds.slice_jump:
        reason = f"a slice differs from both its neighbours by {jump:.0%} of the range (bound {bounds.slice_jump:.0%})"
        yield QualityFinding("slice_jump", where, jump, bounds.slice_jump, reason)
