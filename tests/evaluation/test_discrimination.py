"""Discrimination: against scikit-learn, and against counts done by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from medmllm.errors import EvaluationError
from medmllm.evaluation.discrimination import (
    at_threshold,
    auprc,
    auroc,
    choose_threshold,
    macro_auroc,
    weighted_accuracy,
    weighted_auprc,
    weighted_auroc,
    weighted_auroc_within,
    weighted_balanced_accuracy,
    weighted_macro_auroc,
    weighted_recall,
)

# Six studies, two tied; by hand: of 2 x 4 pairs, 5 in order and 1 tied -> 5.5 / 8.
TARGETS = np.array([0, 1, 0, 0, 1, 0])
CHANCES = np.array([0.1, 0.4, 0.4, 0.7, 0.6, 0.2])


def cohort(seed: int, n: int = 37, *, levels: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return targets, coarse probabilities with many ties, and whole weights with zeros among them."""
    generator = np.random.default_rng(seed)
    targets = np.concatenate([[0, 1], generator.integers(0, 2, n - 2)])
    chances = np.round((generator.random(n) + 0.4 * targets) / 1.4 * levels) / levels
    weights = generator.integers(0, 4, (5, n)).astype(float)
    weights[:, :2] = 1
    return targets, chances, weights


def test_auroc_counts_pairs_in_order_and_ties_by_half() -> None:
    assert auroc(TARGETS, CHANCES) == pytest.approx(5.5 / 8)


def test_auprc_is_the_precision_at_each_positive_averaged() -> None:
    # Called in order: 0.7 (no), 0.6 (yes, 1 of 2), 0.4 twice (one yes: 2 of 4).
    assert auprc(TARGETS, CHANCES) == pytest.approx((1 / 2 + 2 / 4) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_the_areas_agree_with_scikit_learn_under_weights_and_ties(seed: int) -> None:
    targets, chances, weights = cohort(seed)
    areas, precisions = weighted_auroc(targets == 1, chances, weights), weighted_auprc(targets == 1, chances, weights)
    for draw, weight in enumerate(weights):
        assert areas[draw] == pytest.approx(metrics.roc_auc_score(targets, chances, sample_weight=weight))
        assert precisions[draw] == pytest.approx(
            metrics.average_precision_score(targets, chances, sample_weight=weight)
        )
    assert auroc(targets, chances) == pytest.approx(metrics.roc_auc_score(targets, chances))
    assert auprc(targets, chances) == pytest.approx(metrics.average_precision_score(targets, chances))


def test_a_weight_of_two_is_a_study_given_twice() -> None:
    targets, chances, weights = cohort(8)
    repeat = weights[0].astype(int)
    assert weighted_auroc(targets == 1, chances, weights[:1])[0] == pytest.approx(
        auroc(np.repeat(targets, repeat), np.repeat(chances, repeat))
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=30))
def test_turning_the_scores_round_turns_the_auroc_round(studies: list[tuple[bool, int]]) -> None:
    positive, scores = (np.array(column) for column in zip(*studies, strict=True))
    forward = weighted_auroc(positive, scores, np.ones((1, len(studies))))[0]
    backward = weighted_auroc(positive, -scores, np.ones((1, len(studies))))[0]
    if positive.all() or not positive.any():
        assert np.isnan(forward)
        assert np.isnan(backward)
    else:
        assert forward + backward == pytest.approx(1)


def test_macro_auroc_is_the_plain_mean_of_one_versus_rest() -> None:
    generator = np.random.default_rng(3)
    targets = np.array([0, 1, 2] * 4 + [0] * 9)  # unequal classes, so a weighted mean would differ
    chances = generator.dirichlet([1.0, 1.0, 1.0], targets.size)
    expected = metrics.roc_auc_score(targets, chances, multi_class="ovr", average="macro")
    assert macro_auroc(targets, chances) == pytest.approx(expected)


def test_macro_auroc_is_undefined_when_one_class_is_missing() -> None:
    chances = np.array([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1]])
    assert macro_auroc(np.array([0, 1, 1]), chances) is None
    weights = np.array([[1.0, 1, 1], [1, 1, 0]])  # the second draw has no study of class 2
    values = weighted_macro_auroc(np.array([0, 1, 2]), chances, weights)
    assert np.isnan(values).tolist() == [False, True]


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_has_no_auroc(label: int) -> None:
    assert auroc(np.full(3, label), CHANCES[:3]) is None


def test_no_positives_have_no_auprc_and_only_positives_have_a_perfect_one() -> None:
    assert auprc(np.zeros(3, int), CHANCES[:3]) is None
    assert auprc(np.ones(3, int), CHANCES[:3]) == 1


def test_within_folds_only_studies_of_the_same_fold_are_compared() -> None:
    # Fold 1 shifts its scores up by 10: pooled ranks mix the folds, ranks within a fold do not.
    targets = np.array([0, 1, 1, 0, 1, 0])
    scores = np.array([0.2, 0.5, 0.1, 10.3, 10.4, 10.6])
    folds = np.array([0, 0, 0, 1, 1, 1])
    ones = np.ones((1, 6))
    # Fold 0: pairs (0.2, 0.5) in order, (0.2, 0.1) not. Fold 1: (10.3, 10.4) in order, (10.6, 10.4) not.
    assert weighted_auroc_within(folds, targets == 1, scores, ones)[0] == pytest.approx(2 / 4)
    # Pooled, of 9 pairs: 0.2 lies below 0.5 and 10.4; 10.3 below 10.4.
    assert weighted_auroc(targets == 1, scores, ones)[0] == pytest.approx(3 / 9)


