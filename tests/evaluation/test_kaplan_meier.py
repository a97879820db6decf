"""Kaplan-Meier of weighted studies, against scipy and fractions by hand."""

import numpy as np
import pytest
from scipy.stats import CensoredData, ecdf

from medmllm.evaluation.kaplan_meier import Followed

# Six studies out of order: events at 1, 2, 2; censored at 2, 3; event at 5.
SIX = Followed(np.array([2.0, 5.0, 1.0, 3.0, 2.0, 2.0]), np.array([True, True, True, False, False, True]))
ONCE = np.ones((1, 6))


def test_event_free_share_is_the_product_of_those_who_came_through() -> None:
    found = SIX.event_free(ONCE, np.array([0.5, 1.0, 2.0, 4.9, 5.0, 99.0]))[0]
    assert found == pytest.approx([1, 5 / 6, 5 / 6 * 3 / 5, 1 / 2, 0, 0])


def test_a_study_that_counts_twice_is_two_studies() -> None:
    generator = np.random.default_rng(3)
    times, events = generator.integers(1, 9, 30).astype(float), generator.random(30) < 0.6
    weights, at = generator.integers(0, 4, (1, 30)), np.arange(0, 10.5, 0.5)
    copies = np.repeat(np.arange(30), weights[0])
    data = CensoredData.right_censored(times[copies], ~events[copies])
    found = Followed(times, events).event_free(weights.astype(float), at)[0]
    assert found == pytest.approx(ecdf(data).sf.evaluate(at))


def test_at_equal_times_events_come_before_censoring() -> None:
    # At 2 there are five; two have the event, so one of three is censored. At 3 one of the two left is.
    found = [SIX.followed(ONCE, np.array([2.0, 3.0, 4.0]), including=kind)[0] for kind in (False, True)]
    assert found[0] == pytest.approx([1, 2 / 3, 1 / 3])
    assert found[1] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
