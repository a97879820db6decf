"""Walk over the elements of a plain DICOM file without building a data set.

    open file -> file meta -> element headers, one after the other -> the few values asked for, and where the pixels lie

Some ten times faster than a general parser, because it looks at nothing that was not asked for, and it makes no claim
to be one: whatever is out of the ordinary (no preamble, big endian, deflated, elements out of order, other VRs than
the dictionary's, text in other character sets) gives None, and the caller asks pydicom. Encoding: DICOM PS3.5
section 7, PS3.10 section 7.
"""

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medmllm.ingest.dicom_template import Latest, Metas, Template, Templates
from medmllm.ingest.dicom_wish import EITHER, SEQUENCE, UnusualError, Wish, texts_beside, texts_of
from medmllm.ingest.opening import START_BYTES, RegularFile

MOST_ITEMS = 2**17  # in sequences of undefined length; a general parser takes two seconds for them
DEEPEST = 16  # sequences within sequences
IMPLICIT = "1.2.840.10008.1.2"
ENCAPSULATED = "1.2.840.10008.1.2.4."
EXPLICIT = frozenset({"1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"})
UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_SYNTAX, _MEDIA_STORAGE_CLASS, _MEDIA_STORAGE_INSTANCE = 0x0010, 0x0002, 0x0003
_META = {  # elements of group 0002 and their VRs
    0x0000: b"UL", 0x0001: b"OB", 0x0002: b"UI", 0x0003: b"UI", 0x0010: b"UI", 0x0012: b"UI", 0x0013: b"SH",
    0x0016: b"AE", 0x0017: b"AE", 0x0018: b"AE", 0x0100: b"UI", 0x0102: b"OB",
}  # fmt: skip
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"})
_SHORT = frozenset({
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
})  # fmt: skip
_PADDED = (b" ", b"\0")
_tag_length = struct.Struct("<HHI").unpack_from
_tag_vr_length = struct.Struct("<HH2sH").unpack_from
_length = struct.Struct("<I").unpack_from


class TooManyItemsError(Exception):
    """Sequences with so many items that a general parser should not be shown them."""


@dataclass(slots=True, eq=False)
class PlainFile:
    """What a walk over one file found; not frozen, which would take a third of the time of all the rest."""

    transfer_syntax: str
    media_storage_class: str
    values: Mapping[str, str] = field(repr=False)  # by keyword, as text, several joined by backslashes; no empty ones
    empty: frozenset[str]  # keywords that are there without a value
    sequences: frozenset[str]  # keywords of sequences that hold anything
    pixel_place: int | None  # where the value of Pixel Data starts; None when there are no pixels
    pixel_bytes: int | None  # its length; None when it is compressed
    latest: Latest | None = field(default=None, repr=False)  # these values, for the next file of the same course
    before: Latest | None = field(default=None, repr=False)  # those of a file before it, of the same course
    changed: tuple[str, ...] = ()  # keywords whose values differ from those of `before`


def walk(file: RegularFile, wanted: Mapping[int, Wish]) -> PlainFile | None:
    """Return the wanted values of an open file; None when it is not a plain one.

    Args:
        file: Where it stands does not matter and is not changed.
        wanted: As of `compile_keywords`.

    Raises:
        TooManyItemsError: pydicom should not be asked either.
    """
    try:
        return _Walk(file, wanted).run()
    except (UnusualError, struct.error, UnicodeDecodeError, ValueError):
        return None


def end_of_pixels(data: bytes) -> int | None:
    """Return where the pixel data of an explicit little endian data set in memory end; None when it is not plain.

    The end of `data` when there are no pixels, or compressed ones. A general parser takes minutes for megabytes that
    inflate to nothing but empty elements: what this does not find plain need not be shown to it.
    """
    seen = _Walk(data, {})
    try:
        seen.explicit_elements(0)
    except (UnusualError, TooManyItemsError, struct.error):
        return None
    if seen.pixel_place is None or seen.pixel_bytes is None:
        return len(data)
    return min(len(data), seen.pixel_place + seen.pixel_bytes)


