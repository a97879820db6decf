"""Turn a note into word pieces, and remember which word each piece came from.

    Note -> the sections that are read -> word pieces with [CLS] and [SEP] -> token ids, Words

The `tiny` tokenizer learns a WordPiece vocabulary (Schuster & Nakajima, 2012) from the training
notes of one fold; any BERT-family tokenizer is loaded by hub name or from a folder.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from medmllm.documents import TextSettings
from medmllm.errors import ConfigError
from medmllm.records import Note, Section, Word

logger = logging.getLogger(__name__)

TINY = "tiny"
MOST_CHARACTERS = 1000  # distinct ones that the `tiny` vocabulary knows
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORD = re.compile(r"\S+")


def learn_tiny_tokenizer(texts: Iterable[str], settings: TextSettings) -> PreTrainedTokenizerFast:
    """Return a lower-casing WordPiece tokenizer whose vocabulary is learnt from `texts`; the same texts give the same.

    Args:
        texts: The notes of a fold's training part; never those of its tuning or test part.
        settings: Gives the vocabulary's size and the longest note.

    Raises:
        ConfigError: The texts hold no word at all.
    """
    lines = list(texts)
    learner = BertWordPieceTokenizer(lowercase=True)
    characters = _characters(lines, learner)
    if not characters:
        raise ConfigError("[text] encoder = 'tiny' learns its words from a fold's training notes, and there are none")
    # The learner numbers the characters in the order of a hash table, which changes from run to run, and breaks ties by
    # these numbers: handing them over as special tokens fixes both. The tokenizer below is made anew from the result.
    learner.train_from_iterator(
        lines,
        vocab_size=settings.tiny_vocabulary,
        min_frequency=2,
        special_tokens=[*_SPECIAL, *characters, *(f"##{character}" for character in characters)],
        show_progress=False,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=BertWordPieceTokenizer(vocab=learner.get_vocab(), lowercase=True)._tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=settings.max_tokens,
    )


def _characters(lines: Iterable[str], learner: BertWordPieceTokenizer) -> list[str]:
    """Return the most frequent characters of the texts, normalised as the learner does, in alphabetical order."""
    count: Counter[str] = Counter()
    for line in lines:
        for word, _ in learner.pre_tokenizer.pre_tokenize_str(learner.normalizer.normalize_str(line)):
            count.update(word)
    frequent = sorted(count, key=lambda character: (-count[character], character))
    return sorted(frequent[:MOST_CHARACTERS])


def load_tokenizer(encoder: str | Path, *, local_files_only: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a BERT-family encoder.

    Args:
        encoder: Hub name, e.g. `emilyalsentzer/Bio_ClinicalBERT`, or a local folder.
        local_files_only: Never ask the hub.

    Raises:
        ConfigError: It is not there, knows no word, or is no fast tokenizer (character spans are needed).
    """
    way_out = "Give a hub name with a network, a folder saved with save_pretrained, or 'tiny'."
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(encoder),
            local_files_only=local_files_only,
            use_fast=True,
            trust_remote_code=False,
            add_prefix_space=True,  # RoBERTa's pieces know the start of a word by the space before it
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"[text] encoder = {str(encoder)!r}: no tokenizer found there ({type(error).__name__}). {way_out}"
        ) from None
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a config.json alone
        raise ConfigError(f"[text] encoder = {str(encoder)!r}: no vocabulary found there. {way_out}")
    if not tokenizer.is_fast:
        raise ConfigError(f"[text] encoder = {str(encoder)!r}: its tokenizer gives no character spans (not 'fast')")
    return tokenizer


def read_text(note: Note, settings: TextSettings) -> list[Section]:
    """Return the spans of a note that the model reads, in order; empty when it has none of the sections asked for."""
    if not settings.sections:
        return list(note.sections) or [Section("", 0, len(note.text))]
    return [section for section in note.sections if section.name in settings.sections]


def has_words(note: Note, settings: TextSettings) -> bool:
    """Say whether a note holds anything that the model reads."""
    return bool(_spans(note, settings))


def _spans(note: Note, settings: TextSettings) -> list[tuple[int, int, str]]:
    return [
        (match.start(), match.end(), section.name)
        for section in read_text(note, settings)
        for match in _WORD.finditer(note.text, section.start, section.end)
    ]


def tokenize_note(
    note: Note, settings: TextSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[torch.Tensor, tuple[Word, ...]] | None:
    """Return a note's token ids, shape (tokens,), int64, and its words; None when nothing of it is read.

    Words are runs of non-space characters; each knows its span in the note, its section, and the
    positions of its word pieces. What exceeds `max_tokens` is cut and counted in the log.
    """
    words = _spans(note, settings)
    if not words:
        return None
    encoded = tokenizer(
        [note.text[start:end] for start, end, _ in words],
        is_split_into_words=True,
        truncation=True,
        max_length=settings.max_tokens,
    )
    owners = encoded.word_ids()
    pieces: list[list[int]] = [[] for _ in words]
    for position, owner in enumerate(owners):
        if owner is not None:
            pieces[owner].append(position)
    kept = tuple(
        Word(start, end, section, tuple(own)) for (start, end, section), own in zip(words, pieces, strict=True) if own
    )
    if not kept:
        return None  # characters that the tokenizer does not count as text, e.g. zero-width ones
    if len(kept) < len(words):
        logger.info("a note was cut from %d to %d words (max_tokens = %d)", len(words), len(kept), settings.max_tokens)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64), kept
