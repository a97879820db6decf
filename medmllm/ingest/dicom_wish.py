"""Say which elements of a header are wanted, and turn their values into text as pydicom would.

keywords -> tag -> Wish; Wish, bytes -> text. What is out of the ordinary is left to pydicom.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword

CHARACTER_SETS = {b"": "latin-1", b"ISO_IR 6": "latin-1", b"ISO_IR 100": "latin-1", b"ISO_IR 192": "utf-8"}
EITHER = b"US or SS"  # as Pixel Representation says; given here as unsigned, whatever it says
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FD": "d", "FL": "f",
            EITHER.decode(): "H"}  # fmt: skip
SEQUENCE, _BINARY, _TEXT, _NUMERAL, _PLAIN = range(5)
REMEMBERED = 8192  # values; neighbours have most of them in common
SHORT_BYTES = 256  # longer ones are not kept in mind
_DECIMAL, _INTEGER = rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", rb"[+-]?\d+"
_ORDINARY = {  # several UIDs, white space that pydicom takes off and numbers that are none are left to it
    b"UI": re.compile(rb"[0-9. \0]*"),
    **{
        vr: re.compile(rb" *(?:%b *)?(?:\\ *(?:%b *)?)*" % (number, number))
        for vr, number in ((b"DS", _DECIMAL), (b"IS", _INTEGER))
    },
}


CHARACTER_SET = "SpecificCharacterSet"


class UnusualError(Exception):
    """Something that is left to pydicom."""


class Wish(NamedTuple):
    """One element that `walk` is asked for."""

    keyword: str
    vr: bytes
    kind: int  # how its value becomes text
    unpack: struct.Struct | None  # of a binary number


def compile_keywords(keywords: tuple[str, ...]) -> Mapping[int, Wish]:
    """Return what `walk` asks for, by tag."""
    found = {}
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        vr = dictionary_VR(tag)
        letter = _NUMBERS.get(vr)
        found[tag] = Wish(keyword, vr.encode(), _kind(vr), struct.Struct(f"<{letter}") if letter else None)
    return found


def _kind(vr: str) -> int:
    if vr == "SQ":
        return SEQUENCE
    if vr in _NUMBERS:
        return _BINARY
    if vr in ("LO", "SH", "PN", "ST", "LT", "UC", "UT"):
        return _TEXT
    return _NUMERAL if vr in ("DS", "IS") else _PLAIN


def texts_of(raw: Sequence[tuple[Wish, bytes]]) -> dict[str, str]:
    """Return values as pydicom would print them."""
    found: dict[str, str] = {}
    named: bytes = b""
    for wish, value in raw:
        keyword = wish[0]
        if keyword == CHARACTER_SET:  # the first of all wanted elements
            named = value.strip(b" \0")
        text = (_text_of if len(value) <= SHORT_BYTES else _text_of.__wrapped__)(wish, value, named)
        if text:
            found[keyword] = text
    return found


def texts_beside(
    values: Mapping[str, str], changed: Sequence[tuple[Wish, bytes]], character_set: bytes
) -> dict[str, str] | None:
    """Return the texts of a file that has the values of another one, but for some.

    Args:
        values: The other one's, as of `texts_of`.
        changed: What is not the same.
        character_set: The value of Specific Character Set in both; empty when there is none.

    Returns:
        As `texts_of`; None where it has to be asked: the character set has changed, or what is empty has.
    """
    found = dict(values)
    named = character_set.strip(b" \0")
    for wish, value in changed:
        keyword = wish[0]
        text = (_text_of if len(value) <= SHORT_BYTES else _text_of.__wrapped__)(wish, value, named)
        if keyword == CHARACTER_SET or not text or keyword not in found:
            return None
        found[keyword] = text
    return found


@lru_cache(REMEMBERED)
def _text_of(wish: Wish, value: bytes, named: bytes) -> str:
    """Return one value as text.

    Args:
        wish: What it is.
        value: As in the file.
        named: The character sets that the file names.
    """
    _, vr, kind, unpack = wish
    if kind == _BINARY:
        assert unpack is not None  # of this kind only
        numbers = [number for (number,) in unpack.iter_unpack(value)]  # struct.error where it does not divide
        text = "\\".join(map(str, numbers))
    elif kind == _TEXT:
        if vr == b"PN" and (b"\\" in value or value.rstrip(b" \0").endswith(b"=")):
            raise UnusualError  # several names, or an empty part: pydicom has a way of its own with them
        text = _decoded(value, named)
    else:
        ordinary = _ORDINARY.get(vr)
        if ordinary is not None and not ordinary.fullmatch(value.rstrip(b" \0")):
            raise UnusualError
        text = value.decode("ascii")
        if "\\" in text and kind == _NUMERAL:
            text = "\\".join(part.strip(" \0") for part in text.split("\\"))
    return text.strip(" \0")


def _decoded(value: bytes, named: bytes) -> str:
    character_set = CHARACTER_SETS.get(named)
    if character_set is None and not (value.isascii() and _holds_ascii(named)):
        raise UnusualError
    text = value.decode(character_set or "ascii")
    if "\x1b" in text:
        raise UnusualError
    return "\\".join(part.rstrip(" \0") for part in text.split("\\")) if "\\" in text else text


def _holds_ascii(character_sets: bytes) -> bool:
    """Say whether pydicom knows all of these, and ASCII means itself in them; ISO_IR 13 has a yen for a backslash."""
    names = [name.strip() for name in character_sets.decode("ascii").split("\\")]
    return all(name in python_encoding and not name.endswith(" 13") for name in names)
