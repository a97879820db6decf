"""Harrell's and Uno's C, against pairs counted by hand and against scikit-survival."""

import numpy as np
import pytest

from medmllm.evaluation.concordance import weighted_harrell, weighted_uno
from medmllm.evaluation.kaplan_meier import Followed

# Twelve studies; two events share the time 2.
TIMES = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
EVENTS = np.array([1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1], dtype=bool)
RISKS = np.array([2.0, 1.5, 0.3, 0.9, 1.1, 0.2, 0.9, 1.3, -0.5, 0.4, -1.0, -0.2])
TWELVE, ONCE = Followed(TIMES, EVENTS), np.ones((1, 12))


def _harrell(times: list[float], events: list[bool], risks: list[float]) -> float:
    return float(weighted_harrell(Followed(np.array(times), np.array(events)), np.array(risks), np.ones((1, 3)))[0])


def test_equal_risks_count_half() -> None:
    assert _harrell([1, 2, 3], [True, True, True], [5, 5, 1]) == pytest.approx(2.5 / 3)


def test_a_study_censored_first_is_compared_with_none() -> None:
    assert _harrell([1, 2, 3], [False, True, True], [9, 1, 5]) == 0  # one pair: 2 before 3, the wrong way


def test_at_equal_times_an_event_is_compared_with_what_is_censored_only() -> None:
    assert _harrell([1, 1, 1], [True, True, False], [3, 5, 4]) == pytest.approx(1 / 2)


def test_no_pair_has_no_c() -> None:
    assert np.isnan(_harrell([1, 2, 3], [False, False, True], [1, 2, 3]))


def test_harrell_is_that_of_scikit_survival() -> None:
    # scikit-survival 0.28.0, concordance_index_censored: 37 pairs in order, 9 not
    assert weighted_harrell(TWELVE, RISKS, ONCE)[0] == pytest.approx(0.8043478260869565)


def test_uno_is_that_of_scikit_survival() -> None:
    # scikit-survival 0.28.0, concordance_index_ipcw(tau=8.5)
    assert weighted_uno(TWELVE, RISKS, ONCE, last=8.5)[0] == pytest.approx(0.7768833740024523)


def test_events_from_the_last_time_on_are_not_counted_by_uno() -> None:
    worst = np.where(TIMES >= 8, 99.0, RISKS)  # the late ones said to be the first
    early, all_of_them = (weighted_uno(TWELVE, worst, ONCE, last=last)[0] for last in (1.5, 99.0))
    assert early == pytest.approx(8 / 11)  # the event at 1 alone: before it in risk are three of eleven
    assert all_of_them != pytest.approx(8 / 11)


def test_studies_that_count_twice_are_two_studies() -> None:
    weights = np.random.default_rng(7).integers(0, 3, (1, 12)).astype(float)
    copies = np.repeat(np.arange(12), weights[0].astype(int))
    copied, one_each = Followed(TIMES[copies], EVENTS[copies]), np.ones((1, len(copies)))
    assert weighted_harrell(TWELVE, RISKS, weights)[0] == pytest.approx(
        weighted_harrell(copied, RISKS[copies], one_each)[0]
    )
    assert weighted_uno(TWELVE, RISKS, weights, last=8.5)[0] == pytest.approx(
        weighted_uno(copied, RISKS[copies], one_each, last=8.5)[0]
    )


def test_only_studies_of_one_fold_are_compared_within_folds() -> None:
    times, events = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, dtype=bool)
    risks, folds = np.array([9.0, 2.0, 8.0, 1.0]), np.array([0, 1, 0, 1])
    followed = Followed(times, events)
    assert weighted_harrell(followed, risks, np.ones((1, 4)), folds=folds)[0] == 1
    assert weighted_harrell(followed, risks, np.ones((1, 4)))[0] == pytest.approx(5 / 6)  # 2 before 8 is wrong
