"""Tell apart what shares one DICOM series but is no one volume.

    headers -> kinds, sizes, orientations, spacings -> volumes by what the headers record -> Part, each for `arrange`

A scout may share a series with the axial slices; echoes, phases of contrast, reconstructions and time points often do.
They are told apart by recorded attributes alone, never by the order of files; what cannot be told apart stays whole,
and `arrange` refuses it where slices collide. Geometry: DICOM PS3.3 C.7.6.2.1.1.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, pairwise

import numpy as np
import numpy.typing as npt

from medmllm.errors import GeometryError
from medmllm.geometry import SAME_DIRECTION, slice_normal, slice_step
from medmllm.ingest.dicom_apart import NUMBERS, told_apart
from medmllm.ingest.dicom_header import APART, DicomHeader
from medmllm.ingest.dicom_stack import FEWEST, SAME_SPACING, refusal_of
from medmllm.records import FloatArray

SAME_PLACE_MM = 1e-3
MOST_TOGETHER = 3  # attributes that tell volumes apart together
MOST_VARYING = 12  # attributes that are tried together
OTHER_KINDS = frozenset({"localizer", "colour", "secondary_capture", "multi_frame", "mosaic"})
OTHER_IMAGE = (
    "EchoNumbers", "EchoTime", "DiffusionBValue", "ImageType", "StackID", "KVP", "ConvolutionKernel", "SeriesNumber",
    "SeriesDescription", "SequenceName", "ContrastBolusAgent", "FlipAngle",
)  # fmt: skip
"""Attributes that are the same in all slices of one volume: where they differ, it is another image."""
ALSO_BEHIND = frozenset({"EchoNumbers", "EchoTime", "DiffusionBValue", "StackID"})
"""Of these, what makes another image of slices that follow the others as well; a tube voltage may change on the way."""
VALUES = frozenset({"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "ADC", "FA", "DELAY", "VELOCITY"})
"""Words of Image Type that say what the values are (PS3.3 C.8.13.3.1.1): never mixed with others."""
PER_SLICE = frozenset(
    {"AcquisitionNumber", "TriggerTime", "InversionTime", "RepetitionTime", "FrameReferenceTime", "AcquisitionTime",
     "TemporalPositionIdentifier"}
)  # fmt: skip
"""Attributes that may differ from slice to slice of one volume, as the scanner goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Images of one series that belong together."""

    label: str  # what tells it from the others; empty when the series is whole
    headers: tuple[DicomHeader, ...] = field(repr=False)
    remarks: tuple[tuple[str, str], ...] = ()  # (code, reason)
    apart: str = ""  # the numbers that tell it from the others, e.g. DiffusionBValue=1000


def split(headers: Sequence[DicomHeader]) -> tuple[Part, ...]:
    """Return the parts of a series, in an order that does not depend on that of its files.

    Images of another kind (a scout, a page of results), size or orientation are parts of their own. Slices at the same
    places are told apart by as few attributes as will do under which every part has each place once; slices at other
    places by attributes under which every part is a regular grid. Where there are none, the series stays whole.
    """
    stacks: defaultdict[tuple[object, ...], list[DicomHeader]] = defaultdict(list)
    directions: list[FloatArray] = []
    numbers: dict[tuple[float, ...] | None, int | None] = {}
    for header in headers:
        if header.orientation not in numbers:  # mostly the same in all of them
            numbers[header.orientation] = _direction(header, directions)
        stacks[header.rows, header.columns, _kind(header), header.modality, numbers[header.orientation]].append(header)
    found = [part for stack in stacks.values() for part in _by_spacing(stack)]
    parts = []
    for number, stack in enumerate(sorted(found, key=_looks), start=1):
        label = f"stack {number} of {len(found)}" if len(found) > 1 else ""
        parts += [Part(" ".join(filter(None, (label, part.label))), part.headers, part.remarks)
                  for part in _volumes(stack)]  # fmt: skip
    if len(parts) > 1:
        told = told_apart([part.headers for part in parts])
        parts = [replace(part, apart=apart) for part, apart in zip(parts, told, strict=True)]
    return tuple(parts)


def _kind(header: DicomHeader) -> str:
    """Return what kind of image it is where it is none of a volume; empty for a slice, whatever is wrong with it."""
    refusal = refusal_of(header)
    return refusal[0] if refusal and refusal[0] in OTHER_KINDS else ""


def _looks(stack: Sequence[DicomHeader]) -> tuple[object, ...]:
    """Return what stacks are numbered by, so that their numbers do not depend on file names."""
    first = stack[0]
    cosines = tuple(round(cosine, 3) for cosine in first.orientation or ())
    return first.rows, first.columns, cosines, first.pixel_spacing_mm or (), _kind(first), first.modality or ""


def _direction(header: DicomHeader, known: list[FloatArray]) -> int | None:
    """Return the number of this orientation among those met so far; None when the image has none."""
    if header.orientation is None:
        return None
    here = np.array(header.orientation)
    for number, other in enumerate(known):
        if abs(here - other).max() <= SAME_DIRECTION:
            return number
    known.append(here)
    return len(known) - 1


def _by_spacing(stack: Sequence[DicomHeader]) -> list[Sequence[DicomHeader]]:
    """Return the stacks of other Pixel Spacing, if each is a grid of its own; else all that there is, as one."""
    groups: dict[tuple[float, float], list[DicomHeader]] = {}
    for header in stack:
        here = header.pixel_spacing_mm
        if here is None:
            return [stack]
        if here not in groups:
            here = next((known for known in groups if np.allclose(here, known, rtol=SAME_SPACING, atol=0)), here)
        groups.setdefault(here, []).append(header)
    return list(groups.values()) if len(groups) > 1 and _all_regular(groups.values()) else [stack]


def _volumes(stack: Sequence[DicomHeader]) -> list[Part]:
    """Return the volumes among slices of one kind, size and orientation."""
    whole = [Part("", tuple(stack))]
    if len(stack) == 1:
        return whole
    places = _count_places(stack)
    varying = _varying(stack)
    if places < len(stack):
        # Frames of reference last, with the grids: they do not say which volume comes first.
        in_order = {keyword: ranks for keyword, ranks in varying.items() if keyword != "FrameOfReferenceUID"}
        return (
            _each_place_once(stack, places, in_order) or _time_points(stack, places) or _grids(stack, varying) or whole
        )
    if not _is_regular(stack):
        return _grids(stack, varying) or whole
    other = [keyword for keyword in OTHER_IMAGE if keyword in varying]
    if other:
        groups = _grouped(stack, [varying[keyword] for keyword in other])
        behind = not ALSO_BEHIND.isdisjoint(other) or len({VALUES & set(header.image_type) for header in stack}) > 1
        if _all_regular(groups) and (behind or _overlap(groups)):
            return _parts(groups, other)
        reason = f"the slices differ in {', '.join(other)}: images of several kinds may be mixed"
        return [Part("", tuple(stack), (("mixed_technique", reason),))]
    acquisitions = _grouped(stack, [varying["AcquisitionNumber"]]) if "AcquisitionNumber" in varying else []
    if acquisitions and _all_regular(acquisitions) and _overlap(acquisitions):
        reason = (f"the slices of {len(acquisitions)} acquisitions lie between each other's: they were taken as one "
                  "volume")  # fmt: skip
        return [Part("", tuple(stack), (("interleaved_acquisitions", reason),))]
    return whole


# --- by attributes -------------------------------------------------------------------------

_Order = tuple[int, float, str]


def _in_order(text: str) -> _Order:
    """Return what a value is sorted by: numbers by size, before words."""
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _varying(stack: Sequence[DicomHeader]) -> dict[str, tuple[int, ...]]:
    """Return, for each attribute that differs among these images, the rank of each one's value.

    A number is the same however it is spelt: 90 and 90.0 in what two programs exported are no two volumes.
    """
    found = {}
    pairs = Counter(chain.from_iterable(header.acquisition for header in stack))
    differing = {keyword for (keyword, _), many in pairs.items() if many < len(stack)}
    said = [dict(header.acquisition) for header in stack] if differing else []
    for keyword in APART:
        if keyword in differing:
            texts = [each.get(keyword, "") for each in said]
            orders = {text: (_in_order(text), "" if keyword in NUMBERS else text) for text in set(texts)}
            ranks = {order: rank for rank, order in enumerate(sorted(set(orders.values())))}
            if len(ranks) > 1:
                found[keyword] = tuple(ranks[orders[text]] for text in texts)
    return found


def _grouped(stack: Sequence[DicomHeader], ranks: Sequence[Sequence[int]]) -> list[list[DicomHeader]]:
    groups: defaultdict[tuple[int, ...], list[DicomHeader]] = defaultdict(list)
    for header, *value in zip(stack, *ranks, strict=True):
        groups[tuple(value)].append(header)
    return [groups[value] for value in sorted(groups)]


def _choices(
    stack: Sequence[DicomHeader], varying: dict[str, tuple[int, ...]]
) -> Iterator[tuple[tuple[str, ...], list[list[DicomHeader]]]]:
    """Yield ways to tell images apart, by fewer attributes first; those that say the same as another one come once."""
    distinct = list({ranks: keyword for keyword, ranks in reversed(varying.items())}.items())[::-1]
    for many in range(1, MOST_TOGETHER + 1):
        for chosen in combinations(distinct[: MOST_VARYING if many > 1 else None], many):
            yield tuple(keyword for _, keyword in chosen), _grouped(stack, [ranks for ranks, _ in chosen])


def _each_place_once(stack: Sequence[DicomHeader], places: int, varying: dict[str, tuple[int, ...]]) -> list[Part]:
    """Return volumes that have all places in common, and each once; empty when no attributes tell them apart."""
    for keywords, groups in _choices(stack, varying):
        if len(groups) * places == len(stack) and all(len(group) == places == _count_places(group) for group in groups):
            return _parts(groups, keywords)
    return []


def _grids(stack: Sequence[DicomHeader], varying: dict[str, tuple[int, ...]]) -> list[Part]:
    """Return volumes at places of their own, each a regular grid; empty when no attributes tell them apart.

    What may differ from slice to slice of one volume tells them apart only where they overlap: else the parts around a
    missing slab would pass for volumes.
    """
    for keywords, groups in _choices(stack, varying):
        if _all_regular(groups) and (PER_SLICE.isdisjoint(keywords) or _overlap(groups)):
            return _parts(groups, keywords)
    return []


def _parts(groups: Sequence[Sequence[DicomHeader]], keywords: Sequence[str]) -> list[Part]:
    most = max(map(len, groups))
    parts = []
    for number, group in enumerate(groups, start=1):
        reason = f"this volume has {len(group)} slices, another one of its series has {most}: it may be incomplete"
        remarks = (("fewer_slices", reason),) if len(group) < most else ()
        parts.append(Part(f"{', '.join(keywords)} {number} of {len(groups)}", tuple(group), remarks))
    return parts


def _time_points(stack: Sequence[DicomHeader], places: int) -> list[Part]:
    """Return the volumes of a scan that repeats its places as often as it goes round, by number or time.

    Only where Instance Number, or else the time of acquisition, shows the order: every place comes equally often, and
    either one volume's all come before the next one's, or one place's do. Empty when they show none.
    """
    count, rest = divmod(len(stack), places)
    if rest or any(header.position is None for header in stack):
        return []
    times = [dict(header.acquisition).get("AcquisitionTime", "") for header in stack]
    numbers = [header.instance for header in stack]
    for keyword, order in (
        ("InstanceNumber", [] if None in numbers else numbers),
        ("AcquisitionTime", [] if "" in times else [_in_order(time) for time in times]),
    ):
        ranks = {value: rank for rank, value in enumerate(sorted(set(order)))}  # type: ignore[type-var]
        if len(ranks) < len(stack):
            continue
        ranked = _rounds(stack, places, np.array([ranks[value] for value in order], dtype=np.float64))
        if ranked is not None:
            return [Part(f"{keyword} {number + 1} of {count}", tuple(stack[k] for k in ranked[:, number]))
                    for number in range(count)]  # fmt: skip
    return []


def _rounds(stack: Sequence[DicomHeader], places: int, order: FloatArray) -> npt.NDArray[np.intp] | None:
    """Return the indices of images by (place, round); None when their order shows no rounds."""
    heights = _heights(stack)
    by_height = np.argsort(heights, kind="stable").reshape(places, -1)
    if np.ptp(heights[by_height], axis=1).max() > SAME_PLACE_MM:
        return None
    ranked = np.take_along_axis(by_height, np.argsort(order[by_height], axis=1), axis=1)
    found = order[ranked]
    volume_by_volume = bool(np.all(found.max(axis=0)[:-1] < found.min(axis=0)[1:]))
    first = found[np.argsort(found[:, 0])]
    place_by_place = bool(np.all(first.max(axis=1)[:-1] < first.min(axis=1)[1:]))
    return ranked if volume_by_volume or place_by_place else None


# --- by places -----------------------------------------------------------------------------


def _heights(stack: Sequence[DicomHeader]) -> FloatArray:
    """Return how far along the normal each image lies, in mm."""
    normal = slice_normal(np.array(stack[0].orientation))
    heights: FloatArray = np.array([header.position for header in stack], dtype=np.float64) @ normal
    return heights


def _overlap(groups: Sequence[Sequence[DicomHeader]]) -> bool:
    """Say whether any two of these stacks overlap along their normal."""
    normal = slice_normal(np.array(groups[0][0].orientation))
    ranges = sorted(
        (float(heights.min()), float(heights.max()))
        for heights in (np.array([header.position for header in group]) @ normal for group in groups)
    )
    return any(after[0] < before[1] for before, after in pairwise(ranges))


def _all_regular(groups: Collection[Sequence[DicomHeader]]) -> bool:
    """Say whether there are several stacks, each of enough slices and regular by itself."""
    return len(groups) > 1 and all(len(group) >= FEWEST and _is_regular(group) for group in groups)


def _is_regular(stack: Sequence[DicomHeader]) -> bool:
    """Say whether these slices are one regular grid."""
    if any(header.position is None or header.orientation is None for header in stack):
        return False
    try:
        normal = slice_normal(np.array(stack[0].orientation))
        slice_step(np.array([header.position for header in stack], dtype=np.float64), normal)
    except GeometryError:
        return False
    return True


def _count_places(headers: Sequence[DicomHeader]) -> int:
    """Return at how many different heights along the normal these images lie; images without a place count each."""
    placed = [header.position for header in headers if header.position and header.orientation]
    if not placed:
        return len(headers)
    try:
        normal = slice_normal(np.array(headers[0].orientation))
    except GeometryError:
        return len(headers)
    gaps = np.diff(np.sort(np.array(placed) @ normal))
    return 1 + int(np.count_nonzero(gaps > SAME_PLACE_MM)) + len(headers) - len(placed)
