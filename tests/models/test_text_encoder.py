from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaModel
from transformers.utils.logging import enable_progress_bar

from medmllm.errors import ConfigError
from medmllm.models.text_encoder import (
    TextEncoder,
    from_config,
    load_pretrained,
    longest_window,
    read_config,
    tiny_config,
)
from tests.models.small import BERT, IDS, MASK, PARTS, TEXT


def encode(encoder: TextEncoder, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder(encoder.embed(ids), mask)


def test_features_are_the_mean_of_what_the_network_makes_of_the_real_pieces(bert: BertModel) -> None:
    with torch.no_grad():
        alone = [bert(input_ids=IDS[:1]).last_hidden_state, bert(input_ids=IDS[1:, :3]).last_hidden_state]
    expected = torch.cat([hidden.mean(1) for hidden in alone])
    encoder = TextEncoder(bert)
    assert encoder.width == 12
    torch.testing.assert_close(encode(encoder, IDS, MASK), expected)


def test_what_fills_up_a_note_changes_nothing(bert: BertModel) -> None:
    encoder = TextEncoder(bert)
    other = IDS.clone()
    other[1, 3:] = torch.tensor([25, 29])
    assert torch.equal(encode(encoder, IDS, MASK), encode(encoder, other, MASK))
    other[1, 1] = 12  # a real piece
    assert not torch.equal(encode(encoder, IDS, MASK), encode(encoder, other, MASK))


def test_a_row_without_any_piece_gives_zeros_and_leaves_the_others_alone(bert: BertModel) -> None:
    encoder = TextEncoder(bert)
    mask = MASK.clone()
    mask[1] = False
    found = encode(encoder, IDS, mask)
    assert not found[1].any()
    assert torch.equal(found[0], encode(encoder, IDS, MASK)[0])
    assert not mask[1].any()  # the caller's mask is not written to


def a_standardising(bert: BertModel) -> tuple[TextEncoder, TextEncoder]:
    """An encoder that standardises over the batch, training, and one of the same network that does not."""
    return TextEncoder(bert, batch_norm=True).train(), TextEncoder(bert)


def test_standardised_features_have_no_mean_and_unit_spread_over_the_notes_of_a_batch(bert: BertModel) -> None:
    encoder, plain = a_standardising(bert)
    bert.eval()  # no dropout
    ids = torch.randint(5, 30, (6, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[2] = False  # a study without a note
    found, raw = encode(encoder, ids, mask), encode(plain, ids, mask)
    notes = [0, 1, 3, 4, 5]
    expected = (raw[notes] - raw[notes].mean(0)) / raw[notes].std(0, correction=0)
    torch.testing.assert_close(found[notes], expected, atol=1e-3, rtol=1e-3)
    assert not found[2].any()


def test_the_pieces_of_a_standardised_note_move_alike_to_its_features(bert: BertModel) -> None:
    encoder, plain = a_standardising(bert)
    bert.eval()
    with torch.no_grad():
        found, raw = (one.tokens(one.embed(IDS), MASK) for one in (encoder, plain))
    features = encode(encoder, IDS, MASK)
    for row, length in enumerate((5, 3)):
        pieces = found[row, :length]
        torch.testing.assert_close(pieces.mean(0), features[row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            pieces - pieces.mean(0), raw[row, :length] - raw[row, :length].mean(0), atol=1e-4, rtol=1e-4
        )
    assert not found[~MASK].any()
    assert torch.equal(raw, plain.hidden(plain.embed(IDS), MASK))


def test_a_lone_note_is_measured_by_what_the_batches_before_it_were_like(bert: BertModel) -> None:
    encoder, plain = a_standardising(bert)
    bert.eval()
    assert encoder.norm is not None
    encoder.norm.running_mean += 0.5
    alone = encode(encoder, IDS[:1], MASK[:1])
    torch.testing.assert_close(alone, encode(plain, IDS[:1], MASK[:1]) - 0.5, atol=1e-3, rtol=1e-3)
    assert torch.equal(encode(encoder, IDS[:1], torch.zeros_like(MASK[:1])), torch.zeros(1, 12))
    encoder.eval()
    torch.testing.assert_close(encode(encoder, IDS, MASK)[:1], alone)


def test_the_order_of_words_matters(bert: BertModel) -> None:
    swapped = IDS[:, [0, 2, 1, 3, 4]]
    encoder = TextEncoder(bert)
    assert not torch.allclose(encode(encoder, IDS, MASK)[0], encode(encoder, swapped, MASK)[0], atol=1e-4)


@pytest.mark.parametrize(("width", "heads"), [(64, 4), (16, 1), (8, 1), (56, 2), (40, 2), (100, 5)])
def test_tiny_takes_any_width_with_heads_that_divide_it(width: int, heads: int) -> None:
    config = tiny_config(30, PARTS.model_copy(update={"tiny_width": width}), TEXT)
    assert config.num_attention_heads == heads
    assert (config.num_hidden_layers, config.vocab_size, config.max_position_embeddings) == (4, 30, TEXT.max_tokens)
    assert encode(TextEncoder(from_config(config).eval()), IDS, MASK).shape == (2, width)


def test_loading_weights_leaves_the_terminal_alone(
    bert: BertModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bert.save_pretrained(tmp_path)
    enable_progress_bar()  # another test may have switched them off
    capfd.readouterr()
    load_pretrained(tmp_path, local_files_only=True)
    assert "Loading weights" not in capfd.readouterr().err


def test_a_pretrained_folder_gives_its_own_weights(bert: BertModel, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path, local_files_only=True)
    expected = AutoModel.from_pretrained(str(tmp_path)).state_dict()
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_weights_stored_in_half_precision_are_fine_tuned_in_single(
    bert: BertModel, tmp_path: Path, stored: torch.dtype
) -> None:
    bert.to(stored).save_pretrained(tmp_path)
    for network in (load_pretrained(tmp_path, local_files_only=True), from_config(read_config(tmp_path))):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("what", ["nowhere", "empty", "pickle", "damaged"])
def test_a_folder_without_sound_safetensors_is_refused(bert: BertModel, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "encoder"
    if what != "nowhere":
        folder.mkdir()
    if what in ("pickle", "damaged"):
        bert.config.save_pretrained(folder)
    if what == "pickle":
        torch.save(bert.state_dict(), folder / "pytorch_model.bin")
    if what == "damaged":
        (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match=r"\[text\] encoder = .*encoder'.* safetensors .*save_pretrained, or 'tiny'"):
        load_pretrained(folder, local_files_only=True)


def test_weights_that_leave_a_layer_random_are_refused(bert: BertModel, tmp_path: Path) -> None:
    bert.config.save_pretrained(tmp_path)
    kept = {k: v for k, v in bert.state_dict().items() if "layer.1.output" not in k}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack encoder\.layer\.1\.output\.LayerNorm\.bias and 3 more"):
        load_pretrained(tmp_path, local_files_only=True)


def test_weights_without_the_pooler_are_whole_as_it_is_not_used(bert: BertModel, tmp_path: Path) -> None:
    bert.config.save_pretrained(tmp_path)
    kept = {k: v for k, v in bert.state_dict().items() if not k.startswith("pooler")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    encoder = TextEncoder(load_pretrained(tmp_path, local_files_only=True))
    assert not [name for name, _ in encoder.named_parameters() if "pooler" in name]


def test_the_longest_note_is_where_the_position_table_ends(bert: BertModel) -> None:
    roberta = RobertaModel(RobertaConfig(**BERT, pad_token_id=1)).eval()
    for network, longest in ((bert, 20), (roberta, 18)):
        assert longest_window(network) == longest
        encoder = TextEncoder(network)
        ids = torch.full((1, longest + 1), 5)
        mask = torch.ones_like(ids, dtype=torch.bool)
        assert encode(encoder, ids[:, :longest], mask[:, :longest]).isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            encode(encoder, ids, mask)


@pytest.mark.parametrize("kind", [BertModel, RobertaModel])
def test_gradients_reach_every_weight_but_those_of_words_not_read(kind: type) -> None:
    config = BertConfig(**BERT) if kind is BertModel else RobertaConfig(**BERT)
    encoder = TextEncoder(kind(config))
    encoder(encoder.embed(IDS), MASK).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
