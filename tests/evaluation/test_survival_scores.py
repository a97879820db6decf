"""Brier scores of times to an event, against scikit-survival and fractions by hand."""

import numpy as np
import pytest

from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.survival_scores import weighted_brier, weighted_excess, weighted_integrated_brier

TIMES = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
EVENTS = np.array([1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1], dtype=bool)
RISKS = np.array([2.0, 1.5, 0.3, 0.9, 1.1, 0.2, 0.9, 1.3, -0.5, 0.4, -1.0, -0.2])
TWELVE, ONCE = Followed(TIMES, EVENTS), np.ones((1, 12))
AT = np.array([2.5, 4.5, 6.5, 8.5])
PREDICTED = np.exp(-np.exp(RISKS[:, None]) * AT / 12)


def test_brier_scores_are_those_of_scikit_survival() -> None:
    # scikit-survival 0.28.0, brier_score
    expected = [0.14665435441537983, 0.17820560972281488, 0.10594833943658834, 0.12523129717108142]
    assert weighted_brier(TWELVE, PREDICTED, AT, ONCE)[0] == pytest.approx(expected)


def test_integrated_brier_score_is_that_of_scikit_survival() -> None:
    # scikit-survival 0.28.0, integrated_brier_score
    assert weighted_integrated_brier(TWELVE, PREDICTED, AT, ONCE)[0] == pytest.approx(0.14003225831754462)


def test_without_censoring_the_brier_score_is_a_mean_of_squares() -> None:
    followed = Followed(np.array([1.0, 2.0, 3.0]), np.ones(3, dtype=bool))
    found = weighted_brier(followed, np.array([[0.2], [0.4], [0.9]]), np.array([2.0]), np.array([[1.0, 2.0, 1.0]]))
    assert found[0, 0] == pytest.approx((0.2**2 + 2 * 0.4**2 + (1 - 0.9) ** 2) / 4)


def test_excess_is_the_observed_share_of_events_minus_the_predicted_one() -> None:
    followed = Followed(np.array([1.0, 2.0, 2.0, 3.0]), np.array([True, False, True, False]))
    observed = 1 - 3 / 4 * 2 / 3  # one of four at 1, one of three at 2
    found = weighted_excess(followed, np.array([0.9, 0.8, 0.7, 0.6]), 2.5, np.ones((1, 4)))[0]
    assert found == pytest.approx(observed - (0.1 + 0.2 + 0.3 + 0.4) / 4)


def test_an_event_counts_by_the_share_followed_just_before_it() -> None:
    followed = Followed(np.array([1.0, 2.0, 2.0, 3.0]), np.array([True, True, False, True]))
    found = weighted_brier(followed, np.full((4, 1), 0.3), np.array([2.5]), np.ones((1, 4)))[0, 0]
    # Until just before 2 all were followed; of the two without an event then, one was censored: half is followed on.
    assert found == pytest.approx((0.3**2 + 0.3**2 + 0.7**2 / (1 / 2)) / 4)
