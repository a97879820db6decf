"""Several processes that share every batch learn as one does; a killed training of theirs goes on to the same bits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from medmllm.errors import ConfigError
from medmllm.model_documents import Task
from medmllm.models.package import FoldNetwork, build_network
from medmllm.records import UNKNOWN, Batch
from medmllm.training.batches import batches
from medmllm.training.checkpoint import Checkpoint
from medmllm.training.followers import followers_stay
from medmllm.training.loop import fit
from medmllm.training.processes import Crew, device_of
from tests.models.small import CONTRACT, PARTS, a_member, contract_of
from tests.training.small import ORIGIN, Killed, Killer, Told, cohort, settings, train_varied


@pytest.fixture(scope="module", autouse=True)
def started_once() -> Iterator[None]:
    """Keep the other process from test to test: it takes longer to start than to train."""
    with followers_stay():
        yield


def curve(processes: int) -> list[dict[str, float]]:
    """Losses of a text network, which normalises over no batch, with a heavy class and a tight clip."""
    told = Told()
    asked = settings(processes=processes, epochs=4, batch_size=4, class_weights="balanced", gradient_clip=0.1)
    train = cohort(13)  # the lone last one joins the batch before it: parts are of two and three
    fit(a_member("text"), train, cohort(6, first=100), contract_of("text"), asked, seed=7, tracker=told)
    return told.metrics


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one() -> None:
    alone, both = curve(1), curve(2)
    assert len(both) == 4
    for found, expected in zip(both, alone, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert alone[0]["train_loss"] - alone[-1]["train_loss"] > 0.01, "something was learnt"


def shared_fit(processes: int, *, shared: bool, **parts: object) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Losses of a network that normalises over batches, images and notes, many of which are missing; its statistics."""
    told = Told()
    # Adam makes whole steps of the rounding in gradients that are 0, as that of a shift before a norm is: short steps.
    asked = settings(processes=processes, sync_batch_norm=shared, learning_rate=3e-4, text_learning_rate=1e-5)
    train = [
        replace(
            sample,
            image=sample.image if k % 3 == 0 else None,
            # Alike notes would have no spread, and what normalises them would make much of their rounding.
            token_ids=None if k % 4 == 1 else torch.randperm(20, generator=torch.Generator().manual_seed(k))[:7] + 5,
        )
        for k, sample in enumerate(cohort(13))
    ]
    member = a_member("fused", text_batch_norm=True, **parts)
    fit(member, train, cohort(6, first=100), contract_of("fused"), asked, seed=7, tracker=told)
    assert not member.network.sharing
    state = member.network.state_dict()
    return told.metrics, {name: value for name, value in state.items() if "running" in name or "tracked" in name}


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{}, {"image_encoder": "cells", "fusion": "cross_attention"}])
def test_with_shared_batch_statistics_two_processes_learn_and_remember_what_one_does(parts: dict[str, object]) -> None:
    alone, expected = shared_fit(1, shared=True, **parts)
    both, found = shared_fit(2, shared=True, **parts)
    apart, _ = shared_fit(2, shared=False, **parts)
    for one, two in zip(alone, both, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert {"image_encoder", "text_encoder"} == {name.partition(".")[0] for name in found}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    assert max(abs(two["train_loss"] - one["train_loss"]) for one, two in zip(alone, apart, strict=True)) > 1e-2


def masked_fit(processes: int, **changes: object) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Losses and weights of two targets, the first seldom known; of 14 studies, two are left for the last batch."""
    task = Task.of_several((Task.of("nodule", ("no", "yes")), Task.of("part", ("chest", "head", "spine"))))
    told, known = Told(), {0, 1, 2, 7, 100, 101}
    train, tune = (
        [
            replace(own, target=(k % 2 if k in known else UNKNOWN, k % 3))
            for k, own in enumerate(cohort(n, first=first), first)
        ]
        for n, first in ((14, 0), (6, 100))
    )
    torch.manual_seed(3)
    member = FoldNetwork(build_network(contract_of("image"), PARTS, task, None), None)
    asked = settings(processes=processes, sync_batch_norm=True, learning_rate=1e-3, **changes)
    fit(member, train, tune, contract_of("image"), asked, seed=7, tracker=told)
    return told.metrics, member.network.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_with_shared_batch_statistics_two_processes_learn_masked_targets_as_one_does(accumulate: int) -> None:
    alone, expected = masked_fit(1, accumulate=accumulate)
    both, found = masked_fit(2, accumulate=accumulate)
    assert len(both) == len(alone) == 3
    for one, two in zip(alone, both, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_processes_cut_off_in_their_third_epoch_go_on_to_the_same_bits(tmp_path: Path) -> None:
    told, checkpoint = Told(), Checkpoint(tmp_path / "fold.safetensors", ORIGIN)
    whole, weights = train_varied(Told(), processes=2)
    with pytest.raises(Killed):
        train_varied(Killer(), checkpoint, processes=2)
    resumed, again = train_varied(told, checkpoint, processes=2)
    assert told.epochs == [3, 4, 5, 6]
    assert resumed == whole
    assert {name for name, value in weights.items() if not torch.equal(value, again[name])} == set()


def test_a_process_without_a_study_of_the_last_batch_takes_part_with_one_that_has_nothing_and_does_not_count() -> None:
    samples, asked = cohort(14), settings(batch_size=6, sync_batch_norm=True)

    def drawn(crew: Crew) -> list[Batch]:
        return list(batches(samples, CONTRACT, asked, 0, torch.Generator().manual_seed(1), crew=crew))

    parts = [drawn(Crew(rank, 3)) for rank in range(3)]
    for whole, *own in zip(drawn(Crew()), *parts, strict=True):
        assert sorted(whole.study_keys) == sorted(key for part in own for key in part.study_keys)
    assert [len(part[-1].study_keys) for part in parts] == [1, 1, 0]
    last = parts[2][-1]
    assert len(last.image) == 1
    assert not last.present.any()


@pytest.mark.parametrize(
    ("n", "shared", "expected"),
    [
        (13, False, [4, 4, 5]),
        (16, False, [4, 4, 4, 4]),
        (10, False, [4, 6]),
        (14, False, [4, 4, 6]),
        (3, False, [3]),
        (13, True, [4, 4, 5]),
        (10, True, [4, 4, 2]),
        (11, True, [4, 4, 3]),
    ],
)
def test_each_batch_is_parted_and_a_last_one_too_small_for_all_joins(n: int, shared: bool, expected: list[int]) -> None:
    samples, asked = cohort(n), settings(batch_size=4, sync_batch_norm=shared)
    parts = [
        list(batches(samples, CONTRACT, asked, 0, torch.Generator().manual_seed(1), crew=Crew(rank, 2)))
        for rank in (0, 1)
    ]
    whole = [[key for batch in pair for key in batch.study_keys] for pair in zip(*parts, strict=True)]
    assert [len(keys) for keys in whole] == expected
    assert sorted(key for keys in whole for key in keys) == [sample.study_key for sample in samples]
    assert all(abs(len(a.study_keys) - len(b.study_keys)) <= 1 for a, b in zip(*parts, strict=True))


def test_batches_too_small_for_the_processes_are_refused() -> None:
    with pytest.raises(ValidationError, match="batch_size 4 is too small"):
        settings(batch_size=4, processes=3)
    assert settings(batch_size=4, processes=2).processes == 2
    with pytest.raises(ConfigError, match="processes = 2 is too many for 3 training studies"):
        fit(a_member("text"), cohort(3), cohort(2, first=100), contract_of("text"), settings(processes=2), seed=1,
            tracker=Told())  # fmt: skip


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(1, 2, torch.device("cuda")) == torch.device("cuda", 1)
    assert device_of(1, 3, torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ConfigError, match="processes = 3 wants 3 GPUs"):
        device_of(0, 3, torch.device("cuda"))
    with pytest.raises(ConfigError, match="device = 'cuda'"):
        device_of(0, 2, torch.device("cuda:1"))
