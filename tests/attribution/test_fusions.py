"""Integrated Gradients through fusions in which image and note see each other before they are pooled."""

import numpy as np
import pytest
import torch

from medmllm.attribution import gradients
from medmllm.attribution.baseline import lay_line
from medmllm.attribution.gradients import explain_study
from medmllm.attribution.integration import integrate
from medmllm.models.package import ModelPackage
from medmllm.preprocessing.sample import collate
from medmllm.records import Explanation, Sample
from tests.attribution.made_up import (
    TEXT,
    a_contract,
    a_network,
    a_package,
    a_sample,
    a_tokenizer,
    settings,
    sources,
)
from tests.models import small

JOINT = ["cross_attention", "bert_prefix"]


def explain(package: ModelPackage, sample: Sample) -> Explanation:
    found = sources(package.card.contract)
    return explain_study(package, [sample], **found, explained_class=1, settings=settings(max_steps=2048))


def total(explanation: Explanation) -> float:
    voxels = sum(float(part.attribution.astype(float).sum()) for part in explanation.channels)
    return voxels + sum(word.attribution for word in explanation.words)


@pytest.mark.parametrize("fusion", JOINT)
@pytest.mark.parametrize("window", [256, 12])
def test_voxels_and_words_add_up_to_the_change_of_the_logit_also_over_windows(fusion: str, window: int) -> None:
    contract, tokenizer = a_contract(channels=("ct", "pet")), a_tokenizer(TEXT)
    text = contract.text.model_copy(update={"window": window, "overlap": min(2, contract.text.overlap)})
    contract = contract.model_copy(update={"text": text})
    network, sample = a_network(contract, tokenizer, fusion=fusion), a_sample(contract, tokenizer)
    assert len(sample.token_ids) > 12
    explanation = explain(a_package(contract, [network], [tokenizer]), sample)
    with torch.no_grad():
        assert explanation.logit == pytest.approx(float(network(collate([sample], contract))), abs=1e-5)
    change = explanation.logit - explanation.baseline_logit
    assert abs(change) > 0.02
    assert abs(total(explanation) - change) <= 0.01 * abs(change)
    assert all(word.attribution != 0 for word in explanation.words)
    assert all(part.attribution.any() for part in explanation.channels)


@pytest.mark.parametrize("fusion", JOINT)
def test_a_missing_modality_and_a_missing_channel_get_exactly_nothing(fusion: str) -> None:
    contract, tokenizer = a_contract(channels=("ct", "pet")), a_tokenizer(TEXT)
    package = a_package(contract, [a_network(contract, tokenizer, fusion=fusion)], [tokenizer])
    no_note = explain(package, a_sample(contract, channel_present=(False, True)))
    no_image = explain(package, a_sample(contract, tokenizer, image=False))
    assert no_note.modality_shares == {"image": 1.0, "text": 0.0}
    assert [part.channel for part in no_note.channels] == ["pet"]
    assert no_image.modality_shares == {"image": 0.0, "text": 1.0}
    assert max(no_note.completeness_error, no_image.completeness_error) <= 0.01


@pytest.mark.parametrize("fusion", JOINT)
def test_special_tokens_get_exactly_nothing(monkeypatch: pytest.MonkeyPatch, fusion: str) -> None:
    found = []
    integrate = gradients.integrate
    monkeypatch.setattr(gradients, "integrate", lambda *a, **k: found.append(integrate(*a, **k)) or found[-1])
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    explain(
        a_package(contract, [a_network(contract, tokenizer, fusion=fusion)], [tokenizer]), a_sample(contract, tokenizer)
    )
    pieces = np.abs(found[0].attributions[1]).sum(axis=1)
    assert pieces[0] == pieces[-1] == 0.0
    assert (pieces[1:-1] > 0).all()


@pytest.mark.parametrize("fusion", JOINT)
@pytest.mark.parametrize("reads", ["image", "text"])
def test_one_modality_alone_is_explained(fusion: str, reads: str) -> None:
    contract = a_contract(image=reads == "image", text=reads == "text")
    tokenizer = a_tokenizer(TEXT) if reads == "text" else None
    network, sample = a_network(contract, tokenizer, fusion=fusion), a_sample(contract, tokenizer)
    explanation = explain(a_package(contract, [network], [tokenizer]), sample)
    assert explanation.modality_shares == {reads: 1.0}
    assert explanation.completeness_error <= 0.01


@pytest.mark.parametrize("fusion", JOINT)
def test_cells_of_a_table_take_part_as_one_token(fusion: str) -> None:
    member = small.a_whole_member(fusion=fusion)
    network, sample = member.network.eval(), small.a_sample(1, cells=(1.5, 1.0))
    package = a_package(small.WHOLE, [network], [member.tokenizer], background=torch.zeros(2, *small.SIZE))
    line = lay_line(package, 0, sample, 1)
    with torch.no_grad():
        change = float(line.logit(*line.point([1.0])) - line.logit(*line.point([0.0])))
    integral = integrate(line, settings(max_steps=2048), tolerance=0.01 * abs(change))
    image, _, table = integral.attributions
    assert line.modalities == ("image", "text", "table")
    assert abs(sum(part.sum() for part in integral.attributions) - change) <= 0.01 * abs(change)
    assert image.any()
    assert all(np.abs(table).sum(axis=1) > 0)
