"""Groups of times to an event: each has the numbers of its own studies alone, and those that say nothing are named."""

from itertools import permutations

import numpy as np
import pytest

from medmllm.errors import EvaluationError
from medmllm.evaluation.group_gaps import Subgroups, gap_remarks
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.resampling import draw_weights
from medmllm.evaluation.survival import SurvivalOutOfFold
from medmllm.evaluation.survival_fairness import FEW, evaluate_survival_groups
from medmllm.evaluation.survival_scores import weighted_brier
from medmllm.records import FloatArray
from tests.evaluation.small_survival import HORIZONS, arm

RNG = np.random.default_rng(4)
N = 160
RISK = RNG.normal(-0.5, 1.0, N)
TIMES, LEFT = RNG.exponential(np.exp(-RISK)), RNG.uniform(0.5, 4.0, N)
FOLLOWED = Followed(np.minimum(TIMES, LEFT), TIMES <= LEFT)
PATIENTS = [f"pt-{k // 2}" for k in range(N)]
SEX = [("F", "M")[k // 2 % 2] for k in range(N)]
FEMALE = np.array([sex == "F" for sex in SEX])


BIASED = arm("fused", np.where(FEMALE, RNG.permutation(RISK), RISK))  # guesses on women


def evaluate(
    groups: list[str | None] = SEX,  # type: ignore[assignment]
    *,
    said: SurvivalOutOfFold = BIASED,
    followed: Followed = FOLLOWED,
    **changes: object,
) -> Subgroups:
    settings: dict[str, object] = {
        "column": "sex", "names": None, "followed": followed, "horizons": HORIZONS, "patients": PATIENTS,
        "fewest_patients": 10, "confidence": 0.95, "samples": 200, "seed": 2,
    }  # fmt: skip
    return evaluate_survival_groups(said, groups, **(settings | changes))  # type: ignore[arg-type]


def pairs_in_order(inside: np.ndarray, weights: FloatArray | None = None) -> float:
    """Harrell's C of a group, pair by pair."""
    weight = np.ones(N) if weights is None else weights
    agreeing = comparable = 0.0
    for first, second in permutations(np.flatnonzero(inside), 2):
        if FOLLOWED.event[first] and FOLLOWED.time[first] < FOLLOWED.time[second]:
            comparable += weight[first] * weight[second]
            agreeing += weight[first] * weight[second] * (BIASED.log_hazard[first] > BIASED.log_hazard[second])
    return agreeing / comparable


def test_each_groups_numbers_are_those_of_its_studies_alone() -> None:
    found = evaluate()
    assert [(group.name, group.n, group.patients) for group in found.groups] == [("F", 80, 40), ("M", 80, 40)]
    for group, inside in zip(found.groups, (FEMALE, ~FEMALE), strict=True):
        event = FOLLOWED.event[inside]
        assert group.class_counts == (event.sum(), (~event).sum())
        assert list(group.metrics) == [
            "c_index", "brier[1 year]", "risk_excess[1 year]", "brier[2 years]", "risk_excess[2 years]",
        ]  # fmt: skip
        assert group.metrics["c_index"].estimate == pytest.approx(pairs_in_order(inside))
        own = Followed(FOLLOWED.time[inside], event)
        alone = weighted_brier(own, BIASED.event_free[inside][:, 1:], np.array([2.0]), np.ones((1, 80)))[0, 0]
        assert group.metrics["brier[2 years]"].estimate == pytest.approx(alone)
        for metric in group.metrics.values():
            assert metric.low is not None
            assert metric.high is not None
            assert metric.low < metric.estimate < metric.high  # type: ignore[operator]


def test_the_brier_score_of_a_group_that_was_followed_to_its_end_is_the_mean_squared_error() -> None:
    inside = FEMALE
    followed = Followed(np.where(inside, TIMES, FOLLOWED.time), inside | FOLLOWED.event)  # no woman is censored
    found = evaluate(followed=followed).groups[0].metrics["brier[1 year]"].estimate
    assert found == pytest.approx(np.mean((BIASED.event_free[inside, 0] - (TIMES[inside] > 1.0)) ** 2))


def test_a_gap_is_the_paired_difference_of_the_groups_on_the_same_resamples_of_patients() -> None:
    gap = next(own for own in evaluate(samples=20).gaps if own.name == "c_index_gap")
    men, women = pairs_in_order(~FEMALE), pairs_in_order(FEMALE)
    assert (gap.highest, gap.lowest) == ("M", "F")
    assert gap.difference.estimate == pytest.approx(men - women)
    weights = np.concatenate(list(draw_weights(PATIENTS, samples=20, seed=2)))
    drawn = [pairs_in_order(~FEMALE, own) - pairs_in_order(FEMALE, own) for own in weights]
    assert (gap.difference.low, gap.difference.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_gaps_are_of_the_c_index_and_of_the_largest_horizon() -> None:
    found = evaluate()
    assert [(gap.name, gap.metric) for gap in found.gaps] == [
        ("c_index_gap", "c_index"), ("brier_gap", "brier[2 years]"), ("calibration_gap", "risk_excess[2 years]"),
    ]  # fmt: skip
    upside_down = evaluate(said=arm("fused", np.where(FEMALE, -RISK, RISK)))
    (said, *_) = gap_remarks(upside_down, arm="fused", confidence=0.95, few=FEW)
    assert said.startswith("The fused model does not do alike for all groups of sex: C-index of M lies 0.")


def test_a_group_without_a_comparable_pair_or_with_few_events_is_named_and_not_counted() -> None:
    groups = [None if k < 20 else "Z" if k < 60 else sex for k, sex in enumerate(SEX)]
    place = np.arange(N)
    censored = Followed(FOLLOWED.time, FOLLOWED.event & (place >= 60))  # nobody of Z has the event
    found = evaluate(groups, followed=censored)
    assert found.too_few["c_index"] == ("Z",)
    assert found.groups[-1].metrics["c_index"].estimate is None
    assert {gap.highest for gap in found.gaps if gap.name == "c_index_gap"} <= {"F", "M"}
    last = "Groups of sex with too few patients with the event, or followed so long, to measure C-index: Z."
    assert last in list(gap_remarks(found, arm="fused", confidence=0.95, few=FEW))
    one = Followed(np.where(place == 59, 9.0, FOLLOWED.time), censored.event | (place == 59))
    # The last of Z has the event: more than none, but nobody is left to be compared with it.
    assert evaluate(groups, followed=one, fewest_patients=1).too_few["c_index"] == ("Z",)
    some = Followed(FOLLOWED.time, FOLLOWED.event & ((place >= 60) | (place < 24)))  # of two patients of Z
    assert evaluate(groups, followed=some).too_few["c_index"] == ("Z",)
    assert "c_index" not in evaluate(groups, followed=some, fewest_patients=1).too_few


def test_a_horizon_that_a_groups_last_study_did_not_reach_is_not_measured_in_it() -> None:
    short = Followed(np.where(FEMALE, FOLLOWED.time.clip(max=1.5), FOLLOWED.time),
                     np.where(FEMALE & (FOLLOWED.time >= 1.5), False, FOLLOWED.event))  # fmt: skip
    found = evaluate(followed=short)
    assert found.too_few == {"brier[2 years]": ("F",), "risk_excess[2 years]": ("F",)}
    assert found.groups[0].metrics["brier[1 year]"].estimate is not None
    assert [gap.name for gap in found.gaps] == ["c_index_gap"]


def test_of_repeats_a_groups_metric_is_the_mean() -> None:
    other = arm("fused", RISK)
    both = evaluate(more=[other]).groups[0].metrics["c_index"].estimate
    each = [evaluate(said=own).groups[0].metrics["c_index"].estimate for own in (BIASED, other)]
    assert both == pytest.approx(np.mean(each))  # type: ignore[arg-type]


def test_groups_that_do_not_fit_the_studies_are_refused() -> None:
    with pytest.raises(EvaluationError, match="159 groups for 160 studies"):
        evaluate(SEX[1:])  # type: ignore[arg-type]
