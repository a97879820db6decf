"""Tell what is implausible about one note: nothing in it, another language, or little left of it.

    Note -> its words, headings left out -> QualityFindings; no finding ever quotes the note

The language is guessed from the commonest small words of each language, so a telegram style note often has none: no
guess is no finding. Placeholders are what de-identification leaves behind: XXXX, ___, [**Name**].
"""

import re
from collections.abc import Iterator

from medmllm.config import QualityBounds
from medmllm.records import Note, QualityFinding

LEAST_SMALL_WORDS = 4  # for a guess at the language
CLEARLY = 1.5  # times as many as of the next language

_HEADING = re.compile(r"\A\s*[^:\n]{1,60}:")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_PLACEHOLDER = re.compile(r"\bX{3,}\b|_{3,}|\[\*\*.*?\*\*\]|[\[<](?:REDACTED|NAME|DATE|ID|PHI)[\]>]", re.IGNORECASE)

_TABLE = """
de: der die das und ist nicht mit von bei kein keine ein eine im zur zum auf für des dem den wurde nach sich als auch
en: the and of is are no with in to for was there has have without or at this on from by not left right year
es: el la los las y de del con sin en por para una un se no es que como al lo ha paciente
fr: le la les et de du des avec sans dans pour une un est pas sur au aux ou par que ne qui il
it: il lo la gli le e di del della con senza in per una un non è sono da alla nel nella che si
nl: de het een en van met zonder in voor is niet geen bij op te aan wordt naar of dat uit links
pt: o a os as e de do da dos das com sem em por para uma um não é no na que se ao foi são
"""
SMALL_WORDS = {
    language: frozenset(words.split())
    for language, _, words in (line.partition(": ") for line in _TABLE.split("\n")[1:-1])
}
"""Language -> words too common to be about anything."""


def check_note(note: Note | None, where: str, bounds: QualityBounds) -> Iterator[QualityFinding]:
    """Yield what is implausible about a study's note.

    Args:
        note: All notes of the study as one; None when the files hold white space alone.
        where: study_key.
        bounds: Of the policy.
    """
    if note is None or not note.text.strip():
        yield QualityFinding("note_empty", where, 0.0, 1.0, "the note holds no words")
        return
    if note.guessed_encoding:
        reason = (f"the note is no Unicode text and was read as {note.guessed_encoding}: look at accented letters, or "
                  "save it as UTF-8")  # fmt: skip
        yield QualityFinding("note_encoding", where, None, None, reason)
    body = body_of(note)
    words = _WORD.findall(body)
    if not words:
        yield QualityFinding("note_only_headings", where, 0.0, 1.0, "the note has headings and no words below them")
        return
    if len(words) < bounds.note_words:
        reason = f"the note has {len(words)} words besides headings (bound {bounds.note_words})"
        yield QualityFinding("note_too_short", where, float(len(words)), float(bounds.note_words), reason)
    language = guess_language(body)
    if language is not None and language not in bounds.note_languages:
        share = _small_words(words)[language] / len(words)
        reason = (
            f"the note seems to be written in '{language}' ({share:.0%} of its words are small words of it), not in "
            f"{', '.join(bounds.note_languages)}"
        )
        yield QualityFinding("note_language", where, share, None, reason)
    share = placeholder_share(body)
    if share > bounds.placeholder_share:
        reason = f"{share:.0%} of the note's words are placeholders like XXXX (bound {bounds.placeholder_share:.0%})"
        yield QualityFinding("note_placeholders", where, share, bounds.placeholder_share, reason)


def body_of(note: Note) -> str:
    """Return the text of a note without the headings of its sections."""
    parts = []
    for section in note.sections:
        text = note.text[section.start : section.end]
        parts.append(_HEADING.sub("", text, count=1) if section.name else text)
    return "\n".join(parts) if note.sections else note.text


def placeholder_share(text: str) -> float:
    """Return which share of the words of a text are placeholders.

    >>> placeholder_share("XXXX with [**First Name**], cough")
    0.5
    """
    placeholders = len(_PLACEHOLDER.findall(text))
    words = len(_WORD.findall(_PLACEHOLDER.sub(" ", text)))
    return placeholders / max(placeholders + words, 1)


def guess_language(text: str) -> str | None:
    """Return the language whose small words are clearly the most, or None.

    >>> guess_language("Kein Nachweis einer Blutung, die Ventrikel sind nicht erweitert und das Mark ist homogen.")
    'de'
    >>> guess_language("Stable nodule, RUL.") is None
    True
    """
    counts = sorted(((n, language) for language, n in _small_words(_WORD.findall(text)).items()), reverse=True)
    (most, language), (next_most, _) = counts[0], counts[1]
    return language if most >= LEAST_SMALL_WORDS and most >= CLEARLY * next_most else None


def _small_words(words: list[str]) -> dict[str, int]:
    lower = [word.lower() for word in words]
    return {language: sum(word in small for word in lower) for language, small in SMALL_WORDS.items()}
