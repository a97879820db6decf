import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from medmllm.documents import TextSettings
from medmllm.errors import ConfigError, PackageError
from medmllm.model_documents import FoldModel, ModelCard
from medmllm.models.package import (
    CARD,
    FoldNetwork,
    build_network,
    check_package,
    digest_files,
    key_digest,
    load_package,
    new_text_network,
    weights_name,
    write_background,
    write_reference,
    write_weights,
)
from medmllm.models.prefix import PREFIX_TOKENS
from medmllm.preprocessing.sample import collate
from medmllm.preprocessing.text import load_tokenizer
from medmllm.provenance import file_digest
from medmllm.records import Note
from tests.models.small import (
    CLASSES,
    CONTRACT,
    NOTES,
    PARTS,
    TEXT,
    TOKENIZER,
    a_batch,
    a_card,
    a_member,
    a_sample,
    a_task,
    contract_of,
)

BACKGROUND = torch.arange(2 * 9 * 8 * 10, dtype=torch.float32).reshape(2, 9, 8, 10)


def write_package(folder: Path, arm: str = "fused", classes: tuple[str, ...] = CLASSES) -> list[FoldNetwork]:
    members = [a_member(arm, classes=classes, seed=seed) for seed in (1, 2)]
    for fold, member in enumerate(members):
        member.network.train()
        with torch.no_grad():
            member.network(a_batch(contract_of(arm)))  # so that running means of batch normalisation are not 0
        member.network.eval()
        write_weights(folder, fold, member)
    if arm != "text":
        write_background(folder, BACKGROUND)
    write_reference(folder, pd.DataFrame({"target": ["no", "yes"], "probability": [0.25, 0.75]}))
    write_card(folder, arm, classes)
    return members


def write_card(folder: Path, arm: str = "fused", classes: tuple[str, ...] = CLASSES, **changes: object) -> None:
    folds = tuple(
        FoldModel(
            fold=fold,
            weights=weights_name(fold),
            weights_sha256=file_digest(folder / weights_name(fold)),
            temperature=1.5,
            best_epoch=2,
            threshold=0.4,
        )
        for fold in (0, 1)
    )
    card = a_card(folds, contract_of(arm), classes, arm=arm, files=digest_files(folder))  # type: ignore[arg-type]
    card.model_copy(update=changes).write(folder / CARD)


@pytest.mark.parametrize("arm", ["image", "text", "fused"])
@pytest.mark.parametrize("classes", [CLASSES, ("low", "mid", "high")])
def test_a_package_gives_back_the_same_logits_to_the_last_bit(
    tmp_path: Path, arm: str, classes: tuple[str, ...]
) -> None:
    members = write_package(tmp_path, arm, classes)
    package = load_package(tmp_path)
    batch = a_batch(contract_of(arm))
    with torch.no_grad():
        for written, loaded in zip(members, package.folds, strict=True):
            assert torch.equal(written.network(batch), loaded.network(batch))
            assert not loaded.network.training
        assert not torch.equal(package.folds[0].network(batch), package.folds[1].network(batch))
    if arm == "text":
        assert package.background is None
    else:
        assert package.background is not None
        assert torch.equal(package.background, BACKGROUND)


@pytest.mark.parametrize(("encoder", "width"), [("efficientnet_b0", 8), ("swin_unetr", 12)])
def test_every_kind_of_image_encoder_comes_back_from_its_package(tmp_path: Path, encoder: str, width: int) -> None:
    parts: dict[str, object] = {"image_encoder": encoder, "image_width": width}
    member, batch = a_member("image", **parts), a_batch(contract_of("image"))
    member.network(batch)  # moves running means
    for fold in (0, 1):
        write_weights(tmp_path, fold, member)
    write_background(tmp_path, BACKGROUND)
    write_card(tmp_path, "image", model=PARTS.model_copy(update=parts))
    loaded = load_package(tmp_path).folds[0].network
    with torch.no_grad():
        assert torch.equal(loaded(batch), member.network.eval()(batch))


def test_a_package_gives_back_the_same_tokenizer(tmp_path: Path) -> None:
    write_package(tmp_path)
    note = "Marked COUGH, no nodüle 8x7."
    for fold in load_package(tmp_path).folds:
        assert fold.tokenizer is not None
        assert fold.tokenizer(note)["input_ids"] == TOKENIZER(note)["input_ids"]
        assert fold.pad_token_id == TOKENIZER.pad_token_id
    assert FoldNetwork(a_member("image").network, None).pad_token_id == 0


