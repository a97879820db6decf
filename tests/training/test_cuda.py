"""What a CUDA device must do like the processor. Skipped, saying so, where there is none."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from medmllm.models.batch_norm import share_statistics
from medmllm.models.ordinal_head import OrdinalHead
from medmllm.models.package import FoldNetwork
from medmllm.records import Batch
from medmllm.training.batches import augment, batches
from medmllm.training.checkpoint import Checkpoint
from medmllm.training.feeding import feed
from medmllm.training.loop import Fit, predict_logits
from medmllm.training.machine import Machine, set_determinism
from tests.models.small import a_batch, a_member, contract_of
from tests.models.test_shared_statistics import NORMS, batch, made
from tests.training.small import ORIGIN, Killed, Killer, Told, cohort, settings, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

ON_CUDA = {"device": "cuda", "precision": "32-true"}


def trained(
    told: Told, checkpoint: Checkpoint | None = None, *, parts: dict[str, object] | None = None, **changes: object
) -> tuple[Fit, FoldNetwork]:
    member = a_member("fused", **(parts or {}))
    plain: dict[str, object] = {"epochs": 4, "patience": 4} | ON_CUDA
    done, _ = train(member, told=told, checkpoint=checkpoint, **(plain | changes))
    return done, member


@pytest.fixture
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare in plain float32: by default cuDNN rounds the factors of convolutions to 10 bits (TF32)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.usefixtures("exact_convolutions")
@pytest.mark.parametrize("channels_last", [False, True])
def test_logits_are_those_of_the_processor(channels_last: bool) -> None:
    member, samples, contract = a_member("fused"), cohort(7), contract_of("fused")
    expected = predict_logits(member, samples, contract, settings(), Machine.of("cpu"))
    machine = Machine.of("cuda", "32-true", channels_last=channels_last)
    machine.place(member.network)
    found = predict_logits(member, samples, contract, settings(), machine)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_stays_near_the_processor() -> None:
    member, samples, contract = a_member("fused"), cohort(7), contract_of("fused")
    expected = predict_logits(member, samples, contract, settings(), Machine.of("cpu"))
    machine = Machine.of("cuda")
    assert machine.bf16, "auto takes bf16-mixed on CUDA"
    machine.place(member.network)
    found = predict_logits(member, samples, contract, settings(), machine)
    np.testing.assert_allclose(found, expected, atol=0.05)  # bf16 keeps 8 bits: relative steps of 1/256


@pytest.mark.usefixtures("exact_convolutions")
def test_training_goes_as_on_the_processor() -> None:
    here, there = Told(), Told()
    trained(there, device="cpu", precision="32-true")
    trained(here)
    for found, expected in zip(here.metrics, there.metrics, strict=True):
        assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_can_be_separated_is_learnt(precision: str) -> None:
    told = Told()
    trained(told, epochs=20, patience=20, precision=precision, channels_last=True)
    assert told.metrics[0]["train_loss"] > 0.6, "chance is log 2"
    assert told.metrics[-1]["train_loss"] < 0.15


def test_batches_fed_ahead_are_those_brought_one_by_one() -> None:
    machine, samples, contract = Machine.of("cuda", channels_last=True), cohort(30), contract_of("fused")
    expected = [machine.bring(batch) for batch in batches(samples, contract, settings(), 0, None)]
    fed = list(feed(batches(samples, contract, settings(), 0, None, pin_memory=True), machine.bring, machine.device))
    assert [batch.study_keys for batch in fed] == [batch.study_keys for batch in expected]
    for found, wanted in zip(fed, expected, strict=True):
        for name in ("image", "channel_present", "token_ids", "token_mask", "present", "target"):
            assert getattr(found, name).is_cuda
            assert torch.equal(getattr(found, name), getattr(wanted, name))


def test_an_error_in_making_a_batch_reaches_the_training() -> None:
    def broken() -> Iterator[Batch]:
        yield a_batch()
        raise ValueError("the second one")

    machine = Machine.of("cuda")
    with pytest.raises(ValueError, match="the second one"):
        list(feed(broken(), machine.bring, machine.device))


def test_images_are_moved_and_mirrored_as_on_the_processor() -> None:
    batch, asked = a_batch(), settings(shift_voxels=2, flips=True)
    expected = augment(batch, asked, torch.Generator().manual_seed(1)).image
    found = augment(Machine.of("cuda").move(batch), asked, torch.Generator().manual_seed(1)).image
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_cut_off_goes_on_to_the_same_bits_when_deterministic(
    tmp_path: Path, precision: str, channels_last: bool
) -> None:
    changes: dict[str, object] = {
        "precision": precision, "channels_last": channels_last, "deterministic": True, "noise": 0.1, "flips": True
    }  # fmt: skip
    parts: dict[str, object] = {"dropout": 0.3, "modality_dropout": 0.3, "image_stem_pool": True}
    checkpoint = Checkpoint(tmp_path / "fold.safetensors", ORIGIN)
    try:
        set_determinism(settings(deterministic=True))
        whole, expected = trained(Told(), parts=parts, **changes)
        with pytest.raises(Killed):
            trained(Killer(), checkpoint, parts=parts, **changes)
        resumed, found = trained(Told(), checkpoint, parts=parts, **changes)
    finally:
        set_determinism(settings(deterministic=False))
    weights = found.network.state_dict()
    assert resumed == whole
    assert [n for n, value in expected.network.state_dict().items() if not torch.equal(value, weights[n])] == []


def test_grades_are_learnt_when_deterministic() -> None:
    head = OrdinalHead(5).to("cuda")
    try:
        set_determinism(settings(deterministic=True))
        head(torch.zeros(3, 1, device="cuda")).sum().backward()
    finally:
        set_determinism(settings(deterministic=False))
    assert head.steps.grad is not None


def test_what_is_missing_or_padding_changes_no_bit() -> None:
    member, machine = a_member("fused"), Machine.of("cuda", "32-true")
    machine.place(member.network)
    member.network.eval()
    batch = machine.bring(a_batch())
    image, ids = batch.image.clone(), batch.token_ids.clone()
    image[3] = 7.0  # this study has no image
    ids[~batch.token_mask] = 5
    with torch.no_grad():
        assert torch.equal(member.network(batch), member.network(replace(batch, image=image, token_ids=ids)))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_shared_batch_statistics_of_one_process_are_its_own(tmp_path: Path, name: str, half: bool) -> None:
    dtype = torch.bfloat16 if half else torch.float32
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        found = []
        for shared in (True, False):
            norm = made(name).cuda()
            assert share_statistics(norm, shared)
            given = batch(0, name).cuda().to(dtype)
            if given.ndim == 5:
                given = given.contiguous(memory_format=torch.channels_last_3d)
            given.requires_grad_()
            out = norm(given)
            (out.float() ** 3).sum().backward()
            found.append((out.detach(), given.grad, norm.state_dict()))
    finally:
        distributed.destroy_process_group()
    (one, one_gradient, one_state), (two, two_gradient, two_state) = found
    assert one.dtype == dtype
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one_gradient, two_gradient, **({"rtol": 0.1, "atol": 0.1} if half else {}))
    torch.testing.assert_close(one_state, two_state)
