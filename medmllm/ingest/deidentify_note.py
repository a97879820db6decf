"""Replace in a note what tells who it is about; leave what tells what the matter is.

    text, known identifiers -> rules, one kind after the other -> text with [NAME], [DATE], [ID], [ADDRESS] ...

Rules, not a language model: titles, signatures, labels, number formats, and the names and numbers that the study's own
headers, folders and table tell. What is already replaced, by XXXX or in brackets, stays. The eighteen kinds of
identifiers: 45 CFR 164.514(b)(2). A name that nothing announces can be missed: read a sample before you share notes.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

from medmllm.ingest.deidentify_identifiers import SHORTEST_DIGITS, Identifiers
from medmllm.ingest.deidentify_patterns import (
    ADDRESSES,
    AGES,
    BORN,
    CREDITED,
    DATES,
    FIRST_AND_LAST,
    LABELLED_IDS,
    LONG_IDS,
    MAIL,
    MONTH_NUMBERS,
    NAMED,
    PATIENT_IS,
    PATIENT_NAMED,
    PHONES,
    SIGNED,
    SIGNED_BY,
    SOCIAL,
    TITLED,
    TITLED_IN_CAPITALS,
    TITLED_MANY,
    URL,
    WITH_CARETS,
)
from medmllm.ingest.deidentify_spelling import LETTERS, SHORTEST_NAME, WORD, Likeness, folded
from medmllm.ingest.deidentify_words import ALSO_WORDS, EPONYM_NOUNS, FIRST_NAMES, NEVER_NAMES, SURNAMES, UNITS

OLDEST_YEARS = 89
PAGE = 4000  # characters that the patterns look at together
_PLACEHOLDER = re.compile(r"X{3,}|\[[A-Z]+\]|_{3,}|\*{3,}")
_WORDS = re.compile(r"[^\W\d_][\w\u0300-\u036f'’-]*")
_AFTER_NAME = re.compile(rf"(?:['’´`]s(?![^\W_]))?(?P<noun>['’]?[ ]+(?:{EPONYM_NOUNS})\b)?", re.IGNORECASE)
_NOUN = re.compile(rf" (?:{EPONYM_NOUNS})$", re.IGNORECASE)
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")
_WORD_BEFORE, _WORD_AFTER = re.compile(rf"({LETTERS})[ _]$"), re.compile(rf"[ _]({LETTERS})")
_OPENING = re.compile(r"(?:^|[.:;!?•*#\n-]|\d\))\s*$")
_WHOLE_ONLY = (FIRST_AND_LAST, PATIENT_IS, PATIENT_NAMED, BORN, SIGNED_BY, WITH_CARETS)
_NEAR_NAMES = (TITLED, TITLED_IN_CAPITALS, TITLED_MANY, SIGNED, SIGNED_BY, CREDITED, FIRST_AND_LAST)
_PLAIN = re.compile(r"(?<=[a-z]{3}) (?=[a-z]{3} ?[a-z])")
_COUNTED = re.compile(
    r"\b(?:apgars?|ribs?|rippen?|segment[es]*|levels?|views?|version|section|kapitel|abschnitt)[ :]{0,3}$",
    re.IGNORECASE,
)
_COUNTS = re.compile(
    r"[ -]{0,2}(?:mm|cm|ml|mg|mcg|µg|kg|min(?:s|utes?)?|h|hrs?|hours?|stunden|days?|tage|weeks?|wochen|months?|monate|"
    r"years?|jahre|o['’]clock|degrees?)\b|[ ]?[%°]",
    re.IGNORECASE,
)  # not a date: Apgar 8/9/10, 10-12-15 mm, at 3/6/12 months
NEAR = 24  # characters around an everyday word in which another name makes it one


@dataclass(slots=True)
class NoteScrubber:
    """Scrubs the notes of one study."""

    known: Identifiers = field(repr=False)
    shift_days: int | None  # None: a date becomes [DATE]
    keep: frozenset[str]  # words that are never a name; lower case
    counts: Counter[str]  # kind of placeholder -> how many
    _likeness: dict[str, Likeness] = field(default_factory=dict, init=False, repr=False)  # of words that were seen
    _told: tuple[tuple[str, re.Pattern[str]], ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        longest_first = [
            (kind, word)
            for words, kind in ((self.known.numbers, "ID"), (self.known.phrases, "ADDRESS"))
            for word in sorted(words, key=len, reverse=True)
        ]
        self._told = tuple((kind, _alone(word)) for kind, word in longest_first)

    def scrub(self, text: str) -> str:
        """Return the text with placeholders; over its own result it changes nothing but shifted dates."""
        pieces = (self._numbers_and_announced(piece) for piece in _in_pieces(self._known_numbers(text)))
        return self._known_names("".join(pieces))

    def _numbers_and_announced(self, text: str) -> str:
        for kind, patterns in (("EMAIL", MAIL), ("URL", URL)):
            text = self._replace(kind, patterns, text)
        text = self._replace("ID", SOCIAL, self._labelled(text))  # some open with a birth date
        for pattern in DATES:
            text = pattern.sub(self._date, text)
        for kind, patterns in (("ADDRESS", ADDRESSES), ("PHONE", PHONES), ("ID", LONG_IDS)):
            text = self._replace(kind, patterns, text)
        for pattern in AGES:
            text = pattern.sub(self._age, text)
        for pattern in NAMED:
            text = pattern.sub(self._announced, text)
        return text

    # --- numbers -----------------------------------------------------------------------------

    def _replace(self, kind: str, patterns: Collection[re.Pattern[str]], text: str) -> str:
        def placeholder(found: re.Match[str]) -> str:
            self.counts[kind] += 1
            return f"{found['label']} [{kind}]" if "label" in found.re.groupindex else f"[{kind}]"

        for pattern in patterns:
            text = pattern.sub(placeholder, text)
        return text

    def _labelled(self, text: str) -> str:
        def placeholder(found: re.Match[str]) -> str:
            self.counts["ID"] += 1
            return f"{found['label']}[ID]"

        for pattern in LABELLED_IDS:
            text = pattern.sub(placeholder, text)
        return text

    def _known_numbers(self, text: str) -> str:
        for kind, pattern in self._told:
            text = self._replace(kind, (pattern,), text)
        return text

    def _date(self, found: re.Match[str]) -> str:
        parts = found.groupdict()
        around = found.string[max(0, found.start() - NEAR) : found.start()], found.string[found.end() :]
        if "short" in parts and (_COUNTED.search(around[0]) or _COUNTS.match(around[1])):
            return found[0]
        if parts.get("month") and not 1 <= int(parts["month"]) <= 12:
            return found[0]
        self.counts["DATE"] += 1
        if self.shift_days is None or not parts.get("year"):
            return "[DATE]"
        month = int(parts["month"]) if parts.get("month") else MONTH_NUMBERS.get(parts["name"][:3].casefold(), 0)
        try:
            return (date(int(parts["year"]), month, int(parts["day"])) + timedelta(days=self.shift_days)).isoformat()
        except (ValueError, OverflowError):
            return "[DATE]"

    def _age(self, found: re.Match[str]) -> str:
        if int(found["age"]) <= OLDEST_YEARS:
            return found[0]
        self.counts["AGE"] += 1
        return "[AGE]"

    # --- names -------------------------------------------------------------------------------

    def _announced(self, found: re.Match[str]) -> str:
        """Replace a name that its surroundings announce, up to the first word that is no name.

        A name before a credential (Radiologist Jane Roe, MD) is what follows the last such word instead.
        """
        name, text = found["name"], found.string
        words = () if found.re is WITH_CARETS and name[0].isalpha() else tuple(_WORDS.finditer(name))
        no_names = [word for word in words if self._is_no_name(word, found)]
        start, end = 0, no_names[0].start() if no_names else len(name)
        if found.re is CREDITED:
            start, end = max((word.end() for word in no_names), default=0), len(name)
        taken = name[start:end].strip(" \t,.-")
        if not re.search(r"[^\W\d_]", taken) or (found.re in _WHOLE_ONLY and no_names):
            return found[0]
        if found.re is CREDITED and (
            not _TWO_LETTERS.search(taken) or (not found["comma"] and len(_WORDS.findall(taken)) == 1)
        ):
            return found[0]  # Adenovirus NP swab
        after = _AFTER_NAME.match(text, found.end("name"))
        if found.re is FIRST_AND_LAST and (_NOUN.search(name) or (after is not None and after["noun"])):
            return found[0]
        self.counts["NAME"] += 1
        start = found.start("name") + name.index(taken, start)
        return f"{text[found.start() : start]}[NAME]{text[start + len(taken) : found.end()]}"

    def _is_no_name(self, word: re.Match[str], found: re.Match[str]) -> bool:
        """Return whether a word of what is announced is none of the name."""
        plain = word[0].casefold().rstrip("'s")
        if self._kept(word[0]) or _PLACEHOLDER.search(word[0]):
            return True
        if len(word[0]) == 1 or word[0].islower():  # an initial; de, and
            return False
        before = found["name"][: word.start()].rstrip(" .,").rpartition(" ")[2].casefold()
        opens = len(before) < 2 or before in FIRST_NAMES  # Dr. Smith: Low-dose CT, but Dr. Mary Long
        return plain in NEVER_NAMES and not (plain in SURNAMES and opens and found.re in _NEAR_NAMES)

    def _kept(self, word: str) -> bool:
        return word.casefold() in self.keep

    def _known_names(self, text: str) -> str:
        if not self.known.names and not self.known.guesses:
            return text
        text = self._replace("NAME", (self.known.spelt.without_spaces,), text)
        alike = {word for word in set(WORD.findall(text)) if self._like_a_name(word) is not Likeness.NONE}
        pieces: list[str] = []
        end = 0
        for found in WORD.finditer(text) if alike else ():
            after = _AFTER_NAME.match(text, found.end()) if found[0] in alike else None
            if after is None or after["noun"] or not self._is_known_name(found):
                continue
            pieces += text[end : found.start()], "[NAME]"
            end = after.end()
            self.counts["NAME"] += 1
        return "".join((*pieces, text[end:]))

    def _is_known_name(self, found: re.Match[str]) -> bool:
        """Return whether a word is a name of the patient, and stands there as one."""
        word, text = found[0], found.string
        likeness, everyday = self._like_a_name(word), folded(word) in NEVER_NAMES
        if _PLACEHOLDER.match(word) or _PLACEHOLDER.match(text, max(0, found.start() - 1)):
            return False
        opens = _OPENING.search(text, max(0, found.start() - NEAR), found.start()) is not None
        if likeness is Likeness.SAME:
            if everyday or len(word) < SHORTEST_NAME:
                return self._stands_as_a_name(found)
            also = folded(word) in ALSO_WORDS
            return not also or (word.istitle() and not opens) or self._stands_as_a_name(found)
        opens = opens and likeness is Likeness.SMALL
        return not everyday and ((not word[0].islower() and not opens) or self._is_beside_one(found))

    def _like_a_name(self, word: str) -> Likeness:
        if word not in self._likeness:
            likeness = self.known.spelt.likeness(word)
            if likeness < Likeness.LIKE:
                likeness = max(likeness, min(Likeness.LIKE, self.known.spelt_guesses.likeness(word)))
            self._likeness[word] = Likeness.NONE if self._kept(word) else likeness
        return self._likeness[word]

    def _stands_as_a_name(self, found: re.Match[str]) -> bool:
        """Return whether an everyday word stands beside another name of the patient, capitalised."""
        text = found.string
        around = text[max(0, found.start() - NEAR) : found.start()], text[found.end() : found.end() + NEAR]
        near = {*WORD.findall(around[0])[-1:], *WORD.findall(around[1])[:1]} - {found[0]}
        beside = any(self._like_a_name(word) is Likeness.SAME for word in near) or "[NAME]" in "".join(around)
        return beside and not found[0][0].islower()

    def _is_beside_one(self, found: re.Match[str]) -> bool:
        """Return whether a small word that may be a name has one right before or behind it."""
        text = found.string
        beside = (
            _WORD_BEFORE.search(text, max(0, found.start() - NEAR), found.start()),
            _WORD_AFTER.match(text, found.end()),
        )
        return any(one is not None and self._like_a_name(one[1]) is Likeness.SAME for one in beside)


def _alone(words: str) -> re.Pattern[str]:
    """Return what finds words, whatever the blanks between them, where no letter or digit goes on.

    Of a short number only what is not measured: a patient 1000 leaves b=1000, TR 1000 and 1000 ml.
    """
    loose = r"\s+".join(map(re.escape, words.split()))
    if words.isdigit() and len(words) < SHORTEST_DIGITS:
        loose = rf"(?<![=.,])(?<!\bb )(?<!\bT[REI] ){loose}(?![.,]\d|[ ]?(?:{UNITS})(?![^\W_]))"
    return re.compile(rf"(?<![^\W_]){loose}(?![^\W_])", re.IGNORECASE)


def _in_pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces that end with a line, or between plain words where a line is longer than a page."""
    start = 0
    while len(text) - start > PAGE:
        line_end = text.rfind("\n", start + 1, start + PAGE) + 1
        if not line_end:  # no name, date or number stands between two words in small letters
            line_end = max((cut.end() for cut in _PLAIN.finditer(text, start + PAGE - 1000, start + PAGE)), default=0)
        end = line_end or text.rfind(" ", start + 1, start + PAGE) + 1 or start + PAGE
        yield text[start:end]
        start = end
    yield text[start:]
