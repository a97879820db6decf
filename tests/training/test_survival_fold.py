"""What a fold learns times by; hazards are counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.fold_decisions import calibrate_fold, class_probabilities, fold_sets, predicted_classes
from medmllm.evaluation.survival_curve import breslow_baseline
from medmllm.model_documents import FoldModel, SurvivalTask, Task
from medmllm.models.heads import TargetHeads
from medmllm.models.survival_head import CoxHead, HazardHead
from medmllm.records import UNKNOWN, Survival
from medmllm.training.survival_fold import Timeline
from medmllm.training.survival_targets import AtRisk, Ranked
from medmllm.training.tuning_part import UNDECIDED, decide_each
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
    timeline = Timeline.of(SEVEN, settings(), cox=False)
    assert timeline.fold.bounds == (2.5, 4.0)
    # In the first, 6 of 7 are at risk (one was censored at once) and 2 have the event; then 3 are, of whom 2 have it.
    hazards = np.array([(2 + 0.5) / (6 + 1), (2 + 0.5) / (3 + 1)])
    assert timeline.fold.everybody == pytest.approx(np.log(hazards / (1 - hazards)))


def test_samples_are_coded_by_interval_or_by_place_in_time() -> None:
    samples = [replace(a_sample(k), target=own) for k, own in enumerate(SEVEN)]
    coded = [sample.target for sample in Timeline.of(SEVEN, settings(), cox=False).code(samples)]
    assert coded == [AtRisk(1, 1), AtRisk(1, 1), AtRisk(2, 1), AtRisk(2, 1), AtRisk(0, 0), AtRisk(1, 0), AtRisk(2, 0)]
    ranked = [sample.target for sample in Timeline.of(SEVEN, settings(), cox=True).code(samples)]
    assert ranked[:4] == [Ranked(1, 1), Ranked(2, 1), Ranked(4, 1), Ranked(5, 1)]


class Network(torch.nn.Module):
    """A head alone."""

    def __init__(self, head: torch.nn.Module, task: Task) -> None:
        super().__init__()
        self.head, self.task = head, task


def asked(model: str) -> Task:
    own = SurvivalTask.model_validate({"event": "death", "model": model, "horizons": (2.0, 4.0), "time_unit": "days"})
    return Task(target="days", kind="survival", classes=("no death by 4 days", "death by 4 days"), survival=own)


def beside(model: str) -> Task:
    return Task.of_several((Task.of("nodule", ("no", "yes")), asked(model), Task.of("part", ("a", "b", "c"))))


# The nodule and the part of each, and the time of all but the third.
LABELS = [(k % 2, UNKNOWN if k == 2 else own, UNKNOWN if k else 2) for k, own in enumerate(SEVEN)]


def test_a_fresh_network_starts_at_everybodys_hazards() -> None:
    timeline, network = Timeline.of(SEVEN, settings(), cox=False), Network(HazardHead(2), asked("discrete_time"))
    timeline.start(network)  # type: ignore[arg-type]
    assert network.head(torch.zeros(1, 2))[0].tolist() == pytest.approx(timeline.fold.everybody)


def test_a_cox_network_takes_the_baseline_of_its_training_part() -> None:
    timeline, network = Timeline.of(SEVEN, settings(), cox=True), Network(CoxHead(2), asked("cox"))
    risks = np.linspace(-1, 1, 7)
    samples = [replace(a_sample(k), target=own) for k, own in enumerate(SEVEN)]
    timeline.settle(network, samples, lambda: risks[:, None])  # type: ignore[arg-type]
    time, event = np.array([own.time for own in SEVEN]), np.array([own.event for own in SEVEN])
    expected = breslow_baseline(risks, time, event, np.array([2.5, 4.0]))
    hazards = torch.sigmoid(network.head(torch.zeros(1, 1)))[0].numpy()
    assert np.cumsum(-np.log1p(-hazards)) == pytest.approx(expected, rel=1e-4)


def test_the_tuning_part_decides_temperature_and_median_risk() -> None:
    timeline = Timeline.of(SEVEN, settings(), cox=False)
    raw = np.array(timeline.fold.everybody) + np.linspace(-1, 1, 7)[:, None]
    decided = timeline.decide(raw, SEVEN, 4.0)
    fold = FoldModel(fold=0, weights="fold_0.safetensors", weights_sha256="0" * 64, best_epoch=1, **dict(decided))
    task = asked("discrete_time")
    logits = calibrate_fold(raw, fold, task)
    risk = class_probabilities(logits, task)[:, 1]
    assert logits.shape == (7, 2 + 50)
    assert decided.threshold == pytest.approx(np.median(risk))
    assert predicted_classes(logits, fold, task)[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert np.exp(logits[:, 1]) == pytest.approx(-np.log(1 - risk))


def test_a_time_beside_others_is_coded_in_its_place_and_a_missing_one_masked() -> None:
    samples = [replace(a_sample(k), target=own) for k, own in enumerate(LABELS)]
    known = [own for k, own in enumerate(SEVEN) if k != 2]
    coded = [own.target for own in Timeline.of(known, settings(), cox=False, number=1).code(samples)]
    assert coded[:4] == [(0, 1, 1, 2), (1, 1, 1, -1), (0, -1, -1, -1), (1, 2, 1, -1)]
    ranked = [own.target for own in Timeline.of(known, settings(), cox=True, number=1).code(samples)]
    assert ranked[2:5] == [(0, -1, -1, -1), (1, 4, 1, -1), (0, 0, 0, -1)]  # places are among those known


def test_a_cox_head_beside_others_takes_the_baseline_of_the_studies_whose_time_is_known() -> None:
    task = beside("cox")
    known = np.arange(7) != 2
    time, event = (np.array([getattr(own, name) for own in SEVEN])[known] for name in ("time", "event"))
    timeline = Timeline.of([own for k, own in enumerate(SEVEN) if k != 2], settings(), cox=True, number=1)
    network = Network(TargetHeads(task, 2), task)
    raw = np.random.default_rng(1).normal(size=(7, 5))  # nodule, log-risk, three parts
    samples = [replace(a_sample(k), target=own) for k, own in enumerate(LABELS)]
    timeline.settle(network, samples, lambda: raw)  # type: ignore[arg-type]
    said = network.head(torch.zeros(1, 5))[0]
    assert len(said) == 1 + 2 + 3  # the log-risk became the hazards of two intervals
    expected = breslow_baseline(raw[known, 1], time, event, np.array(timeline.fold.bounds))
    hazards = torch.sigmoid(said[1:3]).numpy()
    assert np.cumsum(-np.log1p(-hazards)) == pytest.approx(expected, rel=1e-4)


def test_a_time_beside_others_is_decided_and_calibrated_as_it_would_be_alone() -> None:
    task, generator = beside("discrete_time"), np.random.default_rng(2)
    known = np.arange(7) != 2
    alone = [own for k, own in enumerate(SEVEN) if k != 2]
    timeline = Timeline.of(alone, settings(), cox=False, number=1)
    raw = generator.normal(size=(7, 6))
    evaluation = load_config(TrainConfig, "train").evaluation
    targets = [(k % 2, own[1], k % 3) for k, own in enumerate(LABELS)]
    decided = decide_each(raw, targets, evaluation, task, timeline=timeline)
    assert decided[1] == timeline.decide(raw[known, 1:3], alone, 4.0)
    fold = FoldModel(
        fold=0, weights="fold_0.safetensors", weights_sha256="0" * 64, best_epoch=1,
        targets=dict(zip(task.names, decided, strict=True)), **dict(UNDECIDED),
    )  # fmt: skip
    assert fold.timeline == timeline.fold
    logits = calibrate_fold(raw, fold, task)
    assert logits.shape == (7, 1 + 52 + 3)
    own = FoldModel(fold=0, weights="w", weights_sha256="0" * 64, best_epoch=1, **dict(decided[1]))
    np.testing.assert_array_equal(logits[:, 1:53], calibrate_fold(raw[:, 1:3], own, asked("discrete_time")))
    np.testing.assert_allclose(logits[:, 0], raw[:, 0] / decided[0].temperature)
    chances = class_probabilities(logits, task)
    assert chances.shape == (7, 2 + 2 + 3)
    np.testing.assert_allclose(chances[:, 2:4].sum(axis=1), 1)
    assert predicted_classes(logits, fold, task)[:, 1].tolist() == (chances[:, 3] >= decided[1].threshold).tolist()
    sets = fold_sets(chances, fold, task)
    assert sets is not None
    assert not sets[:, 2:4].any()
