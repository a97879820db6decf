"""Conformal sets hold each class as often as asked for, and the vote over folds keeps its floor."""

import numpy as np
import pytest
from scipy.stats import binomtest

from medmllm.errors import EvaluationError
from medmllm.evaluation.conformal import (
    NEVER_RULED_OUT,
    abstains,
    binomial_interval,
    class_thresholds,
    conformal_sets,
    evaluate_sets,
    missed_remarks,
    too_few_remarks,
    vote,
)


def two_columns(positive: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(positive), np.array(positive)], axis=1)


def draw(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A rare class 1 whose studies get poor probabilities: coverage over all studies would hide that."""
    targets = (generator.random(n) < 0.2).astype(int)
    positive = generator.beta(2 + targets, 5)
    return np.stack([1 - positive, positive], axis=1), targets


# --- thresholds -----------------------------------------------------------------------------


def test_the_threshold_is_the_score_at_the_finite_sample_rank_of_its_own_class() -> None:
    # Ten scores of class 0: 0.05 ... 0.5. Rank ceil(11 * 0.9) = 10: the largest. At 0.8: ceil(8.8) = 9.
    zero = [0.05 * k for k in range(1, 11)]
    one = [0.9, 0.7, 0.8]  # scores 0.1, 0.3, 0.2; rank ceil(4 * 0.5) = 2
    probabilities, targets = two_columns([*zero, *one]), np.array([0] * 10 + [1] * 3)
    assert class_thresholds(probabilities, targets, coverage=0.9)[0] == pytest.approx(0.5)
    assert class_thresholds(probabilities, targets, coverage=0.8)[0] == pytest.approx(0.45)
    assert class_thresholds(probabilities, targets, coverage=0.5)[1] == pytest.approx(0.2)


@pytest.mark.parametrize(("n", "expected"), [(8, NEVER_RULED_OUT), (9, 0.09), (0, NEVER_RULED_OUT)])
def test_a_class_with_fewer_studies_than_the_coverage_needs_is_never_ruled_out(n: int, expected: float) -> None:
    positive = [0.01 * k for k in range(1, n + 1)] + [0.5]
    targets = np.array([0] * n + [1])
    assert class_thresholds(two_columns(positive), targets, coverage=0.9)[0] == pytest.approx(expected)


def test_a_rank_that_is_whole_is_not_pushed_up_by_rounding() -> None:
    assert 25 * 0.56 > 14  # in binary
    positive = [0.01 * k for k in range(1, 25)]  # 24 studies: rank (24 + 1) * 0.56 = 14
    assert class_thresholds(two_columns(positive), np.zeros(24, dtype=int), coverage=0.56)[0] == pytest.approx(0.14)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, float("nan")])
def test_a_coverage_outside_0_to_1_is_refused(coverage: float) -> None:
    with pytest.raises(EvaluationError, match="coverage lies between 0 and 1"):
        class_thresholds(two_columns([0.5]), np.array([0]), coverage=coverage)


# --- sets -----------------------------------------------------------------------------------


def test_a_set_holds_the_classes_whose_score_is_at_most_the_threshold() -> None:
    probabilities = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.375, 0.625]])
    sets = conformal_sets(probabilities, (0.5, 0.25))
    assert sets.tolist() == [[True, False], [True, False], [False, True], [False, False]]
    assert conformal_sets(probabilities, (0.75, 0.75)).tolist() == [[True, True]] * 4
    assert abstains(sets).tolist() == [False, False, False, True]
    assert abstains(conformal_sets(probabilities, (1.0, 1.0))).all()


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_of_each_class_is_the_one_that_theory_gives(coverage: float) -> None:
    # Over many calibrations with n studies of a class the mean coverage is ceil((n + 1) * coverage) / (n + 1).
    generator = np.random.default_rng(3)
    found: list[list[float]] = [[], []]
    expected: list[list[float]] = [[], []]
    for _ in range(300):
        tune, truth = draw(generator, 100)
        test, targets = draw(generator, 400)
        sets = conformal_sets(test, class_thresholds(tune, truth, coverage=coverage))
        for label in (0, 1):
            n = int((truth == label).sum())
            found[label].append(float(sets[targets == label, label].mean()))
            expected[label].append(np.ceil((n + 1) * coverage - 1e-9) / (n + 1))
    for label in (0, 1):
        error = np.std(found[label]) / np.sqrt(300)
        assert abs(np.mean(found[label]) - np.mean(expected[label])) < 4 * error
        assert np.mean(expected[label]) >= coverage


# --- the vote -------------------------------------------------------------------------------


def test_a_class_needs_half_of_the_folds_to_stay() -> None:
    sets = np.array([[True, False, True], [True, False, False], [False, True, False], [True, True, False]])
    assert vote(sets).tolist() == [True, True, False]  # 3, 2 and 1 of 4
    assert vote(sets[:3]).tolist() == [True, False, False]  # 2, 1 and 1 of 3
    stacked = np.stack([sets, ~sets], axis=1)  # (folds, studies, classes)
    assert vote(stacked).tolist() == [[True, True, False], [False, True, True]]


def test_the_vote_keeps_its_floor_even_where_folds_err_as_unluckily_as_they_can() -> None:
    # Each of three folds misses 3 of 30 studies (coverage 0.9). Misses in pairs spoil most: 4 studies, 2 folds each.
    held = np.ones((3, 30, 1), dtype=bool)
    for study, folds in enumerate([(0, 1), (1, 2), (0, 2), (0, 1)]):
        held[list(folds), study, 0] = False
    assert held.mean(axis=1).min() >= 0.9
    assert vote(held).mean() == pytest.approx(26 / 30)
    assert vote(held).mean() >= 0.8


# --- evaluation -----------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (13, 20), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_binomial_interval_is_scipys_exact_one(hits: int, n: int, confidence: float) -> None:
    expected = binomtest(hits, n).proportion_ci(confidence, method="exact")
    assert binomial_interval(hits, n, confidence) == pytest.approx((expected.low, expected.high))


def test_coverage_set_sizes_and_abstention_are_counted() -> None:
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], dtype=bool)
    found = evaluate_sets(sets, np.array([0, 0, 0, 1, 1]), ("a", "b", "c"), coverage=0.9, confidence=0.95)
    assert [(own.name, own.n, own.covered) for own in found.classes] == [("a", 3, 2), ("b", 2, 1), ("c", 0, 0)]
    assert [own.estimate for own in found.classes] == [pytest.approx(2 / 3), 0.5, None]
    expected = binomtest(2, 3).proportion_ci(0.95, method="exact")
    assert (found.classes[0].low, found.classes[0].high) == pytest.approx((expected.low, expected.high))
    assert (found.classes[2].low, found.classes[2].high) == (None, None)
    assert found.set_sizes == (1, 2, 2, 0)
    assert found.abstained == pytest.approx(3 / 5)


def test_sets_that_do_not_fit_the_cohort_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"\(2, 2\) do not fit 3 studies of 2 classes"):
        evaluate_sets(np.ones((2, 2), dtype=bool), np.array([0, 1, 1]), ("a", "b"), coverage=0.9, confidence=0.95)


def test_a_class_that_is_missed_too_often_is_named_with_its_arm() -> None:
    sets = np.array([[True, False]] * 40)  # class b is never in the set
    found = evaluate_sets(sets, np.array([0] * 20 + [1] * 20), ("a", "b"), coverage=0.9, confidence=0.95)
    (missed,) = missed_remarks("text", found)
    assert "text arm miss class b too often: they hold it in 0 of its 20 studies" in missed


def test_no_remark_is_made_where_the_interval_reaches_the_coverage() -> None:
    sets = np.array([[True, True]] * 17 + [[False, False]] * 3)  # 17 of 20: the interval holds 0.9
    found = evaluate_sets(sets, np.zeros(20, dtype=int), ("a", "b"), coverage=0.9, confidence=0.95)
    assert list(missed_remarks("text", found)) == []


def test_tuning_parts_that_are_too_small_are_counted_by_class() -> None:
    (small,) = too_few_remarks(("a", "b"), [(0.4, 0.3), (NEVER_RULED_OUT, 0.3)], coverage=0.9)
    assert small.startswith("In 1 of 2 folds the tuning part holds too few studies of class a for a coverage of 0.9")
