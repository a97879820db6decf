"""Runs that predict times to an event are compared by the metrics of their own reports, paired by patient."""

from collections.abc import Sequence

import numpy as np
import pytest

from medmllm.errors import EvaluationError
from medmllm.evaluation.comparison import Comparison, better, comparison_remarks
from medmllm.evaluation.concordance import weighted_harrell
from medmllm.evaluation.repeats import Repeat
from medmllm.evaluation.resampling import draw_weights
from medmllm.evaluation.survival_comparison import TimesOutOfFold, compare_times
from medmllm.records import FloatArray
from tests.evaluation.small_survival import HORIZONS, N, arm, evaluated, made_up

FOLLOWED, RISK = made_up()
NOISE = np.random.default_rng(7).normal(size=N)
PATIENTS = [f"pt-{k}" for k in range(N)]


def a_run(name: str, risk: FloatArray) -> TimesOutOfFold:
    said = arm(name, risk)
    return TimesOutOfFold(name, said.log_hazard, said.event_free)


GOOD, POOR = a_run("good", RISK), a_run("poor", RISK + 1.5 * NOISE)


def compare(*runs: TimesOutOfFold, more: Sequence[Repeat[TimesOutOfFold]] = (), samples: int = 200) -> Comparison:
    return compare_times(
        runs, followed=FOLLOWED, patients=PATIENTS, folds=np.arange(N) % 2, horizons=HORIZONS, confidence=0.95,
        samples=samples, seed=1, more=more,
    )  # fmt: skip


def test_a_run_has_the_numbers_of_its_own_report_but_for_the_curve_that_its_table_lacks() -> None:
    found = {metric.name: metric for metric in compare(GOOD, POOR).runs[1].metrics}
    told = {
        metric.name if metric.group == "all" else f"{metric.name}[{metric.group}]": metric
        for metric in evaluated(FOLLOWED, arm("poor", RISK + 1.5 * NOISE)).arms[0].metrics
    }
    assert told.keys() - found.keys() == {"integrated_brier"}
    for name, metric in found.items():
        numbers = (metric.estimate, metric.low, metric.high)
        assert numbers == pytest.approx((told[name].estimate, told[name].low, told[name].high))


def test_differences_are_taken_within_each_resample_of_patients() -> None:
    found = compare(GOOD, POOR, samples=50)
    own = next(one for one in found.differences if one.metric == "c_index")
    weights = np.concatenate([np.ones((1, N)), *draw_weights(PATIENTS, samples=50, seed=1)])
    good, poor = (weighted_harrell(FOLLOWED, run.log_hazard, weights) for run in (GOOD, POOR))
    assert own.interval.estimate == pytest.approx(good[0] - poor[0])
    low, high = np.quantile((good - poor)[1:], [0.025, 0.975])
    assert (own.interval.low, own.interval.high) == pytest.approx((low, high))


def test_the_run_with_the_higher_c_index_and_the_lower_brier_score_is_best() -> None:
    found = compare(POOR, GOOD)
    assert (found.best("c_index"), found.best("brier[2 years]"), found.best("risk_excess[2 years]")) == (
        "good", "good", None,
    )  # fmt: skip
    assert {better(one) for one in found.differences if one.metric == "c_index_uno"} == {"good"}
    assert comparison_remarks(found, confidence=0.95)[0].startswith("good has a higher C-index than every other run")


def test_of_repeats_the_mean_is_compared() -> None:
    again = Repeat([a_run("good", RISK + 0.5 * NOISE[::-1]), a_run("poor", RISK - NOISE)], np.arange(N) % 2)
    metrics = [{metric.name: metric for metric in run.metrics} for run in compare(GOOD, POOR, more=[again]).runs]
    for run, repeated, own in zip((GOOD, POOR), again.arms, metrics, strict=True):
        each = [float(weighted_harrell(FOLLOWED, one.log_hazard, np.ones((1, N)))[0]) for one in (run, repeated)]
        assert own["c_index"].estimate == pytest.approx(np.mean(each))
        assert (own["c_index"].lowest, own["c_index"].highest) == pytest.approx((min(each), max(each)))


def test_one_run_alone_is_no_comparison() -> None:
    with pytest.raises(EvaluationError, match="1 runs named good"):
        compare(GOOD)
