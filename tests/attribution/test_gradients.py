"""Attributions are what calculus says, in every modality, class and fold; networks are left as they were."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from medmllm.attribution.gradients import METHOD, class_to_explain
from medmllm.errors import AttributionError
from medmllm.model_documents import Task
from medmllm.preprocessing.sample import collate
from tests.attribution.made_up import (
    SERIES,
    STUDY,
    TEXT,
    Linear,
    a_contract,
    a_network,
    a_package,
    a_sample,
    a_tokenizer,
    explain,
    in_text,
)

# --- what the values are


def test_voxels_of_a_linear_model_get_their_weight_times_their_distance_from_the_mean_image() -> None:
    contract = a_contract(text=False)
    network, sample = Linear(contract), a_sample(contract)
    explanation = explain(a_package(contract, [network], temperatures=[1.6]), [sample])
    (channel,) = explanation.channels
    expected = network.voxel_weights[0, 0].detach().numpy() * (sample.image[0].numpy() - 0.25) / 1.6
    np.testing.assert_allclose(channel.attribution, expected, atol=1e-5)
    assert (channel.channel, channel.series_key, explanation.study_key) == ("ct", SERIES, STUDY)
    assert channel.attribution.dtype == np.float32


def test_a_word_of_a_linear_model_gets_the_sum_over_its_pieces() -> None:
    contract = a_contract(image=False)
    tokenizer = a_tokenizer("Made-up cough no Small effusion")
    network, sample = Linear(contract, words=len(tokenizer)), a_sample(contract, tokenizer)
    found = in_text(explain(a_package(contract, [network], [tokenizer]), [sample]))
    value = network.table.detach() @ network.word_weights[0].detach()
    expected = {
        TEXT[word.start : word.end]: sum(
            float(value[sample.token_ids[piece]] - value[tokenizer.mask_token_id]) for piece in word.pieces
        )
        for word in sample.words
    }
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(len(word.pieces) for word in sample.words) > 3  # "unremarkable." was never learnt
    assert [*found] == TEXT.replace("HISTORY: ", "").replace("FINDINGS: ", "").split()


def test_attributions_and_baseline_add_up_to_the_logit_in_both_modalities() -> None:
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    network, sample = Linear(contract, words=len(tokenizer)), a_sample(contract, tokenizer)
    explanation = explain(a_package(contract, [network], [tokenizer]), [sample])
    total = explanation.channels[0].attribution.sum() + sum(in_text(explanation).values())
    assert total == pytest.approx(explanation.logit - explanation.baseline_logit, rel=1e-4)
    assert explanation.completeness_error < 1e-5
    words = sum(abs(value) for value in in_text(explanation).values())
    voxels = float(np.abs(explanation.channels[0].attribution).sum())
    assert explanation.modality_shares == pytest.approx(
        {"image": voxels / (voxels + words), "text": words / (voxels + words)}, rel=1e-5
    )
    assert explanation.modality_sums["text"] == pytest.approx(sum(in_text(explanation).values()))


def test_a_real_classifier_is_explained_within_one_percent_of_the_change_of_its_logit() -> None:
    contract, tokenizer = a_contract(channels=("ct", "pet")), a_tokenizer(TEXT)
    network, sample = a_network(contract, tokenizer), a_sample(contract, tokenizer)
    explanation = explain(a_package(contract, [network], [tokenizer], temperatures=[1.3]), [sample])
    batch = collate([sample], contract)
    with torch.no_grad():
        assert explanation.logit == pytest.approx(float(network(batch)) / 1.3, abs=1e-5)
    change = explanation.logit - explanation.baseline_logit
    total = sum(part.attribution.astype(float).sum() for part in explanation.channels)
    total += sum(in_text(explanation).values())
    assert abs(change) > 0.1
    assert abs(total - change) <= 0.01 * abs(change)
    assert explanation.convergence_delta == pytest.approx(total - change, abs=1e-5)
    assert explanation.method == METHOD


def test_every_word_of_a_note_longer_than_the_window_is_explained() -> None:
    contract, tokenizer = a_contract(image=False), a_tokenizer(TEXT)
    windowed = contract.text.model_copy(update={"window": 6, "overlap": 2})
    contract = contract.model_copy(update={"text": windowed})
    network, sample = a_network(contract, tokenizer), a_sample(contract, tokenizer)
    assert len(sample.token_ids) > 2 * windowed.window
    explanation = explain(a_package(contract, [network], [tokenizer]), [sample])
    change = explanation.logit - explanation.baseline_logit
    assert abs(sum(in_text(explanation).values()) - change) <= 0.01 * abs(change)
    assert len(explanation.words) == len(sample.words)
    assert all(value != 0 for value in in_text(explanation).values())


def test_image_only_and_text_only_classifiers_are_explained_by_what_they_read() -> None:
    tokenizer = a_tokenizer(TEXT)
    image, text = a_contract(text=False), a_contract(image=False)
    of_image = explain(a_package(image, [a_network(image)]), [a_sample(image)])
    of_text = explain(a_package(text, [a_network(text, tokenizer)], [tokenizer]), [a_sample(text, tokenizer)])
    assert of_image.modality_shares == {"image": 1.0}
    assert of_image.words == ()
    assert of_image.baseline == "the mean training image"
    assert of_text.modality_shares == {"text": 1.0}
    assert of_text.channels == ()
    assert of_text.baseline == "the note with [MASK] in place of every word piece"
    assert max(of_image.completeness_error, of_text.completeness_error) <= 0.01


# --- classes and folds


def test_class_0_of_a_binary_task_has_the_negative_attribution_of_class_1() -> None:
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    package = a_package(contract, [a_network(contract, tokenizer)], [tokenizer])
    sample = a_sample(contract, tokenizer)
    positive, negative = (explain(package, [sample], explained_class=k) for k in (1, 0))
    assert negative.logit == pytest.approx(-positive.logit)
    np.testing.assert_allclose(negative.channels[0].attribution, -positive.channels[0].attribution, atol=1e-6)
    assert in_text(negative) == pytest.approx({word: -value for word, value in in_text(positive).items()}, abs=1e-6)


def test_the_explained_class_of_many_has_its_own_weights() -> None:
    contract = a_contract(text=False)
    network, sample = Linear(contract, outputs=3), a_sample(contract)
    package = a_package(contract, [network], classes=("chest", "head", "spine"))
    for k in range(3):
        explanation = explain(package, [sample], explained_class=k)
        expected = network.voxel_weights[k, 0].detach().numpy() * (sample.image[0].numpy() - 0.25)
        np.testing.assert_allclose(explanation.channels[0].attribution, expected, atol=1e-5)
        assert explanation.explained_class == k


def test_the_positive_class_of_two_is_explained_and_the_predicted_one_of_many() -> None:
    binary = Task(target="effusion", kind="binary", classes=("no", "yes"))
    many = Task(target="region", kind="multiclass", classes=("chest", "head", "spine"))
    assert [class_to_explain(binary, predicted) for predicted in (0, 1)] == [1, 1]
    assert [class_to_explain(many, predicted) for predicted in (0, 1, 2)] == [0, 1, 2]


def test_an_ensemble_has_the_mean_of_its_folds_each_with_its_own_tokenizer_and_temperature() -> None:
    contract = a_contract()
    tokenizers = [a_tokenizer(TEXT), a_tokenizer("cough effusion no")]
    networks = [a_network(contract, tokenizer, seed=fold) for fold, tokenizer in enumerate(tokenizers)]
    samples = [a_sample(contract, tokenizer) for tokenizer in tokenizers]
    assert len(samples[0].token_ids) != len(samples[1].token_ids)
    fixed = {"steps": 16, "max_steps": 16, "completeness": 1e9}
    both = explain(a_package(contract, networks, tokenizers, temperatures=[0.5, 2.0]), samples, **fixed)
    alone = [
        explain(a_package(contract, [network], [tokenizer], temperatures=[temperature]), [sample], **fixed)
        for network, tokenizer, temperature, sample in zip(networks, tokenizers, [0.5, 2.0], samples, strict=True)
    ]
    first, second = (one.channels[0].attribution for one in alone)
    np.testing.assert_allclose(both.channels[0].attribution, (first + second) / 2, atol=1e-6)
    first_words, second_words = map(in_text, alone)
    expected = {word: (first_words[word] + second_words[word]) / 2 for word in first_words}
    assert in_text(both) == pytest.approx(expected, abs=1e-6)
    for part in ("logit", "baseline_logit", "convergence_delta"):
        assert getattr(both, part) == pytest.approx(sum(getattr(one, part) for one in alone) / 2, abs=1e-5)


def test_a_word_that_one_fold_cut_off_counts_nothing_there() -> None:
    contract, tokenizer = a_contract(image=False), a_tokenizer(TEXT)
    network = Linear(contract, words=len(tokenizer))
    whole = a_sample(contract, tokenizer)
    last = whole.words[-1].pieces[0]
    cut = replace(whole, token_ids=torch.cat([whole.token_ids[:last], whole.token_ids[-1:]]), words=whole.words[:-1])
    package = a_package(contract, [network] * 2, [tokenizer] * 2, temperatures=[1.0, 1.0])
    full, half = in_text(explain(package, [whole, whole])), in_text(explain(package, [whole, cut]))
    assert half == pytest.approx(full | {"effusion.": full["effusion."] / 2})
    assert in_text(explain(package, [cut, whole])) == pytest.approx(half)


# --- what is not there


def test_a_missing_channel_gets_no_map_and_what_is_stored_for_it_changes_nothing() -> None:
    contract = a_contract(channels=("ct", "pet"), text=False)
    package = a_package(contract, [a_network(contract)])
    sample = a_sample(contract, channel_present=(False, True))
    other = replace(sample, image=sample.image.clone())
    other.image[0] = 77.0
    first, second = explain(package, [sample]), explain(package, [other])
    assert [part.channel for part in first.channels] == ["pet"]
    np.testing.assert_array_equal(first.channels[0].attribution, second.channels[0].attribution)
    assert first.modality_sums == second.modality_sums
    assert first.modality_sums["image"] == pytest.approx(first.channels[0].attribution.sum(), abs=1e-5)


def test_a_missing_modality_gets_exactly_nothing() -> None:
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    package = a_package(contract, [a_network(contract, tokenizer)], [tokenizer])
    no_note = explain(package, [a_sample(contract)])
    no_image = explain(package, [a_sample(contract, tokenizer, image=False)])
    assert no_note.modality_shares == {"image": 1.0, "text": 0.0}
    assert no_note.modality_sums["text"] == 0.0
    assert no_note.words == ()
    assert no_note.baseline == "the mean training image"
    assert no_image.modality_shares == {"image": 0.0, "text": 1.0}
    assert no_image.modality_sums["image"] == 0.0
    assert no_image.channels == ()
    assert max(no_note.completeness_error, no_image.completeness_error) <= 0.01


def test_special_tokens_get_exactly_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from medmllm.attribution import gradients

    found = []
    integrate = gradients.integrate
    monkeypatch.setattr(gradients, "integrate", lambda *a, **k: found.append(integrate(*a, **k)) or found[-1])
    contract, tokenizer = a_contract(image=False), a_tokenizer(TEXT)
    sample = a_sample(contract, tokenizer)
    explain(a_package(contract, [a_network(contract, tokenizer)], [tokenizer]), [sample])
    pieces = np.abs(found[0].attributions[0]).sum(axis=1)
    assert pieces[0] == pieces[-1] == 0.0
    assert (pieces[1:-1] > 0).all()


def test_a_study_with_nothing_to_read_is_refused() -> None:
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    package = a_package(contract, [a_network(contract, tokenizer)], [tokenizer])
    with pytest.raises(AttributionError) as caught:
        explain(package, [a_sample(contract, image=False)])
    assert caught.value.code == "nothing_to_explain"


# --- the networks


def test_many_points_at_a_time_and_one_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    package = a_package(contract, [a_network(contract, tokenizer)], [tokenizer])
    sample = a_sample(contract, tokenizer)
    many = explain(package, [sample], steps=8, max_steps=8)
    monkeypatch.setattr("medmllm.attribution.integration.MOST_VALUES", 1)
    one = explain(package, [sample], steps=8, max_steps=8)
    np.testing.assert_allclose(one.channels[0].attribution, many.channels[0].attribution, atol=1e-6)
    assert in_text(one) == pytest.approx(in_text(many), abs=1e-6)


def test_networks_are_explained_in_evaluation_mode_and_left_as_they_were() -> None:
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    network = a_network(contract, tokenizer)
    package, sample = a_package(contract, [network], [tokenizer]), a_sample(contract, tokenizer)
    expected = explain(package, [sample])
    network.train()
    network.fusion.out.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explanation = explain(package, [sample])
    assert explanation.logit == expected.logit  # no dropout, no batch statistics
    assert network.training
    assert [n for n, p in network.named_parameters() if not p.requires_grad] == ["fusion.out.bias"]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Watched(Linear):
    """Remembers how it was run."""

    seen: ClassVar[list[tuple[bool, bool, bool]]] = []

    def shape(self, total: Tensor) -> Tensor:
        self.seen.append((self.training, self.bias.requires_grad, torch.is_autocast_enabled("cpu")))
        return total


def test_no_gradient_of_a_weight_and_no_half_precision_is_computed() -> None:
    contract = a_contract(text=False)
    package, sample = a_package(contract, [Watched(contract)]), a_sample(contract)
    with torch.autocast("cpu", torch.bfloat16):
        explanation = explain(package, [sample])
    assert set(Watched.seen) == {(False, False, False)}
    assert explanation.completeness_error < 1e-5


def test_networks_are_put_back_also_after_an_error() -> None:
    contract = a_contract(text=False)
    network = Linear(contract)
    with torch.no_grad():
        network.bias[0] = float("inf")
    with pytest.raises(AttributionError):
        explain(a_package(contract, [network]), [a_sample(contract)])
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
