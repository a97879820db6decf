"""Resampling: patients are drawn whole, measures share the draws, and intervals are as wide as they should be."""

import time
from functools import partial
from itertools import product

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm, studentized_range

from medmllm.errors import EvaluationError
from medmllm.evaluation import resampling
from medmllm.evaluation.calibration import weighted_ece
from medmllm.evaluation.discrimination import weighted_auroc
from medmllm.evaluation.resampling import Interval, draw_weights, joint_reach, percentile_interval, resample

PATIENTS = ["a", "b", "a", "c", "b", "a"]


def drawn(samples: int, patients: list[str] = PATIENTS, seed: int = 3) -> np.ndarray:
    return np.concatenate(list(draw_weights(patients, samples=samples, seed=seed)))


def test_a_patient_is_drawn_with_all_its_studies_or_not_at_all() -> None:
    weights = drawn(50)
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all(), "as many patients as there are"
    assert (weights[:, 0] != weights[:, 1]).any()


def test_every_resample_of_patients_is_as_likely_as_with_drawing_one_by_one() -> None:
    # Three patients: of 27 equally likely draws, 1 is (3, 0, 0), 3 are (2, 1, 0), 6 are (1, 1, 1).
    exact = {}
    for one in product(range(3), repeat=3):
        counts = tuple(np.bincount(one, minlength=3).tolist())
        exact[counts] = exact.get(counts, 0) + 1 / 27
    weights = drawn(20_000, ["a", "b", "c"])
    for counts, chance in exact.items():
        share = (weights == counts).all(axis=1).mean()
        assert share == pytest.approx(chance, abs=4 * np.sqrt(chance / 20_000))


def test_the_seed_fixes_the_draws_and_patients_names_and_block_size_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (drawn(9) == drawn(9)).all()
    assert (drawn(9) != drawn(9, seed=4)).any()
    assert (drawn(9, ["z", "y", "z", "x", "y", "z"]) == drawn(9)).all()
    at_once = drawn(9)
    monkeypatch.setattr(resampling, "_CELLS_AT_ONCE", 13)  # two resamples of six studies per block
    assert [len(block) for block in draw_weights(PATIENTS, samples=9, seed=3)] == [2, 2, 2, 2, 1]
    assert (drawn(9) == at_once).all()


def test_a_cohort_larger_than_a_block_still_gives_one_resample_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_CELLS_AT_ONCE", 5)
    assert [len(block) for block in draw_weights(PATIENTS, samples=2, seed=3)] == [1, 1]


def test_the_interval_of_a_mean_is_the_one_of_theory_and_clusters_widen_it() -> None:
    # 100 patients with 4 identical studies each: the mean is as uncertain as that of 100 values, not of 400.
    values = np.repeat(np.random.default_rng(0).normal(size=100), 4)
    targets = np.tile([0, 1], 200)

    def width(patients: list[str]) -> float:
        found = resample(
            {"mean": lambda weights: weights @ values / weights.sum(axis=1)},
            targets=targets,
            patients=patients,
            samples=4000,
            seed=1,
        ).interval("mean", 0.95)
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    theory = 2 * 1.96 * values.std() / np.sqrt(100)
    assert width([f"p{number // 4}" for number in range(400)]) == pytest.approx(theory, rel=0.08)
    assert width([f"p{number}" for number in range(400)]) == pytest.approx(theory / 2, rel=0.08)


def test_a_higher_confidence_widens_the_interval() -> None:
    draws = np.linspace(0, 1, 1001)
    assert percentile_interval(0.4, draws, 0.9) == Interval(0.4, pytest.approx(0.05), pytest.approx(0.95), 0)
    assert percentile_interval(0.4, draws, 0.5) == Interval(0.4, pytest.approx(0.25), pytest.approx(0.75), 0)


