"""Recognise a header that takes the same course as that of a neighbour.

    tags, VRs and lengths of all elements, by their places -> Template -> the same bytes in another file -> its values

The slices of a series mostly have the same elements, of the same lengths. Where every byte that decides where the next
element lies is the same, a walk would take the same steps: so none is taken, and the values are cut from their places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medmllm.ingest.dicom_wish import Wish

MOST_TEMPLATES = 8
PIXEL_HEAD_BYTES = 12


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The course of one header."""

    wanted: Mapping[int, Wish]  # what was asked for
    place: int  # where the data set starts
    pixel_place: int  # where the value of Pixel Data starts
    pixel_bytes: int | None
    pixel_head: bytes  # the bytes before it: looked at first, as most other courses differ there
    places: npt.NDArray[np.intp]  # of the bytes that decide
    deciding: bytes  # these bytes
    values: tuple[tuple[Wish, int, int], ...]  # (what, where it starts, where it ends)
    sequences: frozenset[str]

    @classmethod
    def of(
        cls, piece: bytes, place: int, wanted: Mapping[int, Wish], heads: Sequence[tuple[int, int]],
        values: Sequence[tuple[Wish, int, int]], sequences: frozenset[str], pixel_place: int, pixel_bytes: int | None,
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
        """
        places = np.unique(np.concatenate([np.arange(start, start + length) for start, length in heads]))
        deciding = np.frombuffer(piece, np.uint8)[places].tobytes()
        head = piece[pixel_place - PIXEL_HEAD_BYTES : pixel_place]
        return cls(wanted, place, pixel_place, pixel_bytes, head, places, deciding, tuple(values), sequences)

    def fits(self, piece: bytes, place: int, wanted: Mapping[int, Wish]) -> bool:
        """Say whether a walk over another file would take the same course."""
        if place != self.place or piece[self.pixel_place - PIXEL_HEAD_BYTES : self.pixel_place] != self.pixel_head:
            return False
        return wanted is self.wanted and np.frombuffer(piece, np.uint8)[self.places].tobytes() == self.deciding


class Templates:
    """The courses of the headers seen last."""

    def __init__(self) -> None:
        self._kept: tuple[Template, ...] = ()  # replaced whole, never changed: threads look at it
        self._last: tuple[int, int | None] = (0, None)

    def find(self, piece: bytes, place: int, wanted: Mapping[int, Wish]) -> Template | None:
        """Return the template that fits the first bytes of a file whose data set starts at `place`."""
        return next((template for template in self._kept if template.fits(piece, place, wanted)), None)

    def is_worth_learning(self, place: int, pixel_place: int | None) -> bool:
        """Say whether a header looks like the one before it: then more of the kind will come."""
        seen, self._last = self._last, (place, pixel_place)
        return pixel_place is not None and seen == self._last

    def keep(self, template: Template) -> None:
        """Keep a template in place of the oldest."""
        self._kept = (template, *self._kept[: MOST_TEMPLATES - 1])
