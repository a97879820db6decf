"""What the vocabulary of `tiny` may learn of notes: their words, but for those that tell whom they are about.

    note, what headers, table and folders tell -> the note with names, dates and numbers as X    (as a study is read)
    notes of a training part, names of all studies -> the words of each of its patients          (fold by fold)

A vocabulary lies in the model package in clear text. The network reads the notes as they are: a word that was left out
comes in smaller pieces. The rules are those of de-identification (see ingest.deidentify_note), and miss what they
miss; names that only the headers or the table of another study tell, a colleague's for instance, are left out as well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from medmllm.documents import PreprocessingContract, TextSettings
from medmllm.ingest.deidentify_spelling import SHORTEST_NAME, WORD, KnownNames, Likeness, folded
from medmllm.ingest.deidentify_words import ALSO_WORDS, NEVER_NAMES
from medmllm.ingest.masking import mask_known, told_by
from medmllm.preprocessing.text import TINY, read_text
from medmllm.records import Note, Study

EVERYDAY = NEVER_NAMES | ALSO_WORDS
"""Words that name nobody in a list of words, whoever is called like them."""


@dataclass(frozen=True, slots=True)
class Learnable:
    """What one study gives to a vocabulary."""

    text: str = field(repr=False)  # of its note, with names, dates and numbers as X, every character in its place
    names: frozenset[str] = field(repr=False)  # that its headers and its table row tell; folded


def learnable(note: Note | None, study: Study, contract: PreprocessingContract) -> Learnable | None:
    """Return what a vocabulary may learn of a study; None where none is learnt, or there is no note.

    Args:
        note: Of the study.
        study: Its headers are read.
        contract: Says whether a vocabulary is learnt.
    """
    if note is None or contract.text is None or contract.text.encoder != TINY:
        return None
    known = told_by(study)
    return Learnable(mask_known(note, known).text, frozenset(known.names))


def learnable_words(note: Note, masked: str, settings: TextSettings) -> set[str]:
    """Return the words of the sections that are read, without those of which a part is X in the masked text."""
    return {
        word
        for section in read_text(note, settings)
        for word, shown in zip(
            note.text[section.start : section.end].split(), masked[section.start : section.end].split(), strict=True
        )
        if word == shown
    }


def without_names(words: Mapping[str, set[str]], names: Iterable[str]) -> dict[str, set[str]]:
    """Return the words of each patient without those that hold a name, in whatever spelling; everyday words stay.

    >>> without_names({"pt-1": {"Mueller/Ott", "Long-standing"}, "pt-2": {"Muellers"}}, {"müller", "long"})
    {'pt-1': {'Long-standing'}, 'pt-2': set()}
    """
    known = KnownNames({name for name in names if len(name) >= SHORTEST_NAME and name not in EVERYDAY})
    named = {word for word in set().union(*words.values()) if _holds_a_name(word, known)}
    return {patient: own - named for patient, own in words.items()}


def _holds_a_name(word: str, known: KnownNames) -> bool:
    return known.without_spaces.search(folded(word)) is not None or any(
        known.likeness(part) >= Likeness.LIKE for part in WORD.findall(word) if folded(part) not in EVERYDAY
    )