def test_the_basic_interval_holds_the_true_calibration_error_where_percentiles_lie_above_it() -> None:
    # Log-odds z that should be z / 3: with many studies the binned error is that of their true chances.
    many = np.random.default_rng(0).normal(0, 1.5, 1_000_000)
    place = np.minimum((expit(many) * 10).astype(int), 9)
    truth = float(np.abs(np.bincount(place, expit(many / 3) - expit(many), 10)).sum()) / len(many)
    patients, held = [f"p{k}" for k in range(60)], {"basic": 0, "percentile": 0}
    for seed in range(80):
        rng = np.random.default_rng(seed)
        z = rng.normal(0, 1.5, 60)
        event = rng.random(60) < expit(z / 3)
        drawn = resample(
            {"ece": partial(weighted_ece, event, expit(z))},
            targets=event * 1,
            patients=patients,
            samples=200,
            seed=seed,
        )
        for kind in held:
            found = drawn.interval("ece", 0.95, leans_upwards=kind == "basic")
            assert found.low is not None
            assert found.high is not None
            held[kind] += found.low <= truth <= found.high
    assert held["basic"] > 80 * 0.8
    assert held["percentile"] < 80 * 0.6


def test_draws_that_are_not_defined_are_left_out_and_counted() -> None:
    draws = np.array([1.0, np.nan, 3.0, 2.0])
    assert percentile_interval(2.0, draws, 0.5) == Interval(2.0, 1.5, 2.5, 1)


def test_with_most_draws_undefined_or_none_at_all_there_is_no_interval() -> None:
    assert percentile_interval(2.0, np.array([1.0, np.nan, 3.0, np.nan]), 0.5).low == 1.5  # half is enough
    assert percentile_interval(2.0, np.array([1.0, np.nan, np.nan]), 0.5) == Interval(2.0, None, None, 2)
    assert percentile_interval(2.0, np.array([]), 0.5) == Interval(2.0, None, None, 0)


def test_an_estimate_that_is_not_defined_has_no_interval_either() -> None:
    assert percentile_interval(float("nan"), np.array([1.0, 2.0]), 0.5) == Interval(None, None, None, 0)


def test_resamples_that_lack_a_class_are_skipped_for_every_measure_and_counted() -> None:
    # One positive patient among three: it is absent with chance (2/3)^3 = 8/27; all three are it with 1/27.
    targets = np.array([1, 0, 0])
    found = resample(
        {"size": lambda weights: weights.sum(axis=1)},
        targets=targets,
        patients=["a", "b", "c"],
        samples=5000,
        seed=2,
    )
    weights = drawn(5000, ["a", "b", "c"], seed=2)
    expected = int(((weights[:, 0] == 0) | (weights[:, 0] == 3)).sum())
    assert found.lacking_a_class == expected
    assert expected / 5000 == pytest.approx(9 / 27, abs=0.03)
    assert np.isnan(found.draws["size"]).sum() == expected
    assert found.interval("size", 0.9) == Interval(3.0, 3.0, 3.0, expected)


def test_a_class_index_that_nobody_has_does_not_skip_every_resample() -> None:
    found = resample(
        {"size": lambda weights: weights.sum(axis=1)},
        targets=np.array([0, 2, 0, 2]),
        patients=["a", "a", "b", "b"],
        samples=20,
        seed=2,
    )
    assert found.lacking_a_class == 0


def test_where_every_resample_lacks_a_class_there_is_an_estimate_and_no_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "draw_weights", lambda *_, **__: iter([np.array([[2.0, 0.0], [2.0, 0.0]])]))
    found = resample(
        {"size": lambda weights: weights.sum(axis=1)},
        targets=np.array([0, 1]),
        patients=["a", "b"],
        samples=2,
        seed=0,
    )
    assert found.interval("size", 0.9) == Interval(2.0, None, None, 2)


