"""Where a network runs and how precisely: what is asked for holds, and what is not there is refused."""

import numpy as np
import pytest
import torch

from medmllm.errors import ConfigError
from medmllm.preprocessing.sample import collate
from medmllm.training.loop import predict_logits
from medmllm.training.machine import Machine
from tests.models.small import CONTRACT, a_member
from tests.training.small import cohort, settings, train


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
