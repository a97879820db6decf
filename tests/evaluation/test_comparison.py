"""Runs compared: scikit-learn's numbers on the same resamples, and a best run only where all intervals say so."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import to_probabilities
from medmllm.evaluation.cohort import OutOfFold, evaluate_arms
from medmllm.evaluation.comparison import Comparison, Difference, better, compare_models, comparison_remarks
from medmllm.evaluation.resampling import Interval, draw_weights
from tests.evaluation.small_cohort import FOLDS, PATIENTS, TARGETS, N, arm

WEAK, OTHER, STRONG = arm("weak", 0.4, 1), arm("other", 0.4, 5), arm("strong", 6.0, 3)


def compare(*models: OutOfFold, **changes: object) -> Comparison:
    settings: dict[str, object] = {
        "targets": TARGETS, "patients": PATIENTS, "folds": FOLDS, "classes": ("no", "yes"), "confidence": 0.9,
        "samples": 200, "seed": 11,
    }  # fmt: skip
    return compare_models(models, **(settings | changes))  # type: ignore[arg-type]


def difference(found: Comparison, metric: str, first: str, second: str) -> Interval:
    [one] = [d.interval for d in found.differences if (d.metric, d.first, d.second) == (metric, first, second)]
    return one


def test_a_difference_and_its_interval_are_those_of_scikit_learn_on_the_same_patients() -> None:
    found = difference(compare(WEAK, STRONG), "auroc", "weak", "strong")

    def gap(weights: np.ndarray) -> float:
        weak, strong = (
            metrics.roc_auc_score(TARGETS, one.probabilities[:, 1], sample_weight=weights) for one in (WEAK, STRONG)
        )
        return float(weak - strong)

    drawn = [gap(weights) for block in draw_weights(PATIENTS, samples=200, seed=11) for weights in block]
    assert found.estimate == pytest.approx(gap(np.ones(N)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])))


def test_the_calibration_error_of_a_run_has_the_interval_that_its_own_report_gives_it() -> None:
    settings = {"patients": PATIENTS, "folds": FOLDS, "classes": ("no", "yes")}
    alone = evaluate_arms([WEAK], targets=TARGETS, confidence=0.9, samples=200, seed=11, **settings)  # type: ignore[arg-type]
    (here, there) = (
        [m for m in run.metrics if m.name == "ece"] for run in (compare(WEAK, STRONG).runs[0], alone.arms[0])
    )
    assert here == there


def test_every_two_runs_are_compared_once_in_every_metric() -> None:
    found = compare(WEAK, OTHER, STRONG)
    pairs = [(d.first, d.second) for d in found.differences if d.metric == "brier"]
    assert pairs == [("weak", "other"), ("weak", "strong"), ("other", "strong")]
    assert len(found.differences) == 3 * len(found.metrics)
    assert found.metrics[:4] == ("auroc", "auroc_within_folds", "auprc", "brier")


def test_several_classes_are_compared_by_the_metrics_of_several_classes() -> None:
    target = np.arange(N) % 3
    logits = np.random.default_rng(4).normal(size=(N, 3))
    right = OutOfFold("right", to_probabilities(logits + 9 * np.eye(3)[target]), logits, target)
    wrong = OutOfFold("wrong", to_probabilities(logits), logits, logits.argmax(axis=1))
    found = compare(right, wrong, targets=target, classes=("a", "b", "c"))
    estimate = difference(found, "accuracy", "right", "wrong").estimate
    assert estimate == pytest.approx(1 - metrics.accuracy_score(target, logits.argmax(axis=1)))
    assert found.best("log_loss") == "right"


def test_a_run_that_beats_all_others_beyond_chance_is_best() -> None:
    found = compare(WEAK, STRONG, OTHER)
    assert found.best("auroc") == "strong"
    assert found.best("brier") == "strong"  # where smaller is better


def test_a_run_that_is_highest_but_not_beyond_chance_is_not_best() -> None:
    found = compare(WEAK, OTHER)
    interval = difference(found, "auroc", "weak", "other")
    assert None not in (interval.low, interval.high)
    assert interval.low < 0 < interval.high  # type: ignore[operator]
    assert interval.estimate != 0
    assert found.best("auroc") is None


def test_a_run_must_beat_every_other_one_to_be_best() -> None:
    found = compare(STRONG, replace(STRONG, arm="its double"), WEAK)
    assert better(Difference("auroc", "strong", "weak", difference(found, "auroc", "strong", "weak"))) == "strong"
    assert difference(found, "auroc", "strong", "its double") == Interval(0.0, 0.0, 0.0, 0)
    assert found.best("auroc") is None


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("auroc", 0.01, 0.2, "a"),
        ("auroc", -0.2, -0.01, "b"),
        ("auroc", -0.01, 0.2, None),
        ("auroc", 0.0, 0.2, None),
        ("auroc", None, None, None),
        ("brier", 0.01, 0.2, "b"),
        ("ece", -0.2, -0.01, "a"),
        ("sensitivity", 0.01, 0.2, None),  # at another operating point it would be otherwise
        ("calibration_slope", 0.01, 0.2, None),  # best at 1, not at its highest
    ],
)
def test_the_better_of_two_is_told_only_beyond_zero_and_in_metrics_that_have_a_better(
    metric: str, low: float | None, high: float | None, expected: str | None
) -> None:
    assert better(Difference(metric, "a", "b", Interval(0.1, low, high, 0))) == expected


def test_the_remarks_tell_how_many_differences_chance_alone_would_give() -> None:
    found = compare(WEAK, OTHER, STRONG)  # 3 pairs in 10 metrics at 90 %: 30 intervals, 3 of them wrong by design
    best, many, optimistic = comparison_remarks(found, confidence=0.9)
    assert best.startswith("strong has a higher AUROC than every other run")
    assert "30 differences are shown, each with its own 90 % interval and no correction" in many
    assert "about 3.0 of them" in many
    assert "optimistic" in optimistic


def test_the_remarks_name_the_run_that_the_highest_one_does_not_beat() -> None:
    found = compare(STRONG, replace(STRONG, arm="its double"), WEAK)
    assert comparison_remarks(found, confidence=0.9)[0] == (
        "No run is best: strong has the highest AUROC, but the interval of its difference to its double does not "
        "exclude 0."
    )


def test_a_difference_without_an_interval_is_not_said_to_hold_zero() -> None:
    found = compare(STRONG, replace(STRONG, arm="its double"), WEAK)
    without = tuple(
        replace(one, interval=replace(one.interval, low=None, high=None)) if one.second == "weak" else one
        for one in found.differences
    )
    assert comparison_remarks(replace(found, differences=without), confidence=0.9)[0] == (
        "No run is best: strong has the highest AUROC, but the interval of its difference to its double does not "
        "exclude 0, and its difference to weak has no interval."
    )


def test_where_nothing_is_defined_no_run_is_best() -> None:
    found = compare(WEAK, STRONG, targets=np.zeros(N, dtype=int))
    assert found.best("auroc") is None
    assert comparison_remarks(found, confidence=0.9)[0] == "No run is best: AUROC is not defined on this cohort."


@pytest.mark.parametrize("models", [(WEAK,), (WEAK, replace(STRONG, arm="weak"))])
def test_fewer_than_two_runs_or_two_of_one_name_are_refused(models: tuple[OutOfFold, ...]) -> None:
    with pytest.raises(EvaluationError, match="two or more with names of their own"):
        compare(*models)
