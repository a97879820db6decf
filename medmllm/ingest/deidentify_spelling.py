"""Tell whether a word is a name that is known in another spelling.

    name -> as it is written, without marks, spelt out (ü ue, å aa, đ dj) -> KnownNames -> is this word one, how surely?

One place for notes, headers, sidecars, paths and the pages that explain: both sides are folded alike, and a word of a
text keeps its place, as words are found in the text as it stands. A word is letters with their marks, composed or not
(Unicode NFC, NFD); digits, underscores and hyphens end it. Marks: Unicode Standard Annex 15; letters that no
normalisation takes apart (ø, ł, đ, ß) are listed here. Scripts that write no spaces are searched within words.
"""

import re
import unicodedata
from collections.abc import Collection
from enum import IntEnum
from functools import cached_property

from medmllm.ingest.deidentify_words import NEVER_NAMES, TRADE_WORDS

SHORTEST_NAME = 3  # letters; shorter ones are held against a note's exact spelling alone
SHORTEST_RESPELT = 5  # letters; a shorter word that is a name in another spelling alone (Löw, low) needs a capital
SHORTEST_LIKE = 4  # letters of a name with ae, oe, ue, aa read as one letter, or with an s behind it
SHORTEST_GLUED = 5  # letters; a shorter name stands within too many words
_HIDDEN = "\u00ad\u200b-\u200d\u2060\ufeff"  # soft hyphens and characters of no width, as copied text has them
_MARKS = "".join(sign for sign in map(chr, range(0x300, 0x1B00)) if unicodedata.category(sign) in ("Mn", "Mc"))
_JOINED = rf"{_MARKS}\u1dc0-\u1dff\u3099\u309a{_HIDDEN}"
SPACELESS_LETTERS = "\u0e00-\u0e7f\u3005\u3041-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f"
LETTERS = rf"[^\W\d_]+(?:[{_JOINED}]+[^\W\d_]*)*"
WORD = re.compile(LETTERS)
COMPOUND = re.compile(rf"{LETTERS}(?:['’´`‐-]{LETTERS})+")
SPACELESS = re.compile(rf"[{SPACELESS_LETTERS}]+")  # Han, kana, Hangul, Thai
HONORIFICS = "さん|さま|様|氏|君|殿|先生|女士|小姐|夫人|太太|씨|님"
_FORMAT = re.compile(rf"[{_HIDDEN}]")
_LETTERS = str.maketrans(
    {"ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h", "ı": "i", "ŋ": "n"}
)
_SPELT_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "đ": "dj"})
_AS_ONE = re.compile(r"(a)[ae]|(o)e|(?<![aeoq])(u)e")  # Bauer and Que have no ü


class Likeness(IntEnum):
    """How surely a word is a known name."""

    NONE = 0
    SMALL = 1  # if it stands like one, too: a short name in another spelling (Löw, low), or two that are glued
    LIKE = 2  # if it is written like a name: the s behind it, or its shorter spelling, may make it a word
    SAME = 3


