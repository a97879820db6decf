import math

import numpy as np
import pytest
import torch
from monai.losses import FocalLoss
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from medmllm.errors import ConfigError
from medmllm.training.batches import draw_order
from medmllm.training.loop import fit
from medmllm.training.losses import EFFECTIVE_BETA, check_weights, class_weights, make_loss
from tests.models.small import CONTRACT, a_member, task_with
from tests.training.small import Told, cohort, same, samples_of, settings, weights

CPU = torch.device("cpu")


def logits_for(n: int, outputs: int) -> torch.Tensor:
    return 2 * torch.randn(n, outputs, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("counts", [[6, 2], [1, 3, 4]])
@pytest.mark.parametrize("weighted", ["none", "balanced"])
def test_focal_loss_with_a_gamma_of_0_is_cross_entropy(counts: list[int], weighted: str) -> None:
    samples = samples_of(counts)
    targets = torch.tensor([sample.target for sample in samples])
    outputs = 1 if len(counts) == 2 else len(counts)
    targets = targets[1:]  # a batch is not all of the training part: its weights need not average 1
    logits = logits_for(len(targets), outputs)
    plain = make_loss(samples, settings(class_weights=weighted), task_with(outputs), CPU)(logits, targets)
    for gamma in (0.0, 1e-9):  # the second through the arithmetic of focal loss
        focal = make_loss(
            samples, settings(class_weights=weighted, loss="focal", focal_gamma=gamma), task_with(outputs), CPU
        )
        assert float(focal(logits, targets)) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_that_of_monai(gamma: float) -> None:
    samples = samples_of([1, 3, 4])
    targets = torch.tensor([sample.target for sample in samples])
    logits = logits_for(len(samples), 3)
    each = FocalLoss(gamma=gamma, use_softmax=True, to_onehot_y=True, reduction="none")(logits, targets[:, None])
    found = make_loss(samples, settings(loss="focal", focal_gamma=gamma), task_with(3), CPU)(logits, targets)
    assert float(found) == pytest.approx(float(each.sum() / len(samples)), rel=1e-5)


def test_focal_loss_of_two_classes_weighs_each_study_by_how_far_it_is_missed() -> None:
    samples = samples_of([3, 1])
    logits, targets = torch.tensor([[-2.0], [0.5], [-1.0], [0.3]]), torch.tensor([0, 0, 0, 1])
    loss = make_loss(samples, settings(loss="focal", focal_gamma=3.0, class_weights="balanced"), task_with(1), CPU)
    sure = [1 / (1 + math.exp(sign * z)) for sign, z in zip((1, 1, 1, -1), (-2.0, 0.5, -1.0, 0.3), strict=True)]
    each = [w * (1 - p) ** 3 * -math.log(p) for w, p in zip((4 / 6, 4 / 6, 4 / 6, 2), sure, strict=True)]
    assert float(loss(logits, targets)) == pytest.approx(sum(each) / 4, rel=1e-5)


def test_a_study_told_beyond_doubt_gives_focal_loss_a_finite_slope() -> None:
    logits = torch.tensor([[60.0], [-60.0]], requires_grad=True)  # the probability of the truth rounds to 1
    make_loss(samples_of([1, 1]), settings(loss="focal", focal_gamma=0.5), task_with(1), CPU)(
        logits, torch.tensor([1, 0])
    ).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_loss_that_is_asked_for_is_trained_with() -> None:
    found = []
    for asked in ({}, {"loss": "focal"}, {"loss": "focal", "focal_gamma": 0.0}):
        member = a_member("text")
        fit(member, cohort(8), cohort(4, first=100), CONTRACT, settings(epochs=1, **asked), seed=1, tracker=Told())
        found.append(weights(member))
    assert not same(found[0], found[1])
    assert same(found[0], found[2])


def test_effective_numbers_are_the_sums_of_what_each_study_adds() -> None:
    counts = [500, 20, 3]
    found = class_weights(samples_of(counts), settings(class_weights="effective_number"), 3).numpy()
    numbers = np.array([sum(EFFECTIVE_BETA**k for k in range(n)) for n in counts])
    np.testing.assert_allclose(found / found[0], numbers[0] / numbers, rtol=1e-5)
    assert (found * counts).sum() / sum(counts) == pytest.approx(1, rel=1e-5)


def test_given_weights_are_taken_in_the_order_of_the_classes() -> None:
    loss = make_loss(samples_of([2, 2]), settings(class_weights=[1.0, 3.0]), task_with(1), CPU)
    even = torch.zeros(1, 1)
    assert float(loss(even, torch.tensor([0]))) == pytest.approx(math.log(2))
    assert float(loss(even, torch.tensor([1]))) == pytest.approx(3 * math.log(2))


def test_weights_for_another_number_of_classes_are_refused() -> None:
    check_weights(settings(class_weights=[1.0, 3.0]), 2)
    check_weights(settings(class_weights="balanced"), 3)
    with pytest.raises(ConfigError, match=r"class_weights has 2 weights, the target has 3 classes"):
        check_weights(settings(class_weights=[1.0, 3.0]), 3)
    with pytest.raises(ConfigError, match=r"has 2 weights, the target has 3 classes"):
        make_loss(samples_of([1, 1, 1]), settings(class_weights=[1.0, 3.0]), task_with(3), CPU)


def test_balanced_sampling_draws_each_class_as_often_and_shuffling_each_study_once() -> None:
    samples, generator = samples_of([90, 10]), torch.Generator().manual_seed(1)
    rare, drawn = 0, 0
    for _ in range(40):
        order = draw_order(samples, settings(sampling="balanced"), generator)
        assert len(order) == 100
        rare += sum(samples[k].target == 1 for k in order)
        drawn += len(order)
    assert abs(rare / drawn - 0.5) < 4 * 0.5 / math.sqrt(drawn)  # four standard errors
    assert sorted(draw_order(samples, settings(), generator)) == list(range(100))


def test_balanced_sampling_draws_from_its_generator_alone() -> None:
    def drawn(seed: int) -> list[int]:
        return draw_order(samples_of([6, 2]), settings(sampling="balanced"), torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    first = drawn(5)
    torch.manual_seed(2)
    assert drawn(5) == first  # so a checkpoint, which holds the generator's state, goes on alike
    assert drawn(6) != first


def test_classes_are_not_drawn_alike_and_weighted_as_well() -> None:
    with pytest.raises(ValueError, match="mend their imbalance twice: class_weights 'none'"):
        settings(sampling="balanced", class_weights="balanced")


@pytest.mark.parametrize("counts", [[6, 2], [1, 3, 4]])
def test_balanced_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    samples = samples_of(counts)
    targets = torch.tensor([sample.target for sample in samples])
    outputs = 1 if len(counts) == 2 else len(counts)
    loss = make_loss(samples, settings(class_weights="balanced"), task_with(outputs), torch.device("cpu"))
    weight = compute_class_weight("balanced", classes=np.arange(len(counts)), y=targets.numpy())[targets]
    logits = torch.randn(len(samples), outputs, generator=torch.Generator().manual_seed(3))
    if outputs == 1:
        p = torch.sigmoid(logits[:, 0]).numpy()
        each = -np.where(targets.numpy() == 1, np.log(p), np.log(1 - p))
        expected = (weight * each).mean()
    else:
        each = -torch.log_softmax(logits, 1).numpy()[np.arange(len(samples)), targets]
        expected = np.average(each, weights=weight)
    assert float(loss(logits, targets)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("counts", [[6, 2], [1, 3, 4]])
def test_without_weights_the_loss_is_the_plain_cross_entropy(counts: list[int]) -> None:
    samples = samples_of(counts)
    targets = torch.tensor([sample.target for sample in samples])
    outputs = 1 if len(counts) == 2 else len(counts)
    logits = torch.randn(len(samples), outputs, generator=torch.Generator().manual_seed(3))
    p = torch.softmax(logits.double(), 1) if outputs > 1 else torch.sigmoid(logits[:, 0].double())
    loss = make_loss(samples, settings(), task_with(outputs), torch.device("cpu"))
    assert float(loss(logits, targets)) == pytest.approx(log_loss(targets, p.numpy()), rel=1e-5)


def test_a_class_that_the_training_part_lacks_gets_a_finite_weight() -> None:
    loss = make_loss(samples_of([3, 2, 0]), settings(class_weights="balanced"), task_with(3), torch.device("cpu"))
    assert loss(torch.zeros(1, 3), torch.tensor([2])).isfinite()
