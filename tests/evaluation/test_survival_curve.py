"""From logits to curves: products of hazards by hand, and other libraries for what is fitted."""

import numpy as np
import pytest
from scipy.special import expit, logit

from medmllm.evaluation.survival_curve import (
    breslow_baseline,
    fit_hazard_temperature,
    log_hazards,
    median_times,
    risks,
    shared_times,
)
from medmllm.tuning_documents import FoldSurvival

BOUNDS = np.array([2.0, 4.0, 8.0])
TIMES = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
EVENTS = np.array([1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1], dtype=bool)
RISKS = np.array([2.0, 1.5, 0.3, 0.9, 1.1, 0.2, 0.9, 1.3, -0.5, 0.4, -1.0, -0.2])
SLOPE = 1.6642100673110838  # scikit-survival 0.28.0, CoxPHSurvivalAnalysis(ties="breslow")


def _fold(everybody: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> FoldSurvival:
    return FoldSurvival(bounds=(2.0, 4.0, 8.0), everybody=everybody)


def test_the_share_that_comes_through_is_the_product_of_one_minus_each_hazard() -> None:
    found = risks(log_hazards(logit(np.array([[0.5, 0.2, 0.1]])), 1.0, _fold(), BOUNDS))
    assert 1 - found[0] == pytest.approx([0.5, 0.5 * 0.8, 0.5 * 0.8 * 0.9])


def test_a_study_that_nothing_is_said_of_stays_without_a_number_and_without_a_warning() -> None:
    raw = logit(np.array([[0.5, 0.2, 0.1], [np.nan, np.nan, np.nan]]))
    with np.errstate(invalid="raise"):
        found = log_hazards(raw, 1.0, _fold(), BOUNDS)
    assert np.isnan(found[1]).all()
    assert 1 - risks(found)[0] == pytest.approx([0.5, 0.5 * 0.8, 0.5 * 0.8 * 0.9])


def test_between_bounds_the_hazard_is_constant() -> None:
    through = 1 - risks(log_hazards(logit(np.array([[0.5, 0.2, 0.1]])), 1.0, _fold(), np.array([1.0, 3.0, 6.0])))
    assert through[0] == pytest.approx([0.5**0.5, 0.5 * 0.8**0.5, 0.5 * 0.8 * 0.9**0.5])


def test_a_temperature_draws_hazards_towards_everybodys() -> None:
    raw, everybody = np.array([[3.0, -1.0, 0.0]]), (1.0, -2.0, 0.0)
    cooled = log_hazards(raw, 2.0, _fold(everybody), BOUNDS)
    assert cooled == pytest.approx(log_hazards(np.array([[2.0, -1.5, 0.0]]), 1.0, _fold(), BOUNDS))  # half way


def test_half_have_had_the_event_at_the_median() -> None:
    half = np.log(2)
    hazards = np.array([[2 * half, 9.0, 9.0], [0.5 * half, 1.5 * half, 9.0], [0.1, 0.2, 0.3]])
    found = median_times(np.log(hazards), BOUNDS)
    assert found[:2] == pytest.approx([1.0, 3.0])
    assert np.isnan(found[2])


def test_the_times_that_folds_share_are_the_horizons_and_a_grid_up_to_the_last() -> None:
    found = shared_times([30.0, 100.0])
    assert (found[:2].tolist(), found[2], found[-1], len(found)) == ([30.0, 100.0], 2.0, 100.0, 52)


def test_the_baseline_is_breslows_as_scikit_survival_has_it() -> None:
    found = breslow_baseline(SLOPE * RISKS, TIMES, EVENTS, np.array([0.5, 2.0, 4.5, 10.0]))
    assert found == pytest.approx([0.0, 0.061461537019851874, 0.10296732935186917, 2.2134846023021475])


def test_the_temperature_undoes_what_was_exaggerated() -> None:
    generator = np.random.default_rng(2)
    everybody = np.array([-2.0, -1.5, -1.0, -1.5, -0.5])
    own = generator.normal(0.0, 1.0, (4000, 5))
    came = generator.random((4000, 5)) < expit(everybody + own)
    first = np.where(came.any(axis=1), came.argmax(axis=1), 5)
    at_risk = np.stack([np.minimum(first + 1, 5), first < 5], axis=1).astype(int)
    found = fit_hazard_temperature(everybody + 3 * own, at_risk, everybody.tolist())
    assert found == pytest.approx(3, rel=0.1)
