"""Keep of a description the words that say how an image was made.

    "t2_tse_sag MEIER 14:30" -> words, each held against a closed list -> "t2_tse_sag"

A word that is not on the list is left out, whatever it is: a list of forbidden words is never complete. PS3.15 E.3.5,
Clean Descriptors Option.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from medmllm.deidentify_config import DescriptorRules
from medmllm.ingest.deidentify_identifiers import Identifiers

_PARTS = re.compile(r"([A-Za-z0-9.*+,]+|[^\W\d_]+)")
_NOT_BETWEEN = re.compile(r"[^ _\-/()\[\]=:]")
_LETTER = re.compile(r"[^\W\d_]")
LONGEST = 64


@dataclass(frozen=True)
class Descriptors:
    """A closed vocabulary."""

    rules: DescriptorRules = field(repr=False)

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(word.casefold() for word in self.rules.words)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{pattern})" for pattern in self.rules.patterns) or r"(?!)", re.IGNORECASE)

    def allows(self, word: str) -> bool:
        """Return whether a word is on the list or of an allowed form."""
        folded = word.casefold().strip(".,*+")
        return folded in self._words or self._pattern.fullmatch(folded) is not None

    def clean(self, text: str, known: Identifiers) -> str:
        """Return the allowed words of a text as they stand there; what held them together is kept where all of it is.

        Args:
            text: A description or the stem of a file name.
            known: Words that are left out even where the list allows them.
        """
        pieces = _PARTS.split(text)
        words = pieces[1::2]
        fine = [self.allows(word) and not known.in_text(word) for word in words]
        if not any(good and _LETTER.search(word) for word, good in zip(words, fine, strict=True)):
            return ""  # numbers alone describe nothing, and may be a date or a room
        numbers = [_LETTER.search(word) is None for word in words]
        in_a_row = any(one and next_ for one, next_ in pairwise(numbers))
        if all(fine) and not in_a_row:
            between = [_NOT_BETWEEN.sub(" ", piece) for piece in pieces[::2]]
            whole = "".join(part for pair in zip(between, [*words, ""], strict=True) for part in pair)
            return " ".join(whole.split())[:LONGEST]
        kept = [word for word, good, number in zip(words, fine, numbers, strict=True) if good and not number]
        return " ".join(kept)[:LONGEST]
