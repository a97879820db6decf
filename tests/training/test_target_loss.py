"""The loss of several targets of any kind, each of which a study may lack."""

import numpy as np
import pytest
import torch
from monai.losses import FocalLoss
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from medmllm.errors import ConfigError
from medmllm.model_documents import Task
from medmllm.models.package import FoldNetwork, build_network
from medmllm.preprocessing.sample import collate
from medmllm.records import UNKNOWN, Sample
from medmllm.training.loop import fit, predict_logits
from medmllm.training.losses import make_loss
from medmllm.training.machine import Machine
from tests.models.small import PARTS, a_sample, contract_of
from tests.training.small import Told, settings

CPU = torch.device("cpu")
LABELS = [(1, 0, UNKNOWN), (0, UNKNOWN, UNKNOWN), (0, 1, 3), (UNKNOWN, 2, 0), (0, 0, UNKNOWN)]
NODULE = Task.of("nodule", ("no", "yes"))
PART = Task.of("part", ("chest", "head", "spine"))
GRADE = Task.of("grade", ("1", "2", "3", "4"), ordered=True)
SEVERAL = Task.of_several((NODULE, PART, GRADE))
BINARY = Task.of_several((NODULE, Task.of("effusion", ("no", "yes"))))


def samples_of(labels: list[tuple[int, ...]]) -> list[Sample]:
    return [a_sample(k, note=None, target=own) for k, own in enumerate(labels)]


def logits_for(labels: list[tuple[int, ...]], task: Task = SEVERAL) -> torch.Tensor:
    shape = (len(labels), task.outputs)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).requires_grad_()


