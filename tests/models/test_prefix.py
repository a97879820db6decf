from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from medmllm.models.fusion import FUSIONS
from medmllm.models.note_windows import Windows
from medmllm.models.prefix import OCTANTS, PREFIX_TOKENS, Prefix, octants
from medmllm.models.text_encoder import TextEncoder, before_words, tiny_config
from medmllm.models.tokens import Tokens
from tests.models.small import BERT, IDS, MASK, PARTS, TEXT, a_batch, a_member


def a_prefix(rows: int = 2) -> Tokens:
    return Tokens.of(torch.randn(rows, 3, 12, generator=torch.Generator().manual_seed(1)))


# --- what stands before the words


def test_octants_are_the_corners_of_the_map_and_share_the_middle_of_an_odd_length() -> None:
    features = torch.randn(2, 3, 4, 5, 1)
    parts = octants(features)
    assert len(parts) == OCTANTS
    for number, part in enumerate(parts):
        x, y = slice(2, 4) if number & 4 else slice(0, 2), slice(2, 5) if number & 2 else slice(0, 3)
        assert torch.equal(part, features[:, :, x, y])


def test_tokens_of_several_modalities_stand_one_behind_the_other_as_small_as_words() -> None:
    torch.manual_seed(1)
    prefix = Prefix([64, 300], 500)
    real = torch.tensor([[True, False], [True, True]])
    image, other = Tokens(torch.randn(2, 2, 64) * 40 + 7, real), Tokens.of(torch.randn(2, 300))
    found = prefix([image, other])
    assert found.values.shape == (2, 3, 500)
    assert found.real.tolist() == [[True, False, True], [True, True, True]]
    assert found.values.std().item() == pytest.approx(BertConfig().initializer_range, rel=0.05)


# --- read by BERT


def test_prefix_and_words_are_read_as_one_sequence_and_words_alone_where_the_prefix_is_masked(bert: BertModel) -> None:
    encoder, prefix = TextEncoder(bert), a_prefix()
    real = torch.tensor([[True, True, True], [False, False, False]])
    with torch.no_grad():
        embedded = encoder.embed(IDS)
        read, note = encoder.read_behind(replace(prefix, real=real), embedded, MASK)
        whole = bert(inputs_embeds=torch.cat([prefix.values, embedded], 1)[:1]).last_hidden_state
        behind = bert(inputs_embeds=embedded[1:, :3], position_ids=torch.tensor([[3, 4, 5]])).last_hidden_state
    torch.testing.assert_close(read.values[:1], whole[:, :3])
    torch.testing.assert_close(note.values[:1], whole[:, 3:])
    torch.testing.assert_close(note.values[1:, :3], behind)
    assert not read.values[1].any()
    assert not note.values[1, 3:].any()


def test_without_a_note_the_prefix_is_read_alone(bert: BertModel) -> None:
    encoder, prefix = TextEncoder(bert), a_prefix()
    with torch.no_grad():
        read, note = encoder.read_behind(prefix, encoder.embed(IDS), torch.zeros_like(MASK))
        alone = bert(inputs_embeds=prefix.values).last_hidden_state
    torch.testing.assert_close(read.values, alone)
    assert not note.values.any()


def test_what_is_stored_where_nothing_is_real_changes_no_bit(bert: BertModel) -> None:
    encoder, prefix = TextEncoder(bert), a_prefix()
    real = torch.tensor([[True, True, False], [False, False, False]])
    other = torch.where(real[:, :, None], prefix.values, 50.0)
    ids = torch.where(MASK, IDS, 17)
    with torch.no_grad():
        first = encoder.read_behind(Tokens(prefix.values, real), encoder.embed(IDS), MASK)
        second = encoder.read_behind(Tokens(other, real), encoder.embed(ids), MASK)
    assert all(torch.equal(a.values, b.values) for a, b in zip(first, second, strict=True))


