"""Read a clinical note and find its sections.

    bytes -> text -> headings at line starts -> sections as spans of the text -> Note

A heading is a line start in upper or title case, of at most five words and a colon, that holds a word of WORDS, or any
words in capitals. What it plainly names gets one name (CLINICAL HISTORY and HPI are "history"); others keep the words
that WORDS and BESIDE know. Capitals without a known word are called "other": they may be a person's name, and what
follows must not be taken for part of the section before. Nothing is removed from the text.
"""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, register_error
from collections.abc import Sequence
from pathlib import Path

from medmllm.errors import NoteError
from medmllm.ingest.opening import one_error, open_regular
from medmllm.records import Note, Section

LARGEST_NOTE_BYTES = 1_000_000
OTHER = "other"
GAP = "\n\n"  # between the notes of one study

WORDS = frozenset({
    "addendum", "allergies", "allergy", "assessment", "background", "comment", "comments", "comparison",
    "complaint", "complications", "conclusion", "conclusions", "contrast", "data", "description", "details",
    "diagnosis", "diagnoses", "discussion", "exam", "examination", "examinations", "findings", "finding",
    "followup", "follow-up", "history", "hpi", "hx", "impression", "impressions", "indication", "indications",
    "information", "interpretation", "labs", "laboratory", "limitations", "medication", "medications",
    "medicines", "method", "methods", "narrative", "note", "opinion", "outcome", "pathology", "plan", "pmh",
    "presentation", "procedure", "procedures", "prognosis", "protocol", "question", "reason", "recommendation",
    "recommendations", "report", "result", "results", "review", "studies", "study", "summary", "surgery",
    "symptoms", "technique", "techniques", "treatment",
})  # fmt: skip
"""A heading holds at least one of these."""

BESIDE = frozenset({
    "a", "abdominal", "additional", "and", "birth", "brain", "case", "cardiac", "chest", "chief", "clinical",
    "ct", "cxr", "differential", "dental", "family", "final", "for", "further", "histology", "illness", "image",
    "imaging", "in", "initial", "lab", "medical", "mr", "mri", "neuro", "neurological", "of", "on", "or",
    "past", "patient", "pelvic", "pertinent", "pet", "physical", "pre", "prenatal", "present", "preliminary",
    "provisional", "radiologic", "radiological", "radiology", "reader", "relevant", "social", "surgical", "the",
    "to", "ultrasound", "us", "with",
})  # fmt: skip
"""Words that may stand beside them in the name of a section; any other word is left out of it."""

SAME = {
    "comparisons": "comparison",
    "conclusion": "impression",
    "conclusions": "impression",
    "examination": "exam",
    "physical exam": "exam",
    "physical examination": "exam",
    "finding": "findings",
    "impressions": "impression",
    "indications": "indication",
    "clinical indication": "indication",
    "clinical indications": "indication",
    "reason for exam": "indication",
    "reason for examination": "indication",
    "reason for study": "indication",
    "reason for the exam": "indication",
    "clinical information": "history",
    "clinical data": "history",
    "techniques": "technique",
}
"""Heading -> the one name of what it plainly is; one with the word "history" (hx, hpi, pmh) is "history"."""

# Between words any space but a line end: word processors put no-break spaces, and a form feed starts a page.
_HEADING = re.compile(r"^[^\S\n]*(?P<words>[A-Z][A-Za-z/&'-]*(?:[^\S\n]+[A-Za-z/&'()-]+){0,4})[^\S\n]*:", re.MULTILINE)
_MARKS = {BOM_UTF16_LE: "utf-16", BOM_UTF16_BE: "utf-16", BOM_UTF8: "utf-8"}
"""What a file starts with that says its encoding; what Windows calls Unicode starts with one of the first two."""
_SMALL = frozenset({"a", "and", "for", "in", "of", "on", "or", "the", "to", "with"})


