"""Probabilities are those of the cohort, however its classes were weighted or drawn while training."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.calibration import calibration_intercept, fit_temperature, log_loss, to_probabilities
from medmllm.evaluation.fold_decisions import calibrate_fold, class_probabilities
from medmllm.evaluation.isotonic import calibrate
from medmllm.model_documents import FoldModel, Task
from medmllm.records import UNKNOWN, FloatArray
from medmllm.training.class_odds import offsets_of
from medmllm.training.tuning_part import decide_each
from tests.models.small import a_sample, task_with
from tests.training.small import samples_of, settings

EVALUATION = load_config(TrainConfig, "train").evaluation


def made_up(n: int, seed: int, steepness: tuple[float, ...]) -> tuple[FloatArray, np.ndarray]:
    """Studies whose class depends on one number; the first class is by far the commonest."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(n, 1))
    logits = np.stack([3.0 * (k == 0) + own * seen[:, 0] for k, own in enumerate(steepness)], axis=1)
    return seen, (to_probabilities(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


@pytest.mark.parametrize("steepness", [(0.0, 1.5), (0.0, 1.5, -1.0)])
@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_a_model_of_weighted_classes_says_how_often_each_class_comes(steepness: tuple[float, ...], kind: str) -> None:
    (seen, truth), (tune, tuned), (test, tested) = (made_up(4000, seed, steepness) for seed in (1, 2, 3))
    weighted = LogisticRegression(class_weight="balanced", C=1e6).fit(seen, truth)
    task = task_with(1 if len(steepness) == 2 else 3)
    samples = samples_of(np.bincount(truth).tolist())

    def raw(given: FloatArray) -> FloatArray:
        return weighted.decision_function(given).reshape(len(given), -1)

    offsets = offsets_of([samples], settings(class_weights="balanced"), task)
    asked = EVALUATION.model_copy(update={"calibration": kind})
    fold = FoldModel(
        fold=0, weights="fold_0.safetensors", weights_sha256="0" * 64, best_epoch=1,
        **dict(decide_each(raw(tune), tuned, asked, task, offsets=offsets)[0]),
    )  # fmt: skip
    chances = class_probabilities(calibrate_fold(raw(test), fold, task), task)
    rates = np.bincount(tested) / len(tested)
    assert rates.min() < 0.15
    np.testing.assert_allclose(chances.mean(axis=0), rates, atol=0.02)  # without: 0.42 for 0.1


def test_offsets_are_the_logs_of_inverse_weights() -> None:
    binary, three = samples_of([30, 10]), samples_of([8, 4, 2])
    assert offsets_of([binary], settings(class_weights="balanced"), task_with(1))[0] == pytest.approx((np.log(1 / 3),))
    assert offsets_of([binary], settings(class_weights=(1.0, 5.0)), task_with(1))[0] == pytest.approx((np.log(1 / 5),))
    drawn = offsets_of([binary], settings(class_weights="none", sampling="balanced"), task_with(1))
    assert drawn[0] == pytest.approx((np.log(1 / 3),))
    found = offsets_of([three], settings(class_weights="balanced"), task_with(3))[0]
    assert found == pytest.approx((np.log(2), 0.0, -np.log(2)), abs=1e-6)


def test_of_the_effective_number_each_network_of_a_fold_was_weighted_by_its_own_part() -> None:
    def weighed(first: int, second: int) -> float:
        return float(np.log((1 - 0.999**second) / (1 - 0.999**first)))  # a class of n counts as (1 - 0.999^n) / 0.001

    parts = [samples_of([500, 20]), samples_of([480, 40])]
    (found,) = offsets_of(parts, settings(class_weights="effective_number"), task_with(1))
    assert found == pytest.approx(((weighed(500, 20) + weighed(480, 40)) / 2,))  # counted together: 0.3 less


def test_nothing_is_added_where_classes_counted_as_often_as_they_came() -> None:
    assert offsets_of([samples_of([30, 10])], settings(class_weights="none"), task_with(1)) == (None,)
    assert offsets_of([samples_of([7, 7])], settings(class_weights="balanced"), task_with(1)) == (None,)


def test_each_of_several_targets_has_offsets_of_the_studies_where_it_is_known() -> None:
    task = Task.of_several((Task.of("nodule", ("no", "yes")), Task.of("part", ("a", "b", "c"))))
    labels = [(0, 0), (0, 1), (0, 2), (1, UNKNOWN), (UNKNOWN, 0)]
    samples = [a_sample(k, target=own) for k, own in enumerate(labels)]
    nodule, part = offsets_of([samples], settings(class_weights="balanced"), task)
    assert nodule == pytest.approx((np.log(1 / 3),))
    assert part == pytest.approx((2 / 3 * np.log(2), -np.log(2) / 3, -np.log(2) / 3), abs=1e-6)


def test_the_temperature_is_fitted_with_the_offsets_in_place() -> None:
    rng = np.random.default_rng(4)
    truth = (rng.random(3000) < 0.1).astype(int)
    even = rng.normal(size=3000) + 2 * truth - 1  # its log-odds among as many of either class are twice this
    found = fit_temperature(even * 6, truth, offsets=(np.log(0.1 / 0.9),))
    assert found == pytest.approx(3.0, rel=0.1)
    of_both = fit_temperature(np.stack([0 * even, even * 6], axis=1), truth, offsets=(0.0, np.log(0.1 / 0.9)))
    assert of_both == pytest.approx(found)
    calibrated = calibrate(even[:, None] * 6, found, None, (np.log(0.1 / 0.9),))[:, 0]
    assert calibration_intercept(truth, calibrated) == pytest.approx(0.0, abs=0.15)
    others = [calibrate(even[:, None] * 6, t, None, (np.log(0.1 / 0.9),))[:, 0] for t in (0.9 * found, 1.1 * found)]
    assert all(
        log_loss(truth, to_probabilities(calibrated)) < log_loss(truth, to_probabilities(other)) for other in others
    )
