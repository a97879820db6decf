"""Show a note without what tells who it is about, every character in its place.

    note, what headers, table and folders tell of the patient -> scrubbed text -> the same note, letters of it as X

The model reads the note as it is; pages that explain what it read show this one. Places stay, so that words keep their
attribution. The rules are those of de-identification (see deidentify_note), and miss what they miss.
"""

import re
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher

from medmllm.ingest.deidentify_dicom import identifiers_in
from medmllm.ingest.deidentify_identifiers import NAME_COLUMNS, NUMBER_COLUMNS, Identifiers
from medmllm.ingest.deidentify_note import NoteScrubber
from medmllm.ingest.deidentify_spelling import SHORTEST_NAME, WORD, folded
from medmllm.records import Note, Study

_TOKENS = re.compile(r"\s+|\w+|[^\w\s]")
_LETTER = re.compile(r"[\w\u0300-\u036f]")
_PLACEHOLDER = re.compile(r"\[[A-Z]+\]")
_CLASSES = re.compile(
    r"^(class|label|target|category|diagnosis|disease|finding|organ|region|modality|sequence|protocol)[ _-]?names?$",
    re.IGNORECASE,
)
"""Columns of names that are nobody's."""


def mask_note(note: Note, study: Study) -> Note:
    """Return the note with recognised names, dates, numbers and addresses as X; of the same length.

    Args:
        note: As the model read it.
        study: Whose headers, table row and folder names tell whom the note may name.
    """
    return mask_known(note, told_by(study))


def mask_known(note: Note, known: Identifiers) -> Note:
    """Return the note as `mask_note` does, of a study of which this much is known."""
    scrubber = NoteScrubber(known, shift_days=None, keep=frozenset(), counts=Counter())
    return replace(note, text=mask(note.text, scrubber.scrub(note.text)))


def mask(text: str, scrubbed: str) -> str:
    """Return a text with the words as X that another version of it lacks.

    >>> mask("Seen by Dr. Meier on 3 May.", "Seen by Dr. [NAME] on [DATE].")
    'Seen by Dr. XXXXX on X XXX.'
    """
    lines, others = text.split("\n"), scrubbed.split("\n")
    if len(lines) == len(others):
        return "\n".join(_mask_line(line, other) for line, other in zip(lines, others, strict=True))
    return _mask_line(text, scrubbed)


def _mask_line(text: str, scrubbed: str) -> str:
    if text == scrubbed:
        return text
    shown = _between_placeholders(text, scrubbed)
    return _what_both_have(text, scrubbed) if shown is None else shown


def _between_placeholders(text: str, scrubbed: str) -> str | None:
    """Return the text with all as X but what stands between the placeholders; None where that is not in it, in order.

    In time that grows with the text alone. Nothing shows but what the other version shows too.

    >>> _between_placeholders("Dr. Meier-Ott, MD, saw it", "Dr. [NAME], MD, saw it")
    'Dr. XXXXX-XXX, MD, saw it'
    """
    place, pieces = 0, []
    *kept, last = (piece.strip() for piece in _PLACEHOLDER.split(scrubbed))
    for number, piece in enumerate((*kept, last)):
        start = text.rfind(piece, place) if kept and number == len(kept) else _find(piece, text, place)
        if start < 0:
            return None
        pieces += [_LETTER.sub("X", text[place:start]), piece]
        place = start + len(piece)
    return "".join((*pieces, _LETTER.sub("X", text[place:])))


def _find(piece: str, text: str, place: int) -> int:
    """Return where a piece stands next, rather as whole words than within one."""
    before = r"(?<!\w)" if piece[:1].isalnum() else ""
    after = r"(?!\w)" if piece[-1:].isalnum() else ""
    whole = re.compile(f"{before}{re.escape(piece)}{after}").search(text, place)
    return whole.start() if whole else text.find(piece, place)


def _what_both_have(text: str, scrubbed: str) -> str:
    """Return the text with the words as X that the longest common sequence of words lacks."""
    before, after = _TOKENS.findall(text), _TOKENS.findall(scrubbed)
    shown = []
    for what, start, end, _, _ in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        piece = "".join(before[start:end])
        shown.append(piece if what == "equal" else _LETTER.sub("X", piece))
    return "".join(shown)


def told_by(study: Study) -> Identifiers:
    """Return what the headers of a study's series, its table row and its paths tell of the people it is about."""
    known = Identifiers()
    for series in study.series:
        if series.kind == "dicom":
            known.update(identifiers_in(series.files[0]))
    for column, cell in study.facts.items():
        if NAME_COLUMNS.search(column) and not _CLASSES.search(column):
            known.add_name(cell)
        elif NUMBER_COLUMNS.search(column):
            known.add_number(cell)
    for path in {*(file for series in study.series for file in series.files[:1]), *(note.file for note in study.notes)}:
        for part in (path.stem, path.parent.name, path.parent.parent.name):
            known.guesses |= {word for word in WORD.findall(folded(part)) if len(word) >= SHORTEST_NAME}
    return known