def test_a_package_holds_no_pickle(tmp_path: Path) -> None:
    write_package(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".parquet"}
    pickles = [path.name for path in files if path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")]
    assert pickles == []


def test_weights_in_another_memory_layout_are_written_alike(tmp_path: Path) -> None:
    member = a_member("image")
    write_weights(tmp_path / "a", 0, member)
    assert member.network.image_encoder is not None
    member.network.image_encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    write_weights(tmp_path / "b", 0, member)
    first, second = (load_file(tmp_path / name / weights_name(0)) for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_reference_table_comes_back(tmp_path: Path) -> None:
    write_package(tmp_path)
    table = pd.read_parquet(tmp_path / "reference.parquet")
    assert table["probability"].tolist() == [0.25, 0.75]
    assert list(table.columns) == ["target", "probability"]


def change_weights(folder: Path) -> None:
    state = load_file(folder / "fold_1.safetensors")
    state["fusion.out.bias"] = state["fusion.out.bias"] + 1e-6
    save_file(state, folder / "fold_1.safetensors")


def change_word(folder: Path) -> None:
    file = folder / "tokenizer" / "fold_0" / "tokenizer.json"
    file.write_text(file.read_text().replace('"cough"', '"couch"'))


def change_card(folder: Path, *keys: str, value: object) -> None:
    card = json.loads((folder / CARD).read_text())
    inner = card
    for key in keys[:-1]:
        inner = inner[key]
    assert inner[keys[-1]] != value
    inner[keys[-1]] = value
    (folder / CARD).write_text(json.dumps(card))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "other weights": (change_weights, r"fold_1\.safetensors of the model package was changed"),
    "cut weights": (lambda f: os.truncate(f / "fold_0.safetensors", 999), r"fold_0\.safetensors .* was changed"),
    "no weights": (lambda f: (f / "fold_1.safetensors").unlink(), r"lacks fold_1\.safetensors"),
    "other word": (change_word, r"tokenizer/fold_0/tokenizer\.json of the model package was changed"),
    "no tokenizer": (
        lambda f: (f / "tokenizer" / "fold_1" / "tokenizer.json").unlink(),
        r"lacks tokenizer/fold_1/tokenizer\.json",
    ),
    "one more file": (
        lambda f: (f / "tokenizer" / "fold_0" / "added_tokens.json").write_text("{}"),
        r"tokenizer/fold_0/added_tokens\.json of the model package is not in model\.json",
    ),
    "no background": (lambda f: (f / "background.safetensors").unlink(), r"lacks background\.safetensors"),
    "other background": (lambda f: write_background(f, BACKGROUND + 1), r"background\.safetensors .* was changed"),
    "no card": (lambda f: (f / CARD).unlink(), r"no model\.json in the --model folder"),
    "cut card": (lambda f: os.truncate(f / CARD, 99), r"model\.json is not a valid ModelCard"),
    "other contract": (
        lambda f: change_card(f, "contract", "image", "window", value=[-1.0, 1.0]),
        "preprocessing contract was changed",
    ),
    "other fingerprint": (
        lambda f: change_card(
            f, "contract_fingerprint", value=CONTRACT.model_copy(update={"text": None}).fingerprint
        ),
        "preprocessing contract was changed",
    ),
    "unlisted background": (
        lambda f: change_card(f, "files", value={}),
        r"does not list background\.safetensors",
    ),
    "other network": (
        lambda f: change_card(f, "model", "image_width", value=6),
        r"fold_0\.safetensors does not fit the network in model\.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_changed_package_is_refused_and_the_file_named(tmp_path: Path, damage: str) -> None:
    write_package(tmp_path)
    load_package(tmp_path)
    spoil, says = DAMAGES[damage]
    spoil(tmp_path)
    with pytest.raises(PackageError, match=says) as caught:
        load_package(tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_the_weights_that_were_checked_are_those_that_are_loaded(tmp_path: Path) -> None:
    write_package(tmp_path)
    card = ModelCard.read(tmp_path / CARD)
    second_only = card.model_copy(update={"folds": (card.folds[1].model_copy(update={"fold": 0}),)})
    second_only.write(tmp_path / CARD)
    found = load_package(tmp_path).folds[0].network.state_dict()["fusion.out.bias"]
    assert torch.equal(found, load_file(tmp_path / "fold_1.safetensors")["fusion.out.bias"])
    assert not torch.equal(found, load_file(tmp_path / "fold_0.safetensors")["fusion.out.bias"])


def test_check_package_passes_a_sound_package_and_digests_every_file_but_the_card(tmp_path: Path) -> None:
    write_package(tmp_path)
    card = ModelCard.read(tmp_path / CARD)
    assert check_package(tmp_path, card) is None
    assert set(card.files) == {
        "background.safetensors", "reference.parquet", "fold_0.safetensors", "fold_1.safetensors",
        *(f"tokenizer/fold_{k}/{name}.json" for k in (0, 1) for name in ("config", "tokenizer", "tokenizer_config")),
    }  # fmt: skip


def test_the_weights_digest_changes_with_any_folds_weights(tmp_path: Path) -> None:
    write_package(tmp_path)
    before = load_package(tmp_path).weights_digest
    assert len(before) == 64
    change_weights(tmp_path)
    write_card(tmp_path)
    assert load_package(tmp_path).weights_digest != before


def test_a_key_digest_is_the_sha256_of_the_key() -> None:
    # sha256("abc"), FIPS 180-2 appendix B.1
    assert key_digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """A pretrained encoder as a user may have it: config.json, model.safetensors, vocab.txt."""
    folder = tmp_path / "bert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cough", "no", "fever", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(6)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def pretrained(folder: Path, **changes: object) -> TextSettings:
    return TEXT.model_copy(update={"encoder": str(folder)} | changes)


def test_a_pretrained_encoder_from_a_folder_lives_on_in_the_package_without_it(
    bert_folder: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(bert_folder, local_files_only=True)
    text = pretrained(bert_folder)
    contract = contract_of("text").model_copy(update={"text": text})
    encoder = new_text_network(text, PARTS, tokenizer)
    member = FoldNetwork(build_network(contract, PARTS, a_task(), encoder).eval(), tokenizer)
    folder = tmp_path / "model"
    for fold in (0, 1):
        write_weights(folder, fold, member)
    write_card(folder, "text", contract=contract, contract_fingerprint=contract.fingerprint)
    for file in bert_folder.iterdir():
        file.unlink()
    loaded = load_package(folder).folds[0]
    assert loaded.tokenizer is not None
    note = Note("No fevers, Cough", ())
    ids = loaded.tokenizer(note.text)["input_ids"]
    assert ids == tokenizer(note.text)["input_ids"]
    assert loaded.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "no", "fever", "##s", "[UNK]", "cough", "[SEP]"]
    batch = a_batch(contract)
    batch.token_ids.clamp_(max=8)
    with torch.no_grad():
        np.testing.assert_array_equal(loaded.network(batch), member.network(batch))


def test_a_pretrained_encoder_refuses_windows_longer_than_its_position_table(bert_folder: Path) -> None:
    tokenizer = load_tokenizer(bert_folder, local_files_only=True)
    with pytest.raises(ConfigError, match=r"window = 25: .* takes at most 24 tokens at a time.*max_tokens = 99"):
        new_text_network(pretrained(bert_folder, max_tokens=99, window=25), PARTS, tokenizer)
    for fitting in ({"max_tokens": 99, "window": 24}, {"max_tokens": 24, "window": 99}):
        assert new_text_network(pretrained(bert_folder, **fitting), PARTS, tokenizer) is not None


def test_what_stands_before_the_words_takes_positions_of_a_pretrained_encoder_too(bert_folder: Path) -> None:
    tokenizer, behind = (
        load_tokenizer(bert_folder, local_files_only=True),
        PARTS.model_copy(update={"fusion": "bert_prefix"}),
    )
    left = 24 - PREFIX_TOKENS
    with pytest.raises(
        ConfigError, match=rf"at most 24 tokens at a time, {PREFIX_TOKENS} of them .* to {left} or less"
    ):
        new_text_network(pretrained(bert_folder, max_tokens=99, window=left + 1), behind, tokenizer)
    assert new_text_network(pretrained(bert_folder, max_tokens=99, window=left), behind, tokenizer) is not None


def test_a_packaged_model_reads_notes_longer_than_its_window_as_the_trained_one_did(tmp_path: Path) -> None:
    text = CONTRACT.text.model_copy(update={"max_tokens": 50, "window": 12, "overlap": 4})
    contract = contract_of("text").model_copy(update={"text": text})
    encoder = new_text_network(text, PARTS, TOKENIZER)
    assert encoder.config.max_position_embeddings == 12
    member = FoldNetwork(build_network(contract, PARTS, a_task(), encoder).eval(), TOKENIZER)
    folder = tmp_path / "model"
    for fold in (0, 1):
        write_weights(folder, fold, member)
    write_card(folder, "text", contract=contract, contract_fingerprint=contract.fingerprint)
    loaded = load_package(folder).folds[0].network
    batch = collate([a_sample(0, note=" ".join(NOTES * 3))], contract, pad_token_id=0)
    assert batch.token_ids.shape[1] > 24
    batch.token_ids[0, -2] = 7
    with torch.no_grad():
        before = member.network(batch)
        assert torch.equal(loaded(batch), before)
        batch.token_ids[0, -2] = 8  # the last word, two windows on
        assert not torch.equal(loaded(batch), before)


def test_a_tokenizer_with_more_words_than_the_network_is_refused(bert_folder: Path) -> None:
    with pytest.raises(ConfigError, match=rf"tokenizer has {len(TOKENIZER)} word pieces, its network 9"):
        new_text_network(pretrained(bert_folder), PARTS, TOKENIZER)


def test_a_grid_too_small_for_the_network_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"\[image\] size = \[9, 8, 10\] is too small for densenet121"):
        a_member("image", image_encoder="densenet121", image_stem_stride=2)
