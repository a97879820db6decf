"""DeLong's variance is that of the paper's definition, and what a bootstrap of many studies finds."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from medmllm.errors import EvaluationError
from medmllm.evaluation.delong import compare_aurocs
from medmllm.evaluation.discrimination import weighted_auroc

RNG = np.random.default_rng(2)


def two_models(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    targets = (RNG.random(n) < 0.3).astype(int)
    shared = RNG.normal(size=n)
    first = np.round(shared + RNG.normal(size=n) + 1.5 * targets, 1)  # rounded, so that there are ties
    return targets, first, shared + RNG.normal(size=n) + 1.1 * targets


def by_definition(targets: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """The standard error of the difference, from all pairs, as in DeLong et al. 1988, equations 3 to 5."""
    m, n = int(targets.sum()), int((1 - targets).sum())
    psi = []
    for scores in (first, second):
        cases, controls = scores[targets == 1][:, None], scores[targets == 0][None]
        psi.append((cases > controls) + 0.5 * (cases == controls))
    v10, v01 = [p.mean(axis=1) for p in psi], [p.mean(axis=0) for p in psi]
    s10 = [[((a - a.mean()) * (b - b.mean())).sum() / (m - 1) for b in v10] for a in v10]
    s01 = [[((a - a.mean()) * (b - b.mean())).sum() / (n - 1) for b in v01] for a in v01]
    s = np.array(s10) / m + np.array(s01) / n
    return float(np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1]))


def test_difference_error_interval_and_p_value_are_those_of_the_definition() -> None:
    targets, first, second = two_models(80)
    found = compare_aurocs(targets, first, second, confidence=0.9)
    difference = roc_auc_score(targets, first) - roc_auc_score(targets, second)
    error = by_definition(targets, first, second)
    assert found.estimate == pytest.approx(difference)
    assert found.standard_error == pytest.approx(error)
    assert (found.low, found.high) == pytest.approx(norm.interval(0.9, difference, error))
    assert found.p_value == pytest.approx(2 * (1 - norm.cdf(abs(difference) / error)))


def test_the_error_is_what_a_bootstrap_of_many_studies_finds() -> None:
    targets, first, second = two_models(1500)
    weights = RNG.multinomial(1500, np.full(1500, 1 / 1500), size=1000).astype(float)
    draws = weighted_auroc(targets == 1, first, weights) - weighted_auroc(targets == 1, second, weights)
    assert compare_aurocs(targets, first, second, confidence=0.95).standard_error == pytest.approx(draws.std(), rel=0.1)


def test_when_there_is_no_difference_one_in_twenty_is_called_one() -> None:
    called = 0
    for _ in range(400):
        targets = (RNG.random(120) < 0.4).astype(int)
        shared = RNG.normal(size=120) + targets
        p_value = compare_aurocs(
            targets, shared + RNG.normal(size=120), shared + RNG.normal(size=120), confidence=0.95
        ).p_value
        called += p_value is not None and p_value < 0.05
    assert 8 <= called <= 34  # 20 expected; 99.8 % of all such counts


def test_models_that_rank_alike_differ_by_nothing_and_have_no_p_value() -> None:
    targets, first, _ = two_models(40)
    found = compare_aurocs(targets, first, 3 * first - 1, confidence=0.95)
    assert (found.estimate, found.standard_error, found.low, found.p_value) == (0.0, 0.0, None, None)


def test_too_few_studies_of_a_class_or_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EvaluationError, match="two studies of each class, got 1 and 3"):
        compare_aurocs(np.array([0, 0, 0, 1]), np.arange(4.0), np.arange(4.0), confidence=0.95)
    with pytest.raises(EvaluationError, match="4 and 3 scores do not fit 4 targets"):
        compare_aurocs(np.array([0, 0, 1, 1]), np.arange(4.0), np.arange(3.0), confidence=0.95)
