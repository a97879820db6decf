"""A step of several batches is that of one batch of all their studies, where nothing is normalised over a batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from medmllm.training.batches import batches
from medmllm.training.epoch import train_epoch
from medmllm.training.loop import new_learner
from tests.models.small import a_member, contract_of
from tests.training.small import THREE, cohort, settings


def after_an_epoch(
    batch_size: int, accumulate: int, *, n: int = 13, classes: tuple[str, ...] = ("no", "yes"), clip: float = 1e9
) -> tuple[float, dict[str, Tensor], int]:
    """Return loss, weights and steps of an epoch of plain gradient descent, which no scaling of a gradient escapes."""
    asked = settings(
        batch_size=batch_size, accumulate=accumulate, class_weights="balanced", gradient_clip=clip, warmup_epochs=0.0
    )
    samples, member = cohort(n, classes=len(classes)), a_member("text", classes=classes)
    learner = new_learner(member.network, samples, asked)
    descent = torch.optim.SGD(member.network.parameters(), lr=0.1)
    learner = replace(learner, optimizer=descent, schedule=LambdaLR(descent, lambda step: 1.0))
    order = torch.Generator().manual_seed(3)
    loss = train_epoch(learner, batches(samples, contract_of("text"), asked, 0, order), order)
    return loss, member.network.state_dict(), learner.schedule.last_epoch


@pytest.mark.parametrize("classes", [("no", "yes"), THREE])
@pytest.mark.parametrize("clip", [1e9, 0.05])
@pytest.mark.parametrize(
    ("n", "parts", "whole"),
    [(12, (2, 3), 6), (13, (2, 3), 6), (10, (2, 3), 6), (11, (2, 2), 4), (9, (4, 8), 9)],
    ids=[
        "two whole steps",
        "a batch of three at the end",
        "an incomplete step",
        "a last step of one batch",
        "one step",
    ],
)
def test_several_batches_learn_like_one_of_all_their_studies(
    n: int, parts: tuple[int, int], whole: int, clip: float, classes: tuple[str, ...]
) -> None:
    loss, weights, steps = after_an_epoch(*parts, n=n, classes=classes, clip=clip)
    expected_loss, expected, expected_steps = after_an_epoch(whole, 1, n=n, classes=classes, clip=clip)
    assert steps == expected_steps
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    start = a_member("text", classes=classes).network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name] - start[name], value - start[name], rtol=2e-3, atol=2e-6)
    assert any((value - start[name]).abs().max() > 1e-4 for name, value in expected.items())


def test_the_rate_falls_by_steps_and_not_by_batches() -> None:
    asked = settings(batch_size=2, accumulate=3, epochs=4, warmup_epochs=1.0, learning_rate=0.5)
    member, samples = a_member("text"), cohort(12)
    learner, order, rates = new_learner(member.network, samples, asked), torch.Generator().manual_seed(3), []
    for _ in range(4):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        train_epoch(learner, batches(samples, contract_of("text"), asked, 0, order), order)
    # Two steps an epoch: half the rate, the whole; then a cosine over the other six.
    assert rates == pytest.approx(
        [0.25, 0.5, 0.25 * (1 + math.cos(math.pi / 3)), 0.25 * (1 + math.cos(2 * math.pi / 3))]
    )
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


def test_the_rate_has_fallen_to_nothing_after_the_last_epoch_also_where_a_lone_study_joins_the_batch_before() -> None:
    asked = settings(batch_size=4, epochs=3, warmup_epochs=1.0, learning_rate=0.5)
    member, samples = a_member("text"), cohort(9)  # 4 and 5, not 4, 4 and 1
    learner, order = new_learner(member.network, samples, asked), torch.Generator().manual_seed(3)
    for _ in range(3):
        train_epoch(learner, batches(samples, contract_of("text"), asked, 0, order), order)
    assert learner.schedule.last_epoch == 6
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
