"""Calibration: against scikit-learn, closed forms, and hand arithmetic."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import (
    PRIOR_DEVIATION,
    TEMPERATURE_BOUNDS,
    apply_temperature,
    brier,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability_bins,
    to_logits,
    to_probabilities,
    weighted_ece,
    weighted_intercept,
    weighted_slope,
)


def binary_cohort(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return targets drawn from known logits, and those logits."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0.4, 1.5, n)
    return (generator.random(n) < expit(logits)).astype(int), logits


# --- scores --------------------------------------------------------------------------------


def test_binary_brier_is_the_mean_square_of_the_miss() -> None:
    targets, chances = np.array([1, 0, 1]), np.array([0.8, 0.3, 0.4])
    assert brier(targets, chances) == pytest.approx((0.04 + 0.09 + 0.36) / 3)
    assert brier(targets, chances) == pytest.approx(metrics.brier_score_loss(targets, chances))


def test_multiclass_brier_is_summed_over_classes() -> None:
    chances = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    assert brier(np.array([0, 1]), chances) == pytest.approx(((0.09 + 0.04 + 0.01) + (0.01 + 0.49 + 0.36)) / 2)


def test_log_loss_is_the_mean_log_of_the_true_classs_probability_and_finite_at_zero() -> None:
    chances = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    targets = np.array([2, 1, 0])
    assert log_loss(targets, chances) == pytest.approx(metrics.log_loss(targets, chances))
    assert log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-np.log(1e-12))


def test_expected_calibration_error_weighs_the_gap_of_each_bin_by_its_studies() -> None:
    chances = np.array([0.12, 0.18, 0.71, 0.75, 0.79])
    events = np.array([False, True, True, False, True])
    # Bin 0.1-0.2: mean .15, rate .5; bin 0.7-0.8: mean .75, rate 2/3.
    expected = 2 / 5 * 0.35 + 3 / 5 * abs(0.75 - 2 / 3)
    assert expected_calibration_error(events, chances) == pytest.approx(expected)
    # One bin: overall mean .51, rate .6.
    assert expected_calibration_error(events, chances, bins=1) == pytest.approx(0.09)


def test_expected_calibration_error_with_weights_is_that_of_studies_repeated() -> None:
    generator = np.random.default_rng(2)
    chances, events = generator.random(25), generator.random(25) < 0.5
    repeat = generator.integers(0, 4, 25)
    assert weighted_ece(events, chances, repeat[None, :].astype(float))[0] == pytest.approx(
        expected_calibration_error(np.repeat(events, repeat), np.repeat(chances, repeat))
    )


def test_reliability_bins_hold_every_study_once_with_the_edges_below() -> None:
    chances = np.array([0.0, 0.25, 0.49, 0.5, 1.0])
    bins = reliability_bins(np.array([0, 1, 0, 1, 1], bool), chances, bins=4)
    assert [(part.low, part.high, part.n) for part in bins] == [
        (0, 0.25, 1),
        (0.25, 0.5, 2),
        (0.5, 0.75, 1),
        (0.75, 1, 1),
    ]
    assert bins[1].mean_probability == pytest.approx(0.37)
    assert [part.event_rate for part in bins] == [0, 0.5, 1, 1]


def test_an_empty_bin_has_no_means() -> None:
    empty = reliability_bins(np.array([True]), np.array([0.9]), bins=2)[0]
    assert (empty.n, empty.mean_probability, empty.event_rate) == (0, None, None)


# --- slope and intercept -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_slope_is_that_of_an_unpenalised_logistic_regression(seed: int) -> None:
    targets, logits = binary_cohort(seed)
    stretched = 3 * logits - 7  # badly calibrated on purpose
    peer = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(stretched[:, None], targets)
    assert calibration_slope(targets, stretched) == pytest.approx(peer.coef_[0, 0], rel=1e-5)


def test_the_slope_of_two_levels_is_a_log_odds_ratio() -> None:
    # Logit -1: 2 of 8 events, logit 2: 9 of 12. With two levels the regression is exact.
    logits = np.array([-1.0] * 8 + [2.0] * 12)
    targets = np.array([1] * 2 + [0] * 6 + [1] * 9 + [0] * 3)
    assert calibration_slope(targets, logits) == pytest.approx((np.log(9 / 3) - np.log(2 / 6)) / 3)


def test_the_slopes_of_many_weightings_are_those_of_each_alone() -> None:
    targets, logits = binary_cohort(9, 60)
    weights = np.random.default_rng(1).integers(0, 4, (6, 60)).astype(float)
    together = weighted_slope(targets, logits, weights)
    for draw, weight in enumerate(weights.astype(int)):
        alone = calibration_slope(np.repeat(targets, weight), np.repeat(logits, weight))
        assert together[draw] == pytest.approx(alone, rel=1e-6)


def test_dividing_logits_multiplies_the_slope() -> None:
    targets, logits = binary_cohort(3)
    slope = calibration_slope(targets, logits)
    assert slope is not None
    assert calibration_slope(targets, logits / 40) == pytest.approx(40 * slope, rel=1e-6)
    assert calibration_slope(targets, -logits) == pytest.approx(-slope, rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_a_slope_is_found_among_outliers_in_a_cohort_that_is_nearly_apart(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Nearly apart: one study of each class on the wrong side, and a few outliers far away.
    logits = np.concatenate([generator.normal(-3, 0.5, 12), [0.1, -0.1], generator.normal(3, 0.5, 9), [90.0, -80.0]])
    targets = np.array([0] * 12 + [0, 1] + [1] * 9 + [1, 0])
    slope = calibration_slope(targets, logits)
    assert slope is not None
    design = np.stack([np.ones_like(logits), logits], axis=1)
    intercept = calibration_intercept(targets, slope * logits)  # at the optimum both parts of the score are zero
    assert design.T @ (targets - expit(slope * logits + intercept)) == pytest.approx([0, 0], abs=1e-4)


@pytest.mark.parametrize(
    ("targets", "logits"),
    [
        ([0, 0, 1, 1], [-2.0, -1.0, 1.0, 2.0]),  # apart
        ([1, 1, 0, 0], [-2.0, -1.0, 1.0, 2.0]),  # apart, the wrong way round
        ([0, 0, 1, 1], [-2.0, 1.0, 1.0, 2.0]),  # touching: the likelihood still has no top
        ([0, 1, 0, 1], [0.7, 0.7, 0.7, 0.7]),  # constant
        ([1, 1, 1], [-1.0, 0.0, 1.0]),  # one class
        ([0, 0, 0], [-1.0, 0.0, 1.0]),
    ],
    ids=["apart", "reversed", "touching", "constant", "only positives", "only negatives"],
)
def test_there_is_no_slope_where_the_likelihood_has_no_top(targets: list[int], logits: list[float]) -> None:
    assert calibration_slope(np.array(targets), np.array(logits)) is None


def test_a_weighting_that_separates_has_no_slope_while_its_neighbours_keep_theirs() -> None:
    targets, logits = np.array([0, 1, 0, 1]), np.array([-1.0, -0.5, 0.5, 1.0])
    weights = np.array([[1.0, 1, 1, 1], [1, 0, 1, 1], [2, 1, 1, 1]])  # without study 1 the classes lie apart
    assert np.isnan(weighted_slope(targets, logits, weights)).tolist() == [False, True, False]


def test_the_intercept_at_a_constant_logit_is_the_log_odds_missing() -> None:
    # Predicted log-odds 0.5 everywhere, 6 of 8 events: the shift is log(6/2) - 0.5.
    targets = np.array([1] * 6 + [0] * 2)
    assert calibration_intercept(targets, np.full(8, 0.5)) == pytest.approx(np.log(3) - 0.5)


@pytest.mark.parametrize("shift", [-60.0, -3.0, 0.0, 2.5, 700.0])
def test_the_intercept_makes_the_mean_probability_the_event_rate(shift: float) -> None:
    targets, logits = binary_cohort(5)
    shifted = 4 * logits + shift
    intercept = calibration_intercept(targets, shifted)
    assert intercept is not None
    assert expit(shifted + intercept).mean() == pytest.approx(targets.mean(), abs=1e-8)


def test_the_intercept_is_there_although_the_classes_lie_apart_but_not_with_one_class() -> None:
    assert calibration_intercept(np.array([0, 0, 1, 1]), np.array([-2.0, -1, 1, 2])) == pytest.approx(0, abs=1e-8)
    assert calibration_intercept(np.array([1, 1]), np.array([0.1, 0.2])) is None
    weights = np.array([[1.0, 1, 0], [1, 1, 1]])
    values = weighted_intercept(np.array([0, 0, 1]), np.array([0.1, 0.2, 0.3]), weights)
    assert np.isnan(values).tolist() == [True, False]


def test_probabilities_that_are_right_have_slope_1_and_intercept_0() -> None:
    targets, logits = binary_cohort(1, 20_000)
    assert calibration_slope(targets, logits) == pytest.approx(1, abs=0.05)
    assert calibration_intercept(targets, logits) == pytest.approx(0, abs=0.05)
    assert expected_calibration_error(targets == 1, expit(logits)) < 0.02


# --- temperature ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_temperature_that_was_put_in_is_found_again_for_a_binary_task(temperature: float) -> None:
    # Exactly calibrated by construction: 10,000 studies at each logit, events in the very share it says.
    levels = logit(np.array([0.1, 0.3, 0.6, 0.9]))
    logits = np.repeat(levels, 10_000) * temperature
    targets = np.concatenate([[1] * events + [0] * (10_000 - events) for events in (1000, 3000, 6000, 9000)])
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=1e-3)


def test_a_temperature_that_was_put_in_is_found_again_for_three_classes() -> None:
    shares = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    logits = np.repeat(np.log(shares), 10_000, axis=0) * 2.5 + 4.0  # adding the same to all classes changes nothing
    targets = np.repeat(np.concatenate([[0] * 6 + [1] * 3 + [2], [0] * 2 + [1] * 2 + [2] * 6]), 1000)
    assert fit_temperature(logits, targets) == pytest.approx(2.5, rel=1e-3)


def test_a_binary_logit_is_the_same_as_two_classes_with_a_zero() -> None:
    targets, logits = binary_cohort(4, 50)
    both = np.stack([np.zeros(50), logits], axis=1)
    assert fit_temperature(logits, targets) == pytest.approx(fit_temperature(both, targets))
    assert to_probabilities(logits) == pytest.approx(to_probabilities(both))


def test_the_temperature_lowers_the_loss_below_that_of_its_neighbours() -> None:
    targets, logits = binary_cohort(6, 4000)  # so many that the prior counts for next to nothing
    best = fit_temperature(logits * 5, targets)

    def loss(temperature: float) -> float:
        return log_loss(targets, to_probabilities(apply_temperature(logits * 5, temperature)))

    assert loss(best) < min(loss(best * 1.05), loss(best / 1.05), loss(1.0))


def test_studies_all_on_their_right_side_do_not_sharpen_the_probabilities() -> None:
    assert fit_temperature(np.array([-0.3, 0.2, 1.5]), np.array([0, 1, 1])) == 1.0
    assert fit_temperature(np.array([[2.0, 1.0, 0.0], [0.0, 0.1, 0.0]]), np.array([0, 1])) == 1.0
    # A tie is not the right side: here the likelihood has a bound to reach.
    assert fit_temperature(np.array([-0.3, 0.0, 1.5]), np.array([0, 1, 1])) != 1.0


@pytest.mark.parametrize("logits", [[2.0, 3.0, -1.0], [2.0, 3.0, -1.0, 0.1], [40.0, -30.0, 5.0]])
def test_few_studies_that_are_wrong_flatten_the_model_only_as_far_as_the_prior_lets_them(logits: list[float]) -> None:
    score, targets = np.array(logits), np.array([0, 0, 1, 1])[: len(logits)]
    found = fit_temperature(score, targets)
    # Where the density is highest, the pull of the likelihood on log T is that of a normal prior, log T / variance.
    pull = float(np.sum((expit(score / found) - targets) * score / found))
    assert np.log(found) / PRIOR_DEVIATION**2 == pytest.approx(pull, abs=1e-4)
    assert 1.5 < found < 0.7 * TEMPERATURE_BOUNDS[1]


def test_the_prior_is_worth_less_the_more_studies_there_are() -> None:
    score, targets = np.array([2.0, 2.0, -2.0, -2.0, 2.0]), np.array([1, 0, 0, 0, 1])  # right at log-odds log 4
    likeliest = 2.0 / np.log(4)
    distances = [
        abs(fit_temperature(np.tile(score, times), np.tile(targets, times)) - likeliest) for times in (1, 10, 100)
    ]
    assert distances[0] > 5 * distances[1] > 25 * distances[2] > 0


def test_a_model_that_is_wrong_throughout_is_flattened_as_far_as_allowed() -> None:
    times = 10_000  # no prior holds out against so many
    found = fit_temperature(np.tile([2.0, 3.0, -1.0], times), np.tile([0, 0, 1], times))
    assert found == pytest.approx(TEMPERATURE_BOUNDS[1], rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros(0), np.zeros(0, int), "do not fit 0 targets"),
        (np.zeros(3), np.zeros(2, int), r"shape \(3,\) do not fit 2 targets"),
        (np.zeros((2, 3, 1)), np.zeros(2, int), "do not fit"),
        (np.array([0.1, np.nan]), np.array([0, 1]), "1 logits are not finite"),
        (np.array([0.1, np.inf]), np.array([0, 1]), "1 logits are not finite"),
    ],
)
def test_logits_that_no_temperature_fits_are_refused(logits: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        fit_temperature(logits, targets)


def test_applying_a_temperature_divides() -> None:
    assert apply_temperature(np.array([[3.0, -1.0]]), 2.0).tolist() == [[1.5, -0.5]]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(EvaluationError, match="lies above 0"):
        apply_temperature(np.array([1.0]), temperature)


def test_probabilities_sum_to_one_and_come_back_as_logits_even_at_the_ends() -> None:
    logits = np.array([-800.0, -2.0, 0.0, 3.0, 800.0])
    chances = to_probabilities(logits)
    assert chances.shape == (5, 2)
    assert chances.sum(axis=1) == pytest.approx(np.ones(5))
    assert chances[:, 1] == pytest.approx(expit(logits))
    assert to_logits(chances[:, 1])[1:4] == pytest.approx([-2, 0, 3])
    assert np.isfinite(to_logits(np.array([0.0, 1.0]))).all()