def read_note(path: Path) -> Note | None:
    """Return the note in a text file, or None when it holds only white space.

    UTF-8 with or without a byte order mark, UTF-16 with one; else Windows-1252, but for what is UTF-8 in it, which the
    note then tells. Line ends become newlines, and marks within the text, as of files that were put together, are left
    out.

    Raises:
        NoteError: Larger than 1 MB, not text, not what its mark says, or not readable.
    """
    with open_regular(path) as stream, one_error(NoteError, "the note cannot be read"):
        data = stream.read(LARGEST_NOTE_BYTES + 1)
    if len(data) > LARGEST_NOTE_BYTES:
        raise NoteError(f"the note is larger than {LARGEST_NOTE_BYTES:,} bytes", code="note_too_large")
    text, guessed = _decode(data)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    return Note(text, tuple(find_sections(text)), guessed_encoding=guessed) if text.strip() else None


def _decode(data: bytes) -> tuple[str, str | None]:
    """Return the text, and the encoding that was guessed where the bytes are no Unicode text.

    Only bytes without a mark are guessed at: read as Windows-1252, a mark would stand before the first heading and hide
    it, and what it opens would count to no section. One wrong byte, where a note was cut within a letter or put
    together of two, is no reason to misread all others, names among them.
    """
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    guessed = None
    try:
        text = data.decode(marked or "utf-8")
    except UnicodeDecodeError as error:
        if marked:
            where = f"from byte {error.start + 1} of {len(data)} on it is none"
            reason = f"the note's mark says {marked.upper()}, and {where}: it was cut short or mixed. Save it as UTF-8"
            raise NoteError(reason, code="note_not_text") from None
        try:
            text, guessed = data.decode("utf-8", _WINDOWS), "Windows-1252"
        except UnicodeDecodeError:
            raise _not_text() from None
    if any(ord(character) < 32 and character not in "\t\n\r\f\v" for character in text):
        raise _not_text()
    return text, guessed


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    """Return bytes that are no UTF-8 as Windows-1252, and where to go on; raises where they are not that either."""
    assert isinstance(error, UnicodeDecodeError)  # for the type checker: registered for decoding alone
    return error.object[error.start : error.end].decode("cp1252"), error.end


_WINDOWS = "medmllm_windows_1252"
register_error(_WINDOWS, _as_windows)


def _not_text() -> NoteError:
    return NoteError("the note is not text: it holds control characters. Save it as UTF-8", code="note_not_text")


def find_sections(text: str) -> list[Section]:
    """Return the sections of a note, in order; together they span the whole text.

    >>> find_sections("For Dr. N.\\nCLINICAL HISTORY: cough\\n")
    [Section(name='', start=0, end=11), Section(name='history', start=11, end=35)]
    """
    marks = [(found.start(), name) for found in _HEADING.finditer(text) if (name := name_heading(found["words"]))]
    if not marks or marks[0][0] > 0:
        marks.insert(0, (0, ""))
    ends = [start for start, _ in marks[1:]] + [len(text)]
    return [Section(name, start, end) for (start, name), end in zip(marks, ends, strict=True) if end > start]


def name_heading(words: str) -> str | None:
    """Return the name of the section that a heading opens, or None when these words are no heading.

    >>> name_heading("CLINICAL HISTORY"), name_heading("Reason for Exam"), name_heading("Differential Diagnosis")
    ('history', 'indication', 'differential diagnosis')
    >>> name_heading("LUNGS"), name_heading("Seen by"), name_heading("Note that the findings")
    ('other', None, None)
    """
    parts = words.split()
    if not all(part[0].isupper() or part[0] in "(&/" or part in _SMALL for part in parts):
        return None
    plain = " ".join(parts).lower()
    kept = [word for word in re.split(r"[ /()&]+", plain) if word in WORDS or word in BESIDE]
    if WORDS.isdisjoint(kept):
        return OTHER if words.isupper() and len(words) >= 4 else None
    if not {"history", "hx", "hpi", "pmh"}.isdisjoint(kept):
        return "history"
    name = " ".join(kept)
    return SAME.get(name, name)


def join_notes(notes: Sequence[Note]) -> Note | None:
    """Return several notes of one study as one, a blank line between, or None when there are none."""
    if len(notes) < 2:
        return notes[0] if notes else None
    sections: list[Section] = []
    start = 0
    for note in notes:
        sections += [Section(part.name, part.start + start, part.end + start) for part in note.sections]
        start += len(note.text) + len(GAP)
    guessed = next((note.guessed_encoding for note in notes if note.guessed_encoding), None)
    return Note(GAP.join(note.text for note in notes), tuple(sections), guessed_encoding=guessed)
