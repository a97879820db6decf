"""Steps are added until attributions are complete; what is not finite or not complete is refused or said."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from medmllm.errors import AttributionError
from medmllm.models.package import ModelPackage
from medmllm.records import Sample
from tests.attribution.made_up import (
    STUDY,
    Linear,
    a_contract,
    a_network,
    a_package,
    a_sample,
    explain,
)


class Kinked(Linear):
    """The logit stays 0 on the first 0.7 of the way, then rises: a hinge that few steps do not see."""

    def shape(self, total: Tensor) -> Tensor:
        return torch.relu(total - self.kink)


def kinked(kink: float = 0.7) -> tuple[ModelPackage, Sample]:
    """The sum runs from 0 at the baseline to 1 at the study."""
    contract = a_contract(text=False)
    network = Kinked(contract)
    network.kink = kink
    sample = a_sample(contract)
    with torch.no_grad():
        difference = (sample.image - 0.25).as_tensor()
        network.voxel_weights[0] = difference / (difference**2).sum()
        network.bias[0] = -float((network.voxel_weights[0] * 0.25).sum())
    return a_package(contract, [network]), sample


def rise(*segments: tuple[float, float], points: int = 4) -> float:
    """The rise seen by numpy's own Gauss-Legendre nodes in each segment: the slope is 1 beyond the hinge at 0.7."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return sum(
        (weights / 2 * (end - start))[start + (nodes + 1) / 2 * (end - start) > 0.7].sum() for start, end in segments
    )


def test_steps_are_added_where_the_attributions_are_least_complete() -> None:
    package, sample = kinked()
    meshes = {
        4: [(0, 1)],
        12: [(0, 0.5), (0.5, 1)],
        20: [(0, 0.5), (0.5, 0.75), (0.75, 1)],
        28: [(0, 0.5), (0.5, 0.625), (0.625, 0.75), (0.75, 1)],
    }
    for steps, mesh in meshes.items():
        explanation = explain(package, [sample], steps=4, max_steps=steps, completeness=1e-9)
        assert explanation.steps == steps
        assert explanation.convergence_delta == pytest.approx(rise(*mesh) - 0.3, abs=1e-5)


def test_steps_are_added_until_the_attributions_are_complete_enough() -> None:
    package, sample = kinked()
    first = explain(package, [sample], steps=4, max_steps=4)
    enough = explain(package, [sample], steps=4, max_steps=512)
    coarse = explain(package, [sample], steps=4, max_steps=512, completeness=2 * first.completeness_error)
    assert first.completeness_error == pytest.approx(abs(rise((0, 1)) - 0.3) / 0.3, abs=1e-4)
    assert first.completeness_error > 0.01
    assert enough.completeness_error <= 0.01
    assert 4 < enough.steps < 100
    assert coarse.steps == 4


def test_the_first_steps_are_spread_over_the_whole_line() -> None:
    package, sample = kinked()
    explanation = explain(package, [sample], steps=11, max_steps=11, completeness=1e-9)
    assert explanation.steps == 8  # whole segments of four points
    assert explanation.convergence_delta == pytest.approx(rise((0, 0.5), (0.5, 1)) - 0.3, abs=1e-5)
    few = explain(package, [sample], steps=3, max_steps=3, completeness=1e-9)
    assert few.convergence_delta == pytest.approx(rise((0, 1), points=3) - 0.3, abs=1e-5)


class KinkedTwice(Kinked):
    """A second hinge, at the same place of the other half."""

    def shape(self, total: Tensor) -> Tensor:
        return torch.relu(total - 0.7) + torch.relu(total - 0.2)


def test_equally_incomplete_segments_are_halved_together_but_never_beyond_the_bound() -> None:
    package, sample = kinked()
    package.folds[0].network.__class__ = KinkedTwice
    spent = [explain(package, [sample], steps=8, max_steps=most, completeness=1e-9).steps for most in (15, 16, 23, 24)]
    assert spent == [8, 16, 16, 24]


def test_when_all_steps_are_spent_the_finest_result_is_kept_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    package, sample = kinked()
    with caplog.at_level(logging.WARNING, logger="medmllm"):
        explanation = explain(package, [sample], steps=4, max_steps=15)
    assert explanation.steps == 12
    assert explanation.completeness_error == pytest.approx(abs(rise((0, 0.5), (0.5, 1)) - 0.3) / 0.3, abs=1e-4)
    assert explanation.completeness_error > 0.01
    assert f"{STUDY}: the attributions miss" in caplog.text


def test_a_study_that_is_its_own_baseline_has_no_attribution_and_no_error() -> None:
    contract = a_contract(text=False)
    sample = a_sample(contract)
    package = a_package(contract, [a_network(contract)], background=sample.image.as_tensor())
    explanation = explain(package, [sample])
    assert explanation.completeness_error == 0.0
    assert not explanation.channels[0].attribution.any()
    assert explanation.modality_shares == {"image": 0.0}


class ThereAndBack(Linear):
    """Both ends of the line have the same logit, but the slope half-way is 0.25."""

    kink = 0.0

    def shape(self, total: Tensor) -> Tensor:
        on_way = total.clamp(1e-6, 1 - 1e-6)
        return torch.where((total - on_way).abs() > 0, total * 0, on_way * (1 - on_way) * (on_way - 0.3))


def test_equal_logits_with_attributions_left_over_are_no_explanation() -> None:
    package, sample = kinked()
    network = package.folds[0].network
    network.__class__ = ThereAndBack
    with torch.no_grad():
        network.voxel_weights *= 1.1  # a little beyond both ends, where the logit is exactly 0
        network.bias[0] = -float((network.voxel_weights[0] * 0.25).sum()) - 0.05
    with pytest.raises(AttributionError, match="equal") as caught:
        explain(package, [sample], steps=1, max_steps=1)
    assert caught.value.code == "not_finite"


@pytest.mark.parametrize("place", ["bias", "voxel_weights"])
def test_numbers_that_are_not_finite_are_refused(place: str) -> None:
    contract = a_contract(text=False)
    network = Linear(contract)
    with torch.no_grad():
        getattr(network, place).view(-1)[0] = float("nan")
    with pytest.raises(AttributionError, match="finite") as caught:
        explain(a_package(contract, [network]), [a_sample(contract)])
    assert caught.value.code == "not_finite"


class LostOnTheWay(Linear):
    """Both ends are fine; between them the logit is not a number."""

    kink = 0.0

    def shape(self, total: Tensor) -> Tensor:
        return torch.where((total > 0.6) & (total < 0.7), total * float("nan"), total)


def test_gradients_that_are_not_finite_are_refused() -> None:
    package, sample = kinked()
    package.folds[0].network.__class__ = LostOnTheWay
    with pytest.raises(AttributionError, match="attribution is not a finite number") as caught:
        explain(package, [sample])
    assert caught.value.code == "not_finite"


def test_samples_must_be_one_per_fold_and_of_one_study() -> None:
    contract = a_contract(text=False)
    package = a_package(contract, [Linear(contract)] * 2, [None] * 2, temperatures=[1.0, 1.0])
    sample = a_sample(contract)
    stranger = replace(sample, study_key="st-00000000000000ff")
    for samples in ([sample], [sample] * 3, [sample, stranger]):
        with pytest.raises(AttributionError, match="one per fold"):
            explain(package, samples)
