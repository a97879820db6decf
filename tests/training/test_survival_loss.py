"""The losses of times to an event, against likelihoods written out by hand and against other libraries."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from medmllm.records import Survival
from medmllm.training.survival_loss import CoxLoss, HazardLoss
from medmllm.training.survival_targets import AtRisk, Ranked, rank_times

# Twelve studies; events share the times 2 (two of them) and 4 (with a censored one).
TIMES = (1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
EVENTS = (1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1)
RISKS = (2.0, 1.5, 0.3, 0.9, 1.1, 0.2, 0.9, 1.3, -0.5, 0.4, -1.0, -0.2)


def _targets(*coded: AtRisk | Ranked) -> torch.Tensor:
    return torch.tensor(coded)


def test_hazard_loss_is_the_likelihood_of_three_patients() -> None:
    logits = torch.log(torch.tensor([[1 / 3, 1.0], [1.0, 1 / 3], [1 / 3, 3.0]]))  # hazards 1/4 1/2, 1/2 1/4, 1/4 3/4
    target = _targets(AtRisk(2, 1), AtRisk(1, 1), AtRisk(2, 0))
    likelihoods = (3 / 4) * (1 / 2), 1 / 2, (3 / 4) * (1 / 4)  # through, then event; event; through both
    assert HazardLoss()(logits, target).item() == pytest.approx(-sum(map(math.log, likelihoods)) / 3)


def test_hazard_loss_is_that_of_a_logistic_regression_on_person_periods() -> None:
    generator = np.random.default_rng(5)
    logits, count = generator.normal(size=(40, 6)), generator.integers(0, 7, 40)
    event = (generator.random(40) < 0.6) & (count > 0)
    rows = [(logits[k, j], event[k] and j == count[k] - 1) for k in range(40) for j in range(count[k])]
    chances = [1 / (1 + math.exp(-logit)) for logit, _ in rows]
    expected = log_loss([bool(came) for _, came in rows], chances, normalize=False) / 40
    target = torch.tensor(np.stack([count, event], axis=1))
    assert HazardLoss()(torch.tensor(logits), target).item() == pytest.approx(expected)


def test_a_study_censored_at_once_gives_no_gradient() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    HazardLoss()(logits, _targets(AtRisk(0, 0), AtRisk(2, 1))).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0]
    assert logits.grad[1].tolist() == [0.25, -0.25, 0.0]  # half of 1/2 and of 1/2 - 1; the third was not at risk


def test_cox_loss_compares_each_event_with_those_still_at_risk() -> None:
    target = torch.tensor(rank_times([Survival(1, event=True), Survival(2, event=False), Survival(3, event=True)]))
    risks = torch.log(torch.tensor([[2.0], [3.0], [5.0]]))
    expected = -(math.log(2 / (2 + 3 + 5)) + math.log(5 / 5)) / 2  # two events
    assert CoxLoss()(risks, target).item() == pytest.approx(expected)


def test_cox_loss_takes_tied_events_away_by_halves() -> None:
    survived = [Survival(1, event=True), Survival(1, event=True), Survival(1, event=False), Survival(4, event=False)]
    risks = torch.log(torch.tensor([[2.0], [3.0], [5.0], [7.0]]))
    whole = 2 + 3 + 5 + 7
    expected = -(math.log(2 / whole) + math.log(3 / (whole - (2 + 3) / 2))) / 2  # Efron 1977
    assert CoxLoss()(risks, torch.tensor(rank_times(survived))).item() == pytest.approx(expected)


def test_cox_loss_is_the_partial_likelihood_that_lifelines_finds() -> None:
    target = torch.tensor(rank_times([Survival(*one) for one in zip(TIMES, map(bool, EVENTS), strict=True)]))
    fitted = 1.699778780243707 * torch.tensor(RISKS, dtype=torch.float64)[:, None]
    found = CoxLoss()(fitted, target).item() * sum(EVENTS)
    assert found == pytest.approx(10.300241743860635)  # lifelines 0.30.3, CoxPHFitter, ties by Efron


def test_a_batch_without_an_event_teaches_cox_nothing() -> None:
    risks = torch.tensor([[1.0], [2.0]], requires_grad=True)
    loss = CoxLoss()(risks, _targets(Ranked(0, 0), Ranked(1, 0)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert risks.grad is not None
    assert (loss.item(), risks.grad.abs().sum().item()) == (0, 0)


@pytest.mark.parametrize("far", [-200.0, 200.0])
def test_cox_loss_stays_finite_far_from_0(far: float) -> None:
    target = _targets(Ranked(0, 1), Ranked(1, 1), Ranked(2, 0))
    near = torch.tensor([[0.5], [0.0], [1.0]])
    assert CoxLoss()(near + far, target).item() == pytest.approx(CoxLoss()(near, target).item(), rel=1e-4)


def test_a_batch_without_an_event_does_not_weaken_those_beside_it() -> None:
    log_risk = torch.tensor([[0.3], [-0.2], [0.5], [0.1]], requires_grad=True)
    some, none = torch.tensor([[0, 1], [1, 1], [2, 0], [3, 0]]), torch.tensor([[0, 0], [1, 0]])
    loss = CoxLoss()
    (alone,) = torch.autograd.grad(loss(log_risk, some), log_risk)
    divisors = [loss.divisor(own) for own in (some, none)]  # joined as in `epoch`
    joined = loss(log_risk, some) * (divisors[0] / sum(divisors))
    joined = joined + loss(torch.zeros(2, 1), none) * (divisors[1] / sum(divisors))
    torch.testing.assert_close(torch.autograd.grad(joined, log_risk)[0], alone)
