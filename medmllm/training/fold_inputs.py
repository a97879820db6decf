"""What one fold's network reads: tokenizers learnt from its training notes alone, samples with their tokens.

cohort, fold -> tokenizer -> samples
"""

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from medmllm.documents import PreprocessingContract
from medmllm.preprocessing.text import TINY, learn_tiny_tokenizer, load_tokenizer, read_text, tokenize_note
from medmllm.records import Sample
from medmllm.training.cohort import Cohort
from medmllm.training.splits import FoldSplit


def fold_tokenizer(cohort: Cohort, split: FoldSplit, contract: PreprocessingContract) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a fold: learnt from its training notes (`tiny`), or loaded; None without text."""
    text = contract.text
    if text is None:
        return None
    if text.encoder != TINY:
        return load_tokenizer(text.encoder, local_files_only=text.local_files_only)
    words: dict[str, set[str]] = {}
    for k in split.train:
        member = cohort.members[k]
        for section in [] if member.note is None else read_text(member.note, text):
            assert member.note is not None
            words.setdefault(member.sample.patient_key, set()).update(
                member.note.text[section.start : section.end].split()
            )
    # Each word counts once per patient: a name repeated in one patient's notes must not become a whole word piece.
    return learn_tiny_tokenizer([" ".join(sorted(own)) for own in words.values()], text)


def tokenize_cohort(
    cohort: Cohort, contract: PreprocessingContract, tokenizer: PreTrainedTokenizerBase | None
) -> list[Sample]:
    """Return every member's sample with this fold's tokens, and without what the arm does not read."""
    samples = []
    for member in cohort.members:
        sample = member.sample
        if contract.image is None:
            sample = replace(sample, image=None, channel_present=())
        if contract.text is not None and tokenizer is not None and member.note is not None:
            tokens = tokenize_note(member.note, contract.text, tokenizer)
            if tokens is not None:
                sample = replace(sample, token_ids=tokens[0], words=tokens[1])
        samples.append(sample)
    return samples
