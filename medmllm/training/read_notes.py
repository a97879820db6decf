"""Refuse notes of which nothing is read before anything is trained: other arms come first, and may take hours.

cohort, [text], arms -> a remark on how many notes lack what is read, or a refusal where all do
cohort, folds -> a refusal where `tiny` would find no words in a training part
"""

from collections.abc import Iterator, Sequence

from medmllm.documents import TextSettings
from medmllm.errors import ConfigError, SplitError
from medmllm.preprocessing.text import TINY, has_words
from medmllm.training.cohort import Cohort
from medmllm.training.learnt_words import READS_NOTES
from medmllm.training.repeats import repeats_of
from medmllm.training.splits import SplitPlan
from medmllm.training_config import Arm


def remark_unread(cohort: Cohort, text: TextSettings, arms: Sequence[Arm]) -> Iterator[str]:
    """Yield how many notes have none of the sections that are read; nothing where all sections are.

    Raises:
        ConfigError: None of the notes has any of them.
    """
    notes = [member.note for member in cohort.members if member.note is not None]
    if not notes or not text.sections or not READS_NOTES.intersection(arms):
        return
    unread = sum(not has_words(note, text) for note in notes)
    if unread == len(notes):
        there = sorted({section.name for note in notes for section in note.sections} - {""})
        raise ConfigError(
            f"[text] sections = {list(text.sections)}: none of the {len(notes)} notes has any of these, so nothing of "
            f"them would be read. Name some of those that they have ({', '.join(there) or 'none'}), take [] for all, "
            "or leave the arms out that read notes (text, fused)"
        )
    if unread:
        yield f"{unread} of {len(notes)} notes {'has' if unread == 1 else 'have'} none of [text] sections: not read."


def check_training_notes(cohort: Cohort, plan: SplitPlan, text: TextSettings, arms: Sequence[Arm]) -> None:
    """Refuse folds that leave `tiny` without a note to learn its words from.

    Raises:
        SplitError: Names the fold.
    """
    if text.encoder != TINY or not cohort.has_notes or not READS_NOTES.intersection(arms):
        return
    told = [member.note is not None and has_words(member.note, text) for member in cohort.members]
    for folds in repeats_of(plan):
        for fold in folds:
            if not any(told[k] for k in fold.train):
                raise SplitError(
                    f"{sum(told)} of {len(told)} studies have a note that is read, and the training part of fold "
                    f"{fold.name} has none, from which [text] encoder = 'tiny' learns its words: add notes, take a "
                    "pretrained encoder, or leave the arms out that read notes (text, fused)."
                )
