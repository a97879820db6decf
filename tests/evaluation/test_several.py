"""What an arm says of several targets side by side, and the means over them."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import weighted_ece
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.remarks import remarks
from medmllm.evaluation.resampling import draw_weights
from medmllm.evaluation.several import SeveralOutOfFold, evaluate_means, of_studies, out_of_fold
from medmllm.model_documents import Task
from medmllm.records import UNKNOWN, CohortEvaluation

NAMES = ("nodule", "effusion", "fracture")
TASK = Task.of_several(tuple(Task.of(name, (f"no {name}", name)) for name in NAMES))
RNG = np.random.default_rng(5)
N = 80
TARGETS = np.where(RNG.random((N, 3)) < [0.0, 0.2, 0.6], UNKNOWN, RNG.integers(0, 2, (N, 3)))
PATIENTS = [f"p{k // 2}" for k in range(N)]


def an_arm(name: str, gain: float) -> SeveralOutOfFold:
    logits = RNG.normal(size=(N, 3)) + gain * (TARGETS == 1)
    chances = 1 / (1 + np.exp(-logits))
    found = out_of_fold(name, logits, (chances >= [0.5, 0.4, 0.6]).astype(int), np.ones((N, 6), dtype=bool), TASK)
    assert isinstance(found, SeveralOutOfFold)
    return found


ARMS = [an_arm("image", 0.8), an_arm("fused", 1.5)]


def evaluate(arms: list[SeveralOutOfFold] = ARMS, targets: np.ndarray = TARGETS) -> CohortEvaluation:
    folds = np.arange(N) // 2 % 2
    return evaluate_means(
        arms, targets=targets, patients=PATIENTS, folds=folds, task=TASK, confidence=0.9, samples=200, seed=1
    )


FOUND = evaluate()


def mean(arm: int, name: str, found: CohortEvaluation = FOUND) -> float | None:
    return next(metric.estimate for metric in found.arms[arm].metrics if metric.name == name)


def test_outputs_and_classes_of_a_target_are_its_own() -> None:
    task = Task.of_several((Task.of("side", ("left", "right")), Task.of("part", ("a", "b", "c"))))
    logits = np.array([[0.5, 3.0, 1.0, 2.0], [-1.0, 0.0, 0.0, 4.0]])
    sets = np.array([[True, False, True, False, True], [False, True, False, False, False]])
    found = out_of_fold("fused", logits, np.array([[1, 0], [0, 2]]), sets, task)
    assert isinstance(found, SeveralOutOfFold)
    side, part = found.targets
    assert side.logits.tolist() == [0.5, -1.0]
    assert part.logits.tolist() == logits[:, 1:].tolist()
    assert side.probabilities[:, 1] == pytest.approx(1 / (1 + np.exp([-0.5, 1.0])))
    assert part.probabilities.sum(axis=1) == pytest.approx([1, 1])
    assert side.sets is not None
    assert part.sets is not None
    assert side.sets.tolist() == [[True, False], [False, True]]
    assert part.sets.tolist() == [[True, False, True], [False, False, False]]
    assert found.probabilities.shape == (2, 5)
    assert found.logits.tolist() == logits.tolist()
    assert isinstance(out_of_fold("fused", logits[:, :1], np.array([[1], [0]]), sets[:, :2], task.parts[0]), OutOfFold)


def test_the_interval_of_the_mean_calibration_error_is_the_basic_one() -> None:
    weights = np.concatenate(list(draw_weights(PATIENTS, samples=200, seed=1)))
    known = TARGETS != UNKNOWN
    errors = [
        weighted_ece(TARGETS[known[:, k], k] == 1, own.probabilities[known[:, k], 1], weights[:, known[:, k]])
        for k, own in enumerate(ARMS[0].targets)
    ]
    found = next(metric for metric in FOUND.arms[0].metrics if metric.name == "ece")
    assert found.estimate is not None
    low, high = np.quantile(np.mean(errors, axis=0), [0.05, 0.95])
    assert (found.low, found.high) == pytest.approx((max(0.0, 2 * found.estimate - high), 2 * found.estimate - low))


def test_the_mean_counts_every_target_alike_where_it_is_known() -> None:
    expected = {"auroc": [], "auprc": [], "brier": [], "sensitivity": []}
    for label, own in enumerate(ARMS[1].targets):
        known = TARGETS[:, label] != UNKNOWN
        truth, chance = TARGETS[known, label], own.probabilities[known, 1]
        expected["auroc"].append(roc_auc_score(truth, chance))
        expected["auprc"].append(average_precision_score(truth, chance))
        expected["brier"].append(brier_score_loss(truth, chance))
        expected["sensitivity"].append(recall_score(truth, own.predicted[known]))
    for name, each in expected.items():
        assert mean(1, name) == pytest.approx(np.mean(each))


def test_the_gain_of_fusion_is_that_of_the_means_and_paired() -> None:
    (gain,) = FOUND.differences
    assert gain.group == "image"
    assert gain.estimate == pytest.approx(mean(1, "auroc") - mean(0, "auroc"))
    same = evaluate([ARMS[0], replace(ARMS[0], arm="fused")])
    assert (same.differences[0].low, same.differences[0].high) == (0, 0)


def test_the_studies_of_every_class_are_counted() -> None:
    counts = [(TARGETS[:, label] == value).sum() for label in range(3) for value in (0, 1)]
    assert FOUND.class_counts == tuple(counts)
    assert FOUND.classes == ("no nodule", "nodule", "no effusion", "effusion", "no fracture", "fracture")


def test_what_an_unknown_target_is_predicted_to_be_counts_for_nothing() -> None:
    def other(number: int, own: OutOfFold) -> OutOfFold:
        unknown = TARGETS[:, number] == UNKNOWN
        return replace(
            own,
            probabilities=np.where(unknown[:, None], 0.5, own.probabilities),
            logits=np.where(unknown, 9.0, own.logits),
            predicted=np.where(unknown, 1 - own.predicted, own.predicted),
        )

    changed = replace(ARMS[1], targets=tuple(other(k, own) for k, own in enumerate(ARMS[1].targets)))
    assert evaluate([ARMS[0], changed]) == FOUND


def test_of_targets_of_several_kinds_only_metrics_that_mean_the_same_are_averaged() -> None:
    task = Task.of_several((Task.of("nodule", ("no", "yes")), Task.of("part", ("a", "b", "c"))))
    targets = np.stack([np.arange(N) % 2, np.arange(N) % 3], axis=1)
    logits = np.random.default_rng(3).normal(size=(N, 4))
    arm = out_of_fold("fused", logits, targets, np.ones((N, 5), dtype=bool), task)
    assert isinstance(arm, SeveralOutOfFold)
    found = evaluate_means(
        [arm], targets=targets, patients=PATIENTS, folds=np.zeros(N, dtype=int), task=task, confidence=0.9,
        samples=100, seed=1,
    )  # fmt: skip
    assert [metric.name for metric in found.arms[0].metrics] == ["auroc", "balanced_accuracy"]


def test_sentences_are_of_the_means_once_per_arm() -> None:
    said = remarks(evaluate([an_arm("image", 0.0)]), confidence=0.9, samples=200)
    assert sum("chance" in line for line in said) == 1


def test_some_studies_are_taken_from_all_that_was_said() -> None:
    inside = np.arange(N) % 3 == 0
    found = of_studies(ARMS[0].targets[0], inside)
    assert found.probabilities.tolist() == ARMS[0].targets[0].probabilities[inside].tolist()
    assert found.predicted.tolist() == ARMS[0].targets[0].predicted[inside].tolist()
    assert found.sets is not None
    assert len(found.sets) == len(found.logits) == inside.sum()


def test_predictions_that_are_not_finite_or_do_not_fit_are_refused() -> None:
    first = replace(ARMS[0].targets[0], logits=np.full(N, np.nan))
    with pytest.raises(EvaluationError, match=r"arm image are not finite, or not of shape \(80, 3\)"):
        evaluate([replace(ARMS[0], targets=(first, *ARMS[0].targets[1:]))])
    with pytest.raises(EvaluationError, match="not of shape"):
        evaluate(targets=TARGETS[:, :2])
