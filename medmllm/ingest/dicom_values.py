"""Turn the text of DICOM header values into numbers and words.

keyword -> text -> number, numbers, words; None for what is absent, and for what is damaged where nothing hangs on it
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache

_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")


@lru_cache
def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a code string in upper case."""
    return tuple(word.strip().upper() for word in text.split("\\"))


def modality_of(values: Mapping[str, str]) -> str | None:
    """Return Modality (0008,0060); None unless it is a code string, since results show it."""
    modality = values.get("Modality", "")
    return modality if _CODE_STRING.fullmatch(modality) else None


def instance_of(text: str) -> int | None:
    """Return an Instance Number; None for what is none: it is never sorted by, so a damaged one does not matter."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def padding_of(values: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the stored values from Pixel Padding Value to its Range Limit, signed if the pixels are (C.7.5.1.1.2)."""
    if "PixelPaddingValue" not in values:
        return None
    found = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        try:
            value = int(values.get(keyword, "")) & 0xFFFF
        except ValueError:  # told of, never read by: a damaged one does not matter
            continue
        found.append(value - 2**16 if values.get("PixelRepresentation") == "1" and value >= 2**15 else value)
    return (min(found), max(found)) if found else None


def thickness_of(values: Mapping[str, str]) -> float | None:
    """Return Spacing Between Slices, else Slice Thickness, in mm; None where neither is a positive number."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        try:
            found = abs(float(values.get(keyword, "0")))
        except ValueError:  # only ever asked of a lone slice
            continue
        if 0 < found < math.inf:
            return found
    return None


def number_of(values: Mapping[str, str], keyword: str) -> float | None:
    """Return one number; None when it is absent, NaN when what is there is none: a slice with it is refused."""
    if keyword not in values:
        return None
    try:
        return float(values[keyword])
    except ValueError:
        return math.nan


@lru_cache(1024)
def numbers_of(text: str, count: int) -> tuple[float, ...] | None:
    """Return the numbers in a value's text, if there are exactly `count` finite ones; None else."""
    parts = text.split("\\")
    if not text or len(parts) != count:
        return None
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:  # a decimal comma, say
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None
