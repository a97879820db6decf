"""A training that was cut off goes on to the same bits, and only under what it was started with."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from medmllm.errors import MedmllmError, MisuseError
from medmllm.training.checkpoint import Checkpoint, FitState, read_state, write_state
from medmllm.training.machine import set_determinism
from tests.training.small import ORIGIN, Killed, Killer, Told, settings, train_varied


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_fit_cut_off_in_its_third_epoch_goes_on_to_the_same_bits(tmp_path: Path, channels_last: bool) -> None:
    whole_told, told = Told(), Told()
    whole, weights = train_varied(whole_told, channels_last=channels_last)
    checkpoint = Checkpoint(tmp_path / "fold.safetensors", ORIGIN)
    with pytest.raises(Killed):
        train_varied(Killer(), checkpoint, channels_last=channels_last)
    resumed, again = train_varied(told, checkpoint, channels_last=channels_last)
    assert told.epochs == [3, 4, 5, 6], "the third epoch was not saved: it is trained again"
    assert told.metrics == whole_told.metrics[2:]
    assert resumed == whole
    assert {name for name, value in weights.items() if not torch.equal(value, again[name])} == set()


def test_a_fit_that_had_come_to_its_end_trains_no_more(tmp_path: Path) -> None:
    checkpoint, told = Checkpoint(tmp_path / "fold.safetensors", ORIGIN), Told()
    # A rate that ruins the network: the tuning loss rises at once and patience ends the training early.
    first, weights = train_varied(Told(), checkpoint, learning_rate=0.5, text_learning_rate=0.5, patience=1, epochs=9)
    assert first.epochs < 9
    second, again = train_varied(told, checkpoint, learning_rate=0.5, text_learning_rate=0.5, patience=1, epochs=9)
    assert (told.epochs, second) == ([], first)
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_the_random_numbers_of_torch_numpy_and_python_go_on_where_they_were(tmp_path: Path) -> None:
    def state() -> FitState:
        network = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        return FitState(network, optimizer, LambdaLR(optimizer, lambda step: 1.0), torch.Generator().manual_seed(1))

    def drawn(order: torch.Generator) -> tuple[float, ...]:
        numbers = np.random.normal(), random.random()  # noqa: NPY002 - the global one is what is restored
        return (*numbers, float(torch.rand(())), float(torch.rand((), generator=order)))

    np.random.normal()  # noqa: NPY002 - half of a pair is now in store
    checkpoint, first, second = Checkpoint(tmp_path / "a.safetensors", ORIGIN), state(), state()
    checkpoint.save(first)
    expected = drawn(first.generator)
    assert drawn(first.generator) != expected
    assert checkpoint.load(second)
    assert drawn(second.generator) == expected


def test_the_switch_lets_torch_refuse_what_it_cannot_do_the_same_way_twice() -> None:
    def put() -> Tensor:  # which of two values wins is not defined: torch.use_deterministic_algorithms lists it
        return torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))

    try:
        set_determinism(settings(deterministic=True))
        with pytest.raises(RuntimeError, match="deterministic"):
            put()
    finally:
        set_determinism(settings(deterministic=False))
    assert put()[1] == 0


@pytest.mark.parametrize(
    ("part", "told"), [("settings", "other settings"), ("split", "another split"), ("cohort", "another cohort")]
)
def test_a_checkpoint_of_something_else_is_refused_and_says_what_changed(tmp_path: Path, part: str, told: str) -> None:
    write_state(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {}, ORIGIN)
    with pytest.raises(MisuseError, match=rf"trained with {told}\. .*--overwrite"):
        read_state(tmp_path / "a.safetensors", replace(ORIGIN, **{part: "other"}))


@pytest.mark.parametrize("keep", [0, 7, 40, -1])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.safetensors"
    write_state(path, {"x": torch.ones(2)}, {}, ORIGIN)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MedmllmError, match=r"checkpoints/a\.safetensors cannot be read.*Delete it") as caught:
        read_state(path, ORIGIN)
    assert caught.value.code == "damaged_checkpoint"


def test_what_fails_while_it_is_written_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_state(path, {"x": torch.ones(2)}, {"epoch": 1}, ORIGIN)

    def full(opened: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_state(path, {"x": torch.zeros(2)}, {"epoch": 2}, ORIGIN)
    assert read_state(path, ORIGIN)[1] == {"epoch": 1}
