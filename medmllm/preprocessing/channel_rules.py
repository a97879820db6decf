"""The rules of a channel: which series may become it, and in words why not.

    SeriesReference, Channel -> reasons against it

Only what the headers tell is asked. A series that does not tell what a rule asks for does not fit.
"""

import re
from dataclasses import replace

from medmllm.documents import Channel
from medmllm.records import SeriesReference

SAME_MM = 0.011  # lengths that differ by less are rounding of the headers' decimals
UNTOLD = "does not tell its"


def mismatches(series: SeriesReference, channel: Channel) -> list[str]:
    """Return every reason why a series may not become a channel, in words; none when it may.

    What a refused series does not tell is not held against it, but for modality and description: it may be the one
    that is wanted, and could not be put together.
    """
    found = [_modality(series, channel), _description(series, channel)]
    for rule in (_kernel, _plane, _contrast, _slices, _spacing, _thickness):
        reason = rule(series, channel)
        if not (series.refusal and reason.startswith(UNTOLD)):
            found.append(reason)
    return [reason for reason in found if reason]


def as_nifti_of(series: SeriesReference, modality: str) -> SeriesReference:
    """Return a series with this modality where it is NIfTI and does not say its own; else, or if empty, as it is."""
    if not modality or series.kind != "nifti" or series.modality is not None:
        return series
    return replace(series, modality=modality)


def slice_count(series: SeriesReference) -> int | None:
    """Return how many slices a series has: along the axis across them, the third where that cannot be told.

    None when the headers do not tell. A grid that is one voxel deep along any axis is a lone slice.
    """
    if series.shape is None:
        return None
    axis = series.technique.slice_axis
    return 1 if min(series.shape) == 1 else series.shape[2 if axis is None else axis]


def _modality(series: SeriesReference, channel: Channel) -> str:
    if not channel.modality or series.modality == channel.modality:
        return ""
    return f"modality {series.modality}, not {channel.modality}" if series.modality else f"{UNTOLD} modality"


def _description(series: SeriesReference, channel: Channel) -> str:
    if not channel.description or re.search(channel.description, series.description or "", re.I):
        return ""
    return f"description does not match '{channel.description}'" if series.description else f"{UNTOLD} description"


def _kernel(series: SeriesReference, channel: Channel) -> str:
    kernel = series.technique.kernel
    if not channel.kernel or re.search(channel.kernel, kernel or "", re.I):
        return ""
    return f"kernel {kernel} does not match '{channel.kernel}'" if kernel else f"{UNTOLD} kernel"


def _plane(series: SeriesReference, channel: Channel) -> str:
    plane = series.technique.plane
    if not channel.plane or plane == channel.plane:
        return ""
    return f"plane {plane}, not {channel.plane}" if plane else f"{UNTOLD} plane"


def _contrast(series: SeriesReference, channel: Channel) -> str:
    contrast = series.technique.contrast
    if not channel.contrast or series.technique.contrast_word == channel.contrast:
        return ""
    if contrast is None:
        return f"{UNTOLD} contrast agent"
    return "a contrast agent is recorded" if contrast else "no contrast agent is recorded"


def _slices(series: SeriesReference, channel: Channel) -> str:
    slices, most = slice_count(series), channel.max_slices
    if slices is None:
        return f"{UNTOLD} number of slices"
    if slices < channel.min_slices:
        return f"{slices} slices, fewer than {channel.min_slices}"
    return f"{slices} slices, more than {most}" if most is not None and slices > most else ""


def _spacing(series: SeriesReference, channel: Channel) -> str:
    return _above(max(series.spacing_mm or (0.0,)) or None, channel.max_spacing_mm, "mm between voxels", "spacing")


def _thickness(series: SeriesReference, channel: Channel) -> str:
    return _above(series.technique.thickness_mm, channel.max_thickness_mm, "mm thick", "slice thickness")


def _above(value: float | None, most: float | None, unit: str, what: str) -> str:
    if most is None:
        return ""
    if value is None:
        return f"{UNTOLD} {what}"
    return f"{value:.2f} {unit}, more than {most:.2f}" if value > most + SAME_MM else ""


def wanted(channel: Channel) -> list[str]:
    """Return the rules of a channel in words, but for the usual least number of slices."""
    rules = (
        (channel.modality, f"modality {channel.modality}"),
        (channel.description, f"a description like '{channel.description}'"),
        (channel.kernel, f"a kernel like '{channel.kernel}'"),
        (channel.plane, f"{channel.plane} slices"),
        (channel.contrast, "a contrast agent" if channel.contrast == "yes" else "no contrast agent"),
        (channel.min_slices > 2, f"{channel.min_slices} slices or more"),
        (channel.max_slices, f"{channel.max_slices} slices or fewer"),
        (channel.max_spacing_mm, f"voxels at most {channel.max_spacing_mm} mm apart"),
        (channel.max_thickness_mm, f"slices at most {channel.max_thickness_mm} mm thick"),
    )
    return [words for rule, words in rules if rule]
