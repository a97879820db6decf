"""Net benefit is counted as in the paper; treating everyone is the model that calls everyone."""

import numpy as np
import pytest

from medmllm.errors import EvaluationError
from medmllm.evaluation.decision_curve import THRESHOLDS, decision_curve, net_benefit
from medmllm.evaluation.resampling import draw_weights

RNG = np.random.default_rng(7)
N = 200
TARGETS = (RNG.random(N) < 0.35).astype(int)
CHANCES = np.clip(0.35 + 0.3 * (TARGETS - 0.5) + RNG.normal(0, 0.15, N), 0.01, 0.99)
PATIENTS = [f"pt-{number // 2}" for number in range(N)]


def curve(chances: np.ndarray = CHANCES, samples: int = 300):
    return decision_curve("fused", TARGETS, chances, PATIENTS, confidence=0.9, samples=samples, seed=4)


def test_net_benefit_is_true_positives_less_false_positives_at_the_odds_of_the_threshold() -> None:
    found = curve()
    assert found.thresholds == THRESHOLDS == tuple(pytest.approx(0.05 * k) for k in range(1, 20))
    for threshold, interval in zip(THRESHOLDS, found.net_benefit, strict=True):
        hits = int(((threshold <= CHANCES) & (TARGETS == 1)).sum())
        alarms = int(((threshold <= CHANCES) & (TARGETS == 0)).sum())
        assert interval.estimate == pytest.approx(hits / N - alarms / N * threshold / (1 - threshold))
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low <= interval.estimate <= interval.high  # type: ignore[operator]


def test_treating_everyone_is_a_model_that_calls_everyone_and_none_one_that_calls_no_one() -> None:
    everyone, no_one = curve(np.ones(N), 100), curve(np.zeros(N), 100)
    assert [own.estimate for own in everyone.net_benefit] == pytest.approx(everyone.treat_all)
    assert {own.estimate for own in no_one.net_benefit} == {0.0}
    assert no_one.treat_all == everyone.treat_all
    share = TARGETS.mean()
    cut = [value for value, t in zip(everyone.treat_all, THRESHOLDS, strict=True) if t < share]
    assert min(cut) > 0 > everyone.treat_all[len(cut)], "treating all pays below the prevalence alone"


def test_a_probability_at_the_threshold_is_treated_and_weights_count_studies() -> None:
    targets, chances = np.array([1, 0, 0]), np.array([0.25, 0.25, 0.2])
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    expected = [(1 - 1 / 3) / 3, (2 - 1 / 3) / 3, -1 / 3]
    assert net_benefit(targets, chances, 0.25, weights).tolist() == pytest.approx(expected)
    for threshold in (0.0, 1.0):
        with pytest.raises(EvaluationError, match="between 0 and 1"):
            net_benefit(targets, chances, threshold, weights)


def test_the_interval_draws_patients_not_studies() -> None:
    # Each patient's studies twice: the same patients, so the same draws and the same interval.
    doubled = decision_curve(
        "fused", np.repeat(TARGETS, 2), np.repeat(CHANCES, 2), [p for p in PATIENTS for _ in range(2)], confidence=0.9,
        samples=300, seed=4,
    )  # fmt: skip
    for one, two in zip(curve().net_benefit, doubled.net_benefit, strict=True):
        assert (two.low, two.high) == pytest.approx((one.low, one.high))


def test_of_several_repeats_it_is_the_mean_over_them_with_each_patient_drawn_once_for_all() -> None:
    other = np.clip(CHANCES + RNG.normal(0, 0.2, N), 0.01, 0.99)
    found = decision_curve(
        "fused", TARGETS, CHANCES, PATIENTS, confidence=0.9, samples=300, seed=4, more=[other]
    )  # fmt: skip
    weights = np.concatenate(list(draw_weights(PATIENTS, samples=300, seed=4)))
    for place, t in enumerate(THRESHOLDS):
        each = []
        for chances in (CHANCES, other):
            gain = np.where(TARGETS == 1, 1.0, -t / (1 - t)) * (chances >= t)
            each.append(np.append(gain.mean(), weights @ gain / weights.sum(axis=1)))
        own, mean = found.net_benefit[place], np.mean(each, axis=0)
        assert own.estimate == pytest.approx(mean[0])
        assert (own.low, own.high) == pytest.approx(tuple(np.quantile(mean[1:], [0.05, 0.95])))
        assert [repeat[place] for repeat in found.repeats] == pytest.approx([values[0] for values in each])
    assert curve().repeats == ()
