"""What one fold's network reads: tokenizer and table codes learnt from its training part, samples in their terms.

cohort, fold -> tokenizer, codes -> samples
"""

import logging
from collections import Counter
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from medmllm.documents import PreprocessingContract
from medmllm.preprocessing.table import code_values, learn_table_codes, unknown_categories
from medmllm.preprocessing.text import TINY, learn_tiny_tokenizer, load_tokenizer, tokenize_note
from medmllm.records import Sample
from medmllm.table_documents import TableCodes
from medmllm.training.cohort import Cohort
from medmllm.training.learnable import learnable_words, without_names
from medmllm.training.splits import FoldSplit

logger = logging.getLogger(__name__)


def fold_tokenizer(cohort: Cohort, split: FoldSplit, contract: PreprocessingContract) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a fold: learnt from its training notes (`tiny`), or loaded; None without text."""
    text = contract.text
    if text is None:
        return None
    if text.encoder != TINY:
        return load_tokenizer(text.encoder, local_files_only=text.local_files_only)
    words: dict[str, set[str]] = {}
    for member in (cohort.members[k] for k in split.train):
        if member.note is not None and member.learnable is not None:
            own = learnable_words(member.note, member.learnable.text, text)
            words.setdefault(member.sample.patient_key, set()).update(own)
    words = without_names(words, cohort.names)
    # Each word counts once per patient: a name repeated in one patient's notes must not become a whole word piece.
    return learn_tiny_tokenizer([" ".join(sorted(own)) for own in words.values()], text)


def fold_codes(cohort: Cohort, split: FoldSplit, contract: PreprocessingContract) -> TableCodes | None:
    """Return how a fold codes the table's columns, learnt from its training rows; None where no table is read."""
    if contract.table is None:
        return None
    train = [cohort.members[k] for k in split.train]
    patients = [member.sample.patient_key for member in train]
    return learn_table_codes([member.values for member in train], patients, contract.table)


def tokenize_cohort(
    cohort: Cohort,
    contract: PreprocessingContract,
    tokenizer: PreTrainedTokenizerBase | None,
    codes: TableCodes | None = None,
) -> list[Sample]:
    """Return every member's sample with this fold's tokens and cells, and without what the arm does not read.

    Categories that the fold's training part does not have are counted in the log, by column.
    """
    samples = []
    unknown: Counter[str] = Counter()
    for member in cohort.members:
        sample = member.sample
        if contract.image is None:
            sample = replace(sample, image=None, channel_present=())
        if contract.recording is None:
            sample = replace(sample, recording=None)
        if contract.text is not None and tokenizer is not None and member.note is not None:
            tokens = tokenize_note(member.note, contract.text, tokenizer)
            if tokens is not None:
                sample = replace(sample, token_ids=tokens[0], words=tokens[1])
        if codes is not None and member.values is not None:
            unknown.update(unknown_categories(member.values, codes))
            cells = code_values(member.values, codes)
            if cells is not None:
                sample = replace(sample, table=cells[0], cell_present=cells[1])
        samples.append(sample)
    for column, count in unknown.items():
        logger.warning("column %s: %d cells hold a category that the fold's training part lacks", column, count)
    return samples
