"""The speed report: the bare loop and ours are the same training, and the counts are what arithmetic gives."""

from dataclasses import replace

import pytest
import torch

from medmllm.training.loop import new_learner
from reports.training_speed.gpu import SMALL, case_of, matmul_rate, step_flop
from reports.training_speed.loops import Case, bare_epoch, compare, keep_batches, our_epoch

TINY = replace(SMALL, edge=16, tokens=8, studies=4)


def tiny(**changes: object) -> Case:
    return case_of(TINY, "cpu", precision="32-true", class_weights="none", shift_voxels=0, warmup_epochs=0.0, **changes)


def test_both_loops_make_the_same_step_of_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))
    case, found = tiny(), []
    for ours in (False, True):
        learner = new_learner(case.network().network, case.samples, case.training)
        torch.manual_seed(4)  # of dropout
        if ours:
            our_epoch(case, learner, torch.Generator())
        else:
            bare_epoch(learner, keep_batches(case, learner.machine))
        found.append(learner.network.state_dict())
    start = case.network().network.state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in found[0].items())
    assert [name for name, value in found[0].items() if not torch.equal(value, found[1][name])] == []


def test_ratios_are_those_of_the_pairs() -> None:
    found = compare(tiny(), rounds=3, settle=lambda: None)
    assert len(found["ratios"]) == 3
    pairs = zip(found["seconds"]["ours"], found["seconds"]["bare"], strict=True)
    assert found["ratios"] == pytest.approx([own / bare for own, bare in pairs], rel=0.05)
    assert found["ratio"] == pytest.approx(sorted(found["ratios"])[1], rel=1e-3)


def test_no_round_begins_after_the_limit() -> None:
    assert len(compare(tiny(), rounds=5, settle=lambda: None, limit_s=0.0)["ratios"]) == 1


def test_twice_the_batch_is_twice_the_arithmetic() -> None:
    one = step_flop(tiny())
    assert step_flop(tiny(batch_size=2)) == one / 2
    kernel, stem, channels = 7**3, 8**3, SMALL.width  # the first convolution alone, forward, and its weights' gradient
    assert one > 2 * 2 * TINY.studies * kernel * stem * channels


def test_the_rate_of_the_ceiling_is_operations_per_second() -> None:
    assert 1e6 < matmul_rate(64, "cpu", lambda: None) < 1e15
