import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import weighted_ece
from medmllm.evaluation.multilabel import LabelsOutOfFold, evaluate_labels
from medmllm.evaluation.remarks import remarks
from medmllm.evaluation.resampling import draw_weights
from medmllm.records import UNKNOWN, CohortEvaluation, Metric

NAMES = ("nodule", "effusion", "fracture")
RNG = np.random.default_rng(5)
N = 80
TARGETS = np.where(RNG.random((N, 3)) < [0.0, 0.2, 0.6], UNKNOWN, RNG.integers(0, 2, (N, 3)))
PATIENTS = [f"p{k // 2}" for k in range(N)]


def an_arm(name: str, gain: float) -> LabelsOutOfFold:
    logits = RNG.normal(size=(N, 3)) + gain * (TARGETS == 1)
    chances = 1 / (1 + np.exp(-logits))
    return LabelsOutOfFold(name, chances, logits, chances >= [0.5, 0.4, 0.6])


ARMS = [an_arm("image", 0.8), an_arm("fused", 1.5)]


def evaluate(arms: list[LabelsOutOfFold] = ARMS, targets: np.ndarray = TARGETS) -> CohortEvaluation:
    folds = np.arange(N) // 2 % 2
    return evaluate_labels(
        arms, targets=targets, patients=PATIENTS, folds=folds, labels=NAMES, confidence=0.9, samples=200, seed=1
    )


FOUND = evaluate()


def metric(arm: int, group: str, name: str) -> Metric:
    return next(m for m in FOUND.arms[arm].metrics if (m.group, m.name) == (group, name))


@pytest.mark.parametrize("label", [0, 1, 2])
def test_each_label_is_measured_where_it_is_known(label: int) -> None:
    known = TARGETS[:, label] != UNKNOWN
    truth, chance = TARGETS[known, label], ARMS[1].probabilities[known, label]
    found = metric(1, NAMES[label], "auroc")
    assert found.estimate == pytest.approx(roc_auc_score(truth, chance))
    assert (found.n, found.patients) == (
        known.sum(),
        len({p for p, inside in zip(PATIENTS, known, strict=True) if inside}),
    )
    assert metric(1, NAMES[label], "auprc").estimate == pytest.approx(average_precision_score(truth, chance))
    assert metric(1, NAMES[label], "brier").estimate == pytest.approx(brier_score_loss(truth, chance))
    recall = recall_score(truth, ARMS[1].predicted[known, label])
    assert metric(1, NAMES[label], "sensitivity").estimate == pytest.approx(recall)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_the_interval_of_a_labels_calibration_error_is_the_basic_one(label: int) -> None:
    known = TARGETS[:, label] != UNKNOWN
    weights = np.concatenate(list(draw_weights(PATIENTS, samples=200, seed=1)))[:, known]
    event, chance = TARGETS[known, label] == 1, ARMS[0].probabilities[known, label]
    found = metric(0, NAMES[label], "ece")
    low, high = np.quantile(weighted_ece(event, chance, weights), [0.05, 0.95])
    assert found.estimate is not None
    assert (found.low, found.high) == pytest.approx((max(0.0, 2 * found.estimate - high), 2 * found.estimate - low))


def test_the_mean_counts_every_label_alike() -> None:
    for name in ("auroc", "auprc", "brier", "sensitivity"):
        own = [metric(1, label, name).estimate for label in NAMES]
        assert metric(1, "all", name).estimate == pytest.approx(np.mean(own))


def test_the_gain_of_fusion_is_that_of_the_means_and_paired() -> None:
    (gain,) = FOUND.differences
    one, other = metric(1, "all", "auroc"), metric(0, "all", "auroc")
    assert gain.group == "image"
    assert gain.estimate == pytest.approx(one.estimate - other.estimate)
    same = evaluate([ARMS[0], LabelsOutOfFold("fused", ARMS[0].probabilities, ARMS[0].logits, ARMS[0].predicted)])
    assert (same.differences[0].low, same.differences[0].high) == (0, 0)


def test_positives_and_the_patients_of_the_rarer_value_are_counted() -> None:
    assert FOUND.class_counts == tuple((TARGETS == 1).sum(axis=0))
    for label, found in enumerate(FOUND.class_patients):
        sides = [{PATIENTS[k] for k in np.flatnonzero(TARGETS[:, label] == value)} for value in (0, 1)]
        assert found == min(map(len, sides))


def test_what_a_missing_label_is_predicted_to_be_counts_for_nothing() -> None:
    changed = ARMS[1].probabilities.copy()
    changed[TARGETS == UNKNOWN] = 0.123
    logits = np.where(TARGETS == UNKNOWN, 9.0, ARMS[1].logits)
    other = evaluate(
        [
            ARMS[0],
            LabelsOutOfFold(
                "fused",
                changed,
                logits,
                ~ARMS[1].predicted & (TARGETS == UNKNOWN) | ARMS[1].predicted & (TARGETS != UNKNOWN),
            ),
        ]
    )
    assert other == FOUND


def test_sentences_are_of_the_means_once_per_arm() -> None:
    said = remarks(evaluate([an_arm("image", 0.0)]), confidence=0.9, samples=200)
    assert sum("chance" in line for line in said) == 1


def test_predictions_that_are_not_finite_or_do_not_fit_are_refused() -> None:
    broken = LabelsOutOfFold("image", ARMS[0].probabilities, np.full((N, 3), np.nan), ARMS[0].predicted)
    with pytest.raises(EvaluationError, match=r"arm image are not finite, or not of shape \(80, 3\)"):
        evaluate([broken])
    with pytest.raises(EvaluationError, match="not of shape"):
        evaluate(targets=TARGETS[:, :2])
