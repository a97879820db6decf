"""Means of cells and counts of tones, and the encoder that is linear in them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from medmllm.models.cells import CELL_MEANS, EDGE, LOG_TONES, TONES, count_tones
from medmllm.models.linear_reader import LinearReader, Reading

SIZE = (17, 8, 5)  # more voxels than cells, as many, fewer


def encoder(*also: Reading, dropout: float = 0.0) -> LinearReader:
    torch.manual_seed(4)
    return LinearReader(CELL_MEANS, *also, channels=2, width=3, dropout=dropout)


def images(n: int = 6) -> torch.Tensor:
    return 5 + 2 * torch.randn(n, 2, *SIZE, generator=torch.Generator().manual_seed(1))


def test_the_features_are_linear_in_the_standardised_means_of_torchs_own_cells() -> None:
    network, given = encoder(), images()
    found = network(given)
    assert found.shape == (6, 3, 1, 1, 1)
    means = functional.adaptive_avg_pool3d(given, (EDGE, EDGE, EDGE)).flatten(1)
    standard = (means - means.mean(0)) / (means.var(0, unbiased=False) + 1e-5).sqrt()
    expected = standard @ network.out.weight.T + network.out.bias
    torch.testing.assert_close(found[:, :, 0, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_in_evaluation_each_study_is_measured_by_what_training_saw_not_by_its_batch() -> None:
    network, given = encoder(), images()
    network(given)
    network.eval()
    torch.testing.assert_close(network(given[:1]), network(given)[:1])


def test_hidden_cells_keep_the_weights_in_check_while_training_alone() -> None:
    network, given = encoder(dropout=0.5), images()
    assert not torch.equal(network(given), network(given))
    network.eval()
    assert torch.equal(network(given), network(given))


def test_a_cell_that_was_even_in_training_says_nothing_of_a_study_in_which_it_is_not() -> None:
    network, given = encoder(), images()
    given[..., -2:] = 3.0  # of five slices, which cells share: the last cell alone sees none of the others
    network(given)
    network.eval()
    other = given.clone()
    other[..., -1] = 3.5
    assert torch.equal(network(other), network(given))
    other[..., 0] += 0.5
    assert (network(other) - network(given)).abs().max() > 0.01


@pytest.mark.parametrize("corner", [(0, 0, 0), (16, 7, 4)])
def test_where_something_lies_is_known_without_training(corner: tuple[int, int, int]) -> None:
    network, given = encoder().eval(), torch.zeros(2, 2, *SIZE)
    given[0, 0, 8, 4, 2] = given[(1, 0, *corner)] = 100.0
    centre, moved = network(given)[:, :, 0, 0, 0]
    assert (centre - moved).abs().min() > 0


def test_a_direction_among_few_studies_is_learnt_as_a_logistic_regression_would() -> None:
    network, given = encoder(), images(40)
    target = (given[:, 1, 14:, 6:, 3:].mean((1, 2, 3)) > 5).float()
    head = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(head(network(given).flatten(1))[:, 0], target)
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_each_voxel_counts_once_shared_by_the_tones_it_lies_between() -> None:
    # Tones lie at -2, -1.875, ..., 4. Two voxels on a tone, one midway, one a quarter of the way, one beyond each end.
    values = torch.tensor([0.0, 0.0, 0.0625, 1.03125, -7.0, 9.0])
    expected = torch.zeros(TONES[2])
    expected[16] = 2 + 0.5
    expected[17] = 0.5
    expected[24], expected[25] = 0.75, 0.25
    expected[0] = expected[48] = 1
    torch.testing.assert_close(count_tones(values.view(1, 1, 1, 2, 3)), expected.view(1, 1, -1))


def test_tones_are_told_apart_from_places_and_their_counts_enter_as_logarithms() -> None:
    network, given = encoder(LOG_TONES), images()
    means = functional.adaptive_avg_pool3d(given, (EDGE, EDGE, EDGE)).flatten(1)
    levels = torch.linspace(*TONES)
    near = (1 - 8 * (given.flatten(2).clamp(-2, 4)[..., None] - levels).abs()).clamp(min=0)
    read = torch.cat([means, near.sum(2).log1p().flatten(1)], dim=1)
    standard = (read - read.mean(0)) / (read.var(0, unbiased=False) + 1e-5).sqrt()
    expected = standard @ network.out.weight.T + network.out.bias
    torch.testing.assert_close(network(given)[:, :, 0, 0, 0], expected, rtol=1e-3, atol=1e-3)


def test_a_gradient_towards_the_voxels_passes_through_the_tones() -> None:
    image = torch.tensor([0.03, 0.4]).view(1, 1, 1, 1, 2).requires_grad_()
    count_tones(image)[0, 0, 17].backward()  # of the tone 0.125, which 0.03 nears eight times as fast as it grows
    assert image.grad is not None
    torch.testing.assert_close(image.grad.flatten(), torch.tensor([8.0, 0.0]))
