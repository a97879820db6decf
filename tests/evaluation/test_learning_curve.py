"""Points of a learning curve against scikit-learn, and their paired differences."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.evaluation.concordance import weighted_harrell
from medmllm.evaluation.learning_curve import LearningPoint, learning_points, time_points
from medmllm.evaluation.resampling import draw_weights
from medmllm.records import FloatArray
from tests.evaluation.small_survival import made_up

TARGETS = np.array([0, 1] * 20)
PATIENTS = [f"p{k // 4}" for k in range(40)]  # of both classes


def chances(noise: float) -> FloatArray:
    positive = 1 / (1 + np.exp(-(TARGETS + noise * np.random.default_rng(5).normal(size=40))))
    return np.stack([1 - positive, positive], axis=1)


def points(*steps: FloatArray) -> tuple[LearningPoint, ...]:
    *smaller, whole = steps
    each = [[own] for own in smaller]
    return learning_points(each, [whole], targets=TARGETS, patients=PATIENTS, confidence=0.95, samples=200, seed=1)


def test_each_point_is_the_auroc_of_its_training_in_order() -> None:
    steps = [chances(3.0), chances(1.0), chances(0.3)]
    expected = [roc_auc_score(TARGETS, step[:, 1]) for step in steps]
    assert expected == sorted(expected)
    assert expected[0] < expected[-1]
    found = points(*steps)
    assert [point.auroc.estimate for point in found] == pytest.approx(expected)
    assert [point.behind.estimate for point in found] == pytest.approx([expected[-1] - one for one in expected])


def test_differences_are_paired_by_patient() -> None:
    first, _ = points(chances(1.0), chances(1.0))
    assert (first.behind.low, first.behind.high) == (0.0, 0.0)  # the same predictions never differ in a resample
    assert first.auroc.low is not None
    assert first.auroc.high is not None
    assert first.auroc.low < first.auroc.high


def test_of_several_repeats_each_point_is_the_mean_over_them() -> None:
    first, again = (chances(3.0), chances(0.3)), (chances(2.0), chances(0.6))
    small, whole = ([roc_auc_score(TARGETS, own[k][:, 1]) for own in (first, again)] for k in (0, 1))
    found = learning_points(
        [[first[0], again[0]]], [first[1], again[1]], targets=TARGETS, patients=PATIENTS, confidence=0.95, samples=200,
        seed=1,
    )  # fmt: skip
    assert [point.auroc.estimate for point in found] == pytest.approx([np.mean(small), np.mean(whole)])
    assert found[0].behind.estimate == pytest.approx(np.mean(whole) - np.mean(small))
    alone, twice = (
        learning_points(
            [[first[0]] * k], [first[1]] * k, targets=TARGETS, patients=PATIENTS, confidence=0.95, samples=200, seed=1
        )[0].behind
        for k in (1, 2)
    )
    assert (twice.low, twice.high) == pytest.approx((alone.low, alone.high))


def test_points_of_times_to_an_event_are_c_indices_and_differ_in_each_resample() -> None:
    followed, risk = made_up()
    noise = np.random.default_rng(2).normal(size=len(risk))
    steps, patients = (risk + 2 * noise, risk), [f"p{k // 2}" for k in range(len(risk))]
    asked = {"followed": followed, "patients": patients, "confidence": 0.95, "samples": 50, "seed": 1}
    less, whole = time_points([[steps[0]]], [steps[1]], **asked)  # type: ignore[arg-type]
    weights = np.concatenate([np.ones((1, len(risk))), *draw_weights(patients, samples=50, seed=1)])
    few, all_ = (weighted_harrell(followed, own, weights) for own in steps)
    assert (less.auroc.estimate, whole.auroc.estimate) == pytest.approx((few[0], all_[0]))
    low, high = np.quantile((all_ - few)[1:], [0.025, 0.975])
    assert (less.behind.estimate, less.behind.low, less.behind.high) == pytest.approx((all_[0] - few[0], low, high))
    (twice, _) = time_points([[steps[0], steps[1]]], [steps[1], steps[1]], **asked)  # type: ignore[arg-type]
    assert twice.auroc.estimate == pytest.approx((few[0] + all_[0]) / 2)
