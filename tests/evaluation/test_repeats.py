"""Several repeats of a cross-validation: the mean over them, on the same patients, and how far they lie apart."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.errors import EvaluationError
from medmllm.evaluation.cohort import OutOfFold, evaluate_arms
from medmllm.evaluation.repeats import Repeat
from medmllm.evaluation.resampling import draw_weights
from medmllm.evaluation.several import evaluate_means, out_of_fold
from medmllm.model_documents import Task
from medmllm.records import CohortEvaluation
from tests.evaluation.small_cohort import FOLDS, PATIENTS, TARGETS, arm, of

CLASSES = ("no", "yes")
OTHER_FOLDS = (FOLDS + np.array([number // 3 % 2 for number in range(90)])) % 4
FIRST = (arm("text", 0.6, 2), arm("fused", 1.5, 3))
SECOND = Repeat((arm("text", 0.9, 5), arm("fused", 1.2, 7)), OTHER_FOLDS)
THIRD = Repeat((arm("text", 0.1, 8), arm("fused", 1.9, 9)), FOLDS)


def evaluate(*more: Repeat[OutOfFold], first: tuple[OutOfFold, ...] = FIRST) -> CohortEvaluation:
    return evaluate_arms(
        first, targets=TARGETS, patients=PATIENTS, folds=FOLDS, classes=CLASSES, confidence=0.9, samples=300, seed=11,
        more=more,
    )  # fmt: skip


def aurocs(name: str) -> list[float]:
    said = [next(own for own in arms if own.arm == name) for arms in (FIRST, SECOND.arms, THIRD.arms)]
    return [float(roc_auc_score(TARGETS, own.probabilities[:, 1])) for own in said]


def test_every_metric_is_the_mean_over_the_repeats_with_the_lowest_and_the_highest() -> None:
    whole = of(evaluate(SECOND, THIRD), "fused")
    alone = [of(evaluate(first=FIRST), "fused"), of(evaluate(first=tuple(THIRD.arms)), "fused")]
    for name in ("auroc", "brier", "ece", "sensitivity", "calibration_slope"):
        second = of(
            evaluate_arms(
                SECOND.arms, targets=TARGETS, patients=PATIENTS, folds=OTHER_FOLDS, classes=CLASSES, confidence=0.9,
                samples=100, seed=1,
            ), "fused")[name].estimate  # fmt: skip
        each = [alone[0][name].estimate, second, alone[1][name].estimate]
        assert whole[name].estimate == pytest.approx(np.mean([value for value in each if value is not None]))
        assert (whole[name].lowest, whole[name].highest) == pytest.approx((min(each), max(each)))  # type: ignore[type-var]
    assert whole["auroc"].estimate == pytest.approx(np.mean(aurocs("fused")))


def test_studies_are_compared_within_the_folds_of_their_own_repeat() -> None:
    def within(said: OutOfFold, folds: np.ndarray) -> float:
        total = pairs = 0.0
        for fold in np.unique(folds):
            inside = folds == fold
            weight = float(TARGETS[inside].sum() * (1 - TARGETS[inside]).sum())
            total += weight * float(roc_auc_score(TARGETS[inside], said.logits[inside]))
            pairs += weight
        return total / pairs

    found = of(evaluate(SECOND), "fused")["auroc_within_folds"].estimate
    assert found == pytest.approx(np.mean([within(FIRST[1], FOLDS), within(SECOND.arms[1], OTHER_FOLDS)]))


def test_the_interval_draws_each_patient_once_for_all_repeats() -> None:
    means = []
    for weights in draw_weights(PATIENTS, samples=300, seed=11):
        for row in weights:
            own = [
                roc_auc_score(TARGETS, arms[1].probabilities[:, 1], sample_weight=row)
                for arms in (FIRST, SECOND.arms, THIRD.arms)
            ]
            means.append(np.mean(own))
    found = evaluate(SECOND, THIRD)
    metric = of(found, "fused")["auroc"]
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))
    assert (metric.n, metric.patients) == (90, 30)  # not three times as many


def test_the_same_predictions_again_narrow_nothing() -> None:
    alone, again = evaluate(), evaluate(Repeat(FIRST, FOLDS), Repeat(FIRST, FOLDS))
    for one, other in zip(alone.arms, again.arms, strict=True):
        for own, repeated in zip(one.metrics, other.metrics, strict=True):
            numbers = (repeated.estimate, repeated.low, repeated.high)
            assert numbers == pytest.approx((own.estimate, own.low, own.high))
            assert (own.lowest, own.highest) == (None, None)
            assert repeated.lowest == pytest.approx(repeated.highest)


def test_differences_are_paired_within_each_repeat() -> None:
    (difference,) = evaluate(SECOND, THIRD).differences
    each = [fused - text for fused, text in zip(aurocs("fused"), aurocs("text"), strict=True)]
    assert difference.estimate == pytest.approx(np.mean(each))
    assert (difference.lowest, difference.highest) == pytest.approx((min(each), max(each)))


def test_a_metric_that_one_repeat_does_not_define_has_no_estimate() -> None:
    perfect = np.where(TARGETS == 1, 2.0, -2.0)  # a cut separates the classes: there is no calibration slope
    said = replace(SECOND.arms[1], logits=perfect)
    slope = of(evaluate(Repeat((SECOND.arms[0], said), OTHER_FOLDS)), "fused")["calibration_slope"]
    assert (slope.estimate, slope.lowest, slope.highest) == (None, None, None)


def test_repeats_with_other_arms_or_with_a_patient_in_two_folds_are_refused() -> None:
    with pytest.raises(EvaluationError, match="not in every repeat"):
        evaluate(Repeat(SECOND.arms[::-1], OTHER_FOLDS))
    strays = OTHER_FOLDS.copy()
    strays[0] += 1
    with pytest.raises(EvaluationError, match="tested in two folds"):
        evaluate(Repeat(SECOND.arms, strays))


def test_means_over_several_targets_are_means_over_the_repeats_too() -> None:
    rng = np.random.default_rng(4)
    task = Task.of_several((Task.of("a", ("no a", "a")), Task.of("b", ("no b", "b"))))
    targets = np.stack([TARGETS, rng.integers(0, 2, 90)], axis=1)
    draws = [rng.normal(size=(90, 2)) + 0.8 * targets for _ in range(2)]
    said = [out_of_fold("fused", own, (own > 0).astype(int), np.ones((90, 4), dtype=bool), task) for own in draws]
    found = evaluate_means(
        [said[0]], targets=targets, patients=PATIENTS, folds=FOLDS, task=task, confidence=0.9, samples=100, seed=1,  # type: ignore[list-item]
        more=[Repeat([said[1]], OTHER_FOLDS)],  # type: ignore[list-item]
    )  # fmt: skip
    each = [np.mean([roc_auc_score(targets[:, k], own[:, k]) for k in (0, 1)]) for own in draws]
    metric = of(found, "fused")["auroc"]
    assert metric.estimate == pytest.approx(np.mean(each))
    assert (metric.lowest, metric.highest) == pytest.approx((min(each), max(each)))
