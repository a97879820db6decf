"""What candidates of a search are judged by, against scikit-learn and arithmetic."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, roc_auc_score

from medmllm.evaluation.calibration import PRIOR_DEVIATION, fit_temperature
from medmllm.evaluation.tuning_score import hazard_score, tuning_score
from medmllm.model_documents import Task
from medmllm.tuning_documents import FoldSurvival

RNG = np.random.default_rng(3)
BINARY = Task.of("nodule", ("no", "yes"))
TRUTH = RNG.integers(0, 2, 80)
LOGITS = (1.5 * TRUTH + RNG.normal(size=80) - 0.4)[:, None]


def score(
    name: str, logits: np.ndarray, truth: np.ndarray, task: Task = BINARY, offsets: tuple[float, ...] | None = None
) -> float:
    found = tuning_score(name, logits, truth, task, offsets=offsets)
    assert found is not None
    return found


def test_log_loss_is_that_of_the_most_probable_temperature() -> None:
    def loss(log_temperature: float) -> float:
        chance = 1 / (1 + np.exp(-LOGITS[:, 0] / np.exp(log_temperature)))
        return log_loss(TRUTH, chance, normalize=False) + (log_temperature / PRIOR_DEVIATION) ** 2 / 2

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded").x
    chance = 1 / (1 + np.exp(-LOGITS[:, 0] / np.exp(best)))
    assert score("log_loss", LOGITS, TRUTH) == pytest.approx(log_loss(TRUTH, chance), abs=1e-4)


def test_logits_that_are_only_too_large_lose_little_and_those_that_tell_nothing_much() -> None:
    right, nothing = score("log_loss", LOGITS, TRUTH), score("log_loss", RNG.permutation(LOGITS), TRUTH)
    chance = 1 / (1 + np.exp(-6 * LOGITS[:, 0]))
    assert log_loss(TRUTH, chance) > nothing  # uncalibrated, they would lose against noise
    assert score("log_loss", 6 * LOGITS, TRUTH) == pytest.approx(right, abs=0.01)
    assert nothing > right + 0.1


def test_what_class_weights_did_to_the_odds_is_taken_back_before_a_candidate_is_judged() -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random(4000) < 0.1).astype(np.int64)
    seen = rng.normal(size=4000) + 2 * truth
    weighted = (2 * seen - 2)[:, None]  # log-odds in a cohort with as many positives as negatives
    odds = np.log(0.1 / 0.9)
    chance = 1 / (1 + np.exp(-(weighted[:, 0] + odds)))
    assert score("log_loss", weighted, truth, offsets=(odds,)) == pytest.approx(log_loss(truth, chance), abs=2e-3)
    assert score("log_loss", weighted, truth) > log_loss(truth, chance) + 0.1
    assert score("auroc", weighted, truth, offsets=(odds,)) == pytest.approx(score("auroc", weighted, truth))


def test_auroc_is_scikit_learns_of_two_classes_and_of_three() -> None:
    assert score("auroc", LOGITS, TRUTH) == pytest.approx(roc_auc_score(TRUTH, LOGITS[:, 0]))
    truth = RNG.integers(0, 3, 90)
    logits = np.eye(3)[truth] + RNG.normal(size=(90, 3))
    chances = np.exp(logits / fit_temperature(logits, truth))
    chances /= chances.sum(axis=1, keepdims=True)  # with more than two classes ranks hang on the temperature
    found = score("auroc", logits, truth, Task.of("region", ("a", "b", "c")))
    assert found == pytest.approx(roc_auc_score(truth, chances, multi_class="ovr"))


def test_an_auroc_of_one_class_is_no_score() -> None:
    assert tuning_score("auroc", LOGITS[TRUTH == 1], TRUTH[TRUTH == 1], BINARY, offsets=None) is None


def test_times_to_an_event_are_judged_by_the_likelihood_of_their_intervals() -> None:
    fold = FoldSurvival(bounds=(1.0, 2.0), everybody=(0.0, 0.0))
    at_risk = np.array([[1, 1], [2, 0], [2, 1]])  # an event in the first, none in two, an event in the second interval
    assert hazard_score(np.zeros((3, 2)), at_risk, fold) == pytest.approx((1 + 2 + 2) * np.log(2) / 3)
    telling = np.array([[3.0, 0.0], [-3.0, -3.0], [-3.0, 3.0]])
    assert hazard_score(telling, at_risk, fold) < 0.3
    assert hazard_score(-telling, at_risk, fold) > hazard_score(np.zeros((3, 2)), at_risk, fold)
