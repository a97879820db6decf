"""What a scored study's log cumulative hazards say; those of a constant hazard, by arithmetic."""

import numpy as np
import pytest

from medmllm.evaluation.survival_curve import shared_times
from medmllm.model_documents import SurvivalTask
from medmllm.scoring.survival import estimate, explained

ASKED = SurvivalTask(event="death", model="discrete_time", horizons=(10.0, 40.0), time_unit="days")


@pytest.mark.parametrize(("hazard", "median"), [(0.02, np.log(2) / 0.02), (0.01, None)])  # reached by 40 days, or not
def test_a_constant_hazard_falls_exponentially(hazard: float, median: float | None) -> None:
    found = estimate(np.log(hazard * shared_times(ASKED.horizons)), ASKED)
    assert found.event_free == pytest.approx((np.exp(-10 * hazard), np.exp(-40 * hazard)))
    assert found.median_time == pytest.approx(median)


def test_what_is_explained_is_of_the_largest_horizon() -> None:
    assert explained(np.log(0.02 * shared_times(ASKED.horizons)), ASKED) == pytest.approx([np.log(0.02 * 40)])
