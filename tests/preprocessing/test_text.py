import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig, PreTrainedTokenizerBase

from medmllm.documents import TextSettings
from medmllm.errors import ConfigError
from medmllm.preprocessing.text import has_words, learn_tiny_tokenizer, load_tokenizer, read_text, tokenize_note
from medmllm.records import Note, Section

NOTES = ["Cough and fever. Spiculated nodule.", "No nodule, no fever. Cough.", "Spiculated mass; fever."]
TEXT = "HISTORY: Cough  (dry),\n\nno fever.\nFINDINGS: Spiculated nodule 8x7mm."
NOTE = Note(
    TEXT, (Section("history", 0, TEXT.index("FINDINGS")), Section("findings", TEXT.index("FINDINGS"), len(TEXT)))
)

WORD_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cough", "no", "fe", "##ver", ".", "nod", "##ule"]


def settings(**changes: object) -> TextSettings:
    plain = {
        "encoder": "tiny",
        "max_tokens": 64,
        "window": 64,
        "overlap": 0,
        "sections": (),
        "required": False,
        "tiny_vocabulary": 120,
        "local_files_only": True,
    }
    return TextSettings.model_validate(plain | changes)


@pytest.fixture(scope="module")
def tiny() -> PreTrainedTokenizerBase:
    return learn_tiny_tokenizer(NOTES, settings())


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """A vocabulary written by hand, so that the pieces are known."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORD_PIECES) + "\n")
    BertConfig(vocab_size=len(WORD_PIECES), hidden_size=8, num_attention_heads=1).save_pretrained(tmp_path)
    return tmp_path


def spelled(tokenizer: PreTrainedTokenizerBase, token_ids: object) -> list[str]:
    return tokenizer.convert_ids_to_tokens(token_ids)  # type: ignore[no-any-return]


def test_tiny_knows_the_words_it_was_given_and_no_others(tiny: PreTrainedTokenizerBase) -> None:
    known = tiny.get_vocab()
    assert {"cough", "fever", "nodule", "spiculated"} <= known.keys()  # seen twice or more
    assert "mass" not in known  # seen once: spelled from its letters
    assert not any("z" in piece for piece in known)  # a letter that no training note has
    assert spelled(tiny, tiny("Fever zebra")["input_ids"]) == ["[CLS]", "fever", "[UNK]", "[SEP]"]


def test_the_vocabulary_is_as_large_as_asked_when_the_notes_give_enough() -> None:
    many = [f"alpha{a}beta{b} gamma{b}delta{a}" for a in range(30) for b in range(30)]
    assert len(learn_tiny_tokenizer(many, settings(tiny_vocabulary=100))) == 100


def test_the_same_notes_give_the_same_vocabulary_in_every_process(tiny: PreTrainedTokenizerBase) -> None:
    # The learner's hash tables are seeded anew in each process: asking twice in one would show nothing.
    code = (
        "import json, sys; from medmllm.documents import TextSettings; from medmllm.preprocessing import text;"
        "notes, settings = json.load(sys.stdin);"
        "print(json.dumps(text.learn_tiny_tokenizer(notes, TextSettings(**settings)).get_vocab()))"
    )
    given = json.dumps([NOTES, settings().model_dump()])
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == tiny.get_vocab()


def test_tiny_without_any_training_note_is_refused() -> None:
    with pytest.raises(ConfigError, match="training notes, and there are none"):
        learn_tiny_tokenizer(["", " \n"], settings())


def test_a_note_is_framed_by_its_special_tokens(tiny: PreTrainedTokenizerBase) -> None:
    found = tokenize_note(NOTE, settings(), tiny)
    assert found is not None
    pieces = spelled(tiny, found[0].tolist())
    assert (pieces[0], pieces[-1]) == ("[CLS]", "[SEP]")
    assert tiny.pad_token_id == 0


def test_every_word_knows_its_span_its_section_and_its_pieces() -> None:
    tiny = learn_tiny_tokenizer([TEXT], settings(tiny_vocabulary=70))  # its letters, and few longer pieces
    found = tokenize_note(NOTE, settings(), tiny)
    assert found is not None
    token_ids, words = found
    assert [TEXT[word.start : word.end] for word in words] == TEXT.split()
    assert [word.section for word in words] == ["history"] * 5 + ["findings"] * 4
    pieces = spelled(tiny, token_ids.tolist())
    for word in words:
        joined = "".join(pieces[position].removeprefix("##") for position in word.pieces)
        assert joined == TEXT[word.start : word.end].lower()
    # Each position but the two special ones belongs to exactly one word, in order.
    assert [position for word in words for position in word.pieces] == list(range(1, len(pieces) - 1))


def test_pieces_are_those_of_the_vocabulary(bert_folder: Path) -> None:
    tokenizer = load_tokenizer(bert_folder, local_files_only=True)
    found = tokenize_note(Note("No fever. nodule", ()), settings(), tokenizer)
    assert found is not None
    token_ids, words = found
    assert spelled(tokenizer, token_ids.tolist()) == ["[CLS]", "no", "fe", "##ver", ".", "nod", "##ule", "[SEP]"]
    assert [(word.start, word.end, word.pieces) for word in words] == [
        (0, 2, (1,)),
        (3, 9, (2, 3, 4)),
        (10, 16, (5, 6)),
    ]
    assert {word.section for word in words} == {""}


def test_only_the_sections_asked_for_are_read(tiny: PreTrainedTokenizerBase) -> None:
    found = tokenize_note(NOTE, settings(sections=("findings", "impression")), tiny)
    assert found is not None
    assert [TEXT[word.start : word.end] for word in found[1]] == ["FINDINGS:", "Spiculated", "nodule", "8x7mm."]
    assert [section.name for section in read_text(NOTE, settings(sections=("findings",)))] == ["findings"]
    [whole] = read_text(Note(TEXT, ()), settings())
    assert (whole.start, whole.end) == (0, len(TEXT))


@pytest.mark.parametrize(
    ("note", "sections"),
    [(NOTE, ("impression",)), (Note(" \n\t ", ()), ()), (Note(TEXT, ()), ("history",)), (Note("", ()), ())],
)
def test_a_note_with_nothing_to_read_gives_nothing(
    tiny: PreTrainedTokenizerBase, note: Note, sections: tuple[str, ...]
) -> None:
    assert tokenize_note(note, settings(sections=sections), tiny) is None
    assert not has_words(note, settings(sections=sections))
    assert has_words(NOTE, settings())


def test_characters_that_become_no_piece_are_no_text(tiny: PreTrainedTokenizerBase) -> None:
    assert tokenize_note(Note("\u200b \ufeff", ()), settings(), tiny) is None
    found = tokenize_note(Note("fever \u200b cough", ()), settings(), tiny)
    assert found is not None
    assert [(word.start, word.end) for word in found[1]] == [(0, 5), (8, 13)]


def test_a_long_note_is_cut_and_the_log_counts_words_but_shows_none(
    tiny: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="medmllm")
    found = tokenize_note(Note("fever cough fever cough fever", ()), settings(max_tokens=5), tiny)
    assert found is not None
    token_ids, words = found
    assert spelled(tiny, token_ids.tolist()) == ["[CLS]", "fever", "cough", "fever", "[SEP]"]
    assert [word.pieces for word in words] == [(1,), (2,), (3,)]
    [record] = [record for record in caplog.records if record.name == "medmllm.preprocessing.text"]
    assert "from 5 to 3 words (max_tokens = 5)" in record.getMessage()
    assert "fever" not in record.getMessage()


def test_a_saved_tiny_tokenizer_is_loaded_by_its_folder_unchanged(
    tiny: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tiny.save_pretrained(str(tmp_path))
    again = load_tokenizer(tmp_path, local_files_only=True)
    odd = Note("Cöugh FEVER\u2014nodule 東 8x7mm", ())
    before, after = tokenize_note(odd, settings(), tiny), tokenize_note(odd, settings(), again)
    assert before is not None
    assert after is not None
    assert before[0].tolist() == after[0].tolist()
    assert before[1] == after[1]


def test_words_of_a_byte_level_vocabulary_begin_with_their_space(tmp_path: Path) -> None:
    # RoBERTa (RadBERT and others): "Ġfever" is the word, "fever" a later part of another word.
    merges = ["f e", "fe v", "fev e", "feve r", "Ġ fever"]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"fevr", "fe", "fev", "feve", "fever", "Ġfever"]
    (tmp_path / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta", "vocab_size": len(pieces)}))
    tokenizer = load_tokenizer(tmp_path, local_files_only=True)
    found = tokenize_note(Note("fever fever", ()), settings(), tokenizer)
    assert found is not None
    assert spelled(tokenizer, found[0].tolist()) == ["<s>", "Ġfever", "Ġfever", "</s>"]


@pytest.mark.parametrize("what", ["nowhere", "empty", "config alone"])
def test_a_folder_without_a_tokenizer_is_refused_and_tells_the_way_out(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "encoder"
    if what != "nowhere":
        folder.mkdir()
    if what == "config alone":  # of this, transformers makes a tokenizer that knows no word and says nothing
        BertConfig().save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"\[text\] encoder = .*encoder'.*save_pretrained, or 'tiny'"):
        load_tokenizer(folder, local_files_only=True)


def test_code_beside_a_tokenizer_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "odd", "auto_map": {"AutoTokenizer": ["mine.Mine", None], "AutoConfig": "mine.C"}})
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}})
    )
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: ...\nclass C: ...\n")
    with pytest.raises(ConfigError):
        load_tokenizer(tmp_path, local_files_only=True)
    assert not (tmp_path / "ran").exists()
