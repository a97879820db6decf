"""Read from headers how a series was acquired: what the rules of a channel may ask for.

    values of one DICOM header, or of one frame's groups -> ToldTechnique -> Technique of the whole series
    affine of a NIfTI file -> Technique

Nothing is guessed: what slices do not tell, or do not tell alike, is None. When a series was acquired stays in ingest;
outside, series of a study are known by their order in time alone.
Attributes: DICOM PS3.3 C.7.6.4 (contrast), C.8.2.1 (CT image), C.7.4.1 (acquisition).
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np

from medmllm.errors import GeometryError
from medmllm.geometry import plane_of, slice_axis, slice_normal
from medmllm.ingest.makers import known_maker
from medmllm.records import FloatArray, Plane, Technique

Told = TypeVar("Told")

TECHNIQUE_TAGS = (
    "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime", "ContrastBolusAgent",
    "ConvolutionKernel", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength",
)  # fmt: skip
_TELLING = (*TECHNIQUE_TAGS, "SliceThickness")
_OF_THE_SCANNER = tuple(map(_TELLING.index, ("Manufacturer", "ManufacturerModelName")))
NO_AGENT = frozenset({"NONE", "NO", "N", "NO CONTRAST", "WITHOUT", "WITHOUT CONTRAST", "NON CONTRAST", "NATIVE", "0"})
_TIMES = (("AcquisitionDateTime",), ("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime"))
_TIME = re.compile(r"(\d{10,14})(\.\d{1,6})?")  # to the hour at least; an offset from UTC is left aside
_KERNEL = re.compile(r"[A-Za-z0-9 _.,+/\\-]{1,32}")
_WORD = re.compile(r"[^\W\d_]{3,}")
_SCANNER = re.compile(r"[A-Za-z0-9 _.,+/()&-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToldTechnique:
    """What one file or frame tells of it."""

    kernel: str | None = None
    contrast: bool | None = None
    thickness_mm: float | None = None
    manufacturer: str | None = None
    model: str | None = None
    field_strength_t: float | None = None
    acquired: str | None = field(default=None, repr=False)  # YYYYMMDDHHMMSS.FFFFFF: sorts as text; never leaves ingest


def told_by(values: Mapping[str, str], empty: Collection[str]) -> ToldTechnique:
    """Return what a header tells.

    Args:
        values: By keyword, as text.
        empty: Keywords that are there without a value.
    """
    texts = list(map(values.get, _TELLING))
    named = set(_words(values.get("PatientName", "")))
    for place in _OF_THE_SCANNER:
        text = texts[place]
        if text and not named.isdisjoint(_words(text)):
            texts[place] = None  # shown in results, where no patient is named
    return _told(tuple(texts), "ContrastBolusAgent" in empty)


@lru_cache(1024)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.upper()))


@lru_cache(1024)
def _told(texts: tuple[str | None, ...], no_agent_named: bool) -> ToldTechnique:
    values = {keyword: text for keyword, text in zip(_TELLING, texts, strict=True) if text is not None}
    return ToldTechnique(
        kernel=plain_kernel(values.get("ConvolutionKernel", "")),
        contrast=_contrast(values.get("ContrastBolusAgent"), is_empty=no_agent_named),
        thickness_mm=plain_number(values.get("SliceThickness", "")),
        manufacturer=plain_scanner(values.get("Manufacturer", "")),
        model=plain_scanner(values.get("ManufacturerModelName", "")),
        field_strength_t=plain_number(values.get("MagneticFieldStrength", "")),
        acquired=_acquired(values),
    )


def plain_kernel(text: str) -> str | None:
    """Return a kernel's name; None unless it looks like one, since results show it."""
    return text if _KERNEL.fullmatch(text) else None


def plain_scanner(text: str) -> str | None:
    """Return a maker's or model's name in capitals, as scanners spell it in several ways; None unless it is plain."""
    return " ".join(text.split()).upper() if _SCANNER.fullmatch(text) and text.strip() else None


def plain_number(text: str) -> float | None:
    """Return a length in mm, or a field strength in T; None unless it is a positive number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None


def _contrast(agent: str | None, *, is_empty: bool) -> bool | None:
    """Return whether an agent is recorded.

    The attribute is there exactly when contrast was given, and may then be empty (PS3.3 C.7.6.4, type 2 in a module
    that is conditional). Scanners also leave it empty when none was given, so that an empty one tells nothing.
    """
    if is_empty:
        return None
    return agent is not None and agent.strip().upper() not in NO_AGENT


def _acquired(values: Mapping[str, str]) -> str | None:
    for keywords in _TIMES:
        parts = [values.get(keyword, "").partition("\\")[0].strip() for keyword in keywords]
        found = _TIME.match("".join(parts))  # a date or a time alone is too short
        if found:
            return f"{found[1]:0<14}{found[2] or '.':0<7}"
    return None


def technique_of(told: Sequence[ToldTechnique], orientation: tuple[float, ...] | None) -> Technique:
    """Return the technique of a DICOM series, whose slices count along the third axis.

    Args:
        told: By its files or frames; at least one.
        orientation: Image Orientation (Patient) of one of them.
    """
    return Technique(
        kernel=_alike([one.kernel for one in told]),
        plane=_plane(orientation),
        contrast=_alike([one.contrast for one in told]),
        thickness_mm=_alike([one.thickness_mm for one in told]),
        slice_axis=2,
        manufacturer=_alike([known_maker(one.manufacturer) for one in told]),
        model=_alike([one.model for one in told]),
        field_strength_t=_alike([one.field_strength_t for one in told]),
    )


def technique_of_grid(affine: FloatArray, spacing_mm: tuple[float, float, float]) -> Technique:
    """Return what the grid of a NIfTI file tells: which of its axes lies across the slices, and their plane.

    Args:
        affine: Shape (4, 4), voxel index -> RAS+ mm.
        spacing_mm: Of the same grid.
    """
    axis = slice_axis(spacing_mm)
    if axis is None:
        return Technique()
    one, other = (affine[:3, k] for k in range(3) if k != axis)
    return Technique(plane=plane_of(np.cross(one, other)), slice_axis=axis)


def first_acquired(told: Sequence[ToldTechnique]) -> str | None:
    """Return when the first of these files or frames was acquired; None when none says it."""
    return min((one.acquired for one in told if one.acquired), default=None)


def _plane(orientation: tuple[float, ...] | None) -> Plane | None:
    if orientation is None:
        return None
    try:
        return plane_of(slice_normal(np.array(orientation)))
    except GeometryError:
        return None


def _alike(values: Sequence[Told | None]) -> Told | None:
    return values[0] if len(set(values)) == 1 else None
