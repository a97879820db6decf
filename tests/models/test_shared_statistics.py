"""Batch statistics of two processes, against those of one that holds what both do."""

import pytest
import torch
from torch import Tensor, distributed, nn

from medmllm.models.batch_norm import EarlyNorm, LoneRowNorm, LoneValueNorm, share_statistics
from medmllm.models.image_encoder import IMAGE_ENCODERS, ImageEncoder
from medmllm.training.followers import crew_of
from medmllm.training.processes import Crew
from tests.models.small import PARTS

NORMS = {
    "of maps": lambda: LoneValueNorm(3, eps=1e-3),
    "of maps, early": lambda: EarlyNorm(3, momentum=0.3),
    "of maps, without weights": lambda: EarlyNorm(3, affine=False),
    "of rows": lambda: LoneRowNorm(3, momentum=0.2),
}
PARTITIONS = ((2, 3), (4, 1), (5, 0), (1, 0), (0, 0), (1, 1))  # how many studies each process has
"""A lone study, and none, follow batches, and precede one: they may not enter what is remembered."""


def batch(step: int, name: str) -> Tensor:
    edges = () if name == "of rows" else (1, 1, 1) if sum(PARTITIONS[step]) == 1 else (2, 1, 4)
    generator = torch.Generator().manual_seed(step)
    return 5 + 2 * torch.randn(sum(PARTITIONS[step]), 3, *edges, generator=generator)


def made(name: str) -> nn.Module:
    norm = NORMS[name]().train()
    if norm.affine:
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.5)
    return norm


def passed(name: str, norm: nn.Module, crew: Crew) -> list[tuple[Tensor, Tensor]]:
    """Send every batch through; return what came out, and the gradient of a loss that looks at each value alone."""
    found = []
    for step, (first, _) in enumerate(PARTITIONS):
        whole = batch(step, name)
        own = whole if crew.size == 1 else whole[:first] if crew.rank == 0 else whole[first:]
        given = own.clone().requires_grad_()
        out = norm(given)
        (out**3 + out).sum().backward()
        found.append((out.detach(), given.grad))
    return found


def all_passed(crew: Crew) -> dict[str, tuple[nn.Module, list[tuple[Tensor, Tensor]]]]:
    done = {}
    for name in NORMS:
        norm = made(name)
        assert share_statistics(norm, True)
        done[name] = norm, passed(name, norm, crew)
        for parameter in norm.parameters():
            distributed.all_reduce(parameter.grad)
    return done


def follow(crew: Crew) -> None:
    all_passed(crew)
    crew.goes_on(False)


@pytest.mark.slow
def test_two_processes_normalise_and_remember_and_learn_as_one_that_has_all_of_the_batch() -> None:
    with crew_of(2, torch.device("cpu"), follow, ()) as crew:
        done = all_passed(crew)
        crew.goes_on(False)
    for name, (norm, found) in done.items():
        alone = made(name)
        expected = passed(name, alone, Crew())
        for (out, gradient), (all_out, all_gradient), (first, _) in zip(found, expected, PARTITIONS, strict=True):
            torch.testing.assert_close(out, all_out[:first])
            torch.testing.assert_close(gradient, all_gradient[:first], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.state_dict(), alone.state_dict())
        for own, one in zip(norm.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(own.grad, one.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_every_batch_norm_of_every_image_encoder_can_share(name: str) -> None:
    width = {"efficientnet_b0": 8, "swin_unetr": 12}.get(name, 4)
    encoder = ImageEncoder(PARTS.model_copy(update={"image_encoder": name, "image_width": width}), 2)
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert share_statistics(encoder, True) == bool(norms)
    assert all(norm.shared for norm in norms)
    share_statistics(encoder, False)
    assert not any(norm.shared for norm in norms)


def test_biases_of_two_norms_whose_sum_goes_on_are_clipped_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: None)  # of one process the sum over all is its own
    one, two = LoneValueNorm(3), LoneValueNorm(3)
    share_statistics(nn.ModuleList([one, two]), True)
    given = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1, 1)  # a part of one study, whose map is one voxel
    for passes in (1, 2):
        (one(given) + two(given)).square().sum().div(2).backward()
        for norm in (one, two):  # running mean 0 and variance 1: each norm gives what it is given, to its eps
            torch.testing.assert_close(norm.bias.grad, passes * 2 * given.flatten(), rtol=1e-4, atol=0)
    nn.utils.clip_grad_norm_([one.bias, two.bias], 1.0)
    torch.testing.assert_close(torch.cat([one.bias.grad, two.bias.grad]).norm(), torch.tensor(1.0))
