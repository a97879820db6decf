"""Running statistics of small trainings, against the sums that they stand for."""

import torch
from torch import nn

from medmllm.models.batch_norm import EarlyNorm


def batches(count: int = 4) -> list[torch.Tensor]:
    here = torch.Generator().manual_seed(3)
    return [5 + 0.1 * torch.randn(2, 3, 2, 1, 4, generator=here) for _ in range(count)]


def test_running_statistics_are_the_weighted_mean_of_what_was_seen_and_of_nothing_else() -> None:
    norm, seen = EarlyNorm(3, momentum=0.25), batches()
    for given in seen:
        norm(given)
    weights = torch.tensor([0.75**3, 0.75**2, 0.75, 1.0])
    means = torch.stack([given.transpose(0, 1).flatten(1).mean(1) for given in seen])
    variances = torch.stack([given.transpose(0, 1).flatten(1).var(1) for given in seen])
    for found, each in ((norm.running_mean, means), (norm.running_var, variances)):
        torch.testing.assert_close(found, (weights[:, None] * each).sum(0) / weights.sum())
    assert int(norm.num_batches_tracked) == 4


def test_otherwise_it_is_torchs() -> None:
    ours, theirs = EarlyNorm(3, eps=1e-3, momentum=0.25), nn.BatchNorm3d(3, eps=1e-3, momentum=0.25)
    for norm in (ours, theirs):
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.5)
    for given in batches(60):  # by then torch's has forgotten where it started
        one, two = given.clone().requires_grad_(), given.clone().requires_grad_()
        found, expected = ours(one), theirs(two)
        torch.testing.assert_close(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(one.grad, two.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(given), theirs.eval()(given))


def test_a_lone_value_is_measured_by_the_batches_before_it() -> None:
    norm = EarlyNorm(3)
    norm(batches(1)[0])
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    lone = torch.full((1, 3, 1, 1, 1), 5.1)
    expected = (lone[0, :, 0, 0, 0] - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
    torch.testing.assert_close(norm(lone)[0, :, 0, 0, 0], expected)
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
