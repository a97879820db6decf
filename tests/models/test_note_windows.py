from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from medmllm.models.note_windows import Windows
from medmllm.models.text_encoder import TextEncoder

WINDOWS = Windows(length=8, overlap=3)


@pytest.fixture
def bert() -> BertModel:
    torch.manual_seed(4)
    small = {"vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertModel(BertConfig(**small, intermediate_size=16, max_position_embeddings=WINDOWS.length)).eval()


def notes(*lengths: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 30, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return ids, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def states(encoder: TextEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder.hidden(encoder.embed(ids), mask)


def features(encoder: TextEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder(encoder.embed(ids), mask)


def with_maximum_context(bert: BertModel, ids: Tensor) -> Tensor:
    """As run_squad.py of Devlin et al. does it: of all windows with a token, the one with the larger least context."""
    starts = [0]
    while starts[-1] + WINDOWS.length < len(ids):
        starts.append(starts[-1] + WINDOWS.length - WINDOWS.overlap)
    read = {}
    with torch.no_grad():
        for start in starts:
            read[start] = bert(input_ids=ids[None, start : start + WINDOWS.length]).last_hidden_state[0]
    chosen = []
    for token in range(len(ids)):
        context = {s: min(token - s, s + len(read[s]) - 1 - token) for s in starts if 0 <= token - s < len(read[s])}
        best = max(context, key=lambda s: context[s])  # the first of equals
        chosen.append(read[best][token - best])
    return torch.stack(chosen)


@pytest.mark.parametrize("length", [5, 8, 9, 13, 14, 23])
def test_each_piece_of_a_long_note_has_its_state_from_the_window_with_most_context(
    bert: BertModel, length: int
) -> None:
    ids, mask = notes(length)
    encoder = TextEncoder(bert, windows=WINDOWS)
    expected = with_maximum_context(bert, ids[0])
    torch.testing.assert_close(states(encoder, ids, mask)[0], expected)
    torch.testing.assert_close(features(encoder, ids, mask)[0], expected.mean(0))


@pytest.mark.parametrize(("length", "overlap"), [(8, 3), (6, 0), (6, 3), (2, 1), (1, 0)])
def test_windows_take_every_token_once_and_share_what_is_asked(length: int, overlap: int) -> None:
    for tokens in range(1, 40):
        spans = list(Windows(length, overlap).cut(tokens))
        ends = [*(span.taken_from for span in spans[1:]), tokens]
        taken = [token for span, end in zip(spans, ends, strict=True) for token in range(span.taken_from, end)]
        assert taken == list(range(tokens))
        assert all(span.start <= span.taken_from < end <= span.stop for span, end in zip(spans, ends, strict=True))
        assert all(span.stop - span.start <= length for span in spans)
        shared = [left.stop - right.start for left, right in pairwise(spans)]
        assert shared == [overlap] * (len(spans) - 1)


def test_a_note_reads_the_same_whatever_notes_lie_beside_it(bert: BertModel) -> None:
    encoder = TextEncoder(bert, windows=WINDOWS)
    lengths = (23, 5, 8, 9, 14)
    ids, mask = notes(*lengths)
    together = features(encoder, ids, mask)
    for row, length in enumerate(lengths):
        alone = features(encoder, ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_a_note_that_fits_into_the_window_reads_as_it_does_without_windows(bert: BertModel) -> None:
    ids, mask = notes(8, 5)
    assert torch.equal(features(TextEncoder(bert, windows=WINDOWS), ids, mask), features(TextEncoder(bert), ids, mask))


def test_what_fills_up_a_long_note_changes_nothing(bert: BertModel) -> None:
    encoder = TextEncoder(bert, windows=WINDOWS)
    ids, mask = notes(23, 11, 4)
    mask[2] = False  # a study without a note
    other = torch.where(mask, ids, (ids + 3) % 30)
    assert torch.equal(states(encoder, ids, mask), states(encoder, other, mask))
    assert torch.equal(features(encoder, ids, mask), features(encoder, other, mask))
    assert not states(encoder, ids, mask)[~mask].any()
    assert features(encoder, ids, mask).isfinite().all()


def test_no_piece_of_a_long_note_is_left_out(bert: BertModel) -> None:
    encoder = TextEncoder(bert, windows=WINDOWS)
    ids, mask = notes(23)
    before = states(encoder, ids, mask)
    for token in range(23):
        other = ids.clone()
        other[0, token] = 5 + (other[0, token] - 4) % 25
        assert not torch.equal(states(encoder, other, mask)[0, token], before[0, token])


def test_windows_that_hold_nothing_new_of_a_note_are_not_read_for_it(bert: BertModel) -> None:
    rows = []
    bert.register_forward_pre_hook(lambda *given: rows.append(len(given[2]["inputs_embeds"])), with_kwargs=True)
    ids, mask = notes(13, 8, 9, 2)
    # Windows lie at 0-8, 5-13 and 10-15: two notes end in the first, and the last holds only what fills up.
    wide = torch.zeros(4, 2, dtype=torch.int64)
    states(TextEncoder(bert, windows=WINDOWS), torch.cat([ids, wide], 1), torch.cat([mask, wide.bool()], 1))
    assert rows == [4, 2]


def test_gradients_reach_the_words_of_every_window(bert: BertModel) -> None:
    encoder = TextEncoder(bert, windows=WINDOWS)
    ids, mask = notes(23, 11)
    embedded = encoder.embed(ids).detach().requires_grad_()
    encoder(embedded, mask)[:, 0].sum().backward()
    assert embedded.grad is not None
    assert torch.equal(embedded.grad.any(dim=2), mask)
