"""What is not to learn stays as it was to the last bit, and merged adapters answer as they did beside the weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
)

from medmllm.errors import ConfigError
from medmllm.models import fine_tuning
from medmllm.models.fine_tuning import check_extra, limit_training, merge_adapters
from medmllm.models.fusion import FUSIONS
from medmllm.models.package import FoldNetwork
from medmllm.models.text_encoder import TextEncoder
from medmllm.training_config import TextEncoderSettings
from tests.models.small import BERT, a_batch, a_limited_member, a_member, contract_of, encoder_settings, save_bert

ENCODER = "text_encoder.network."


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "bert")


def text_encoder(member: FoldNetwork) -> TextEncoder:
    assert member.network.text_encoder is not None
    return member.network.text_encoder


def learnt(member: FoldNetwork) -> set[str]:
    """Names of what gets a gradient from a batch."""
    member.network.train()
    member.network(a_batch()).square().sum().backward()
    return {name for name, p in member.network.named_parameters() if p.grad is not None}


def set_adapters(member: FoldNetwork) -> None:
    """Give the adapters values as training would: at first theirs is exactly nothing."""
    here = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in text_encoder(member).named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=here))


def logits(member: FoldNetwork) -> Tensor:
    member.network.eval()
    with torch.no_grad():
        return member.network(a_batch())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_frozen_encoder_gets_no_gradient_and_all_the_rest_does(bert_folder: Path, fusion: str) -> None:
    frozen, full = (a_limited_member(bert_folder, kind, fusion=fusion) for kind in ("frozen", "full"))
    every = {name for name, _ in full.network.named_parameters()}
    assert learnt(full) == every
    assert learnt(frozen) == {name for name in every if not name.startswith(ENCODER)}


def test_a_frozen_encoder_reads_alike_in_training_and_in_evaluation(bert_folder: Path) -> None:
    ids, mask = torch.tensor([[2, 7, 8, 3]]), torch.ones(1, 4, dtype=torch.bool)
    for kind, alike in (("frozen", True), ("full", False)):
        encoder = text_encoder(a_limited_member(bert_folder, kind))
        with torch.no_grad():
            found = [encoder.train(mode)(encoder.embed(ids), mask) for mode in (True, False)]
        assert torch.equal(*found) == alike, kind
    assert encoder.train() is encoder


def test_standardisation_goes_on_learning_over_a_frozen_encoder(bert_folder: Path) -> None:
    member = a_limited_member(bert_folder, "frozen", text_batch_norm=True)
    assert {name for name in learnt(member) if name.startswith("text_encoder")} == {
        "text_encoder.norm.weight",
        "text_encoder.norm.bias",
    }
    assert text_encoder(member).norm.training  # type: ignore[union-attr]


def test_of_an_encoder_with_adapters_they_alone_get_gradients(bert_folder: Path) -> None:
    member = a_limited_member(bert_folder, "lora")
    set_adapters(member)  # at zero, one half of an adapter keeps gradients from the other
    found = {name for name in learnt(member) if name.startswith("text_encoder")}
    assert found
    assert all(".lora_A." in name or ".lora_B." in name for name in found)
    linear = [name for name, module in BertModel.from_pretrained(bert_folder).named_modules()
              if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")]  # fmt: skip
    assert len(linear) == 12
    assert len(found) == 2 * len(linear)  # every linear layer has one
    rest = {name for name, _ in member.network.named_parameters() if not name.startswith("text_encoder")}
    assert rest <= {name for name, p in member.network.named_parameters() if p.grad is not None}


def test_adapters_start_as_nothing_and_are_scaled_by_alpha_over_rank(bert_folder: Path) -> None:
    member = a_limited_member(bert_folder, "lora")
    torch.testing.assert_close(logits(member), logits(a_limited_member(bert_folder, "full")), rtol=0, atol=0)
    set_adapters(member)
    given = {name: p.detach().clone() for name, p in text_encoder(member).network.named_parameters()}
    layer = "encoder.layer.1.output.dense"
    base, a, b = (given[f"base_model.model.{layer}.{part}.weight"] for part in
                  ("base_layer", "lora_A.default", "lora_B.default"))  # fmt: skip
    assert a.shape == (3, 16)
    merge_adapters(member.network)
    found = text_encoder(member).network.state_dict()[f"{layer}.weight"]
    torch.testing.assert_close(found, base + 12 / 3 * b @ a)


@pytest.mark.parametrize(("arm", "fusion"), [("text", "concat"), *(("fused", fusion) for fusion in FUSIONS)])
def test_merged_adapters_answer_as_before_and_leave_a_plain_encoder(bert_folder: Path, arm: str, fusion: str) -> None:
    member, plain = (a_limited_member(bert_folder, kind, arm, fusion=fusion) for kind in ("lora", "full"))
    set_adapters(member)
    before = logits(member)
    assert (before - logits(plain)).abs().max() > 1e-2  # they matter
    merge_adapters(member.network)
    torch.testing.assert_close(logits(member), before, rtol=0, atol=1e-5)
    own, expected = member.network.state_dict(), plain.network.state_dict()
    assert own.keys() == expected.keys()
    assert all(tensor.shape == expected[name].shape for name, tensor in own.items())
    assert type(text_encoder(member).network) is BertModel


@pytest.mark.parametrize(
    "network",
    [
        lambda: RobertaModel(RobertaConfig(**BERT)),
        lambda: ElectraModel(ElectraConfig(**BERT, embedding_size=8)),
        lambda: DistilBertModel(DistilBertConfig(vocab_size=30, dim=12, n_layers=2, n_heads=2, hidden_dim=16)),
        lambda: ModernBertModel(ModernBertConfig(**BERT, pad_token_id=0, cls_token_id=2, sep_token_id=3)),
    ],
    ids=["roberta", "electra", "distilbert", "modernbert"],
)
def test_adapters_fit_and_merge_into_the_whole_family(network: Callable[[], torch.nn.Module]) -> None:
    torch.manual_seed(4)
    encoder = TextEncoder(network())
    names = list(encoder.state_dict())
    member = a_member("text")
    member.network.text_encoder = encoder
    limit_training(member.network, encoder_settings("lora", Path("pretrained")))
    set_adapters(member)
    encoder.eval()
    ids, mask, found = torch.tensor([[2, 7, 8, 9, 3]]), torch.ones(1, 5, dtype=torch.bool), []
    with torch.no_grad():
        found.append(encoder(encoder.embed(ids), mask))
        merge_adapters(member.network)
        found.append(encoder(encoder.embed(ids), mask))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)
    assert list(encoder.state_dict()) == names


def test_merging_leaves_networks_without_adapters_as_they_are() -> None:
    for member in (a_member("image"), a_member("text")):
        before = {name: tensor.clone() for name, tensor in member.network.state_dict().items()}
        merge_adapters(member.network)
        after = member.network.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_a_network_that_reads_no_text_has_nothing_to_limit(bert_folder: Path) -> None:
    member = a_member("image")
    limit_training(member.network, encoder_settings("frozen", bert_folder))
    assert all(parameter.requires_grad for parameter in member.network.parameters())


def test_lora_without_peft_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, bert_folder: Path) -> None:
    monkeypatch.setattr(fine_tuning, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs peft, .*pip install "medmllm\[lora\]"'):
        check_extra(encoder_settings("lora", bert_folder))
    for kind in ("full", "frozen"):
        check_extra(encoder_settings(kind, bert_folder))


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_a_random_encoder_is_neither_frozen_nor_adapted(kind: str) -> None:
    with pytest.raises(ValueError, match="'tiny' starts at random and has to learn as a whole"):
        encoder_settings(kind)


def test_a_models_contract_does_not_depend_on_how_much_was_learnt(bert_folder: Path) -> None:
    read = [encoder_settings(kind, bert_folder).reading for kind in ("full", "frozen", "lora")]
    contracts = [contract_of("text").model_copy(update={"text": text}).fingerprint for text in read]
    assert len(set(contracts)) == 1
    assert not isinstance(read[0], TextEncoderSettings)
    assert read[0].encoder == str(bert_folder)
