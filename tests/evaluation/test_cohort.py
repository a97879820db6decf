"""The evaluation of all arms: each number is the one scikit-learn or hand arithmetic gives, on the right studies."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import (
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
    to_probabilities,
    weighted_ece,
)
from medmllm.evaluation.cohort import OutOfFold, evaluate_arms
from medmllm.evaluation.resampling import draw_weights
from medmllm.records import CohortEvaluation
from tests.evaluation.small_cohort import FOLDS, PATIENTS, TARGETS, N, arm, of

ARMS = (arm("image", 1.0, 1), arm("text", 0.6, 2), arm("fused", 1.5, 3))


def evaluate(arms: tuple[OutOfFold, ...] = ARMS, **changes: object) -> CohortEvaluation:
    settings: dict[str, object] = {
        "targets": TARGETS, "patients": PATIENTS, "folds": FOLDS, "classes": ("no", "yes"), "confidence": 0.9,
        "samples": 200, "seed": 11,
    }  # fmt: skip
    return evaluate_arms(arms, **(settings | changes))  # type: ignore[arg-type]


def test_the_cohort_is_counted_by_studies_and_by_patients() -> None:
    found = evaluate()
    assert (found.n, found.patients) == (90, 30)
    assert found.class_counts == (60, 30)
    assert found.class_patients == (30, 30)
    assert found.classes == ("no", "yes")
    assert [one.arm for one in found.arms] == ["image", "text", "fused"]
    assert {(metric.n, metric.patients, metric.group) for metric in of(found, "text").values()} == {(90, 30, "all")}


def test_binary_estimates_are_those_of_scikit_learn() -> None:
    found = {name: metric.estimate for name, metric in of(evaluate(), "image").items()}
    image = ARMS[0]
    chances = image.probabilities[:, 1]
    negative, positive = metrics.recall_score(TARGETS, image.predicted, average=None)
    members = [np.flatnonzero(fold == FOLDS) for fold in range(4)]
    within = [metrics.roc_auc_score(TARGETS[inside], chances[inside]) for inside in members]
    pairs = [TARGETS[inside].sum() * (1 - TARGETS[inside]).sum() for inside in members]
    assert list(found) == [
        "auroc", "auroc_within_folds", "auprc", "brier", "ece", "calibration_slope", "calibration_intercept",
        "balanced_accuracy", "sensitivity", "specificity",
    ]  # fmt: skip
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(TARGETS, chances))
    assert found["auroc_within_folds"] == pytest.approx(np.average(within, weights=pairs))
    assert found["auprc"] == pytest.approx(metrics.average_precision_score(TARGETS, chances))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(TARGETS, chances))
    assert found["calibration_slope"] == calibration_slope(TARGETS, image.logits)
    assert found["calibration_intercept"] == calibration_intercept(TARGETS, image.logits)
    assert found["sensitivity"] == pytest.approx(positive)
    assert found["specificity"] == pytest.approx(negative)
    assert found["balanced_accuracy"] == pytest.approx((positive + negative) / 2)
    gap = [
        abs((TARGETS - chances)[(chances * 10).astype(int) == number].sum()) for number in range(10)
    ]  # each bin's gap times its studies
    assert found["ece"] == pytest.approx(sum(gap) / N)


def test_predicted_classes_are_taken_as_given_not_cut_again_at_a_half() -> None:
    all_positive = replace(ARMS[0], predicted=np.ones(N, int))
    found = of(evaluate((all_positive,)), "image")
    assert (found["sensitivity"].estimate, found["specificity"].estimate) == (1.0, 0.0)


def test_every_interval_holds_its_estimate_and_is_wider_at_a_higher_confidence() -> None:
    narrow, wide = of(evaluate(confidence=0.5), "fused"), of(evaluate(confidence=0.99), "fused")
    for name in ("auroc", "auprc", "brier", "calibration_slope", "sensitivity"):
        assert narrow[name].low is not None
        assert wide[name].low < narrow[name].low < narrow[name].estimate < narrow[name].high < wide[name].high


def basic(event: np.ndarray, chance: np.ndarray, weights: np.ndarray, confidence: float) -> tuple[float, float]:
    """The basic interval of the calibration error of weighted studies, by its definition."""
    estimate = expected_calibration_error(event, chance)
    low, high = np.quantile(weighted_ece(event, chance, weights), [(1 - confidence) / 2, (1 + confidence) / 2])
    return max(0.0, 2 * estimate - high), 2 * estimate - low


def test_the_interval_of_the_calibration_error_is_the_basic_one() -> None:
    weights = np.concatenate(list(draw_weights(PATIENTS, samples=200, seed=11)))
    found = of(evaluate(), "image")["ece"]
    assert (found.low, found.high) == pytest.approx(basic(TARGETS == 1, ARMS[0].probabilities[:, 1], weights, 0.9))


def test_the_seed_fixes_every_number() -> None:
    assert evaluate() == evaluate()
    assert evaluate(seed=12) != evaluate()


def test_differences_are_fused_minus_each_other_arm_on_the_same_resamples() -> None:
    found = evaluate()
    assert [(metric.name, metric.group) for metric in found.differences] == [("auroc", "image"), ("auroc", "text")]
    for difference in found.differences:
        fused, other = of(found, "fused")["auroc"].estimate, of(found, difference.group)["auroc"].estimate
        assert fused is not None
        assert other is not None
        assert difference.estimate == pytest.approx(fused - other)
    same = evaluate((ARMS[0], replace(ARMS[0], arm="fused"))).differences
    assert [(metric.estimate, metric.low, metric.high) for metric in same] == [(0.0, 0.0, 0.0)]


def test_without_a_fused_arm_there_is_nothing_to_compare() -> None:
    assert evaluate(ARMS[:2]).differences == ()
    assert evaluate(ARMS[2:]).differences == ()


def test_three_classes_get_the_multiclass_measures() -> None:
    generator = np.random.default_rng(4)
    targets = np.array([0, 1, 2, 0, 0, 1] * 15)
    logits = generator.normal(size=(N, 3)) + 1.2 * np.eye(3)[targets]
    chances = to_probabilities(logits)
    predicted = chances.argmax(axis=1)
    predicted[:5] = 0  # the operating point need not be the top class
    fused = OutOfFold("fused", chances, logits, predicted)
    found = evaluate((fused,), targets=targets, classes=("a", "b", "c"))
    values = {name: metric.estimate for name, metric in of(found, "fused").items()}
    top, right = chances.max(axis=1), chances.argmax(axis=1) == targets
    gap = [abs((right - top)[(top * 10).astype(int) == number].sum()) for number in range(10)]
    assert found.class_counts == (45, 30, 15)
    assert values == {
        "auroc": pytest.approx(metrics.roc_auc_score(targets, chances, multi_class="ovr")),
        "accuracy": pytest.approx(metrics.accuracy_score(targets, predicted)),
        "balanced_accuracy": pytest.approx(metrics.balanced_accuracy_score(targets, predicted)),
        "brier": pytest.approx(((chances - np.eye(3)[targets]) ** 2).sum(axis=1).mean()),
        "ece": pytest.approx(sum(gap) / N),
        "log_loss": pytest.approx(metrics.log_loss(targets, chances)),
    }
    for metric in of(found, "fused").values():
        assert metric.low is not None
        assert metric.low < metric.high


def test_a_cohort_of_one_class_has_no_auroc_but_a_brier_score() -> None:
    found = of(evaluate((ARMS[0],), targets=np.zeros(N, int)), "image")
    assert (found["auroc"].estimate, found["auroc"].low) == (None, None)
    assert (found["sensitivity"].estimate, found["calibration_slope"].estimate) == (None, None)
    assert found["brier"].low is not None


def test_resamples_without_a_class_are_counted() -> None:
    targets = np.zeros(N, int)
    targets[:3] = 1  # all of one patient: absent from (29/30)^30 = 36 % of the resamples
    found = evaluate(targets=targets, samples=1000)
    assert found.class_patients == (29, 1)
    assert found.resamples_lacking_a_class / 1000 == pytest.approx((29 / 30) ** 30, abs=0.05)


# --- refusals ------------------------------------------------------------------------------


def test_a_patient_tested_in_two_folds_is_refused_and_not_named() -> None:
    folds = FOLDS.copy()
    folds[4] = 3  # of patient pt-1, the rest of whom is in fold 1
    with pytest.raises(EvaluationError, match="1 patients were tested in two folds") as caught:
        evaluate(folds=folds)
    assert "pt-1" not in str(caught.value)


def test_an_arm_given_twice_is_refused() -> None:
    with pytest.raises(EvaluationError, match="an arm is given twice among image, image"):
        evaluate((ARMS[0], ARMS[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": TARGETS[:-1]}, "89 targets, 90 patients and 90 folds"),
        ({"patients": PATIENTS[:-1]}, "90 targets, 89 patients and 90 folds"),
        ({"folds": FOLDS[:-1]}, "90 targets, 90 patients and 89 folds"),
        ({"targets": np.array([], int), "patients": [], "folds": np.array([], int)}, "at least one"),
        ({"targets": TARGETS * 2}, "targets from 0 to 2 do not fit 2 classes"),
        ({"targets": TARGETS - 1}, "targets from -1 to 0 do not fit 2 classes"),
        ({"classes": ("only",)}, "do not fit 1 classes"),
    ],
)
def test_a_cohort_that_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(**changes)


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(float)
    changed.flat[3] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"probabilities": ARMS[0].probabilities[:, 1]},
            r"probabilities of arm image have shape \(90,\), expected \(90, 2\)",
        ),
        ({"logits": np.zeros((N, 2))}, r"logits of arm image have shape \(90, 2\), expected \(90,\)"),
        ({"predicted": np.zeros(3)}, r"predicted classes of arm image have shape \(3,\), expected \(90,\)"),
        ({"probabilities": with_value(ARMS[0].probabilities, np.nan)}, "1 probabilities of arm image are not finite"),
        ({"logits": with_value(ARMS[0].logits, np.inf)}, "1 logits of arm image are not finite: its training diverged"),
        ({"probabilities": with_value(ARMS[0].probabilities, 0.99)}, "do not lie between 0 and 1 with sum 1"),
        ({"probabilities": np.tile([-0.2, 1.2], (N, 1))}, "do not lie between 0 and 1 with sum 1"),
    ],
)
def test_predictions_that_are_not_what_they_should_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate((replace(ARMS[0], **changes),))  # type: ignore[arg-type]


def test_probabilities_of_exactly_0_and_1_are_predictions_like_others() -> None:
    certain = OutOfFold("image", np.eye(2)[TARGETS], 40.0 * (2 * TARGETS - 1), TARGETS)
    found = of(evaluate((certain,)), "image")
    assert (found["auroc"].estimate, found["brier"].estimate, found["ece"].estimate) == (1.0, 0.0, 0.0)
    assert found["calibration_slope"].estimate is None, "the classes lie apart"


def test_a_repr_shows_no_predictions() -> None:
    assert repr(ARMS[0]) == "OutOfFold(arm='image')"
