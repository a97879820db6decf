"""From logits to curves: products of hazards by hand, and other libraries for what is fitted."""

import numpy as np
import pytest
from scipy.special import expit, logit

from medmllm.evaluation.survival_curve import (
    breslow_baseline,
    cumulative_hazard,
    fit_hazard_temperature,
    fit_risk_temperature,
    hazard_until,
    median_time,
)

BOUNDS = np.array([2.0, 4.0, 8.0])
TIMES = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
EVENTS = np.array([1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1], dtype=bool)
RISKS = np.array([2.0, 1.5, 0.3, 0.9, 1.1, 0.2, 0.9, 1.3, -0.5, 0.4, -1.0, -0.2])
SLOPE = 1.6642100673110838  # scikit-survival 0.28.0, CoxPHSurvivalAnalysis(ties="breslow")


def test_the_share_that_comes_through_is_the_product_of_one_minus_each_hazard() -> None:
    found = np.exp(-cumulative_hazard(logit(np.array([[0.5, 0.2, 0.1]])), None))
    assert found[0] == pytest.approx([0.5, 0.5 * 0.8, 0.5 * 0.8 * 0.9])


def test_a_log_risk_multiplies_the_baseline() -> None:
    found = cumulative_hazard(np.log([[1.0], [3.0]]), np.array([0.1, 0.2, 0.4]))
    assert found == pytest.approx(np.array([[0.1, 0.2, 0.4], [0.3, 0.6, 1.2]]))


def test_between_bounds_the_hazard_is_constant() -> None:
    found = hazard_until(np.array([[1.0, 3.0, 4.0]]), BOUNDS, np.array([0.0, 1.0, 3.0, 8.0, 9.0]))
    assert found[0].tolist() == [0.0, 0.5, 2.0, 4.0, 4.0]


def test_half_have_had_the_event_at_the_median() -> None:
    half = np.log(2)
    found = median_time(np.array([[2 * half, 9.0, 9.0], [0.5 * half, 1.5 * half, 9.0], [0.1, 0.2, 0.3]]), BOUNDS)
    assert found[:2] == pytest.approx([1.0, 3.0])
    assert np.isnan(found[2])


def test_the_baseline_is_breslows_as_scikit_survival_has_it() -> None:
    found = breslow_baseline(SLOPE * RISKS, TIMES, EVENTS, np.array([0.5, 2.0, 4.5, 10.0]))
    assert found == pytest.approx([0.0, 0.061461537019851874, 0.10296732935186917, 2.2134846023021475])


def test_the_temperature_of_a_log_risk_is_the_inverse_of_a_cox_regressions_slope() -> None:
    assert 1 / fit_risk_temperature(RISKS, TIMES, EVENTS) == pytest.approx(SLOPE, rel=1e-5)


def test_the_temperature_of_hazards_undoes_what_was_exaggerated() -> None:
    generator = np.random.default_rng(2)
    true = generator.normal(-1.5, 1.0, (4000, 5))
    came = generator.random((4000, 5)) < expit(true)
    first = np.where(came.any(axis=1), came.argmax(axis=1), 5)
    at_risk = np.stack([np.minimum(first + 1, 5), first < 5], axis=1).astype(int)
    assert fit_hazard_temperature(3 * true, at_risk) == pytest.approx(3, rel=0.1)