def each_alone(logits: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """The mean loss of each target where it is known, by scikit-learn."""
    found = []
    for number, place in enumerate(SEVERAL.places):
        known = (targets[:, number] != UNKNOWN).numpy()
        own = logits[:, place.outputs].double()
        scores = own if own.shape[1] > 1 else torch.cat([torch.zeros_like(own), own], dim=1)
        chances = scores.softmax(dim=1).numpy()[known]
        found.append(log_loss(targets.numpy()[known, number], chances, labels=range(chances.shape[1])))
    return found


def test_the_loss_is_the_mean_over_the_targets_of_each_ones_mean_where_it_is_known() -> None:
    logits, targets = logits_for(LABELS).detach(), torch.tensor(LABELS)
    found = make_loss(samples_of(LABELS), settings(class_weights="none"), SEVERAL, CPU)(logits, targets)
    assert float(found) == pytest.approx(np.mean(each_alone(logits, targets)), rel=1e-5)


def test_targets_count_by_their_weights() -> None:
    logits, targets = logits_for(LABELS).detach(), torch.tensor(LABELS)
    asked = settings(class_weights="none", target_weights={"part": 3.0, "grade": 0.5})
    found = make_loss(samples_of(LABELS), asked, SEVERAL, CPU)(logits, targets)
    expected = np.average(each_alone(logits, targets), weights=[1.0, 3.0, 0.5])
    assert float(found) == pytest.approx(expected, rel=1e-5)


def outputs_of(targets: torch.Tensor) -> torch.Tensor:
    """Of which logits the target is known."""
    counts = torch.tensor([place.task.outputs for place in SEVERAL.places])
    return (targets != UNKNOWN).repeat_interleave(counts, dim=1)


@pytest.mark.parametrize("asked", [{}, {"loss": "focal"}, {"class_weights": "balanced"}])
def test_a_missing_target_gets_a_gradient_of_exactly_0_and_the_others_do_not(asked: dict[str, object]) -> None:
    logits, targets = logits_for(LABELS), torch.tensor(LABELS)
    make_loss(samples_of(LABELS), settings(**asked), SEVERAL, CPU)(logits, targets).backward()
    assert logits.grad is not None
    assert ((logits.grad != 0) == outputs_of(targets)).all()


def test_what_the_network_says_of_a_missing_target_changes_no_bit_of_the_loss_nor_of_any_gradient() -> None:
    def learnt(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own = logits.detach().clone().requires_grad_()
        loss = make_loss(samples_of(LABELS), settings(), SEVERAL, CPU)(own, torch.tensor(LABELS))
        loss.backward()
        assert own.grad is not None
        return loss.detach(), own.grad

    logits = logits_for(LABELS).detach()
    loss, gradient = learnt(logits)
    changed, other = learnt(torch.where(outputs_of(torch.tensor(LABELS)), logits, 40.0))
    assert torch.equal(loss, changed)
    assert torch.equal(gradient, other)


def a_network() -> FoldNetwork:
    torch.manual_seed(3)
    return FoldNetwork(build_network(contract_of("image"), PARTS, SEVERAL, None), None)


def test_the_head_of_a_target_that_no_study_of_a_batch_has_gets_a_gradient_of_exactly_0() -> None:
    labels = [(k % 2, k % 3, UNKNOWN) for k in range(8)]
    network, samples = a_network().network, samples_of(labels)
    make_loss(samples, settings(), SEVERAL, CPU)(
        network(collate(samples, contract_of("image"))), torch.tensor(labels)
    ).backward()
    gradient = network.fusion.out.weight.grad
    assert gradient.shape[0] == 1 + 3 + 1  # scores: grades have one
    assert (gradient[4] == 0).all()
    assert (gradient[:4] != 0).any(dim=1).all()
    grades = list(network.head.heads[2].parameters())
    assert len(grades) == 2
    assert all(own.grad is not None and (own.grad == 0).all() for own in grades)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_binary_targets_is_that_of_monai(gamma: float) -> None:
    labels = [(1, 0), (0, 1), (0, 0)]
    logits, targets = logits_for(labels, BINARY).detach(), torch.tensor(labels)
    expected = FocalLoss(gamma=gamma, use_softmax=False, reduction="mean")(logits, targets.float())
    asked = settings(loss="focal", focal_gamma=gamma, class_weights="none")
    found = make_loss(samples_of(labels), asked, BINARY, CPU)(logits, targets)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_classes_of_each_target_are_balanced_on_the_studies_where_it_is_known() -> None:
    labels = [(1, 0), (0, 2), (0, 0), (0, 1), (0, UNKNOWN)]
    task = Task.of_several((NODULE, PART))
    loss = make_loss(samples_of(labels), settings(class_weights="balanced"), task, CPU)
    for number, place in enumerate(task.places):
        known = np.array([own[number] for own in labels if own[number] != UNKNOWN])
        classes = np.arange(len(place.task.classes))
        for value, weight in zip(classes, compute_class_weight("balanced", classes=classes, y=known), strict=True):
            target = torch.full((1, 2), UNKNOWN)
            target[0, number] = int(value)
            expected = np.log(len(classes)) * weight  # of even odds
            assert float(loss(torch.zeros(1, 4), target)) == pytest.approx(expected, rel=1e-5)


def test_batches_joined_by_their_divisors_have_the_loss_of_the_whole() -> None:
    logits, targets = logits_for(LABELS).detach(), torch.tensor(LABELS)
    loss = make_loss(samples_of(LABELS), settings(), SEVERAL, CPU)
    parts = [slice(0, 2), slice(2, 5)]
    joined = sum(float(loss(logits[own], targets[own])) * float(loss.divisor(targets[own])) for own in parts)
    assert joined / float(loss.divisor(targets)) == pytest.approx(float(loss(logits, targets)), rel=1e-5)


def test_targets_of_several_kinds_are_learnt_side_by_side() -> None:
    def cohort(n: int, first: int) -> list[Sample]:
        made = []
        for k in range(first, first + n):
            bright, striped = k % 2, (k // 2) % 3
            sample = a_sample(k, note=None, target=(bright, striped, UNKNOWN))
            assert sample.image is not None
            sample.image[0] += 4.0 * bright
            sample.image[1] += 4.0 * striped
            made.append(sample)
        return made

    member = a_network()
    asked = settings(epochs=25, patience=25)
    fit(member, cohort(36, 0), cohort(12, 102), contract_of("image"), asked, seed=1, tracker=Told())
    held_out = cohort(12, 204)
    found = predict_logits(member, held_out, contract_of("image"), asked, Machine.of("cpu"))
    assert found.shape == (12, 8)
    said = np.stack([found[:, 0] > 0, found[:, 1:4].argmax(axis=1)], axis=1)
    assert (said == np.array([sample.target[:2] for sample in held_out])).mean() > 0.9


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "class_weights lists weights of one target's classes"),
        ({"sampling": "balanced", "class_weights": "none"}, "draws by the classes of one target"),
        ({"target_weights": {"side": 2.0}}, "names 'side', which is none of several targets; these are nodule, part"),
    ],
)
def test_settings_that_these_targets_cannot_have_are_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_loss(samples_of(LABELS), settings(**asked), SEVERAL, CPU)
