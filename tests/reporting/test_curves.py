"""Curves against counts done by hand."""

import numpy as np
import pytest

from medmllm.reporting.curves import decision_chart, mean_curve, reliability_points, roc_points
from medmllm.trust_documents import DecisionCurveDocument, EstimateDocument


def both(positive: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(positive), np.array(positive)], axis=1)


def test_the_area_under_the_points_is_the_share_of_well_ordered_pairs() -> None:
    targets = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0])
    chance = np.array([0.3, 0.9, 0.6, 0.6, 0.4, 0.1, 0.8, 0.6, 0.2])  # with ties
    pairs = [(p > n) + 0.5 * (p == n) for p in chance[targets == 1] for n in chance[targets == 0]]
    assert abs(np.mean(pairs) - 0.5) > 0.1, "a curve of the other class must not pass"
    x, y = np.array(roc_points(both(chance.tolist()), targets)).T
    assert np.trapezoid(y, x) == pytest.approx(np.mean(pairs))


def test_a_curve_of_several_classes_is_the_mean_of_one_against_the_rest() -> None:
    targets = np.array([0, 1, 2, 0, 1, 2])
    perfect = np.eye(3)[targets] * 0.8 + 0.1
    points = roc_points(perfect, targets)
    assert points[0] == (0, 0)
    assert points[1] == (0, 1), "perfect: every class is ranked before the rest"
    assert points[-1] == (1, 1)
    guessing = np.full((6, 3), 1 / 3)
    assert all(y == pytest.approx(x) for x, y in roc_points(guessing, targets))


def test_one_class_has_no_curve() -> None:
    assert roc_points(both([0.2, 0.3]), np.array([1, 1])) == ()


def test_a_bin_holds_mean_probability_frequency_count_and_wilson_interval() -> None:
    chance = [0.21, 0.23, 0.25, 0.29, 0.95]
    points = reliability_points([both(chance)], np.array([0, 1, 0, 0, 1]), ["a", "b", "c", "d", "e"], confidence=0.95)
    first, last = points
    assert (first.predicted, first.observed, first.n) == (pytest.approx(0.245), 0.25, 4)
    assert (last.predicted, last.observed, last.n) == (pytest.approx(0.95), 1.0, 1)
    z, n, p = 1.959964, 4, 0.25  # Wilson 1927
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (first.low, first.high) == (pytest.approx(centre - half, abs=1e-5), pytest.approx(centre + half, abs=1e-5))


def test_the_interval_of_a_bin_has_the_level_that_the_run_asked_for() -> None:
    (bar,) = reliability_points([both([0.21, 0.25])], np.array([0, 1]), ["a", "b"], confidence=0.9)
    z = 1.644854  # of 90 %
    half = z * np.sqrt(0.25 / 2 + (z / 4) ** 2) / (1 + z**2 / 2)  # of one in two
    assert (bar.low, bar.high) == (pytest.approx(0.5 - half, abs=1e-5), pytest.approx(0.5 + half, abs=1e-5))


def test_with_several_classes_the_likeliest_is_judged() -> None:
    chances = np.array([[0.62, 0.3, 0.08], [0.1, 0.65, 0.25], [0.2, 0.15, 0.65]])
    (point,) = reliability_points([chances], np.array([0, 2, 2]), ["a", "b", "c"], confidence=0.95)
    assert point.predicted == pytest.approx((0.62 + 0.65 + 0.65) / 3)
    assert point.observed == pytest.approx(2 / 3)


def test_the_mean_of_several_curves_has_the_mean_of_their_areas() -> None:
    targets = np.tile([0, 1, 1, 0, 1], 8)
    curves = [roc_points(both((targets * 0.4 + rng.random(40) * 0.6).tolist()), targets) for rng in
              map(np.random.default_rng, range(3))]  # fmt: skip
    areas = [np.trapezoid(*np.array(own).T[::-1]) for own in curves]
    assert max(areas) - min(areas) > 0.02
    assert np.trapezoid(*np.array(mean_curve(curves)).T[::-1]) == pytest.approx(np.mean(areas), abs=0.004)
    assert mean_curve([(), ()]) == ()


def test_a_bin_of_several_repeats_is_the_mean_over_its_studies_and_its_interval_that_of_the_patients_of_one() -> None:
    targets, patients = np.array([0, 1, 0, 1, 1]), ["a", "a", "b", "c", "c"]
    first, second = both([0.21, 0.23, 0.25, 0.29, 0.95]), both([0.95, 0.22, 0.97, 0.95, 0.96])
    low, _ = reliability_points([first, second], targets, patients, confidence=0.95)
    assert (low.predicted, low.observed, low.n) == (pytest.approx(0.24), pytest.approx(3 / 5), 5)
    z, n, p = 1.959964, (3 + 1) / 2, 3 / 5  # three patients in the bin, then one
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (low.low, low.high) == (pytest.approx(centre - half, abs=1e-5), pytest.approx(centre + half, abs=1e-5))
    (alone, _), (again, _) = (reliability_points([first] * k, targets, patients, confidence=0.95) for k in (1, 3))
    assert (again.low, again.high) == pytest.approx((alone.low, alone.high))  # three times the same narrows nothing


def test_net_benefit_of_a_round_number_less_a_bit_has_an_axis() -> None:
    # 29 of 200 have the event: 0.145 - 0.855 * 0.05 / 0.95 is 0.1, in binary a bit less.
    treat_all = 29 / 200 - 171 / 200 * 0.05 / 0.95
    assert treat_all < 0.1
    assert treat_all == pytest.approx(0.1)
    useless = EstimateDocument(estimate=treat_all, low=0.05, high=0.15)
    curve = DecisionCurveDocument(
        arm="text", thresholds=(0.05,), net_benefit=(useless,), treat_all=(treat_all,), repeats=()
    )
    chart = decision_chart([curve])
    assert chart is not None
    assert [words for _, words in chart.ticks] == ["0", "0.05", "0.1"]
    assert [height for height, _ in chart.ticks] == pytest.approx([0.2, 0.6, 1.0])
