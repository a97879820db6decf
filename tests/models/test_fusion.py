import torch
from torch.nn import functional

from medmllm.models.fusion import Concat


def test_concat_is_normalise_project_lay_side_by_side_and_classify() -> None:
    torch.manual_seed(1)
    fusion = Concat([3, 5], hidden=4, outputs=2, dropout=0.0)
    one, two = torch.randn(6, 3), torch.randn(6, 5)
    projected = []
    for features, (_, linear) in zip((one, two), fusion.project, strict=True):
        centred = features - features.mean(1, keepdim=True)
        normal = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        projected.append(normal @ linear.weight.T + linear.bias)
    mix = fusion.mix[1]
    hidden = functional.gelu(functional.gelu(torch.cat(projected, 1)) @ mix.weight.T + mix.bias)
    torch.testing.assert_close(fusion([one, two]), hidden @ fusion.out.weight.T + fusion.out.bias)


def test_a_modality_on_a_larger_scale_does_not_drown_the_other() -> None:
    torch.manual_seed(1)
    fusion = Concat([3, 5], hidden=4, outputs=1, dropout=0.0)
    one, two = torch.randn(6, 3), torch.randn(6, 5)
    torch.testing.assert_close(fusion([one, 1000 * two]), fusion([one, two]), atol=1e-3, rtol=1e-3)


def test_dropout_acts_while_training_alone() -> None:
    torch.manual_seed(1)
    fusion = Concat([3], hidden=64, outputs=1, dropout=0.5)
    features = [torch.randn(2, 3)]
    assert not torch.equal(fusion(features), fusion(features))
    fusion.eval()
    assert torch.equal(fusion(features), fusion(features))
