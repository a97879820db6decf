"""Arms that predict times to an event; the truth is what they were made from."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2

from medmllm.errors import EvaluationError
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.repeats import Repeat
from medmllm.evaluation.survival_groups import calibration_quarters, logrank_p, risk_groups
from medmllm.records import CohortEvaluation, Metric
from tests.evaluation.small_survival import HORIZONS, N, arm, evaluated, made_up


def metrics(found: CohortEvaluation, number: int = 0) -> dict[tuple[str, str], Metric]:
    return {(metric.name, metric.group): metric for metric in found.arms[number].metrics}


def test_what_an_arm_says_is_read_off_its_log_cumulative_hazards() -> None:
    found = arm("fused", np.log(np.linspace(0.1, 1.0, N)))
    hazard = np.linspace(0.1, 1.0, N)
    np.testing.assert_allclose(found.event_free, np.exp(-hazard[:, None] * [1.0, 2.0]))
    np.testing.assert_allclose(found.probabilities[:, 1], 1 - np.exp(-2 * hazard))
    np.testing.assert_allclose(found.log_hazard, np.log(2 * hazard))
    np.testing.assert_allclose(found.curve[:, [0, 25]], np.exp(-hazard[:, None] * [0.0, 1.0]))
    reached = np.log(2) / hazard <= 2
    np.testing.assert_allclose(found.median[reached], np.log(2) / hazard[reached])
    assert np.isnan(found.median[~reached]).all()


def test_the_truth_is_calibrated_and_its_opposite_is_as_bad_as_it_is_good() -> None:
    followed, risk = made_up()
    found = evaluated(followed, arm("fused", risk), arm("image", -risk), arm("text", np.zeros(N)))
    good, bad, none = (metrics(found, number) for number in range(3))
    overall = good["c_index", "all"].estimate
    assert overall is not None
    assert overall > 0.7
    assert bad["c_index", "all"].estimate == pytest.approx(1 - overall)
    assert none["c_index", "all"].estimate == 0.5
    for name in HORIZONS:
        excess = good["risk_excess", name]
        assert excess.low is not None
        assert excess.high is not None
        assert excess.low < 0 < excess.high
        assert good["brier", name].estimate < none["brier", name].estimate < bad["brier", name].estimate  # type: ignore[operator]
    assert (found.classes, found.class_counts) == (
        ("death", "censored"),
        (followed.event.sum(), N - followed.event.sum()),
    )


def test_differences_are_paired_and_of_the_c_index() -> None:
    followed, risk = made_up()
    found = evaluated(followed, arm("fused", risk), arm("image", risk + np.random.default_rng(2).normal(0, 1, N)))
    (gain,) = found.differences
    estimates = [metrics(found, number)["c_index", "all"].estimate or 0.0 for number in (0, 1)]
    assert (gain.name, gain.group) == ("c_index", "image")
    assert gain.estimate == pytest.approx(estimates[0] - estimates[1])
    assert gain.low is not None
    assert 0 < gain.low < estimates[0] - estimates[1]


def test_risks_that_are_no_numbers_are_refused() -> None:
    followed, risk = made_up()
    risk[3] = np.nan
    with pytest.raises(EvaluationError, match="arm fused are not finite"):
        evaluated(followed, arm("fused", risk))
    with pytest.raises(EvaluationError, match="shape"):
        evaluated(followed, arm("fused", np.zeros(4)))


def test_quarters_of_the_truth_are_observed_as_predicted() -> None:
    followed, risk = made_up()
    quarters = calibration_quarters(followed, np.exp(-np.exp(risk)), 1.0, confidence=0.95)
    assert [quarter.n for quarter in quarters] == [75, 75, 75, 75]
    assert all(b.predicted > a.predicted for a, b in pairwise(quarters))
    for quarter in quarters:
        assert quarter.low is not None
        assert quarter.high is not None
        assert quarter.low < quarter.observed < quarter.high
        assert abs(quarter.observed - quarter.predicted) < 0.12  # two standard errors of a share of 75


def test_studies_with_one_prediction_are_one_group() -> None:
    followed, _ = made_up()
    (only,) = calibration_quarters(followed, np.full(N, 0.4), 1.0, confidence=0.95)
    assert (only.n, only.predicted) == (N, pytest.approx(0.6))


def test_risk_groups_are_told_by_fractions_and_log_rank() -> None:
    followed = Followed(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, False, True]))
    lower, higher = risk_groups(followed, np.array([True, True, False, False]), confidence=0.95)
    assert (lower.name, lower.n, lower.events, higher.n, higher.events) == ("lower risk", 2, 1, 2, 2)
    at = [round(time, 2) for time in higher.times].index(1.0)
    assert (higher.event_free[at], higher.at_risk[at]) == (0.5, 2)
    assert lower.event_free[at] == 1
    # Of 4, 3 and 1 at risk, all of the first two events in the higher group, where 2 of 4 and 1 of 3 would be:
    # (2 - 2/4 - 1/3)^2 / (1/4 + 2/9), chi-squared with one degree of freedom
    statistic = (2 - 1 / 2 - 1 / 3) ** 2 / (1 / 4 + 2 / 9)
    assert logrank_p(followed, np.array([True, True, False, False])) == pytest.approx(chi2.sf(statistic, 1))
    assert logrank_p(followed, np.ones(4, dtype=bool)) is None


def test_groups_whose_events_all_come_at_once_have_no_log_rank_test_and_no_warning() -> None:
    at_once = Followed(np.full(4, 3.0), np.ones(4, dtype=bool))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logrank_p(at_once, np.array([True, True, False, False])) is None


def test_several_repeats_are_averaged_and_their_range_is_told() -> None:
    followed, risk = made_up()
    folds, noisy = np.arange(N) % 2, risk + np.random.default_rng(6).normal(0, 1, N)
    one, other = evaluated(followed, arm("fused", risk)), evaluated(followed, arm("fused", noisy))
    both = evaluated(followed, arm("fused", risk), more=[Repeat([arm("fused", noisy)], folds)])
    for key in (("c_index", "all"), ("brier", "2 years")):
        estimates = [metrics(found)[key].estimate or 0.0 for found in (one, other)]
        found = metrics(both)[key]
        assert found.estimate == pytest.approx(np.mean(estimates))
        assert (found.lowest, found.highest) == pytest.approx((min(estimates), max(estimates)))
