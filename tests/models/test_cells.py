"""The encoder that is linear in the means of cells."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from medmllm.models.cells import EDGE, CellMeans

SIZE = (17, 8, 5)  # more voxels than cells, as many, fewer


def encoder(dropout: float = 0.0) -> CellMeans:
    torch.manual_seed(4)
    return CellMeans(2, width=3, dropout=dropout)


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
