"""The loss of a time to an event beside other targets, which a study may lack."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from medmllm.model_documents import SurvivalTask, Task
from medmllm.models.package import build_network
from medmllm.preprocessing.sample import collate
from medmllm.records import Sample
from medmllm.training.losses import make_loss
from medmllm.training.survival_loss import CoxLoss, HazardLoss
from medmllm.tuning_documents import FoldSurvival
from tests.models.small import PARTS, a_sample, contract_of
from tests.training.small import settings

CPU = torch.device("cpu")
LABELS = {  # nodule; intervals at risk, or place in time, and the event; grade
    "discrete_time": [(1, 2, 1, -1), (0, -1, -1, -1), (0, 3, 0, 2), (-1, 1, 1, 0), (0, -1, -1, 1), (1, 0, 0, -1)],
    "cox": [(1, 1, 1, -1), (0, -1, -1, -1), (0, 2, 0, 2), (-1, 0, 1, 0), (0, -1, -1, 1), (1, 3, 0, -1)],
}
ALONE = {"discrete_time": HazardLoss(), "cox": CoxLoss()}
MODELS = pytest.mark.parametrize("model", ["discrete_time", "cox"])


def task_of(model: str) -> Task:
    asked = SurvivalTask.model_validate({"event": "death", "model": model, "horizons": (9.0,), "time_unit": "days"})
    days = Task(target="days", kind="survival", classes=("no death by 9 days", "death by 9 days"), survival=asked)
    return Task.of_several((Task.of("nodule", ("no", "yes")), days, Task.of("grade", ("1", "2", "3"))))


def samples_of(model: str) -> list[Sample]:
    return [replace(a_sample(k, note=None), target=own) for k, own in enumerate(LABELS[model])]


def logits_of(model: str) -> torch.Tensor:
    width = 1 + (3 if model == "discrete_time" else 1) + 3
    return torch.randn((6, width), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def expected(model: str, logits: torch.Tensor) -> list[float]:
    """The mean loss of each target where it is known: of classes by scikit-learn, of the time as if it were alone."""
    table = np.array(LABELS[model])
    known = [np.flatnonzero(table[:, column] >= 0) for column in (0, 1, 3)]
    nodule = 1 / (1 + np.exp(-logits[known[0], 0].numpy()))
    grade = logits[known[2], -3:].softmax(dim=1).numpy()
    time = ALONE[model](logits[known[1], 1:-3], torch.tensor(table[known[1], 1:3]))
    return [log_loss(table[known[0], 0], nodule), float(time), log_loss(table[known[2], 3], grade, labels=[0, 1, 2])]


@MODELS
def test_the_loss_is_the_weighted_mean_of_each_targets_own_mean(model: str) -> None:
    logits, target = logits_of(model), torch.tensor(LABELS[model])
    asked = settings(class_weights="none", target_weights={"days": 2.0, "grade": 0.5})
    found = make_loss(samples_of(model), asked, task_of(model), CPU)(logits, target)
    assert float(found) == pytest.approx(np.average(expected(model, logits), weights=[1.0, 2.0, 0.5]), rel=1e-6)


@MODELS
def test_a_study_without_a_time_gets_a_gradient_of_exactly_0_from_it_and_changes_no_bit_of_the_others(
    model: str,
) -> None:
    lacking = torch.tensor([own[1] < 0 for own in LABELS[model]])

    def learnt(logits: torch.Tensor) -> torch.Tensor:
        own = logits.clone().requires_grad_()
        loss = make_loss(samples_of(model), settings(), task_of(model), CPU)(own, torch.tensor(LABELS[model]))
        loss.backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        return own.grad

    logits = logits_of(model)
    gradient = learnt(logits)
    assert (gradient[lacking, 1:-3] == 0).all()
    assert (gradient[0, 1:-3] != 0).any()
    changed = logits.clone()
    changed[lacking, 1:-3] = 40.0
    assert torch.equal(learnt(changed), gradient)


@MODELS
def test_the_head_of_a_time_that_no_study_of_a_batch_has_gets_a_gradient_of_exactly_0(model: str) -> None:
    torch.manual_seed(3)
    timeline = FoldSurvival(bounds=(1.0, 4.0, 9.0), everybody=(-1.0, -1.0, -1.0))
    network = build_network(contract_of("image"), PARTS, task_of(model), None, survival=timeline)
    samples = samples_of(model)
    loss = make_loss(samples, settings(), task_of(model), CPU)
    batch = [replace(own, target=(k % 2, -1, -1, k % 3)) for k, own in enumerate(samples)]
    logits = network(collate(batch, contract_of("image")))
    loss(logits, torch.tensor([own.target for own in batch])).backward()  # type: ignore[no-untyped-call]
    scores = 1 if model == "cox" else 3
    gradient = network.fusion.out.weight.grad
    assert gradient.shape[0] == 1 + scores + 3
    assert (gradient[1 : 1 + scores] == 0).all()
    assert (gradient[1 + scores :] != 0).any(dim=1).all()


def test_batches_joined_by_their_divisors_have_the_loss_of_the_whole() -> None:
    logits, targets = logits_of("discrete_time"), torch.tensor(LABELS["discrete_time"])
    loss = make_loss(samples_of("discrete_time"), settings(), task_of("discrete_time"), CPU)
    parts = [slice(0, 2), slice(2, 6)]
    joined = sum(float(loss(logits[own], targets[own])) * float(loss.divisor(targets[own])) for own in parts)
    assert joined / float(loss.divisor(targets)) == pytest.approx(float(loss(logits, targets)))


def test_cox_counts_events_in_the_mean_as_when_it_is_alone() -> None:
    loss = make_loss(samples_of("cox"), settings(), task_of("cox"), CPU)
    events = torch.tensor([(-1, 1, 1, -1), (-1, 0, 1, -1)])
    censored = torch.tensor([(-1, 1, 0, -1), (-1, 0, 0, -1)])
    assert float(loss.divisor(events)) == pytest.approx(2 * 6 / 2)  # six studies, two of which have the event
    assert float(loss.divisor(censored)) == pytest.approx(0, abs=1e-9)