class _Walk:
    """A window on a file that moves forward, and what was found of what was wanted."""

    def __init__(self, file: RegularFile | bytes, wanted: Mapping[int, Wish]) -> None:
        """Look at an open file, or at bytes in memory."""
        self.wanted, self.start = wanted, 0
        if isinstance(file, bytes):
            self.number, self.size, self.piece = -1, len(file), file
        else:
            self.number, self.size, self.piece = file.descriptor, file.size, file.start()
        self.implicit = False
        self.items = 0
        self.raw: list[tuple[Wish, bytes]] = []
        self.sequences: set[str] = set()
        self.pixel_place: int | None = None
        self.pixel_bytes: int | None = None

    def at(self, place: int, count: int) -> int:
        """Return where `place` lies in the window, which is moved when fewer than `count` bytes are in it."""
        inside = place - self.start
        if inside >= 0 and inside + count <= len(self.piece):
            return inside
        if place + count > self.size:
            raise UnusualError
        self.start = place
        self.piece = os.pread(self.number, max(START_BYTES, count), place)
        if len(self.piece) < count:
            raise UnusualError
        return 0

    def run(self) -> PlainFile:
        if self.piece[128:132] != b"DICM":
            raise UnusualError
        syntax, media_storage, place = METAS.find(self.piece) or self.meta()
        if syntax != IMPLICIT and syntax not in EXPLICIT and not syntax.startswith(ENCAPSULATED):
            raise UnusualError
        self.implicit = syntax == IMPLICIT
        template = TEMPLATES.find(self.piece, place, self.wanted, implicit=self.implicit)
        if template is not None:
            return recall(template, self.piece, syntax, media_storage)
        (self.implicit_elements if self.implicit else self.explicit_elements)(place)
        if self.start == 0 and TEMPLATES.is_worth_learning(place, self.pixel_place):
            learn(self.piece, place, self.wanted, implicit=self.implicit)
        values = texts_of(self.raw)
        return PlainFile(
            syntax, media_storage, values, _empty(self.raw, values), frozenset(self.sequences), self.pixel_place,
            self.pixel_bytes,
        )  # fmt: skip

    def explicit_elements(self, place: int) -> None:
        """Look at the elements of an explicit data set; flat and terse, since it runs for every element."""
        wanted, raw = self.wanted, self.raw
        piece, start, before, size = self.piece, self.start, 0, self.size
        inside, last = place - start, len(piece) - 12
        while inside <= last or start + inside < size:
            if inside > last:
                inside = self.at(start + inside, min(12, size - start - inside))
                piece, start, last = self.piece, self.start, len(self.piece) - 12
                if last < 0:
                    raise UnusualError  # a last element without a value, at the very end
            group, number, vr, length = _tag_vr_length(piece, inside)
            tag = group << 16 | number
            if tag <= before:
                raise UnusualError
            before = tag
            if vr in _SHORT:
                inside += 8
                wish = wanted.get(tag)
                if wish is None:
                    inside += length
                    continue
                after = inside + length
                if wish.vr == vr and after <= last:  # the usual case, without a call
                    raw.append((wish, piece[inside:after]))
                    inside = after
                    continue
            elif vr in _LONG:
                length = _length(piece, inside + 8)[0]
                inside += 12
                if length != UNDEFINED and tag not in wanted and tag != _PIXEL_DATA:
                    inside += length
                    continue
            else:
                raise UnusualError
            noted = self.note(tag, vr, length, start + inside)
            if noted is None:
                return
            piece, start = self.piece, self.start
            inside, last = noted - start, len(piece) - 12
        if start + inside > size:
            raise UnusualError

    def implicit_elements(self, place: int) -> None:
        """Look at the elements of an implicit data set; or, slowly, of an explicit one."""
        before = 0
        while place < self.size:
            tag, vr, length, value = self.element(place)
            if tag <= before:
                raise UnusualError
            before, place = tag, value + length
            if tag in self.wanted or length == UNDEFINED or tag == _PIXEL_DATA:
                noted = self.note(tag, vr, length, value)
                if noted is None:
                    return
                place = noted
        if place > self.size:
            raise UnusualError

    def note(self, tag: int, vr: bytes, length: int, value: int) -> int | None:
        """Take an element that matters into account; return where the next one starts, None after the last."""
        if tag == _PIXEL_DATA:
            self.pixel_place, self.pixel_bytes = value, None if length == UNDEFINED else length
            return None
        wish = self.wanted.get(tag)
        if length == UNDEFINED:
            after = self.after_sequence(value, 1) if vr in (b"SQ", b"") else 0
            if wish or not after:
                raise UnusualError
            return after
        if wish:
            if vr and vr != wish.vr and not (wish.vr == EITHER and vr in (b"US", b"SS")):
                raise UnusualError
            if wish.kind == SEQUENCE:
                self.sequences.update([wish.keyword] if length else [])
            else:
                inside = self.at(value, length)
                self.raw.append((wish, self.piece[inside : inside + length]))
        return value + length

    def meta(self) -> tuple[str, str, int]:
        """Return transfer syntax, media storage class, and where the data set starts.

        pydicom reads every value of the file meta: what it could not is left to it.
        """
        piece, inside, syntax, media_storage, instance = self.piece, 132, b"", b"", (132, 132)
        while inside + 12 <= len(piece):
            group, number, vr, length = _tag_vr_length(piece, inside)
            if group != 2:
                found = _uid(syntax), _uid(media_storage), inside
                METAS.keep(piece, instance, found)
                return found
            if vr in _SHORT:
                inside += 8
            elif vr in _LONG:
                length = _length(piece, inside + 8)[0]
                inside += 12
            else:
                raise UnusualError
            value = piece[inside : inside + length]
            if (
                vr != _META.get(number, b"")
                or len(value) < length
                or (not value.isascii() and vr not in (b"OB", b"UL"))
            ):
                raise UnusualError
            if number == _SYNTAX:
                syntax = value
            elif number == _MEDIA_STORAGE_CLASS:
                media_storage = value
            elif number == _MEDIA_STORAGE_INSTANCE:
                instance = inside, inside + length
            elif vr == b"UL" and length != 4:
                raise UnusualError
            inside += length
        raise UnusualError

    def element(self, place: int) -> tuple[int, bytes, int, int]:
        """Return (tag, VR or nothing, length, where the value starts) of the element at `place`."""
        inside = self.at(place, 8)
        if self.implicit:
            group, number, length = _tag_length(self.piece, inside)
            return group << 16 | number, b"", length, place + 8
        group, number, vr, length = _tag_vr_length(self.piece, inside)
        if vr in _SHORT:
            return group << 16 | number, vr, length, place + 8
        if vr in _LONG:
            inside = self.at(place, 12)
            return group << 16 | number, vr, _length(self.piece, inside + 8)[0], place + 12
        raise UnusualError

    def after_sequence(self, place: int, depth: int) -> int:
        """Return where a sequence of undefined length ends, its delimiter included."""
        if depth > DEEPEST:
            raise UnusualError
        while True:
            inside = self.at(place, 8)  # may move the window: not within the next line
            group, number, length = _tag_length(self.piece, inside)
            tag = group << 16 | number
            place += 8
            if tag == _SEQUENCE_END:
                return place
            if tag != _ITEM:
                raise UnusualError
            self.items += 1
            if self.items > MOST_ITEMS:
                raise TooManyItemsError
            place = self.after_item(place, depth) if length == UNDEFINED else place + length

    def after_item(self, place: int, depth: int) -> int:
        while True:
            inside = self.at(place, 8)
            group, number, _ = _tag_length(self.piece, inside)
            if group << 16 | number == _ITEM_END:
                return place + 8
            _, vr, length, value = self.element(place)
            if length != UNDEFINED:
                place = value + length
            elif vr in (b"SQ", b""):
                place = self.after_sequence(value, depth + 1)
            else:
                raise UnusualError


