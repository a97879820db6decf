from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from medmllm.errors import ConfigError
from medmllm.models.classifier import StudyClassifier
from medmllm.models.fusion import FUSIONS
from medmllm.records import MODALITIES, Batch
from tests.models.small import PARTS, a_batch, a_member, a_task, contract_of

IMAGE, TEXT = MODALITIES.index("image"), MODALITIES.index("text")


def logits(network: StudyClassifier, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(batch)


@pytest.mark.parametrize(
    ("classes", "outputs"), [(("no", "yes"), 1), (("low", "mid", "high"), 3), (tuple("abcdefg"), 7)]
)
@pytest.mark.parametrize("arm", ["image", "text", "fused"])
def test_every_arm_gives_one_logit_when_binary_else_one_per_class(
    arm: str, classes: tuple[str, ...], outputs: int
) -> None:
    member = a_member(arm, classes=classes)
    found = logits(member.network, a_batch(contract_of(arm)))
    assert a_task(classes).outputs == outputs
    assert found.shape == (4, outputs)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert member.network.modalities == {"fused": ("image", "text")}.get(arm, (arm,))


def test_every_arm_reads_its_own_modality_and_no_other() -> None:
    batch = a_batch()
    other_image = replace(batch, image=batch.image + 1)
    other_text = replace(batch, token_ids=batch.token_ids.where(batch.token_ids < 5, 7))  # special tokens are left
    for arm, reads_image, reads_text in (("image", True, False), ("text", False, True), ("fused", True, True)):
        network = a_member(arm).network
        plain = logits(network, batch)
        assert torch.equal(plain[0], logits(network, other_image)[0]) is not reads_image
        assert torch.equal(plain[0], logits(network, other_text)[0]) is not reads_text


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_stored_for_a_missing_modality_changes_nothing(fusion: str) -> None:
    network, batch = a_member(fusion=fusion).network, a_batch()
    assert batch.present[:, [IMAGE, TEXT]].tolist() == [[True, True], [True, True], [True, False], [False, True]]
    image, ids = batch.image.clone(), batch.token_ids.clone()
    image[3], ids[2] = float("nan"), 9
    other = replace(batch, image=image, token_ids=ids)
    assert torch.equal(logits(network, batch), logits(network, other))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_stored_for_a_missing_modality_changes_nothing_in_training_either(fusion: str) -> None:
    batch = a_batch()
    image, ids = batch.image.clone(), batch.token_ids.clone()
    image[3], ids[2] = float("nan"), 9
    mask = batch.token_mask.clone()
    mask[2, 1:] = True
    after = []
    for seen in (batch, replace(batch, image=image, token_ids=ids, token_mask=mask)):
        network = a_member(fusion=fusion, dropout=0.2, modality_dropout=0.3, text_batch_norm=True).network.train()
        torch.manual_seed(6)
        loss = network(seen).square().sum()
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        after.append({"loss": loss.detach()} | gradients | dict(network.named_buffers()))
    first, second = after
    assert any("running_mean" in name for name in first)
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


@pytest.mark.parametrize(("without", "absent", "there"), [(IMAGE, "image", "text"), (TEXT, "text", "image")])
def test_a_batch_that_lacks_a_modality_leaves_its_encoder_alone(without: int, absent: str, there: str) -> None:
    network, batch = a_member(text_batch_norm=True).network.train(), a_batch()
    present = torch.ones_like(batch.present)
    present[:, without] = False
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(replace(batch, present=present)).square().sum().backward()
    learns = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    learns |= {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    assert not [name for name in learns if name.startswith(f"{absent}_encoder")]
    assert [name for name in learns if name.startswith(f"{there}_encoder")]
    assert f"missing.{without}" in learns


def test_one_image_among_many_studies_trains_where_its_grid_shrinks_to_one_voxel() -> None:
    network, batch = a_member(image_stem_stride=2, image_stem_pool=True, text_batch_norm=True).network, a_batch()
    present = torch.tensor([[True, False], [False, True], [False, False], [False, False]])
    loss = network.train()(replace(batch, present=present)).square().sum()
    loss.backward()
    assert loss.isfinite()
    assert network.missing[IMAGE].grad is not None
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_a_modality_hidden_by_the_mask_alone_is_not_read() -> None:
    network, batch = a_member().network, a_batch()
    present = batch.present.clone()
    present[0, IMAGE] = present[1, TEXT] = False
    hidden = replace(batch, present=present)
    assert not torch.equal(logits(network, batch)[:2], logits(network, hidden)[:2])
    image, ids = batch.image.clone(), batch.token_ids.clone()
    image[0], ids[1] = 5.0, 9
    assert torch.equal(logits(network, hidden), logits(network, replace(hidden, image=image, token_ids=ids)))


def test_what_is_stored_for_a_missing_channel_changes_nothing() -> None:
    network, batch = a_member().network, a_batch()
    assert batch.channel_present[1].tolist() == [True, False]
    image = batch.image.clone()
    image[1, 1] = 1e9
    assert torch.equal(logits(network, batch), logits(network, replace(batch, image=image)))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_changes_nothing(fusion: str) -> None:
    network, batch = a_member(fusion=fusion).network, a_batch()
    padding = ~batch.token_mask
    assert padding[1].any()  # the second note is shorter than the first
    ids = torch.where(padding, 11, batch.token_ids)
    assert torch.equal(logits(network, batch), logits(network, replace(batch, token_ids=ids)))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_study_is_scored_alike_whatever_lies_beside_it(fusion: str) -> None:
    network, batch = a_member(fusion=fusion).network, a_batch()

    def row(number: int) -> Batch:
        one, length = slice(number, number + 1), max(1, int(batch.token_mask[number].sum()))
        return replace(
            batch,
            study_keys=batch.study_keys[one],
            image=batch.image[one],
            channel_present=batch.channel_present[one],
            token_ids=batch.token_ids[one, :length],  # without what fills up
            token_mask=batch.token_mask[one, :length],
            present=batch.present[one],
            target=None,
        )

    alone = torch.cat([logits(network, row(number)) for number in range(4)])
    torch.testing.assert_close(logits(network, batch), alone)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("arm", ["image", "text", "fused"])
def test_gradients_reach_every_parameter(arm: str, fusion: str) -> None:
    network, batch = a_member(arm, fusion=fusion).network, a_batch(contract_of(arm))
    network.train()
    assert batch.target is not None
    functional.binary_cross_entropy_with_logits(network(batch)[:, 0], batch.target.float()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_the_token_for_a_missing_modality_stands_for_it_alone() -> None:
    network, batch = a_member().network, a_batch()
    plain = logits(network, batch)
    with torch.no_grad():
        network.missing[IMAGE] += torch.randn(network.missing[IMAGE].shape)
    changed = (logits(network, batch) != plain)[:, 0].tolist()
    assert changed == [False, False, False, True]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_attributions_may_enter_at_the_embeddings(fusion: str) -> None:
    network, batch = a_member(fusion=fusion).network, a_batch()
    assert network.text_encoder is not None
    embedded = network.text_encoder.embed(batch.token_ids).detach().requires_grad_()
    image = batch.image.clone().requires_grad_()
    found = network.eval().forward_embedded(batch, image, embedded)
    assert torch.equal(found.detach(), logits(network, batch))
    found.sum().backward()
    assert embedded.grad is not None
    assert image.grad is not None
    assert not embedded.grad[~batch.token_mask].any()  # padding, and the row without a note
    assert embedded.grad[0].any()
    assert not image.grad[1, 1].any()  # a missing channel
    assert not image.grad[3].any()  # a missing image
    assert image.grad[1, 0].any()


def many(present: list[bool], n: int = 20_000) -> torch.Tensor:
    return torch.tensor([present]).repeat(n, 1)


def test_modality_dropout_hides_as_often_as_asked_and_never_everything() -> None:
    network = a_member(modality_dropout=0.3).network
    torch.manual_seed(2)
    kept = network._hide_some(many([True, True]))
    assert kept.any(dim=1).all()
    # Hidden alone with .3 x .7; where both would be hidden, neither is. Four standard errors of 20,000 draws: .012.
    hidden = (~kept).float().mean(0)
    assert hidden.tolist() == pytest.approx([0.21, 0.21], abs=0.012)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_modality_dropout_hides_has_no_way_round_to_the_logit(
    monkeypatch: pytest.MonkeyPatch, fusion: str
) -> None:
    network, batch = a_member(fusion=fusion).network.train(), a_batch()

    def hide(present: torch.Tensor) -> torch.Tensor:
        return present & torch.tensor([[False, True], [True, False], [True, True], [True, True]])

    image, ids = batch.image.clone(), batch.token_ids.clone()
    image[0], ids[1, 1] = 5.0, 9
    with torch.no_grad():
        shown = [network(each)[:, 0] for each in (batch, replace(batch, image=image), replace(batch, token_ids=ids))]
        monkeypatch.setattr(network, "_hide_some", hide)
        plain, other_image, other_word = (
            network(each)[:, 0] for each in (batch, replace(batch, image=image), replace(batch, token_ids=ids))
        )
    assert shown[0][0] != shown[1][0]
    assert shown[0][1] != shown[2][1]
    assert plain[0] == other_image[0]
    assert plain[1] == other_word[1]


@pytest.mark.parametrize("present", [[True, False], [False, True], [False, False]])
def test_modality_dropout_leaves_an_only_modality_alone(present: list[bool]) -> None:
    network = a_member(modality_dropout=0.9).network
    assert torch.equal(network._hide_some(many(present, 500)), many(present, 500))


def test_modality_dropout_acts_while_training_alone_and_on_fused_models_alone() -> None:
    batch = a_batch()
    fused = a_member(modality_dropout=0.5).network
    assert torch.equal(logits(fused, batch), logits(fused, batch))
    single = a_member("text", modality_dropout=0.5).network
    assert single.modality_dropout == 0
    single.train()
    with torch.no_grad():
        assert torch.equal(single(batch), single(batch))
        fused.train()
        seen = {tuple(fused(batch)[:, 0].tolist()) for _ in range(12)}
    assert len(seen) > 1


def test_a_classifier_of_nothing_and_an_unknown_fusion_are_refused() -> None:
    with pytest.raises(ConfigError, match="of images, notes, recordings or a table"):
        StudyClassifier(PARTS, image_encoder=None, text_encoder=None, task=a_task())
    with pytest.raises(ConfigError, match="fusion = 'sum' is none of concat"):
        a_member(fusion="sum")
