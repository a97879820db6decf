import numpy as np
import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.calibration import fit_temperature
from medmllm.evaluation.discrimination import choose_threshold
from medmllm.records import UNKNOWN
from medmllm.training.label_fold import calibrate_labels, decide_labels, label_probabilities, labels_predicted
from medmllm.training.tuning_part import decide_on_tuning

RNG = np.random.default_rng(6)
TRUTH = np.where(RNG.random((60, 2)) < 0.3, UNKNOWN, RNG.integers(0, 2, (60, 2)))
LOGITS = 4 * (RNG.normal(size=(60, 2)) + [0.0, 2.0] + (TRUTH == 1))


def test_each_label_has_the_temperature_and_threshold_of_its_own_known_studies() -> None:
    decided = decide_labels(LOGITS, TRUTH)
    for label in (0, 1):
        known = TRUTH[:, label] != UNKNOWN
        temperature = fit_temperature(LOGITS[known, label], TRUTH[known, label])
        chances = 1 / (1 + np.exp(-LOGITS[known, label] / temperature))
        assert decided[label].temperature == temperature
        assert decided[label].threshold == pytest.approx(choose_threshold(TRUTH[known, label], chances))
    assert decided[0].threshold != decided[1].threshold


def test_logits_are_divided_and_decided_on_label_by_label() -> None:
    decided = decide_on_tuning(LOGITS, TRUTH, load_config(TrainConfig, "train").evaluation)
    assert decided.conformal_thresholds is None
    assert decided.labels is not None
    one, two = decided.labels
    found = decided.calibrate(LOGITS)
    np.testing.assert_array_equal(found, LOGITS / [one.temperature, two.temperature])
    np.testing.assert_array_equal(found, calibrate_labels(LOGITS, decided.labels))
    chances = 1 / (1 + np.exp(-found))
    np.testing.assert_allclose(label_probabilities(found), chances)
    np.testing.assert_array_equal(labels_predicted(found, decided.labels), chances >= [one.threshold, two.threshold])
