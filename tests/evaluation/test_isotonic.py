"""Isotonic calibration is scikit-learn's curve, kept as knots; it stays within what the tuning part supports."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import expected_calibration_error, to_probabilities
from medmllm.evaluation.isotonic import calibrate, fit_isotonic
from medmllm.tuning_documents import IsotonicMap

RNG = np.random.default_rng(12)
LOGITS = RNG.normal(0.5, 1.5, 60)
TARGETS = (RNG.random(60) < expit(LOGITS)).astype(int)
NEW = np.linspace(-9, 9, 37)


def test_two_classes_follow_scikit_learns_curve_between_its_bounds() -> None:
    maps = fit_isotonic(to_probabilities(LOGITS / 2.0), TARGETS)
    least = 1 / 62  # 60 tuning studies
    peer = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    peer.fit(np.round(expit(LOGITS / 2.0), 4), TARGETS)
    expected = peer.predict(expit(NEW / 2.0))
    found = calibrate(NEW[:, None], 2.0, maps)
    np.testing.assert_allclose(expit(found[:, 0]), expected)
    assert (np.diff(found[:, 0]) >= 0).all(), "the order of studies is kept, but for ties"
    assert len(maps) == 1


def test_more_classes_are_calibrated_one_against_the_rest_and_sum_to_1() -> None:
    targets = np.arange(60) % 3
    logits = RNG.normal(size=(60, 3)) + 2 * np.eye(3)[targets]
    maps = fit_isotonic(to_probabilities(logits), targets)
    new = RNG.normal(size=(20, 3))
    least = 1 / 62
    curves = [
        IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(chances.round(4), targets == k)
        for k, chances in enumerate(softmax(logits, axis=1).T)
    ]
    raw = np.stack([curve.predict(softmax(new, axis=1)[:, k]) for k, curve in enumerate(curves)], axis=1)
    np.testing.assert_allclose(softmax(calibrate(new, 1.0, maps), axis=1), raw / raw.sum(axis=1, keepdims=True))


def test_studies_that_only_rounding_tells_apart_stand_on_no_two_sides_of_a_step() -> None:
    rounding = np.repeat([-1e-9, 1e-9], 10)
    told = np.array([0] * 8 + [1] * 2 + [0] * 2 + [1] * 8)  # 0.2 just below, 0.8 just above
    for middle in (0.3, 0.30005):  # the latter lies between two of four decimals
        maps = fit_isotonic(np.stack([1 - middle - rounding, middle + rounding], axis=1), told)
        below, above = calibrate(logit(middle + np.array([[-1e-8], [1e-8]])), 1.0, maps)[:, 0]
        assert expit(above) - expit(below) < 1e-3


def test_a_temperature_alone_divides_the_logits() -> None:
    np.testing.assert_allclose(calibrate(NEW[:, None], 2.0, None), NEW[:, None] / 2)


def test_it_mends_what_no_temperature_can() -> None:
    many = RNG.normal(0, 2, 4000)
    events = RNG.random(4000) < 0.3 + 0.4 * expit(many * 3)  # never far from a half, however sure the model
    maps = fit_isotonic(to_probabilities(many[:2000]), events[:2000].astype(int))
    fresh = expit(calibrate(many[2000:, None], 1.0, maps)[:, 0])
    assert expected_calibration_error(events[2000:], expit(many[2000:])) > 0.1
    assert expected_calibration_error(events[2000:], fresh) < 0.05


def test_separated_classes_are_not_driven_to_certainty() -> None:
    maps = fit_isotonic(to_probabilities(np.array([-9.0, -8.0, 8.0, 9.0])), np.array([0, 0, 1, 1]))
    found = calibrate(np.array([[-50.0], [50.0]]), 1.0, maps)[:, 0]
    np.testing.assert_allclose(found, [logit(1 / 6), logit(5 / 6)])  # 1 / (4 + 2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(EvaluationError, match="60 probabilities do not fit 59 targets"):
        fit_isotonic(to_probabilities(LOGITS), TARGETS[:-1])
    for given, calibrated in (((), ()), ((0.1, 0.1), (0.2, 0.3)), ((0.1, 0.2), (0.3, 0.2)), ((0.1, 0.2), (0.3,))):
        with pytest.raises(ValidationError):
            IsotonicMap(given=given, calibrated=calibrated)
