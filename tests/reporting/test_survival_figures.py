"""Curves of a time to an event as corners in a unit square."""

from medmllm.reporting.survival_figures import step_points, still_followed
from medmllm.survival_documents import RiskGroupDocument


def test_a_kaplan_meier_curve_is_level_until_the_time_at_which_it_falls() -> None:
    group = RiskGroupDocument(
        name="higher risk", n=4, events=2, times=(0.0, 5.0, 10.0), event_free=(1.0, 0.75, 0.5), low=(None, 0.2, 0.1),
        high=(None, 0.9, 0.8), at_risk=(4, 3, 1),
    )  # fmt: skip
    assert list(step_points(group, 20.0)) == [(0, 1), (0, 1), (0.25, 1), (0.25, 0.75), (0.5, 0.75), (0.5, 0.5)]


def test_those_still_followed_are_told_by_quarters_of_the_time() -> None:
    group = RiskGroupDocument(
        name="lower risk", n=9, events=0, times=tuple(map(float, range(9))), event_free=(1.0,) * 9, low=(None,) * 9,
        high=(None,) * 9, at_risk=(9, 8, 7, 6, 5, 4, 3, 2, 1),
    )  # fmt: skip
    assert still_followed(group) == [9, 7, 5, 3, 1]