class _Recorder(_Walk):
    """Walks over a header in memory and writes down which bytes decide its course."""

    def __init__(self, piece: bytes, wanted: Mapping[int, Wish]) -> None:
        super().__init__(piece, wanted)
        self.heads: list[tuple[int, int]] = []  # (place, length) of what decides where the next element lies
        self.values: list[tuple[Wish, int, int]] = []
        self.deciding = True

    def at(self, place: int, count: int) -> int:
        inside = super().at(place, count)
        if self.deciding:
            self.heads.append((inside, count))
        return inside

    def note(self, tag: int, vr: bytes, length: int, value: int) -> int | None:
        self.deciding = length == UNDEFINED  # else what is read is a value, which decides nothing
        noted = len(self.raw)
        after = super().note(tag, vr, length, value)
        self.deciding = True
        if len(self.raw) > noted:
            self.values.append((self.raw[-1][0], value, value + length))
        return after


TEMPLATES, METAS = Templates(), Metas()


def learn(piece: bytes, place: int, wanted: Mapping[int, Wish], *, implicit: bool) -> None:
    """Keep the course of a header that lies within the first bytes of its file, for its neighbours."""
    course = _Recorder(piece, wanted)
    course.implicit = implicit
    try:
        course.implicit_elements(place)
    except (UnusualError, TooManyItemsError, struct.error):
        return
    if course.pixel_place is not None:
        TEMPLATES.keep(Template.of(
            piece, place, wanted, course.heads, course.values, frozenset(course.sequences), course.pixel_place,
            course.pixel_bytes, implicit=implicit,
        ))  # fmt: skip


def recall(template: Template, piece: bytes, syntax: str, media_storage: str) -> PlainFile:
    """Take everything from a template that fits: neighbours of a series have the same elements, and most values.

    Args:
        template: Of the course that a walk over this file would take.
        piece: The first bytes of the file.
        syntax: Its transfer syntax.
        media_storage: Its media storage class.
    """
    cut = [piece[start:end] for _, start, end in template.values]
    before, values = template.latest, None
    changed: tuple[str, ...] = ()
    if before is not None:
        differing = [(template.values[k][0], cut[k]) for k, old in enumerate(before.cut) if cut[k] != old]
        values = texts_beside(before.values, differing, cut[0] if template.names_characters else b"")
        changed = tuple([wish[0] for wish, _ in differing])
    if before is None or values is None:
        raw = [(wish, value) for (wish, _, _), value in zip(template.values, cut, strict=True)]
        before, values = None, texts_of(raw)
        empty = _empty(raw, values)
    else:
        empty = before.empty
    template.latest = latest = Latest(cut, values, empty)
    return PlainFile(
        syntax, media_storage, values, empty, template.sequences, template.pixel_place, template.pixel_bytes,
        latest, before, changed,
    )  # fmt: skip


def _empty(raw: Sequence[tuple[Wish, bytes]], values: Mapping[str, str]) -> frozenset[str]:
    """Return the keywords of values that are there and hold nothing."""
    if len(values) == len(raw):
        return frozenset()
    return frozenset(wish.keyword for wish, _ in raw if wish.keyword not in values)


def _uid(value: bytes) -> str:
    if value.translate(None, b"0123456789. \0"):
        raise UnusualError  # several, or none
    return value.decode("ascii").strip(" \0")
