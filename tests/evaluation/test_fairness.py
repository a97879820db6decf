"""Metrics of a group are those of its studies alone; a gap is the largest difference, paired, with its interval."""

import numpy as np
import pytest
from scipy.stats import fisher_exact
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from medmllm.errors import EvaluationError
from medmllm.evaluation.calibration import expected_calibration_error, to_probabilities, weighted_ece
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.fairness import GAPS, evaluate_groups
from medmllm.evaluation.group_gaps import Gap, Subgroups, gap_remarks
from medmllm.evaluation.resampling import draw_weights

RNG = np.random.default_rng(8)
N = 240
TARGETS = np.array([0, 1, 0, 1, 0, 0, 0, 0] * 30)  # of two men what two women have
PATIENTS = [f"pt-{number // 2}" for number in range(N)]
SEX = [("F", "M")[number // 2 % 2] for number in range(N)]
FEMALE = np.array([sex == "F" for sex in SEX])


def arm(strength: np.ndarray, noise: np.ndarray) -> OutOfFold:
    logits = noise + strength * (TARGETS - 0.5)
    return OutOfFold("fused", to_probabilities(logits), logits, (logits >= 0.3).astype(int))


BIASED = arm(np.where(FEMALE, 0.0, 3.0), RNG.normal(size=N))  # guesses on women
FAIR = arm(np.full(N, 2.0), RNG.normal(size=(N // 4, 1, 2)).repeat(2, axis=1).ravel())  # each man like a woman


def evaluate(found: OutOfFold = BIASED, groups: list[str | None] = SEX, **changes: object) -> Subgroups:  # type: ignore[assignment]
    settings: dict[str, object] = {
        "column": "sex", "targets": TARGETS, "patients": PATIENTS, "fewest_patients": 10, "confidence": 0.95,
        "samples": 300, "seed": 2,
    }  # fmt: skip
    return evaluate_groups(found, groups, **(settings | changes))  # type: ignore[arg-type]


def gap(found: Subgroups, name: str) -> Gap:
    return next(own for own in found.gaps if own.name == name)


def test_each_groups_numbers_are_those_of_its_studies_alone() -> None:
    found = evaluate()
    assert [(group.name, group.n, group.patients) for group in found.groups] == [("F", 120, 60), ("M", 120, 60)]
    for group, inside in zip(found.groups, (FEMALE, ~FEMALE), strict=True):
        target, chance, predicted = TARGETS[inside], BIASED.probabilities[inside, 1], BIASED.predicted[inside]
        estimates = {name: metric.estimate for name, metric in group.metrics.items()}
        assert group.class_counts == ((target == 0).sum(), (target == 1).sum())
        assert estimates == pytest.approx(
            {
                "auroc": roc_auc_score(target, chance),
                "sensitivity": recall_score(target, predicted),
                "specificity": recall_score(target, predicted, pos_label=0),
                "ece": expected_calibration_error(target == 1, chance),
                "calibration_excess": target.mean() - chance.mean(),
            }
        )
        for metric in group.metrics.values():
            assert metric.low is not None
            assert metric.high is not None
            assert metric.low < metric.estimate < metric.high  # type: ignore[operator]
        weights = np.concatenate(list(draw_weights(PATIENTS, samples=300, seed=2)))[:, inside]
        low = np.quantile(weighted_ece(target == 1, chance, weights), 0.025)
        assert group.metrics["ece"].high == pytest.approx(2 * estimates["ece"] - low)  # a basic interval


def test_a_gap_names_the_two_groups_furthest_apart_and_an_interval_around_their_difference() -> None:
    found = evaluate()
    assert [own.name for own in found.gaps] == [name for name in GAPS if name != "accuracy_gap"]
    own = gap(found, "auroc_gap")
    women, men = found.groups[0].metrics["auroc"].estimate, found.groups[1].metrics["auroc"].estimate
    assert women is not None
    assert men is not None
    assert (own.highest, own.lowest) == ("M", "F")
    assert own.difference.estimate == pytest.approx(men - women)
    assert own.difference.low is not None
    assert 0.2 < own.difference.low < men - women
    for own in evaluate(FAIR).gaps:
        assert own.difference.estimate == pytest.approx(0.0)
        assert own.difference.low is not None
        assert own.difference.low < 0


def test_three_classes_are_measured_by_auroc_accuracy_and_the_calibration_of_the_top_class() -> None:
    targets = np.arange(N) % 3
    logits = RNG.normal(size=(N, 3)) + 2.0 * np.eye(3)[targets]
    found = OutOfFold("fused", to_probabilities(logits), logits, logits.argmax(axis=1))
    first = evaluate(found, targets=targets).groups[0]
    own = found.probabilities[FEMALE]
    right = own.argmax(axis=1) == targets[FEMALE]
    assert {name: metric.estimate for name, metric in first.metrics.items()} == pytest.approx(
        {
            "auroc": roc_auc_score(targets[FEMALE], own, multi_class="ovr"),
            "accuracy": accuracy_score(targets[FEMALE], found.predicted[FEMALE]),
            "ece": expected_calibration_error(right, own.max(axis=1)),
            "calibration_excess": right.mean() - own.max(axis=1).mean(),
        }
    )


def test_small_groups_are_named_with_their_patients_and_studies_of_no_group_counted() -> None:
    groups: list[str | None] = [("F", "M")[number // 2 % 2] for number in range(N)]
    groups[:18] = ["X"] * 18  # nine patients
    groups[18:21] = [None] * 3
    found = evaluate(groups=groups)
    assert [group.name for group in found.groups] == ["F", "M"]
    assert (found.too_small, found.unknown) == ({"X": 9}, 3)
    assert [group.name for group in evaluate(groups=groups, fewest_patients=9).groups] == ["F", "M", "X"]
    with pytest.raises(EvaluationError, match="239 groups for 240 studies"):
        evaluate(groups=groups[1:])


def test_bands_that_are_too_small_are_named_in_their_order() -> None:
    names = ("below 40", "40 to below 65", "65 and above", "beyond")  # not that of the alphabet
    groups = [names[0 if n < 8 else 1 if n < 16 else 2] for n in range(N)]
    found = evaluate(groups=groups, names=names)
    assert list(found.too_small.items()) == [("below 40", 4), ("40 to below 65", 4)]


def test_a_share_of_a_class_with_few_patients_in_a_group_is_not_measured_has_no_part_in_a_gap_and_is_named() -> None:
    positive = [number for number, target in enumerate(TARGETS) if target]
    few = {PATIENTS[number] for number in positive[:6]}  # each has one positive study
    groups: list[str | None] = [
        "X" if PATIENTS[n] in few or n % 16 > 13 else SEX[n] for n in range(N)
    ]  # and some without it
    found = evaluate(FAIR, groups, fewest_patients=7)
    last = found.groups[-1]
    assert (last.name, last.metrics["sensitivity"].estimate, last.metrics["sensitivity"].low) == ("X", None, None)
    assert last.metrics["specificity"].estimate is not None
    assert found.too_few == {"auroc": ("X",), "sensitivity": ("X",)}
    assert last.metrics["auroc"].estimate is None
    own = gap(found, "true_positive_rate_gap")
    assert {own.highest, own.lowest} == {"F", "M"}
    assert list(gap_remarks(found, arm="fused", confidence=0.95))[-2:] == [
        f"Groups of sex with too few patients of a class to measure {metric}: X." for metric in ("AUROC", "sensitivity")
    ]
    enough = evaluate(FAIR, groups, fewest_patients=6)
    assert (enough.too_few, enough.groups[-1].metrics["sensitivity"].estimate is None) == ({}, False)


def test_studies_of_one_patient_are_one_patient_of_a_class() -> None:
    patients = [
        "pt-same" if target and sex == "F" else own for target, sex, own in zip(TARGETS, SEX, PATIENTS, strict=True)
    ]
    found = evaluate(FAIR, patients=patients, fewest_patients=2)  # 30 positive studies of women, of one patient
    assert found.too_few == {"auroc": ("F",), "sensitivity": ("F",)}
    assert not {"true_positive_rate_gap", "auroc_gap"} & {own.name for own in found.gaps}


@pytest.mark.parametrize(("ordered", "label", "counts"), [(False, 1, True), (True, 1, False), (True, 2, True)])
def test_an_auroc_of_more_classes_rests_on_all_of_them_and_of_grades_on_the_lowest_and_highest(
    ordered: bool, label: int, counts: bool
) -> None:
    targets = np.arange(N) % 3
    few = np.flatnonzero((targets == label) & FEMALE)[3:]
    targets[few] = (label + 1) % 2  # of the women three or fewer patients are left of the class
    logits = RNG.normal(size=(N, 3)) + 2.0 * np.eye(3)[targets]
    found = evaluate(OutOfFold("fused", to_probabilities(logits), logits, targets), targets=targets, ordered=ordered)
    assert found.too_few == ({"auroc": ("F",)} if counts else {})
    assert ("auroc_gap" in [own.name for own in found.gaps]) is not counts


def test_a_group_with_one_class_has_no_auroc_and_does_not_spoil_the_others() -> None:
    groups: list[str | None] = ["sick" if target else SEX[number] for number, target in enumerate(TARGETS)]
    found = {group.name: group for group in evaluate(FAIR, groups).groups}
    assert found["sick"].metrics["auroc"].estimate is None
    assert found["sick"].metrics["specificity"].estimate is None
    assert found["sick"].metrics["sensitivity"].estimate is not None
    assert evaluate(FAIR, ["F"] * N).gaps == (), "one group has no gap"


def test_remarks_name_gaps_whose_interval_lies_above_0_and_groups_too_small() -> None:
    said = list(gap_remarks(evaluate(), arm="fused", confidence=0.95))
    assert any(
        line.startswith("The fused model does not do alike for all groups of sex: AUROC of M lies") for line in said
    )
    assert list(gap_remarks(evaluate(FAIR), arm="fused", confidence=0.95)) == []
    groups: list[str | None] = ["F"] * (N - 2) + ["X"] * 2
    assert list(gap_remarks(evaluate(FAIR, groups), arm="fused", confidence=0.95)) == [
        "Groups of sex with too few patients to be shown: X."
    ]


def test_of_several_repeats_groups_and_gaps_are_means_over_them() -> None:
    # The first repeat guesses on women, the others on men, so that the mean gap is that of one of them.
    other = arm(np.where(FEMALE, 3.0, 0.0), RNG.normal(size=N))
    found = evaluate(more=(other, other))
    each = [evaluate(), evaluate(other), evaluate(other)]
    for number, group in enumerate(found.groups):
        assert group.n == 120
        for name, metric in group.metrics.items():
            own = [one.groups[number].metrics[name].estimate for one in each]
            assert metric.estimate == pytest.approx(np.mean([value for value in own if value is not None]))
    own = gap(found, "auroc_gap")
    women, men = (group.metrics["auroc"].estimate for group in found.groups)
    assert women is not None
    assert men is not None
    assert (own.highest, own.lowest) == ("F", "M")
    assert own.difference.estimate == pytest.approx(women - men)
    weights = np.concatenate(list(draw_weights(PATIENTS, samples=300, seed=2)))
    draws = np.zeros(300)
    for said in (BIASED, other, other):
        for inside, sign in ((FEMALE, 1), (~FEMALE, -1)):
            chance = said.probabilities[inside, 1]
            draws += sign / 3 * np.array([
                roc_auc_score(TARGETS[inside], chance, sample_weight=row[inside]) for row in weights
            ])  # fmt: skip
    assert (own.difference.low, own.difference.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_one_patient_of_a_class_does_not_make_a_gap_in_auroc() -> None:
    found = 0
    for seed in range(20):  # a model that does alike for all: about 1 of them may find a gap by chance, 13 did
        rng = np.random.default_rng(seed)
        targets = np.array([0] * 60 + [1] * 40 + [0] * 40 + [1])
        logits = rng.normal(size=targets.size) + 1.2 * targets
        same = OutOfFold("fused", to_probabilities(logits), logits, (logits > 0.6).astype(int))
        patients = [f"pt-{k}" for k in range(targets.size)]
        groups: list[str | None] = ["A"] * 100 + ["B"] * 41
        told = evaluate(same, groups, targets=targets, patients=patients)
        found += any("AUROC" in line and "alike" in line for line in gap_remarks(told, arm="fused", confidence=0.95))
    assert found <= 3


def test_a_group_of_whom_none_was_found_has_no_interval_and_makes_no_gap() -> None:
    positives = {"A": (5, 12), "B": (0, 10)}  # found, of how many
    assert fisher_exact([(5, 7), (0, 10)]).pvalue > 0.03  # two of such tests in a hundred find as much by chance
    targets, predicted, groups = [], [], []
    for name, (hit, of) in positives.items():
        targets += [1] * of + [0] * 30
        predicted += [1] * hit + [0] * (of - hit) + [0] * 27 + [1] * 3
        groups += [name] * (of + 30)
    said = np.where(np.array(predicted) == 1, 0.5, -0.5)
    found = OutOfFold("fused", to_probabilities(said), said, np.array(predicted))
    patients = [f"pt-{k}" for k in range(len(groups))]
    told = evaluate(found, groups, targets=np.array(targets), patients=patients)
    sensitivity = {group.name: group.metrics["sensitivity"] for group in told.groups}
    assert sensitivity["B"].estimate == 0
    assert (sensitivity["B"].low, sensitivity["B"].high) == (None, None)  # not 0 to 0, of ten patients
    assert sensitivity["A"].low is not None
    rate = gap(told, "true_positive_rate_gap").difference
    assert rate.estimate == pytest.approx(5 / 12)
    assert (rate.low, rate.high) == (None, None)
    assert not any("sensitivity" in line for line in gap_remarks(told, arm="fused", confidence=0.95))


@pytest.mark.parametrize("ordered", [False, True])
def test_the_auroc_of_grades_does_without_a_class_between_that_of_classes_does_not(ordered: bool) -> None:
    targets = np.where((TARGETS == 1) & (np.arange(N) % 16 == 1), 1, 2 * TARGETS)  # 1 of women alone
    chances = to_probabilities(RNG.normal(size=(N, 3)) + np.eye(3)[targets])
    three = OutOfFold("fused", chances, np.log(chances), chances.argmax(axis=1))
    found = evaluate(three, targets=targets, ordered=ordered)
    assert found.too_few == ({} if ordered else {"auroc": ("M",)})


def test_the_interval_between_the_furthest_of_many_groups_allows_for_their_choice() -> None:
    found = 0
    for seed in range(15):  # a model that does alike for all: of 15 gaps one may be found by chance, 7 were
        rng = np.random.default_rng(seed)
        targets = (rng.random(400) < 0.4).astype(int)
        logits = rng.normal(size=400) + 1.2 * targets
        same = OutOfFold("fused", to_probabilities(logits), logits, (logits > 0.6).astype(int))
        eight: list[str | None] = [str(k % 8) for k in range(400)]
        patients = [f"pt-{k}" for k in range(400)]
        own = gap(evaluate(same, eight, targets=targets, patients=patients, samples=600), "calibration_gap")
        assert own.difference.low is not None
        found += own.difference.low > 0
    assert found <= 3
