"""What a fold learns times by; hazards are counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.fold_decisions import calibrate_fold, class_probabilities, predicted_classes
from medmllm.evaluation.survival_curve import breslow_baseline
from medmllm.model_documents import FoldModel, SurvivalTask, Task
from medmllm.models.survival_head import CoxHead, HazardHead
from medmllm.records import Survival
from medmllm.training.survival_fold import Timeline
from medmllm.training.survival_targets import AtRisk, Ranked
from medmllm.training_config import TaskSettings
from tests.models.small import a_sample

# Events at 1, 2, 3, 4; censored at 0, 2.4 and 9. Intervals end at 2.5, the median event, and at 4.
SEVEN = [
    *(Survival(time, event=True) for time in (1.0, 2.0, 3.0, 4.0)),
    *(Survival(time, event=False) for time in (0.0, 2.4, 9.0)),
]


def settings(**changes: object) -> TaskSettings:
    asked = {"kind": "survival", "event": "death", "horizons": (2.0, 4.0), "intervals": 2}
    return TaskSettings.model_validate(load_config(TrainConfig, "train").task.model_dump() | asked | changes)


def test_everybodys_hazards_are_events_over_those_at_risk_with_half_a_study_more_of_each() -> None:
    timeline = Timeline.of(SEVEN, settings())
    assert timeline.fold.bounds == (2.5, 4.0)
    # In the first, 6 of 7 are at risk (one was censored at once) and 2 have the event; then 3 are, of whom 2 have it.
    hazards = np.array([(2 + 0.5) / (6 + 1), (2 + 0.5) / (3 + 1)])
    assert timeline.fold.everybody == pytest.approx(np.log(hazards / (1 - hazards)))


def test_samples_are_coded_by_interval_or_by_place_in_time() -> None:
    samples = [replace(a_sample(k), target=own) for k, own in enumerate(SEVEN)]
    coded = [sample.target for sample in Timeline.of(SEVEN, settings()).code(samples)]
    assert coded == [AtRisk(1, 1), AtRisk(1, 1), AtRisk(2, 1), AtRisk(2, 1), AtRisk(0, 0), AtRisk(1, 0), AtRisk(2, 0)]
    ranked = [sample.target for sample in Timeline.of(SEVEN, settings(survival_model="cox")).code(samples)]
    assert ranked[:4] == [Ranked(1, 1), Ranked(2, 1), Ranked(4, 1), Ranked(5, 1)]


class Network(torch.nn.Module):
    """A head alone."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = head


def test_a_fresh_network_starts_at_everybodys_hazards() -> None:
    timeline, network = Timeline.of(SEVEN, settings()), Network(HazardHead(2))
    timeline.start(network)  # type: ignore[arg-type]
    assert network.head(torch.zeros(1, 2))[0].tolist() == pytest.approx(timeline.fold.everybody)


def test_a_cox_network_takes_the_baseline_of_its_training_part() -> None:
    timeline, network = Timeline.of(SEVEN, settings(survival_model="cox")), Network(CoxHead(2))
    risks = np.linspace(-1, 1, 7)
    timeline.settle(network, SEVEN, lambda: risks[:, None])  # type: ignore[arg-type]
    time, event = np.array([own.time for own in SEVEN]), np.array([own.event for own in SEVEN])
    expected = breslow_baseline(risks, time, event, np.array([2.5, 4.0]))
    hazards = torch.sigmoid(network.head(torch.zeros(1, 1)))[0].numpy()
    assert np.cumsum(-np.log1p(-hazards)) == pytest.approx(expected, rel=1e-4)


def test_the_tuning_part_decides_temperature_and_median_risk() -> None:
    timeline = Timeline.of(SEVEN, settings())
    raw = np.array(timeline.fold.everybody) + np.linspace(-1, 1, 7)[:, None]
    decided = timeline.decide(raw, SEVEN, 4.0)
    fold = FoldModel(fold=0, weights="fold_0.safetensors", weights_sha256="0" * 64, best_epoch=1, **dict(decided))
    asked = SurvivalTask(event="death", model="discrete_time", horizons=(2.0, 4.0), time_unit="days")
    task = Task(target="days", kind="survival", classes=("no death by 4 days", "death by 4 days"), survival=asked)
    logits = calibrate_fold(raw, fold, task)
    risk = class_probabilities(logits, task)[:, 1]
    assert logits.shape == (7, 2 + 50)
    assert decided.threshold == pytest.approx(np.median(risk))
    assert predicted_classes(logits, fold, task)[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert np.exp(logits[:, 1]) == pytest.approx(-np.log(1 - risk))
