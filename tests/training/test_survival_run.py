"""What is said beside the numbers of times to an event."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmllm.evaluation.kaplan_meier import Followed
from medmllm.model_documents import SurvivalTask
from medmllm.training.candidates import candidates
from medmllm.training.cross_validation import ArmResult
from medmllm.training.search import Choice
from medmllm.training.survival_run import cautions, fewest_compared
from tests.training.small_cohort import a_config

TIMES = np.array([*range(1, 21)], dtype=float)


def said(last: float, model: str = "discrete_time", compared: int = 8) -> list[str]:
    task = SurvivalTask.model_validate({"event": "death", "model": model, "horizons": (2, last), "time_unit": "weeks"})
    return list(cautions(task, Followed(TIMES, TIMES > 5), compared=compared))


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (11.0, []),
        (12.0, ["9 studies were followed for 12 weeks"]),
        (20.0, ["1 study was followed for 20 weeks"]),
        (21.0, ["No study was followed for 21 weeks"]),
    ],
)
def test_a_horizon_that_few_were_followed_until_is_remarked(last: float, told: list[str]) -> None:
    assert [line.split(" without")[0] for line in said(last)] == told


@pytest.mark.parametrize(("model", "compared", "told"), [("cox", 15, 1), ("cox", 16, 0), ("discrete_time", 4, 0)])
def test_a_cox_model_that_compares_few_studies_at_a_time_is_remarked(model: str, compared: int, told: int) -> None:
    assert len(said(11.0, model, compared)) == told


def test_the_batch_looked_at_is_the_smallest_that_a_fold_chose_and_each_process_compares_its_part_alone() -> None:
    config = a_config(batch_size=32, search={"batch_size": (4, 8, 16, 32)})
    tried = candidates(config, "text")
    choices = tuple(Choice("text", fold, tried, (None,) * 4, chosen) for fold, chosen in enumerate((2, 1, 3)))
    arm = ArmResult("text", None, None, (), Path(), choices=choices)  # type: ignore[arg-type]
    assert fewest_compared([arm], config) == 8
    assert fewest_compared([replace(arm, choices=())], config) == 32
    three = config.model_copy(update={"training": config.training.model_copy(update={"processes": 3})})
    assert fewest_compared([replace(arm, choices=())], three) == 10  # of 32, parts of 11, 11 and 10