def test_within_folds_a_fold_counts_by_its_pairs_and_one_without_a_class_not_at_all() -> None:
    targets = np.array([0, 1, 0, 1, 1, 1])
    scores = np.array([0.1, 0.9, 0.8, 0.2, 0.9, 0.5])
    folds = np.array([0, 0, 1, 1, 1, 2])
    # Fold 0: 1 of 1 pairs; fold 1: 1 of 2 pairs; fold 2 has none.
    value = weighted_auroc_within(folds, targets == 1, scores, np.ones((1, 6)))
    assert value[0] == pytest.approx(2 / 3)
    assert np.isnan(weighted_auroc_within(np.arange(6), targets == 1, scores, np.ones((1, 6))))[0]


def test_at_a_threshold_the_four_counts_are_those_of_the_table() -> None:
    point = at_threshold(TARGETS, CHANCES, 0.4)  # positive: 0.4, 0.4, 0.7, 0.6 -> 2 of 2 found, 2 of 4 rejected
    assert (point.threshold, point.sensitivity, point.specificity) == (0.4, 1.0, 0.5)
    assert point.balanced_accuracy == pytest.approx(0.75)


def test_at_a_threshold_a_missing_class_has_no_rate() -> None:
    only_positive = at_threshold(np.ones(2, int), np.array([0.2, 0.8]), 0.5)
    assert (only_positive.sensitivity, only_positive.specificity) == (0.5, None)
    assert only_positive.balanced_accuracy is None
    assert at_threshold(np.zeros(2, int), np.array([0.2, 0.8]), 0.5).sensitivity is None


def test_recall_balanced_accuracy_and_accuracy_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(11)
    targets = np.concatenate([[0, 1, 2], generator.integers(0, 3, 20)])
    predicted = np.where(generator.random(23) < 0.6, targets, generator.integers(0, 3, 23))
    weights = generator.integers(1, 4, (2, 23)).astype(float)
    for draw, weight in enumerate(weights):
        recalls = metrics.recall_score(targets, predicted, average=None, sample_weight=weight)
        for label in range(3):
            assert weighted_recall(targets, predicted, label, weights)[draw] == pytest.approx(recalls[label])
        assert weighted_balanced_accuracy(targets, predicted, 3, weights)[draw] == pytest.approx(recalls.mean())
        right = metrics.accuracy_score(targets, predicted, sample_weight=weight)
        assert weighted_accuracy(targets, predicted, weights)[draw] == pytest.approx(right)


# --- Youden's threshold --------------------------------------------------------------------


def test_the_threshold_lies_midway_between_the_classes_when_they_are_apart() -> None:
    assert choose_threshold(np.array([0, 1, 0, 1]), np.array([0.12, 0.8, 0.2, 0.5])) == pytest.approx(0.35)


@pytest.mark.parametrize("seed", range(6))
def test_no_cut_has_a_larger_youden_index_than_the_threshold_chosen(seed: int) -> None:
    targets, chances, _ = cohort(seed)
    false_positive, true_positive, _ = metrics.roc_curve(targets, chances)
    point = at_threshold(targets, chances, choose_threshold(targets, chances))
    assert point.sensitivity is not None
    assert point.specificity is not None
    assert point.sensitivity + point.specificity - 1 == pytest.approx((true_positive - false_positive).max())


def test_of_equally_good_cuts_the_one_nearest_to_a_half_is_taken() -> None:
    # Cuts at 0.15 and at 0.65 both have J = 1/2 (one negative below; one positive above).
    targets, chances = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.6, 0.7])
    assert choose_threshold(targets, chances) == pytest.approx(0.65)
    assert choose_threshold(1 - targets, 1 - chances) == pytest.approx(0.35)


@pytest.mark.parametrize("chances", [[0.9, 0.8, 0.2, 0.1], [0.7, 0.7, 0.7, 0.7]], ids=["reversed", "constant"])
def test_a_model_without_discrimination_gets_a_half(chances: list[float]) -> None:
    assert choose_threshold(np.array([0, 0, 1, 1]), np.array(chances)) == 0.5


@pytest.mark.parametrize("low", [0.3, float(np.nextafter(0.3, 1))], ids=["rounds up", "rounds down"])
def test_neighbouring_floats_are_still_cut_between(low: float) -> None:
    high = float(np.nextafter(low, 1))
    threshold = choose_threshold(np.array([0, 1]), np.array([low, high]))
    assert low < threshold <= high


def test_no_threshold_parts_studies_that_only_rounding_tells_apart() -> None:
    # One more negative would be right by a cut between the two studies of 0.6: J would be 1, not 2/3.
    targets, chances = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.6 + 1e-9, 0.9])
    assert choose_threshold(targets, chances) == pytest.approx(0.4)
    assert choose_threshold(np.array([0, 1, 1]), np.array([0.0, 1e-3, 1.0])) == pytest.approx(5e-4)


@pytest.mark.parametrize("label", [0, 1])
def test_a_threshold_from_one_class_alone_is_refused(label: int) -> None:
    with pytest.raises(EvaluationError, match="needs both classes, got"):
        choose_threshold(np.full(3, label), CHANCES[:3])
