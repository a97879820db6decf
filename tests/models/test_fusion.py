import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from medmllm.models.cross_attention import CrossAttention
from medmllm.models.fusion import FUSIONS, Concat, Gated, LowRank
from medmllm.models.tokens import Tokens


def normalised(features: Tensor) -> Tensor:
    centred = features - features.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()


def fuse(fusion: nn.Module, features: list[Tensor]) -> Tensor:
    """Logits from one vector of each modality, which a fusion of tokens takes as one token."""
    logits: Tensor = fusion([Tokens.of(f) for f in features] if isinstance(fusion, CrossAttention) else features)
    return logits


def test_concat_is_normalise_project_lay_side_by_side_and_classify() -> None:
    torch.manual_seed(1)
    fusion = Concat([3, 5], hidden=4, outputs=2, dropout=0.0)
    one, two = torch.randn(6, 3), torch.randn(6, 5)
    projected = []
    for features, (_, linear) in zip((one, two), fusion.project, strict=True):
        projected.append(normalised(features) @ linear.weight.T + linear.bias)
    mix = fusion.mix[1]
    hidden = functional.gelu(functional.gelu(torch.cat(projected, 1)) @ mix.weight.T + mix.bias)
    torch.testing.assert_close(fusion([one, two]), hidden @ fusion.out.weight.T + fusion.out.bias)


def test_gated_is_a_mean_of_the_modalities_weighed_unit_by_unit() -> None:
    torch.manual_seed(1)
    fusion = Gated([3, 5], hidden=4, outputs=2, dropout=0.0)
    one, two = normalised(torch.randn(6, 3)), normalised(torch.randn(6, 5))
    units = [torch.tanh(f @ p.weight.T + p.bias) for f, p in zip((one, two), fusion.project, strict=True)]
    assert fusion.gate is not None
    raw = torch.cat([one, two], 1) @ fusion.gate.weight.T + fusion.gate.bias
    first = 1 / (1 + torch.exp(raw[:, 4:] - raw[:, :4]))  # softmax of two
    hidden = first * units[0] + (1 - first) * units[1]
    wanted = hidden @ fusion.out.weight.T + fusion.out.bias
    torch.testing.assert_close(fusion([one, two]), wanted, atol=1e-4, rtol=1e-4)


def test_low_rank_is_the_full_bilinear_layer_that_its_factors_multiply_to() -> None:
    torch.manual_seed(1)
    fusion = LowRank([3, 5], hidden=4, outputs=2, dropout=0.0)
    one, two = normalised(torch.randn(6, 3)), normalised(torch.randn(6, 5))
    full = torch.einsum("rih,rjh->ijh", *fusion.factors)
    assert full.shape == (4, 6, 4)
    outer = functional.pad(one, (0, 1), value=1.0)[:, :, None] * functional.pad(two, (0, 1), value=1.0)[:, None, :]
    hidden = functional.gelu(torch.einsum("bij,ijh->bh", outer, full))
    wanted = hidden @ fusion.out.weight.T + fusion.out.bias
    torch.testing.assert_close(fusion([one, two]), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_learns_what_neither_modality_tells_alone(name: str) -> None:
    torch.manual_seed(2)
    bits = torch.randint(0, 2, (800, 2))
    noisy = [(bits[:, [k]] * 2.0 - 1) * torch.tensor([1.0, -0.5, 0.5]) + 0.2 * torch.randn(800, 3) for k in (0, 1)]
    outcome = (bits[:, 0] ^ bits[:, 1]).float()
    found = {}
    for arm, features in (("fused", noisy), ("alone", noisy[:1])):
        fusion = FUSIONS[name]([3] * len(features), hidden=16, outputs=1, dropout=0.0)
        optimizer = torch.optim.Adam(fusion.parameters(), lr=1e-2)
        for _ in range(300):
            loss = functional.binary_cross_entropy_with_logits(
                fuse(fusion, [f[:400] for f in features])[:, 0], outcome[:400]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found[arm] = roc_auc_score(outcome[400:], fuse(fusion, [f[400:] for f in features])[:, 0])
    assert found["fused"] > 0.95
    assert 0.4 < found["alone"] < 0.6


@pytest.mark.parametrize("name", FUSIONS)
def test_a_modality_on_a_larger_scale_does_not_drown_the_other(name: str) -> None:
    torch.manual_seed(1)
    fusion = FUSIONS[name]([3, 5], hidden=4, outputs=1, dropout=0.0)
    one, two = torch.randn(6, 3), torch.randn(6, 5)
    torch.testing.assert_close(fuse(fusion, [one, 1000 * two]), fuse(fusion, [one, two]), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", FUSIONS)
def test_dropout_acts_while_training_alone(name: str) -> None:
    torch.manual_seed(1)
    fusion = FUSIONS[name]([3], hidden=64, outputs=1, dropout=0.5)
    features = [torch.randn(2, 3)]
    assert not torch.equal(fuse(fusion, features), fuse(fusion, features))
    fusion.eval()
    assert torch.equal(fuse(fusion, features), fuse(fusion, features))
