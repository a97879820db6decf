"""What a scored study's log cumulative hazards say; those of a constant hazard, by arithmetic."""

import numpy as np
import pytest

from medmllm.evaluation.survival_curve import shared_times
from medmllm.model_documents import SurvivalTask, Task
from medmllm.scoring.survival import estimate, timed_part

ASKED = SurvivalTask(event="death", model="discrete_time", horizons=(10.0, 40.0), time_unit="days")


@pytest.mark.parametrize(("hazard", "median"), [(0.02, np.log(2) / 0.02), (0.01, None)])  # reached by 40 days, or not
def test_a_constant_hazard_falls_exponentially(hazard: float, median: float | None) -> None:
    found = estimate(np.log(hazard * shared_times(ASKED.horizons)), ASKED)
    assert found.event_free == pytest.approx((np.exp(-10 * hazard), np.exp(-40 * hazard)))
    assert found.median_time == pytest.approx(median)


DAYS = Task(target="days", kind="survival", classes=("no death by 40 days", "death by 40 days"), survival=ASKED)


def test_of_the_times_that_of_the_largest_horizon_is_told() -> None:
    told, survival = timed_part(np.log(0.02 * shared_times(ASKED.horizons)), DAYS)
    assert told == pytest.approx([np.log(0.02 * 40)])
    assert survival is not None
    assert survival.event_free[1] == pytest.approx(np.exp(-0.8))


def test_beside_others_a_time_stands_in_its_place() -> None:
    task = Task.of_several((Task.of("nodule", ("no", "yes")), DAYS, Task.of("side", ("left", "middle", "right"))))
    logits = np.concatenate([[0.5], np.log(0.02 * shared_times(ASKED.horizons)), [1.0, 2.0, 3.0]])
    told, survival = timed_part(logits, task)
    assert told == pytest.approx([0.5, np.log(0.02 * 40), 1.0, 2.0, 3.0])
    assert survival == timed_part(logits[1:-3], DAYS)[1]


def test_classes_alone_are_told_as_they_are() -> None:
    told, survival = timed_part(np.array([0.5]), Task.of("nodule", ("no", "yes")))
    assert (told.tolist(), survival) == ([0.5], None)
