"""Recognise a header that takes the same course as that of a neighbour.

    tags, VRs and lengths of all elements, by their places -> Template -> the same bytes in another file -> its values

The slices of a series mostly have the same elements, of the same lengths. Where every byte that decides where the next
element lies is the same, a walk would take the same steps: so none is taken, and the values are cut from their places.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medmllm.ingest.dicom_wish import CHARACTER_SET, Wish

MOST_TEMPLATES = 8
MOST_METAS = 4
PIXEL_HEAD_BYTES = 12


@dataclass(slots=True, eq=False, repr=False)
class Latest:
    """The values of the file that took a course last."""

    cut: list[bytes]  # as in the file
    values: Mapping[str, str]  # as of `PlainFile`
    empty: frozenset[str]
    made: Any = None  # what the caller made of them


@dataclass(slots=True, eq=False)
class Template:
    """The course of one header."""

    wanted: Mapping[int, Wish]  # what was asked for
    implicit: bool
    place: int  # where the data set starts
    pixel_place: int  # where the value of Pixel Data starts
    pixel_bytes: int | None
    pixel_head: bytes  # the bytes before it: looked at first, as most other courses differ there
    places: npt.NDArray[np.intp]  # of the bytes that decide
    deciding: bytes  # these bytes
    values: tuple[tuple[Wish, int, int], ...]  # (what, where it starts, where it ends)
    sequences: frozenset[str]
    names_characters: bool  # whether the first value is the one of Specific Character Set
    latest: Latest | None = None  # replaced whole, never changed but for `made`: threads look at it

    @classmethod
    def of(
        cls, piece: bytes, place: int, wanted: Mapping[int, Wish], heads: Sequence[tuple[int, int]],
        values: Sequence[tuple[Wish, int, int]], sequences: frozenset[str], pixel_place: int, pixel_bytes: int | None,
        *, implicit: bool,
    ) -> "Template":  # fmt: skip
        """Return the template of a header that was walked over.

        Args:
            piece: The first bytes of its file, with all of the header.
            place: Where its data set starts.
            wanted: What was asked for.
            heads: (place, length) of tags, VRs and lengths.
            values: Where the wanted values lie.
            sequences: Keywords of wanted sequences that hold anything.
            pixel_place: Where the value of Pixel Data starts.
            pixel_bytes: Its length; None when it is compressed.
            implicit: Whether its elements name no VR.
        """
        # Not np.unique, which loads masked arrays first: that takes longer than reading a hundred headers.
        places = np.array(sorted({place for start, length in heads for place in range(start, start + length)}), np.intp)
        deciding = np.frombuffer(piece, np.uint8)[places].tobytes()
        head = piece[pixel_place - PIXEL_HEAD_BYTES : pixel_place]
        first = bool(values) and values[0][0].keyword == CHARACTER_SET
        return cls(
            wanted, implicit, place, pixel_place, pixel_bytes, head, places, deciding, tuple(values), sequences, first
        )

    def fits(self, piece: bytes, place: int, wanted: Mapping[int, Wish], *, implicit: bool) -> bool:
        """Say whether a walk over another file would take the same course."""
        if place != self.place or implicit is not self.implicit:
            return False
        if piece[self.pixel_place - PIXEL_HEAD_BYTES : self.pixel_place] != self.pixel_head:
            return False
        return wanted is self.wanted and np.frombuffer(piece, np.uint8)[self.places].tobytes() == self.deciding


class Templates:
    """The courses of the headers seen last."""

    def __init__(self) -> None:
        self._kept: tuple[Template, ...] = ()  # replaced whole, never changed: threads look at it
        self._seen: deque[tuple[int, int]] = deque(maxlen=MOST_TEMPLATES)

    def find(self, piece: bytes, place: int, wanted: Mapping[int, Wish], *, implicit: bool) -> Template | None:
        """Return the template that fits the first bytes of a file whose data set starts at `place`."""
        for template in self._kept:
            if template.fits(piece, place, wanted, implicit=implicit):
                return template
        return None

    def is_worth_learning(self, place: int, pixel_place: int | None) -> bool:
        """Say whether a header looks like one of those before it: then more of the kind will come."""
        if pixel_place is None:
            return False
        again = (place, pixel_place) in self._seen
        self._seen.append((place, pixel_place))
        return again

    def keep(self, template: Template) -> None:
        """Keep a template in place of the oldest."""
        self._kept = (template, *self._kept[: MOST_TEMPLATES - 1])


class Metas:
    """The file metas seen last: those of neighbours differ in the Media Storage SOP Instance UID alone."""

    def __init__(self) -> None:
        # Replaced whole, never changed: threads look at it.
        self._kept: tuple[tuple[bytes, bytes, int, int, tuple[str, str, int]], ...] = ()

    def find(self, piece: bytes) -> tuple[str, str, int] | None:
        """Return what was found in the same file meta; None when it is another one.

        Args:
            piece: The first bytes of a file.
        """
        for before, after, start, end, found in self._kept:
            if piece[132:start] == before and piece[end : found[2] + 2] == after and piece[start:end].isascii():
                return found
        return None

    def keep(self, piece: bytes, instance: tuple[int, int], found: tuple[str, str, int]) -> None:
        """Keep what was found, in place of the oldest.

        Args:
            piece: The first bytes of its file.
            instance: Where the UID of the instance starts and ends, if there is one.
            found: Transfer syntax, media storage class, and where the data set starts.
        """
        start, end = instance
        kept = piece[132:start], piece[end : found[2] + 2], start, end, found
        self._kept = (kept, *self._kept[: MOST_METAS - 1])