def folded(text: str) -> str:
    """Return a text in lower case, composed, wide and narrow letters alike, without characters that are not seen.

    >>> folded("MU\u0308LLER"), folded("ﾔﾏﾀﾞ"), folded("Mül\u00adler")
    ('müller', 'ヤマダ', 'müller')
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", _FORMAT.sub("", text)).casefold())


def unmarked(text: str) -> str:
    """Return a folded text without marks.

    >>> [unmarked(folded(name)) for name in ("Çelik", "Wałęsa", "Größler", "Sørensen", "Nguyễn", "İnci")]
    ['celik', 'walesa', 'grossler', 'sorensen', 'nguyen', 'inci']
    """
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFD", text.translate(_LETTERS))
    return "".join(character for character in apart if not unicodedata.combining(character))


def spellings(name: str) -> frozenset[str]:
    """Return a name as it is, without marks, and with letters spelt out where people do; all in lower case.

    >>> sorted(spellings("Müller")), sorted(spellings("Åse")), sorted(spellings("Meier"))
    (['mueller', 'muller', 'müller'], ['aase', 'ase', 'åse'], ['meier'])
    """
    own = folded(name)
    return frozenset((own,) if own.isascii() else (own, unmarked(own), unmarked(own.translate(_SPELT_OUT))))


def shortened(spelt: str) -> str:
    """Return a spelling with ae, oe, ue and aa read as one letter, as those write who leave out marks.

    >>> [shortened(name) for name in ("mueller", "groessler", "aase", "bauer")]
    ['muller', 'grossler', 'ase', 'bauer']
    """
    return _AS_ONE.sub(lambda found: found[1] or found[2] or found[3], spelt)


class KnownNames:
    """The words of names, ready to be asked about the words of a text."""

    def __init__(self, names: Collection[str]) -> None:
        self._own = frozenset(map(folded, names))
        self.count = len(names)
        self._respelt = frozenset(spelt for name in self._own for spelt in spellings(name))
        short = ((shortened(spelt), spelt) for spelt in self._respelt)
        self._short = frozenset(one for one, spelt in short if one != spelt)
        self._longer = tuple(name for name in self._respelt | self._short if len(name) >= SHORTEST_GLUED)
        self._first_letters = frozenset(spelt[0] for spelt in self._respelt)
        self._longest = max(map(len, self._respelt), default=0)
        self._first_three = frozenset(spelt[:SHORTEST_NAME] for spelt in self._respelt)

    def likeness(self, word: str) -> Likeness:
        """Return how surely a word is one of the names.

        >>> known = KnownNames(["müller", "krawczyk", "löw", "zbigniew"])
        >>> [known.likeness(word).name for word in ("Mueller", "KRAWCZYKS", "low", "KrawczykZbigniew", "Müll")]
        ['SAME', 'LIKE', 'SMALL', 'SAME', 'NONE']
        """
        own = folded(word)
        if own[:1] not in self._first_letters and own[:1].isascii():
            return Likeness.NONE
        if own in self._own:
            return Likeness.SAME
        spelt = spellings(own)
        if not spelt.isdisjoint(self._respelt):
            return Likeness.SAME if len(own) >= SHORTEST_RESPELT else Likeness.SMALL
        if any(self._is_like(one) for one in spelt):
            return Likeness.LIKE
        if any(map(self._is_two, spelt)):
            return Likeness.SAME if len(own) >= SHORTEST_GLUED + SHORTEST_NAME else Likeness.SMALL
        return Likeness.NONE

    def _is_like(self, spelt: str) -> bool:
        short = shortened(spelt)
        if len(short) >= SHORTEST_LIKE and (short in self._short or (short != spelt and short in self._respelt)):
            return True
        stem = spelt[:-1]
        if not spelt.endswith("s") or len(stem) < SHORTEST_LIKE or {stem, spelt} & (NEVER_NAMES | TRADE_WORDS):
            return False
        return stem in self._respelt or stem in self._short

    def _is_two(self, spelt: str) -> bool:
        """Return whether two of the names make up a word."""
        if not 2 * SHORTEST_NAME <= len(spelt) <= 2 * self._longest or spelt[:SHORTEST_NAME] not in self._first_three:
            return False
        places = range(SHORTEST_NAME, len(spelt) - SHORTEST_NAME + 1)
        return any(spelt[:place] in self._respelt and spelt[place:] in self._respelt for place in places)

    def is_within(self, word: str) -> bool:
        """Return whether a word holds a longer name, in any of its spellings.

        >>> known = KnownNames(["müller", "ott"])
        >>> known.is_within("MUELLERCOIL"), known.is_within("PLOTTED")
        (True, False)
        """
        return any(name in spelt for spelt in spellings(word) - TRADE_WORDS for name in self._longer)

    @cached_property
    def without_spaces(self) -> re.Pattern[str]:
        """What finds the names that are written without spaces; one letter alone counts before an honorific."""
        names = sorted(filter(SPACELESS.fullmatch, self._own), key=len, reverse=True)
        forms = [rf"{_either(name)}(?=[ ]?(?:{HONORIFICS}))" if len(name) == 1 else _either(name) for name in names]
        return re.compile("|".join(forms) or r"(?!)")


def _either(name: str) -> str:
    return "|".join(map(re.escape, dict.fromkeys((name, unicodedata.normalize("NFD", name)))))
