import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from medmllm.config import TrainConfig, load_config
from medmllm.errors import ConfigError, MedmllmError
from medmllm.models.package import FoldNetwork
from medmllm.preprocessing.sample import collate
from medmllm.records import Sample
from medmllm.training import loop
from medmllm.training.batches import augment, batches
from medmllm.training.loop import Fit, fit, predict_logits
from medmllm.training.losses import make_loss
from medmllm.training.machine import Machine
from medmllm.training.processes import ALONE, Crew
from medmllm.training_config import TrainingSettings
from tests.models.small import CONTRACT, SIZE, a_member, a_sample, contract_of, task_with

THREE = ("low", "mid", "high")
WORDS = ("clear", "marked nodule", "spiculated")


def settings(**changes: object) -> TrainingSettings:
    plain = {
        "folds": 2,
        "tuning_fraction": 0.2,
        "inner_folds": 1,
        "same_pixels": "refuse",
        "copied_notes": "warn",
        "group_out": "",
        "arms": ("fused",),
        "seed": 1,
        "epochs": 3,
        "patience": 3,
        "batch_size": 4,
        "accumulate": 1,
        "learning_rate": 3e-3,
        "text_learning_rate": 3e-3,
        "weight_decay": 0.0,
        "warmup_epochs": 0.0,
        "gradient_clip": 1.0,
        "loss": "cross_entropy",
        "focal_gamma": 2.0,
        "class_weights": "none",
        "target_weights": {},
        "sampling": "shuffle",
        "flips": False,
        "noise": 0.0,
        "shift_voxels": 0,
        "device": "cpu",
        "precision": "auto",
        "channels_last": False,
        "processes": 1,
        "sync_batch_norm": False,
        "cache": "",
        "threads": 1,
        "deterministic": False,
        "learning_curve": (),
    }
    packaged = load_config(TrainConfig, "train").training.model_dump()  # holds what these tests do not ask for
    return TrainingSettings.model_validate(packaged | plain | changes)


@dataclass
class Told:
    """What a tracker was told, epoch by epoch."""

    epochs: list[int] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)

    def log_epoch(self, epoch: int, metrics: Any) -> None:
        self.epochs.append(epoch)
        self.metrics.append(dict(metrics))

    @property
    def tuning(self) -> list[float]:
        return [metrics["tuning_loss"] for metrics in self.metrics]


def cohort(n: int, *, classes: int = 2, first: int = 0) -> list[Sample]:
    """Noise that is the brighter, and a note that names it, the higher the class; taken in turn."""
    made = []
    for number in range(first, first + n):
        target = number % classes
        sample = a_sample(number, note=WORDS[target], target=target)
        assert sample.image is not None
        made.append(replace(sample, image=sample.image + 1.5 * target))
    return made


def train(
    member: FoldNetwork, arm: str = "fused", n: int = 13, *, classes: int = 2, seed: int = 7, **changes: object
) -> tuple[Fit, Told]:
    told = Told()
    done = fit(
        member,
        cohort(n, classes=classes),
        cohort(6, classes=classes, first=100),
        contract_of(arm),
        settings(**changes),
        seed=seed,
        tracker=told,
    )
    return done, told


