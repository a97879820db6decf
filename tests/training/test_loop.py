"""A network learns what can be learnt; the tuning part chooses the epoch, and nothing else does."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from medmllm.errors import MedmllmError
from medmllm.models.package import FoldNetwork
from medmllm.training import loop
from medmllm.training.loop import Fit, fit, predict_logits
from medmllm.training.machine import Machine
from medmllm.training.processes import ALONE, Crew
from tests.models.small import CONTRACT, a_member, contract_of
from tests.training.small import THREE, Told, cohort, same, settings, train, weights


@pytest.mark.parametrize("arm", ["image", "text", "fused"])
def test_what_can_be_separated_is_learnt(arm: str) -> None:
    member = a_member(arm)
    train(member, arm, 16, epochs=20, patience=20)
    held_out = cohort(8, first=200)
    found = predict_logits(member, held_out, contract_of(arm), settings(), Machine.of("cpu"))
    assert found.shape == (8, 1)
    assert ((found[:, 0] > 0) == [sample.target == 1 for sample in held_out]).all()


@pytest.mark.parametrize(("encoder", "width", "rate"), [("efficientnet_b0", 8, 1e-2), ("swin_unetr", 12, 3e-3)])
def test_networks_of_every_kind_learn_from_images(encoder: str, width: int, rate: float) -> None:
    member = a_member("image", image_encoder=encoder, image_width=width)
    _, told = train(member, "image", 16, batch_size=16, epochs=6, learning_rate=rate, channels_last=True)
    assert min(told.tuning) < 0.55  # chance is ln 2 = 0.69


def test_three_classes_are_learnt() -> None:
    member = a_member("text", classes=THREE)
    train(member, "text", 18, classes=3, epochs=12, patience=12)
    held_out = cohort(9, classes=3, first=300)
    found = predict_logits(member, held_out, contract_of("text"), settings(), Machine.of("cpu"))
    assert found.argmax(1).tolist() == [sample.target for sample in held_out]


def test_the_tracker_hears_of_every_epoch_and_the_tuning_loss_is_the_cross_entropy() -> None:
    member = a_member()
    done, told = train(member, epochs=3)
    assert told.epochs == [1, 2, 3]
    assert all(metrics.keys() == {"train_loss", "tuning_loss"} for metrics in told.metrics)
    assert done.tuning_loss == min(told.tuning)
    assert told.epochs[told.tuning.index(done.tuning_loss)] == done.best_epoch
    tune = cohort(6, first=100)
    found = predict_logits(member, tune, CONTRACT, settings(), Machine.of("cpu"))
    probability = 1 / (1 + np.exp(-found[:, 0]))
    assert log_loss([s.target for s in tune], probability) == pytest.approx(done.tuning_loss, rel=1e-5)


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[dict[str, torch.Tensor]]:
    """Let the tuning loss go as written; return the weights at the end of each epoch, filled in while training."""
    seen: list[dict[str, torch.Tensor]] = []

    def tuning_loss(member: FoldNetwork, *_: object) -> float:
        seen.append(weights(member))
        return losses[len(seen) - 1]

    monkeypatch.setattr(loop, "_tuning_loss", tuning_loss)
    return seen


def test_the_weights_of_the_best_epoch_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scripted(monkeypatch, [0.9, 0.5, 0.7, 0.6])
    member = a_member()
    done, _ = train(member, epochs=4, patience=9)
    assert done == Fit(best_epoch=2, epochs=4, tuning_loss=0.5)
    assert same(weights(member), seen[1])
    assert not same(weights(member), seen[3])
    assert not member.network.training


@pytest.mark.parametrize(
    ("losses", "patience", "epochs", "best"),
    [
        ([0.9, 0.5, 0.7, 0.6, 0.8, 0.1], 3, 5, 2),
        ([0.9, 0.9, 0.8, 0.1, 0.1, 0.1], 1, 2, 1),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 1, 6, 6),
        ([math.nan, 0.8, math.nan, 0.7, 0.9, math.inf], 2, 6, 4),
    ],
)
def test_training_stops_after_patience_epochs_without_a_better_one(
    monkeypatch: pytest.MonkeyPatch, losses: list[float], patience: int, epochs: int, best: int
) -> None:
    seen = scripted(monkeypatch, losses)
    done, told = train(a_member("text"), "text", 4, epochs=6, patience=patience)
    assert (done.epochs, done.best_epoch) == (epochs, best)
    assert len(seen) == len(told.epochs) == epochs


def test_training_that_never_has_a_finite_loss_says_so() -> None:
    member = a_member()
    with torch.no_grad():
        member.network.fusion.out.bias.fill_(math.nan)
    with pytest.raises(MedmllmError, match=r"none of 2 epochs .*learning_rate") as caught:
        train(member, epochs=5, patience=2)
    assert caught.value.code == "diverged"


def test_a_training_that_diverges_leaves_no_other_process_in_its_midst(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []

    @contextmanager
    def crew(*_: object) -> Iterator[Crew]:
        yield ALONE
        left.append("together")  # an error within ends all of them

    monkeypatch.setattr(loop, "crew_of", crew)
    member = a_member()
    with torch.no_grad():
        member.network.fusion.out.bias.fill_(math.nan)
    with pytest.raises(MedmllmError, match="diverged"):
        train(member, epochs=2)
    assert left == ["together"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    parts = {"dropout": 0.2, "modality_dropout": 0.3}
    asked = {"flips": True, "noise": 0.1, "shift_voxels": 1, "epochs": 2}
    found = []
    for before, seed in ((1, 7), (2, 7), (2, 8)):
        member = a_member(**parts)  # type: ignore[arg-type]
        torch.manual_seed(before)  # what was drawn before must not matter
        train(member, seed=seed, **asked)
        found.append(weights(member))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_the_tuning_part_chooses_the_epoch_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for part in (cohort(6, first=100), cohort(2, first=500)):
        member = a_member()
        seen: list[dict[str, torch.Tensor]] = []
        real = loop._tuning_loss

        def spy(member: FoldNetwork, *rest: Any, seen: Any = seen, real: Any = real) -> float:
            seen.append(weights(member))
            return real(member, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(loop, "_tuning_loss", spy)
            fit(member, cohort(9), part, CONTRACT, settings(epochs=2), seed=1, tracker=Told())
        found.append(seen)
    assert all(same(one, two) for one, two in zip(*found, strict=True))


def test_text_and_the_rest_learn_at_their_own_rates() -> None:
    member = a_member()
    before = weights(member)
    train(member, epochs=1, text_learning_rate=1e-30)
    changed = {name for name, tensor in weights(member).items() if (tensor - before[name]).abs().max() > 1e-20}
    learnt = {name for name, _ in member.network.named_parameters()}
    text = {name for name in learnt if name.startswith("text_encoder")}
    assert changed & text == set()
    assert {"fusion.out.weight", "image_encoder.network.conv1.weight"} <= changed & learnt


def test_rates_warm_up_and_fall_as_a_cosine_to_zero() -> None:
    network = a_member().network
    optimizer, schedule = loop._optimizer(network, settings(warmup_epochs=1.0, epochs=3, learning_rate=0.5), 4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    cosine = [0.25 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, *cosine])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
