import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, log_loss, mean_absolute_error, roc_auc_score

from medmllm.evaluation.cohort import OutOfFold, evaluate_arms
from medmllm.evaluation.comparison import Difference, better
from medmllm.evaluation.ordinal import at_least, median_class, ordinal_measures, weighted_kappa
from medmllm.evaluation.resampling import Interval

GRADES = ("1", "2", "3", "4")
RNG = np.random.default_rng(4)
TARGETS = RNG.integers(0, 4, 60)
CHANCES = RNG.dirichlet(np.ones(4), 60) * 0.6 + 0.4 * np.eye(4)[np.clip(TARGETS + RNG.integers(-1, 2, 60), 0, 3)]
PREDICTED = median_class(CHANCES)
WEIGHTS = np.stack([np.ones(60), RNG.integers(0, 4, 60)]).astype(float)


def test_even_odds_count_whatever_the_last_bit_of_the_sum() -> None:
    chances = np.array([[0.03, 0.29, 0.18, 0.5]])
    assert chances[0].cumsum()[2] < 0.5
    assert median_class(chances).tolist() == [2]


@pytest.mark.parametrize(
    ("chances", "median"),
    [((0.5, 0.2, 0.3), 0), ((0.4, 0.2, 0.4), 1), ((0.3, 0.1, 0.6), 2), ((0.1, 0.4, 0.5), 1), ((0.0, 0.0, 1.0), 2)],
)
def test_the_predicted_class_is_the_median(chances: tuple[float, ...], median: int) -> None:
    assert median_class(np.array([chances])).tolist() == [median]


def test_no_other_class_is_nearer_to_the_truth_on_average_than_the_median() -> None:
    names = np.arange(4)
    expected_miss = CHANCES @ np.abs(names[:, None] - names)  # (studies, predicted class)
    np.testing.assert_allclose(expected_miss[np.arange(60), PREDICTED], expected_miss.min(axis=1))


def test_cumulative_probabilities_count_the_class_itself() -> None:
    np.testing.assert_allclose(at_least(np.array([[0.1, 0.2, 0.3, 0.4]])), [[0.9, 0.7, 0.4]])


def test_kappa_is_that_of_scikit_learn_under_every_weighting() -> None:
    found = weighted_kappa(TARGETS, PREDICTED, 4, WEIGHTS)
    expected = [cohen_kappa_score(TARGETS, PREDICTED, weights="quadratic", sample_weight=own) for own in WEIGHTS]
    np.testing.assert_allclose(found, expected)


def test_kappa_of_one_class_alone_is_not_defined() -> None:
    assert np.isnan(weighted_kappa(np.array([1, 1]), np.array([1, 1]), 3, np.ones((1, 2)))).all()


def test_measures_are_those_of_scikit_learn_under_every_weighting() -> None:
    found = {name: measure(WEIGHTS) for name, measure in ordinal_measures(TARGETS, CHANCES, PREDICTED, GRADES).items()}
    for draw, own in enumerate(WEIGHTS):
        reached = {k: roc_auc_score((k <= TARGETS), CHANCES[:, k:].sum(axis=1), sample_weight=own) for k in (1, 2, 3)}
        cuts = list(reached.values())
        assert [found[f"auroc[>={name}]"][draw] for name in GRADES[1:]] == pytest.approx(cuts)
        assert found["auroc"][draw] == pytest.approx(np.mean(cuts))
        assert found["mean_absolute_error"][draw] == pytest.approx(
            mean_absolute_error(TARGETS, PREDICTED, sample_weight=own)
        )
        assert found["accuracy"][draw] == pytest.approx(accuracy_score(TARGETS, PREDICTED, sample_weight=own))
        assert found["log_loss"][draw] == pytest.approx(log_loss(TARGETS, CHANCES, sample_weight=own))


def test_the_ranked_probability_score_is_0_for_the_truth_and_1_for_the_far_end() -> None:
    def score(target: int, chances: tuple[float, ...]) -> float:
        measures = ordinal_measures(np.array([target]), np.array([chances]), np.array([target]), GRADES)
        return float(measures["ranked_probability_score"](np.ones((1, 1)))[0])

    assert score(2, (0, 0, 1, 0)) == 0
    assert score(0, (0, 0, 0, 1)) == 1
    assert score(1, (0.2, 0.5, 0.2, 0.1)) == pytest.approx((0.2**2 + 0.3**2 + 0.1**2) / 3)
    assert score(1, (0, 0, 1, 0)) < score(1, (0, 0, 0, 1))  # a near miss costs less than a far one


def test_a_cohort_of_ordered_classes_is_evaluated_by_ordinal_measures() -> None:
    arm = OutOfFold("image", CHANCES, np.log(CHANCES), PREDICTED)
    found = evaluate_arms(
        [arm], targets=TARGETS, patients=[f"p{k}" for k in range(60)], folds=np.arange(60) % 3, classes=GRADES,
        confidence=0.9, samples=100, seed=1, ordered=True,
    )  # fmt: skip
    metrics = {metric.name: metric for metric in found.arms[0].metrics}
    kappa = metrics["quadratic_kappa"]
    assert kappa.estimate == pytest.approx(cohen_kappa_score(TARGETS, PREDICTED, weights="quadratic"))
    assert kappa.low is not None
    assert kappa.high is not None
    assert kappa.low < kappa.estimate < kappa.high


@pytest.mark.parametrize(
    ("metric", "best"),
    [("quadratic_kappa", "b"), ("auroc[>=3]", "b"), ("mean_absolute_error", "a"), ("ranked_probability_score", "a")],
)
def test_comparisons_know_which_way_is_better(metric: str, best: str) -> None:
    assert better(Difference(metric, "a", "b", Interval(-0.2, -0.3, -0.1, 0))) == best