def weights(member: FoldNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in member.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


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


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_precisions_learn_on_the_cpu(precision: str) -> None:
    member = a_member()
    done, _ = train(member, n=16, epochs=8, patience=8, precision=precision, channels_last=True)
    assert {tensor.dtype for tensor in member.network.parameters()} == {torch.float32}
    assert done.tuning_loss < 0.5
    held_out = cohort(6, first=200)
    machine = Machine.of("cpu", precision, channels_last=True)
    found = predict_logits(member, held_out, CONTRACT, settings(), machine)
    assert ((found[:, 0] > 0) == [sample.target == 1 for sample in held_out]).all()


def test_bf16_is_in_force_where_asked_and_not_elsewhere() -> None:
    member, samples = a_member(), cohort(4)
    full = predict_logits(member, samples, CONTRACT, settings(), Machine.of("cpu", "32-true"))
    half = predict_logits(member, samples, CONTRACT, settings(), Machine.of("cpu", "bf16-mixed"))
    auto = predict_logits(member, samples, CONTRACT, settings(), Machine.of("cpu", "auto"))
    np.testing.assert_array_equal(full, auto)
    assert 0 < np.abs(full - half).max() < 0.1


def test_channels_last_changes_the_layout_and_not_the_result() -> None:
    member, samples = a_member(), cohort(4)
    plain = predict_logits(member, samples, CONTRACT, settings(), Machine.of("cpu"))
    machine = Machine.of("cpu", channels_last=True)
    machine.place(member.network)
    batch = machine.bring(collate(samples, CONTRACT))
    assert batch.image.is_contiguous(memory_format=torch.channels_last_3d)
    assert not batch.image.is_contiguous()
    np.testing.assert_allclose(predict_logits(member, samples, CONTRACT, settings(), machine), plain, atol=1e-5)


def test_auto_takes_cuda_where_there_is_one_and_half_precision_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Machine.of("auto") == Machine(torch.device("cpu"), bf16=False, channels_last=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Machine.of("auto") == Machine(torch.device("cuda"), bf16=True, channels_last=False)
    assert Machine.of("cuda:1", "32-true") == Machine(torch.device("cuda:1"), bf16=False, channels_last=False)
    with pytest.raises(ConfigError, match="'cuda:2': 2 CUDA devices are usable"):
        Machine.of("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "meta", "mps", "cuda:x", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="is none of auto, cpu, cuda, cuda:N"):
        Machine.of(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_an_absent_device_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA devices are usable here; use device = 'cpu' or 'auto'"):
        Machine.of(device)


@pytest.mark.parametrize(("n", "size", "expected"), [(13, 4, [4, 4, 5]), (12, 4, [4, 4, 4]), (14, 4, [4, 4, 4, 2]),
                                                      (3, 4, [3]), (1, 4, [1]), (5, 4, [5])])  # fmt: skip
def test_a_last_batch_of_one_joins_the_one_before_it_while_training(n: int, size: int, expected: list[int]) -> None:
    samples = cohort(n)
    made = list(batches(samples, CONTRACT, settings(batch_size=size), 0, torch.Generator().manual_seed(1)))
    assert [len(batch.study_keys) for batch in made] == expected
    keys = [key for batch in made for key in batch.study_keys]
    assert sorted(keys) == [sample.study_key for sample in samples]  # each once
    assert n < 5 or keys != sorted(keys)  # and shuffled


def test_predictions_come_in_the_order_given_and_do_not_depend_on_the_batch_size() -> None:
    member, samples = a_member(), cohort(5)
    train(member, epochs=1)
    plain = list(batches(samples, CONTRACT, settings(batch_size=4), 0, None))
    assert [len(batch.study_keys) for batch in plain] == [4, 1]
    machine = Machine.of("cpu")
    by_four = predict_logits(member, samples, CONTRACT, settings(batch_size=4), machine)
    singly = np.concatenate([predict_logits(member, [s], CONTRACT, settings(), machine) for s in samples])
    np.testing.assert_allclose(by_four, singly, atol=1e-5)
    assert by_four.dtype == np.float64
    assert len(np.unique(by_four)) == 5


def test_a_training_part_of_batches_of_four_and_one_runs_through() -> None:
    done, _ = train(a_member(), n=5, epochs=1)
    assert done.best_epoch == 1


def samples_of(counts: list[int]) -> list[Sample]:
    return [a_sample(k, note=None, target=target) for target, count in enumerate(counts) for k in range(count)]


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


def augmented(seed: int = 1, **changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    batch = collate([a_sample(k) for k in range(60)], CONTRACT)
    return batch.image, augment(batch, settings(**changes), torch.Generator().manual_seed(seed)).image


def test_nothing_asked_leaves_the_batch_as_it_is() -> None:
    batch = collate([a_sample(1)], CONTRACT)
    assert augment(batch, settings(), torch.Generator()) is batch


def test_shifts_reach_as_far_as_asked_in_both_directions_and_bring_nothing_round_the_corner() -> None:
    before, after = augmented(shift_voxels=2)
    moves: list[tuple[int, int, int]] = []
    for old, new in zip(before.numpy(), after.numpy(), strict=True):
        padded = np.pad(old, ((0, 0), (2, 2), (2, 2), (2, 2)), mode="edge")
        fits = [
            (x, y, z)
            for x, y, z in np.ndindex(5, 5, 5)
            if np.array_equal(padded[:, x : x + SIZE[0], y : y + SIZE[1], z : z + SIZE[2]], new)
        ]
        assert len(fits) == 1
        moves += fits
    for axis in range(3):
        assert {move[axis] for move in moves} == {0, 1, 2, 3, 4}
    assert len(set(moves)) > 20  # each study its own


def test_flips_mirror_each_axis_for_half_of_the_studies() -> None:
    before, after = augmented(flips=True)
    found = []
    for old, new in zip(before, after, strict=True):
        fits = [
            pick
            for pick in np.ndindex(2, 2, 2)
            if torch.equal(new, old.flip([axis + 1 for axis in range(3) if pick[axis]]))
        ]
        assert len(fits) == 1
        found += fits
    assert len(set(found)) == 8
    assert (np.mean(found, axis=0) > 0.25).all()
    assert (np.mean(found, axis=0) < 0.75).all()


def test_images_are_shifted_first_and_mirrored_then() -> None:
    batch = collate([a_sample(k) for k in range(20)], CONTRACT)
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    shifted = augment(batch, settings(shift_voxels=2), one)
    both = augment(batch, settings(shift_voxels=2, flips=True), two)
    assert torch.equal(augment(shifted, settings(flips=True), one).image, both.image)


def test_noise_has_the_standard_deviation_asked_for() -> None:
    before, after = augmented(noise=0.25)
    noise = (after - before).numpy()
    n = noise.size
    assert noise.std() == pytest.approx(0.25, rel=4 / math.sqrt(2 * n))  # four standard errors
    assert abs(noise.mean()) < 4 * 0.25 / math.sqrt(n)
    assert not np.allclose(noise[0], noise[1])


def test_augmentation_draws_from_its_generator_alone() -> None:
    asked = {"flips": True, "noise": 0.1, "shift_voxels": 2}
    torch.manual_seed(1)
    first = augmented(5, **asked)[1]
    torch.manual_seed(2)
    assert torch.equal(first, augmented(5, **asked)[1])
    assert not torch.equal(first, augmented(6, **asked)[1])


def test_predictions_are_not_augmented() -> None:
    member, samples = a_member(), cohort(3)
    asked = settings(flips=True, noise=9.0, shift_voxels=2)
    plain = predict_logits(member, samples, CONTRACT, settings(), Machine.of("cpu"))
    np.testing.assert_array_equal(predict_logits(member, samples, CONTRACT, asked, Machine.of("cpu")), plain)
