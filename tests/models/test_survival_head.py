"""From features to hazards, and to the number that is explained."""

import numpy as np
import pytest
import torch

from medmllm.evaluation.survival_curve import log_hazards, parts_until
from medmllm.models.survival_head import CoxHead, HazardHead, log_hazard_until
from medmllm.tuning_documents import FoldSurvival


def test_a_study_of_which_nothing_is_said_has_everybodys_hazards() -> None:
    head = HazardHead(3)
    head.start_at(torch.logit(torch.tensor([0.1, 0.25, 0.5])).tolist())
    torch.testing.assert_close(torch.sigmoid(head(torch.zeros(2, 3))), torch.tensor([[0.1, 0.25, 0.5]] * 2))


def test_a_cox_network_gives_log_risks_until_its_baseline_is_known() -> None:
    log_risk = torch.tensor([[0.5], [-1.0]])
    assert CoxHead(3)(log_risk) is log_risk


def test_a_log_risk_multiplies_the_baseline() -> None:
    head = CoxHead(3)
    head.settle([0.1, 0.2, 0.4])
    hazards = torch.sigmoid(head(torch.log(torch.tensor([[1.0], [3.0]]))))
    through = torch.tensor([[0.1, 0.2, 0.4], [0.3, 0.6, 1.2]]).neg().exp()  # hazard adds up to the log of this
    torch.testing.assert_close(1 - hazards, through)


@pytest.mark.parametrize("log_risk", [-60.0, 60.0])
def test_hazards_of_extreme_log_risks_are_finite_and_have_a_gradient(log_risk: float) -> None:
    head = CoxHead(2)
    head.settle([0.1, 0.0])  # no event in the second interval
    given = torch.tensor([[log_risk]], requires_grad=True)
    logits = head(given)
    logits.sum().backward()
    assert given.grad is not None
    assert torch.isfinite(logits).all()
    assert torch.isfinite(given.grad).all()


def test_what_is_explained_is_what_is_scored() -> None:
    fold = FoldSurvival(bounds=(2.0, 4.0, 8.0), everybody=(-1.0, -0.5, 0.5))
    raw = np.random.default_rng(4).normal(size=(5, 3))
    parts = parts_until(fold.bounds, [5.0])[:, 0].tolist()
    found = log_hazard_until(torch.tensor(raw), everybody=fold.everybody, temperature=1.7, parts=parts)
    assert found.tolist() == pytest.approx(log_hazards(raw, 1.7, fold, np.array([5.0]))[:, 0].tolist())
