import pytest
import torch
from torch.nn import functional

from medmllm.models.ordinal_head import LEAST_GAP, OrdinalHead
from medmllm.models.package import build_network
from tests.models.small import PARTS, a_batch, a_member, a_task, contract_of

GRADES = ("mild", "moderate", "severe", "critical")


def a_head() -> OrdinalHead:
    head = OrdinalHead(4)
    with torch.no_grad():
        head.first.fill_(-1.5)
        head.steps.copy_(torch.log(torch.expm1(torch.tensor([0.5, 2.0]) - LEAST_GAP)))  # cuts -1.5, -1.0, 1.0
    return head


def test_probabilities_are_those_of_the_proportional_odds_model() -> None:
    score = torch.tensor([[0.3]])
    reached = [1.0, *(1 / (1 + torch.exp(torch.tensor(cut - 0.3))) for cut in (-1.5, -1.0, 1.0)), 0.0]
    expected = [float(reached[k] - reached[k + 1]) for k in range(4)]
    assert a_head()(score).exp()[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_probabilities_sum_to_1_and_rise_with_the_score_in_every_cut() -> None:
    chances = a_head()(torch.linspace(-8, 8, 33)[:, None]).exp()
    torch.testing.assert_close(chances.sum(1), torch.ones(33))
    reached = chances.flip(1).cumsum(1).flip(1)  # P(class >= k), of each row
    assert (reached.diff(dim=1) < 0).all()  # the higher the class, the less likely
    assert (reached[:, 1:].diff(dim=0) > 0).all()  # the higher the score, the likelier


def test_a_fresh_head_finds_all_classes_alike() -> None:
    torch.testing.assert_close(OrdinalHead(5)(torch.zeros(1, 1)).exp(), torch.full((1, 5), 0.2))


@pytest.mark.parametrize("steps", [-1e4, -90.0, 90.0, 1e4])
@pytest.mark.parametrize("score", [-1e4, 0.0, 1e4])
def test_no_weights_and_no_score_give_a_class_an_infinite_logit(steps: float, score: float) -> None:
    head = OrdinalHead(4)
    with torch.no_grad():
        head.steps.fill_(steps)
    given = torch.tensor([[score]], requires_grad=True)
    found = head(given)
    assert found.isfinite().all()
    functional.cross_entropy(found, torch.tensor([1])).backward()
    assert given.grad is not None
    assert given.grad.isfinite().all()


def test_the_likeliest_cuts_for_studies_alike_are_the_cumulative_frequencies() -> None:
    targets = torch.tensor([0] * 1 + [1] * 5 + [2] * 2 + [3] * 2)
    head = OrdinalHead(4)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = functional.cross_entropy(head(torch.zeros(10, 1)), targets)
        found.backward()
        return found

    optimizer.step(loss)  # type: ignore[arg-type]
    torch.testing.assert_close(head(torch.zeros(1, 1)).exp()[0], torch.tensor([0.1, 0.5, 0.2, 0.2]), atol=1e-3, rtol=0)


def test_an_ordered_classifier_gives_log_probabilities_from_one_score() -> None:
    network = build_network(contract_of("image"), PARTS, a_task(GRADES, ordered=True), None).eval()
    found = network(a_batch())
    assert found.shape == (4, 4)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4))
    assert network.fusion.out.out_features == 1


def test_classifiers_of_unordered_classes_hold_nothing_more_than_before() -> None:
    assert not [name for name in a_member("image").network.state_dict() if name.startswith("head")]
