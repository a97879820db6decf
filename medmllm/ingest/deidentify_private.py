"""Keep the few private attributes that the settings list, where their value is a number.

    "0019,SIEMENS MR HEADER,0C" + data set -> its block, by its Private Creator -> creator and value, if numeric

A private text is never kept, listed or not. Blocks: PS3.5 7.8.1; Retain Safe Private Option: PS3.15 E.3.10.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pydicom import config
from pydicom.datadict import private_dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medmllm.ingest.deidentify_identifiers import ELEMENT_FAILURES

_BINARY = frozenset({"US", "SS", "UL", "SL", "FL", "FD"})
_DECIMAL = re.compile(r"[-+0-9.eE \\]{1,160}")


@dataclass(frozen=True)
class PrivateRules:
    """The listed attributes."""

    listed: tuple[str, ...]

    @cached_property
    def _wanted(self) -> dict[tuple[int, str], frozenset[int]]:
        found: dict[tuple[int, str], frozenset[int]] = {}
        for text in self.listed:
            group, creator, element = text.split(",")
            key = int(group, 16), creator.strip()
            found[key] = found.get(key, frozenset()) | {int(element, 16)}
        return found

    def keep(self, data: Dataset) -> Iterator[DataElement]:
        """Yield the creators and values of a data set that may stay; sequences within it are not looked into."""
        groups = {group for group, _ in self._wanted}
        tags = [tag for tag in sorted(data.keys()) if tag.is_private and tag.group in groups]
        for place in tags:
            if not 0x10 <= place.element <= 0xFF:
                continue
            try:
                creator = str(data[place].value).strip()
                wanted = self._wanted.get((place.group, creator), frozenset())
                kept = [
                    DataElement(tag, vr, data[tag].value, validation_mode=config.IGNORE)
                    for tag in tags
                    if tag.element >> 8 == place.element and tag.element & 0xFF in wanted
                    if (vr := _numeric_vr(data, tag, creator))
                ]
            except ELEMENT_FAILURES:
                continue
            if kept:
                yield DataElement(Tag(place), "LO", creator, validation_mode=config.IGNORE)
                yield from kept


def _numeric_vr(data: Dataset, tag: int, creator: str) -> str | None:
    """Return the VR under which a private number is written; None when it is no number."""
    element = data[tag]
    vr, value = element.VR, element.value
    if vr in _BINARY:
        return vr
    if vr == "UN" and isinstance(value, bytes):
        return "UN" if _DECIMAL.fullmatch(value.decode("ascii").strip(" \0")) else None
    if vr not in ("DS", "IS"):
        return None
    try:
        private_dictionary_VR(tag, creator)
    except KeyError:
        return None
    return vr
