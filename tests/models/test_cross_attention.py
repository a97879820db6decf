import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medmllm.models.cross_attention import CrossAttention
from medmllm.models.tokens import Tokens


def two(seed: int = 1) -> list[Tokens]:
    """Four places of width 3 and five word pieces of width 6, the last two of the second study's padding."""
    torch.manual_seed(seed)
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return [Tokens.of(torch.randn(2, 4, 3)), Tokens(torch.randn(2, 5, 6), real)]


def linear(layer: torch.nn.Linear, states: Tensor) -> Tensor:
    return states @ layer.weight.T + layer.bias


def test_each_token_takes_the_weighed_mean_of_the_others_real_tokens_and_each_modality_is_pooled() -> None:
    given = two()
    fusion = CrossAttention([3, 6], hidden=5, outputs=2, dropout=0.0)  # 5: one head
    found = fusion(given)
    for row, (places, pieces) in enumerate(((4, 5), (4, 3))):
        alone = [given[0].values[row, :places], given[1].values[row, :pieces]]
        states = [
            linear(project[1], functional.layer_norm(tokens, tokens.shape[-1:]))
            for tokens, project in zip(alone, fusion.project, strict=True)
        ]
        pooled = []
        for own, other, attend, feed in ((0, 1, *_parts(fusion, 0)), (1, 0, *_parts(fusion, 1))):
            q, k, v = attend.in_proj_weight.chunk(3)
            bias_q, bias_k, bias_v = attend.in_proj_bias.chunk(3)
            scores = (states[own] @ q.T + bias_q) @ (states[other] @ k.T + bias_k).T / 5**0.5
            taken = scores.softmax(-1) @ (states[other] @ v.T + bias_v)
            after = states[own] + linear(attend.out_proj, taken)
            hidden = functional.gelu(linear(feed[1], functional.layer_norm(after, (5,))))
            after = after + linear(feed[4], hidden)
            pooled += [after.mean(0), after.max(0).values]
        expected = linear(fusion.out, functional.gelu(linear(fusion.mix[0], torch.cat(pooled))))
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


def _parts(fusion: CrossAttention, number: int) -> tuple[torch.nn.MultiheadAttention, torch.nn.Sequential]:
    return fusion.attend[number], fusion.feed_forward[number]  # type: ignore[return-value]


@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_no_bit(training: bool) -> None:
    fusion = CrossAttention([3, 6], hidden=8, outputs=1, dropout=0.0).train(training)
    places, pieces = two()
    other = pieces.values.clone()
    other[1, 3:] = 1e6
    assert torch.equal(fusion([places, pieces]), fusion([places, Tokens(other, pieces.real)]))
    other[1, 2] += 1  # a real piece
    assert not torch.equal(fusion([places, pieces])[1], fusion([places, Tokens(other, pieces.real)])[1])


def test_the_order_of_tokens_does_not_matter_as_each_says_itself_where_it_is() -> None:
    fusion = CrossAttention([3, 6], hidden=8, outputs=1, dropout=0.0).eval()
    places, pieces = two()
    turned = Tokens(places.values.flip(1), places.real)
    torch.testing.assert_close(fusion([places, pieces]), fusion([turned, pieces]))


def test_one_modality_alone_has_nothing_to_attend_to() -> None:
    fusion = CrossAttention([3], hidden=8, outputs=1, dropout=0.0)
    assert not [name for name, _ in fusion.named_parameters() if name.startswith("attend")]
    assert fusion(two()[:1]).isfinite().all()


def test_each_of_three_modalities_attends_to_both_others_a_vector_as_one_token() -> None:
    fusion = CrossAttention([3, 6, 2], hidden=8, outputs=1, dropout=0.0).eval()
    given = [*two(), Tokens.of(torch.randn(2, 2))]
    seen = []
    for attend in fusion.attend:
        attend.register_forward_pre_hook(lambda *args: seen.append(args[1][1].shape[1]))
    assert fusion(given).shape == (2, 1)
    assert seen == [5 + 1, 4 + 1, 4 + 5]


@pytest.mark.parametrize(("hidden", "heads"), [(64, 4), (6, 2), (7, 1)])
def test_any_width_has_heads_that_divide_it(hidden: int, heads: int) -> None:
    fusion = CrossAttention([3, 6], hidden=hidden, outputs=1, dropout=0.0)
    assert {attend.num_heads for attend in fusion.attend} == {heads}
    assert fusion(two()).isfinite().all()