def test_every_window_of_a_long_note_is_read_behind_the_prefix(bert: BertModel) -> None:
    windows, prefix = Windows(8, 3), a_prefix()
    encoder = TextEncoder(bert, windows=windows)
    ids = torch.randint(5, 30, (2, 13), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(13) < torch.tensor([[13], [6]])
    with torch.no_grad():
        read, note = encoder.read_behind(prefix, encoder.embed(ids), mask)
        first, second = (
            bert(inputs_embeds=torch.cat([prefix.values, encoder.embed(ids)[:, start : start + 8]], 1)[:1])
            for start in (0, 5)
        )
        short = bert(inputs_embeds=torch.cat([prefix.values, encoder.embed(ids)[:, :6]], 1)[1:]).last_hidden_state
    torch.testing.assert_close(read.values[:1], first.last_hidden_state[:, :3])
    # Token 7 is the last of the first window and the third of the second, which it is taken from.
    torch.testing.assert_close(note.values[:1, :7], first.last_hidden_state[:, 3 : 3 + 7])
    torch.testing.assert_close(note.values[:1, 7:], second.last_hidden_state[:, 3 + 2 :])
    torch.testing.assert_close(note.values[1:, :6], short[:, 3:])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_window_and_its_prefix_have_positions_up_to_the_last(kind: str) -> None:
    network = BertModel(BertConfig(**BERT)) if kind == "bert" else RobertaModel(RobertaConfig(**BERT, pad_token_id=1))
    longest = 20 if kind == "bert" else 18
    encoder = TextEncoder(network.eval())
    ids = torch.full((2, longest - 2), 5)
    for words in (longest - 3, longest - 2):
        embedded, mask = encoder.embed(ids[:, :words]), torch.ones(2, words, dtype=torch.bool)
        if words + 3 > longest:
            with pytest.raises((IndexError, RuntimeError)):
                encoder.read_behind(a_prefix(), embedded, mask)
        else:
            assert encoder.read_behind(a_prefix(), embedded, mask)[1].values.isfinite().all()


def test_tiny_has_positions_for_what_stands_before_its_window() -> None:
    behind = PARTS.model_copy(update={"fusion": "bert_prefix"})
    assert (before_words(PARTS), before_words(behind)) == (0, PREFIX_TOKENS)
    assert tiny_config(30, behind, TEXT).max_position_embeddings == TEXT.window + PREFIX_TOKENS


# --- in a classifier


def test_the_words_positions_do_not_depend_on_whether_any_study_of_the_batch_has_an_image() -> None:
    network, batch = a_member(fusion="bert_prefix").network.eval(), a_batch()
    none, some = batch.present.clone(), batch.present.clone()
    none[:, 0] = some[1:, 0] = False
    with torch.no_grad():
        found, expected = (network(replace(batch, present=present)) for present in (none, some))
    torch.testing.assert_close(found[1:], expected[1:])
    assert not torch.equal(found[0], expected[0])


def test_words_see_the_image_and_the_image_sees_the_words() -> None:
    network, batch = a_member(fusion="bert_prefix").network.eval(), a_batch()
    seen: list[Tensor] = []
    network.fusion.register_forward_pre_hook(lambda _, given: seen.extend(given[0]))
    other_image = replace(batch, image=batch.image + torch.randn(batch.image.shape))
    other_words = replace(batch, token_ids=batch.token_ids.where(batch.token_ids < 5, 7))
    with torch.no_grad():
        for each in (batch, other_image, other_words):
            network(each)
    image, text = seen[0::2], seen[1::2]
    assert not torch.equal(text[0][0], text[1][0])  # another image, the same words
    assert not torch.equal(image[0][0], image[2][0])  # other words, the same image
    assert torch.equal(text[0][3], text[1][3])  # a study without an image
    assert torch.equal(image[0][2], image[2][2])  # a study without a note


def test_it_learns_what_neither_modality_tells_alone() -> None:
    torch.manual_seed(2)
    bits = torch.randint(0, 2, (600, 2))
    shown = (bits[:, [0]] * 2.0 - 1) * torch.tensor([1.0, -0.5, 0.5]) + 0.2 * torch.randn(600, 3)
    ids = torch.stack([torch.full((600,), 2), 7 + bits[:, 1], torch.full((600,), 3)], dim=1)
    outcome = (bits[:, 0] ^ bits[:, 1]).float()
    encoder = TextEncoder(BertModel(BertConfig(**BERT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)))
    parts = nn.ModuleList(
        [encoder, Prefix([3], 12), FUSIONS["bert_prefix"]([12, 12], hidden=16, outputs=1, dropout=0.0)]
    )

    def logits(rows: slice) -> Tensor:
        prefix, mask = parts[1]([Tokens.of(shown[rows])]), torch.ones_like(ids[rows], dtype=torch.bool)
        read, note = encoder.read_behind(prefix, encoder.embed(ids[rows]), mask)
        found: Tensor = parts[2]([read.mean(), note.mean()])[:, 0]
        return found

    optimizer = torch.optim.Adam(parts.parameters(), lr=5e-3)
    for _ in range(100):
        loss = functional.binary_cross_entropy_with_logits(logits(slice(300)), outcome[:300])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert roc_auc_score(outcome[300:], logits(slice(300, 600))) > 0.95
