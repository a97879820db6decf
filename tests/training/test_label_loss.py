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
from tests.training.test_loop import Told, settings

CPU = torch.device("cpu")
LABELS = [(1, 0, UNKNOWN), (0, UNKNOWN, UNKNOWN), (0, 1, 1), (UNKNOWN, 0, 0), (0, 0, UNKNOWN)]
NAMES = ("nodule", "effusion", "fracture")
SEVERAL = Task.of_several(tuple(Task.of(name, (f"no {name}", name)) for name in NAMES))


def samples_of(labels: list[tuple[int, ...]]) -> list[Sample]:
    return [a_sample(k, note=None, target=own) for k, own in enumerate(labels)]


def logits_for(labels: list[tuple[int, ...]]) -> torch.Tensor:
    shape = (len(labels), len(labels[0]))
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).requires_grad_()


def test_the_loss_is_the_mean_log_loss_of_the_labels_that_are_known() -> None:
    logits, targets = logits_for(LABELS).detach(), torch.tensor(LABELS)
    found = make_loss(samples_of(LABELS), settings(), 3, CPU)(logits, targets)
    known = (targets != UNKNOWN).numpy()
    chances = torch.sigmoid(logits.double()).numpy()
    assert float(found) == pytest.approx(log_loss(targets.numpy()[known], chances[known]), rel=1e-5)


def test_a_missing_label_gets_a_gradient_of_exactly_0_and_the_others_do_not() -> None:
    for asked in ({}, {"loss": "focal"}, {"class_weights": "balanced"}):
        logits, targets = logits_for(LABELS), torch.tensor(LABELS)
        make_loss(samples_of(LABELS), settings(**asked), 3, CPU)(logits, targets).backward()
        assert logits.grad is not None
        assert ((logits.grad == 0) == (targets == UNKNOWN)).all()


def a_network() -> FoldNetwork:
    torch.manual_seed(3)
    return FoldNetwork(build_network(contract_of("image"), PARTS, SEVERAL, None), None)


def test_the_weights_of_a_label_that_no_study_has_do_not_learn() -> None:
    labels = [(k % 2, (k // 2) % 2, UNKNOWN) for k in range(8)]
    network, samples = a_network().network, samples_of(labels)
    batch = collate(samples, contract_of("image"))
    make_loss(samples, settings(), 3, CPU)(network(batch), torch.tensor(labels)).backward()
    gradient = network.fusion.out.weight.grad
    assert (gradient[2] == 0).all()
    assert (gradient[:2] != 0).any(dim=1).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_labels_is_that_of_monai(gamma: float) -> None:
    labels = [(1, 0), (0, 1), (0, 0)]
    logits, targets = logits_for(labels).detach(), torch.tensor(labels)
    expected = FocalLoss(gamma=gamma, use_softmax=False, reduction="mean")(logits, targets.float())
    found = make_loss(samples_of(labels), settings(loss="focal", focal_gamma=gamma), 2, CPU)(logits, targets)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_each_label_is_balanced_on_the_studies_where_it_is_known() -> None:
    labels = [(1, 0), (0, 0), (0, 0), (0, 1), (0, UNKNOWN)]
    loss = make_loss(samples_of(labels), settings(class_weights="balanced"), 2, CPU)
    for label in (0, 1):
        known = np.array([own[label] for own in labels if own[label] != UNKNOWN])
        weights = compute_class_weight("balanced", classes=np.array([0, 1]), y=known)
        for value in (0, 1):
            target = torch.full((1, 2), UNKNOWN)
            target[0, label] = value
            assert float(loss(torch.zeros(1, 2), target)) == pytest.approx(np.log(2) * weights[value], rel=1e-5)


def test_batches_joined_by_their_divisors_have_the_loss_of_the_whole() -> None:
    logits, targets = logits_for(LABELS).detach(), torch.tensor(LABELS)
    loss = make_loss(samples_of(LABELS), settings(), 3, CPU)
    parts = [slice(0, 2), slice(2, 5)]
    joined = sum(float(loss(logits[own], targets[own])) * float(loss.divisor(targets[own])) for own in parts)
    assert joined / float(loss.divisor(targets)) == pytest.approx(float(loss(logits, targets)), rel=1e-5)


def test_labels_are_learnt_side_by_side() -> None:
    def cohort(n: int, first: int) -> list[Sample]:
        made = []
        for k in range(first, first + n):
            bright, striped = k % 2, (k // 2) % 2
            sample = a_sample(k, note=None, target=(bright, striped, UNKNOWN))
            assert sample.image is not None
            sample.image[0] += 4.0 * bright
            sample.image[1] += 4.0 * striped
            made.append(sample)
        return made

    member = a_network()
    asked = settings(epochs=25, patience=25)
    fit(member, cohort(24, 0), cohort(8, 100), contract_of("image"), asked, seed=1, tracker=Told())
    held_out = cohort(8, 200)
    found = predict_logits(member, held_out, contract_of("image"), asked, Machine.of("cpu"))
    assert found.shape == (8, 3)
    assert ((found[:, :2] > 0) == np.array([sample.target[:2] for sample in held_out])).all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "class_weights lists weights of one target's classes"),
        ({"sampling": "balanced"}, "draws by the classes of one target"),
    ],
)
def test_settings_that_only_one_target_can_have_are_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_loss(samples_of(LABELS), settings(**asked), 3, CPU)