def test_differences_are_paired_so_equal_arms_differ_by_nothing() -> None:
    generator = np.random.default_rng(5)
    targets = np.array([0, 1] * 30)
    scores = generator.normal(size=60) + targets
    better = scores + 0.2 * targets
    patients = [f"p{number // 2}" for number in range(60)]
    found = resample(
        {
            "one": lambda weights: weighted_auroc(targets == 1, scores, weights),
            "same": lambda weights: weighted_auroc(targets == 1, scores * 3 + 1, weights),
            "better": lambda weights: weighted_auroc(targets == 1, better, weights),
        },
        targets=targets,
        patients=patients,
        samples=300,
        seed=7,
    )
    assert found.difference("same", "one", 0.95) == Interval(0.0, 0.0, 0.0, 0)
    gain = found.difference("better", "one", 0.95)
    assert gain.estimate == pytest.approx(found.estimates["better"] - found.estimates["one"])
    assert gain.low is not None
    assert gain.low > 0, "raising every positive raises the AUROC in every resample"
    alone = found.interval("better", 0.95)
    assert alone.low is not None
    assert alone.low < found.estimates["one"], "unpaired, the intervals overlap"


@pytest.mark.parametrize(("targets", "patients"), [([], []), ([0, 1], ["a"])])
def test_a_cohort_without_a_patient_for_each_study_is_refused(targets: list[int], patients: list[str]) -> None:
    with pytest.raises(EvaluationError, match="one each per study"):
        resample({}, targets=np.array(targets, int), patients=patients, samples=1, seed=0)


def test_two_thousand_resamples_of_a_thousand_studies_take_seconds() -> None:
    targets = np.random.default_rng(0).integers(0, 2, 1000)
    scores = np.random.default_rng(1).random(1000)
    start = time.process_time()
    resample(
        {"auroc": lambda weights: weighted_auroc(targets == 1, scores, weights)},
        targets=targets,
        patients=[f"p{number // 2}" for number in range(1000)],
        samples=2000,
        seed=0,
    )
    assert time.process_time() - start < 3


def test_of_one_measure_the_reach_is_that_of_its_own_interval() -> None:
    draws = np.random.default_rng(1).normal(size=(1, 40_000))
    assert joint_reach(draws, 0.95) == pytest.approx(norm.ppf(0.975), abs=0.02)
    assert np.isnan(joint_reach(np.array([[0.5] * 9, [np.nan] * 9]), 0.95)), "nothing varies"


def test_of_measures_that_know_nothing_of_each_other_the_reach_is_sidaks() -> None:
    draws = np.random.default_rng(2).normal(size=(6, 40_000)) * np.array([[1], [1], [50], [1], [0.1], [1]])
    sidak = norm.ppf((1 + 0.9 ** (1 / 6)) / 2)
    assert joint_reach(draws, 0.9) == pytest.approx(sidak, abs=0.02)
    same = np.repeat(draws[1:2], 6, axis=0)  # the same measure six times is one measure
    assert joint_reach(same, 0.9) == pytest.approx(norm.ppf(0.95), abs=0.02)
    constant = np.concatenate([draws, np.full((1, 40_000), 3.0)])
    assert joint_reach(constant, 0.9) == joint_reach(draws, 0.9)
    draws[0, ::2] = np.nan  # every second resample tells of the five others
    each = brentq(lambda level: (level**5 + level**6) / 2 - 0.9, 0.9, 1.0)
    assert joint_reach(draws, 0.9) == pytest.approx(norm.ppf((1 + each) / 2), abs=0.02)


def test_few_resamples_tell_how_far_the_range_of_eight_means_reaches() -> None:
    # Tukey's studentised range, divided by the square root of 2: what all 28 differences of eight means reach.
    draws = np.random.default_rng(5).normal(size=(8, 300))
    pairs = np.stack([draws[k] - draws[m] for k in range(8) for m in range(k)])
    assert joint_reach(pairs, 0.95) == pytest.approx(studentized_range.ppf(0.95, 8, np.inf) / np.sqrt(2), abs=0.15)
