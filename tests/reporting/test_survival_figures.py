"""Curves of a time to an event as corners in a unit square."""

import re
from types import SimpleNamespace

from markupsafe import Markup

from medmllm.model_documents import SurvivalTask, Task
from medmllm.reporting.page import environment
from medmllm.reporting.survival_figures import quarter_ticks, step_points, still_followed
from medmllm.reporting.training_figures import FRAME, TrainingFigure, draw
from medmllm.survival_documents import RiskGroupDocument, SurvivalArmDocument


def test_a_kaplan_meier_curve_is_level_until_the_time_at_which_it_falls() -> None:
    group = RiskGroupDocument(
        name="higher risk", n=4, events=2, times=(0.0, 5.0, 10.0), event_free=(1.0, 0.75, 0.5), low=(None, 0.2, 0.1),
        high=(None, 0.9, 0.8), at_risk=(4, 3, 1),
    )  # fmt: skip
    assert list(step_points(group, 20.0)) == [(0, 1), (0, 1), (0.25, 1), (0.25, 0.75), (0.5, 0.75), (0.5, 0.5)]


def test_a_kaplan_meier_curve_ends_where_nobody_is_followed_any_more() -> None:
    group = RiskGroupDocument(
        name="lower risk", n=2, events=1, times=(0.0, 5.0, 10.0, 15.0), event_free=(1.0, 0.5, 0.5, 0.5),
        low=(None,) * 4, high=(None,) * 4, at_risk=(2, 1, 0, 0),
    )  # fmt: skip
    assert list(step_points(group, 20.0))[-1] == (0.5, 0.5)  # not on to 0.75


def test_the_key_and_the_last_time_of_a_kaplan_meier_figure_lie_within_it() -> None:
    drawn = draw(
        "kaplan_meier", [("lower risk", "M0 0"), ("higher risk", "M0 0")], quarter_ticks(13720.0), "days", FRAME
    )
    words = re.findall(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"( text-anchor="end")?[^>]*>([^<]+)<', drawn)
    placed = {text: (float(x), float(y), bool(end)) for x, y, end, text in words}
    lower, higher, last = placed["lower risk"], placed["higher risk"], placed["13720"]
    assert FRAME.left < lower[0] == higher[0] < FRAME.left + FRAME.side / 2
    assert FRAME.top + FRAME.side / 2 < lower[1] < higher[1] < FRAME.top + FRAME.side  # above the axis, not on it
    assert last[2]
    assert last[0] <= TrainingFigure("", "", "", Markup()).width


def test_those_still_followed_are_told_by_quarters_of_the_time() -> None:
    group = RiskGroupDocument(
        name="lower risk", n=9, events=0, times=tuple(map(float, range(9))), event_free=(1.0,) * 9, low=(None,) * 9,
        high=(None,) * 9, at_risk=(9, 8, 7, 6, 5, 4, 3, 2, 1),
    )  # fmt: skip
    assert still_followed(group) == [9, 7, 5, 3, 1]


def test_times_of_some_years_are_marked_in_whole_days_never_in_powers_of_ten() -> None:
    assert [text for _, text in quarter_ticks(1372.0)] == ["0", "343", "686", "1029", "1372"]
    assert [text for _, text in quarter_ticks(3998.8)] == ["0", "1000", "1999", "2999", "3999"]  # 999.7 in the middle
    assert [text for _, text in quarter_ticks(2.5)] == ["0", "0.625", "1.25", "1.88", "2.5"]  # years


def test_one_study_of_a_risk_group_is_counted_as_one() -> None:
    lower, higher = (
        RiskGroupDocument(
            name=f"{name} risk", n=n, events=1, times=(0.0,), event_free=(1.0,), low=(None,), high=(None,), at_risk=(n,)
        )
        for name, n in (("lower", 1), ("higher", 12))
    )
    arm = SurvivalArmDocument(arm="text", risk_groups=(lower, higher), logrank_p=None, calibration=())
    asked = SurvivalTask(event="death", model="cox", horizons=(365.0,), time_unit="days")
    task = Task(target="days", kind="survival", classes=("no death", "death"), survival=asked)
    target = SimpleNamespace(told=SimpleNamespace(task=task, arms=(), survival=(arm,)))
    shown = SimpleNamespace(confidence=0.95, repeats=1)
    template = environment().get_template("survival.html.j2")
    text = template.make_module({"synthetic": False}).section(target, shown, {})  # type: ignore[attr-defined]
    assert "text: 1 study at lower risk, 1 with the event; 12 studies at higher risk, 1 with the event" in text
