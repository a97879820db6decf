"""Times as numbers of intervals and places in time; the expected ones are read off a line drawn by hand."""

import pytest

from medmllm.errors import SplitError
from medmllm.records import Survival
from medmllm.training.survival_targets import AtRisk, Ranked, at_risk, interval_bounds, rank_times

BOUNDS = (2.0, 4.0, 8.0)


def _seen(*times: float) -> list[Survival]:
    return [Survival(time, event=True) for time in times]


def test_bounds_are_quantiles_of_event_times_alone() -> None:
    censored = [Survival(time, event=False) for time in (100.0, 200.0, 300.0)]
    assert interval_bounds(_seen(0, 1, 2, 3, 4) + censored, 2, 4.0) == (2.5, 4.0)  # of 1, 2, 3, 4


def test_the_last_interval_reaches_to_the_last_horizon() -> None:
    assert interval_bounds(_seen(1, 2, 3), 1, 10.0) == (10.0,)


def test_events_at_one_time_make_fewer_intervals() -> None:
    assert interval_bounds(_seen(5, 5, 5, 5, 9), 4, 9.0) == (5.0, 9.0)


def test_a_part_without_an_event_after_its_start_is_refused() -> None:
    with pytest.raises(SplitError, match="no event after time 0"):
        interval_bounds([*_seen(0.0), Survival(3.0, event=False)], 4, 1.0)


@pytest.mark.parametrize(
    ("time", "expected"),
    [(0.0, AtRisk(1, 1)), (2.0, AtRisk(1, 1)), (2.1, AtRisk(2, 1)), (8.0, AtRisk(3, 1)), (8.1, AtRisk(3, 0))],
)
def test_an_event_ends_the_interval_that_it_lies_in(time: float, expected: AtRisk) -> None:
    assert at_risk(Survival(time, event=True), BOUNDS) == expected


@pytest.mark.parametrize(("time", "intervals"), [(0.0, 0), (0.9, 0), (1.0, 1), (2.9, 1), (3.0, 2), (6.0, 3), (99.0, 3)])
def test_a_censored_study_came_through_intervals_it_was_followed_for_half_of(time: float, intervals: int) -> None:
    assert at_risk(Survival(time, event=False), BOUNDS) == AtRisk(intervals, 0)


def test_equal_times_share_a_place() -> None:
    survived = [Survival(7.0, event=False), Survival(1.0, event=True), Survival(7.0, event=True)]
    assert rank_times(survived) == [Ranked(1, 0), Ranked(0, 1), Ranked(1, 1)]
