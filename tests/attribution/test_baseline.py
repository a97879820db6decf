from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from medmllm.attribution.baseline import lay_line
from medmllm.errors import PackageError
from medmllm.evaluation.fold_decisions import calibrate_fold
from medmllm.models.package import ModelPackage
from tests.attribution.made_up import SIZE, TEXT, Linear, a_contract, a_network, a_package, a_sample, a_tokenizer


def fused(tokenizer: PreTrainedTokenizerFast, **changes: object) -> ModelPackage:
    contract = a_contract(channels=("ct", "pet"))
    return a_package(contract, [Linear(contract, words=len(tokenizer))], [tokenizer], **changes)


def test_the_line_starts_at_the_mean_image_and_hidden_words_and_ends_at_the_study() -> None:
    tokenizer = a_tokenizer(TEXT)
    mean = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(8))
    package = fused(tokenizer, background=mean)
    sample = a_sample(package.card.contract, tokenizer)
    line = lay_line(package, 0, sample, 1)
    table = package.folds[0].network.table
    ids = sample.token_ids
    hidden = torch.tensor([int(ids[0]), *[tokenizer.mask_token_id] * (len(ids) - 2), int(ids[-1])])
    assert line.modalities == ("image", "text")
    assert torch.equal(line.start[0][0], mean)
    assert torch.equal(line.end[0][0], sample.image.as_tensor())
    assert torch.equal(line.start[1][0], table[hidden])
    assert torch.equal(line.end[1][0], table[ids])


def test_both_ends_are_reached_exactly_and_what_lies_between_is_straight() -> None:
    tokenizer = a_tokenizer(TEXT)
    package = fused(tokenizer)
    line = lay_line(package, 0, a_sample(package.card.contract, tokenizer), 1)
    for points, start, end in zip(line.point([0.0, 0.25, 1.0]), line.start, line.end, strict=True):
        assert torch.equal(points[0], start[0])
        assert torch.equal(points[2], end[0])
        torch.testing.assert_close(points[1], 0.75 * start[0] + 0.25 * end[0])


def test_a_missing_channel_is_the_same_all_along_the_line() -> None:
    tokenizer = a_tokenizer(TEXT)
    package = fused(tokenizer)
    sample = a_sample(package.card.contract, tokenizer, channel_present=(True, False))
    line = lay_line(package, 0, sample, 1)
    assert torch.equal(line.start[0][0, 1], line.end[0][0, 1])
    assert not torch.equal(line.start[0][0, 0], line.end[0][0, 0])


def test_without_a_mask_token_words_are_hidden_behind_padding() -> None:
    tokenizer = a_tokenizer(TEXT)
    package = fused(tokenizer)
    sample = a_sample(package.card.contract, tokenizer)
    tokenizer.mask_token = None
    line = lay_line(package, 0, sample, 1)
    table = package.folds[0].network.table
    assert torch.equal(line.start[1][0, 3], table[tokenizer.pad_token_id])
    assert line.baseline == "the mean training image and the note with [PAD] in place of every word piece"


def test_a_mask_token_of_another_name_is_named_so() -> None:
    tokenizer = a_tokenizer(TEXT)
    package = fused(tokenizer)
    sample = a_sample(package.card.contract, tokenizer, image=False)
    tokenizer.mask_token = "[UNK]"
    line = lay_line(package, 0, sample, 1)
    assert torch.equal(line.start[0][0, 3], package.folds[0].network.table[tokenizer.unk_token_id])
    assert line.baseline == "the note with [UNK] in place of every word piece"


def test_the_logit_at_the_end_is_that_of_the_network_with_sign_and_temperature() -> None:
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    network, sample = a_network(contract, tokenizer), a_sample(contract, tokenizer)
    package = a_package(contract, [network], [tokenizer], temperatures=[2.5])
    positive, negative = (lay_line(package, 0, sample, k) for k in (1, 0))
    with torch.no_grad():
        raw = float(network(positive.batch))
        rows = positive.logit(*positive.point([1.0, 1.0]))
        assert rows.tolist() == pytest.approx([raw / 2.5] * 2, rel=1e-4)
        assert float(negative.logit(*negative.end)) == pytest.approx(-raw / 2.5, rel=1e-4)


def test_the_explained_logit_has_the_offset_of_the_calibration() -> None:
    contract, tokenizer = a_contract(), a_tokenizer(TEXT)
    network, sample = a_network(contract, tokenizer), a_sample(contract, tokenizer)
    package = a_package(contract, [network], [tokenizer], temperatures=[2.5])
    fold = package.card.folds[0].model_copy(update={"offsets": (0.75,)})
    package = replace(package, card=package.card.model_copy(update={"folds": (fold,)}))
    for label, sign in ((1, 1), (0, -1)):
        line = lay_line(package, 0, sample, label)
        with torch.no_grad():
            raw = float(network(line.batch))
            expected = calibrate_fold(np.array([[raw]]), fold, package.card.task)[0, 0]
            assert float(line.logit(*line.end)) == pytest.approx(sign * expected, rel=1e-4)


def test_a_package_without_its_mean_image_cannot_explain_images() -> None:
    contract = a_contract(text=False)
    package = replace(a_package(contract, [Linear(contract)]), background=None)
    with pytest.raises(PackageError, match=r"background\.safetensors"):
        lay_line(package, 0, a_sample(contract), 1)
