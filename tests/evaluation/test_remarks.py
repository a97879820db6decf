"""Remarks: each sentence appears when its number calls for it, and not when it does not."""

from dataclasses import replace

import numpy as np
import pytest

from medmllm.evaluation.calibration import to_probabilities
from medmllm.evaluation.cohort import OutOfFold, evaluate_arms
from medmllm.evaluation.remarks import remarks
from medmllm.records import ArmEvaluation, CohortEvaluation, Metric


def metric(name: str, estimate: float | None, low: float | None, high: float | None, group: str = "all") -> Metric:
    return Metric(name, estimate, low, high, 300, 260, group)


def cohort(**changes: object) -> CohortEvaluation:
    """A large cohort in which all is as it should be; changes name a metric of the fused arm or a field."""
    fused = {
        "auroc": metric("auroc", 0.84, 0.78, 0.9),
        "calibration_slope": metric("calibration_slope", 0.95, 0.8, 1.15),
        "calibration_intercept": metric("calibration_intercept", 0.02, -0.2, 0.25),
    }
    fields = {key: value for key, value in changes.items() if key not in fused}
    fused |= {key: value for key, value in changes.items() if key in fused}  # type: ignore[misc]
    good = CohortEvaluation(
        classes=("benign", "malignant"),
        n=300,
        patients=260,
        class_counts=(160, 140),
        arms=(
            ArmEvaluation("image", (metric("auroc", 0.7, 0.62, 0.78),)),
            ArmEvaluation("fused", tuple(fused.values())),
        ),
        differences=(metric("auroc", 0.14, 0.05, 0.19, "image"),),
        class_patients=(140, 125),
    )
    return replace(good, **fields)  # type: ignore[arg-type]


def said(evaluation: CohortEvaluation, confidence: float = 0.95, samples: int = 2000) -> list[str]:
    return list(remarks(evaluation, confidence=confidence, samples=samples))


def test_an_estimate_outside_of_its_interval_is_said_once_per_metric_with_the_reason() -> None:
    high, low = metric("ece", 0.127, 0.0, 0.12), metric("brier", 0.2, 0.21, 0.25, "365 days")
    arms = (ArmEvaluation("image", (high, low)), ArmEvaluation("text", (high, metric("ece", 0.1, 0.1, 0.2))))
    found = said(cohort(arms=arms, differences=()))
    assert found == [
        "An estimate of the ECE lies outside of its 95 % interval (image arm: 0.127 against 0.000 to 0.120; text arm: "
        "0.127 against 0.000 to 0.120): noise alone makes it too large in small cohorts, and the interval takes that "
        "off.",
        "An estimate of the Brier score lies outside of its 95 % interval (image arm at 365 days: 0.200 against 0.210 "
        "to 0.250): resampling shifts this measure, so take neither as exact.",
    ]


def test_an_interval_without_width_is_no_certainty() -> None:
    own = metric("sensitivity", 1.0, 1.0, 1.0)
    arms = (ArmEvaluation("image", (own, metric("brier", 0.1, 0.05, 0.15))), ArmEvaluation("fused", (own,)))
    assert said(cohort(arms=arms, differences=())) == [
        "No resample changes the sensitivity of the image arm (1.000), sensitivity of the fused arm (1.000): an "
        "interval without width does not tell how far other patients would."
    ]


def test_what_no_resample_changes_is_called_as_it_is_written_and_each_horizon_apart() -> None:
    names = ("auroc", "auroc_within_folds", "brier", "brier")
    own = [metric(name, 1.0, 1.0, 1.0, group) for name, group in zip(names, ("all", "all", "1 y", "2 y"), strict=True)]
    sentence = said(cohort(arms=(ArmEvaluation("text", tuple(own)),), differences=()))[-1]
    told = ("AUROC", "AUROC within folds", "Brier score at 1 y", "Brier score at 2 y")
    assert sentence.startswith(
        f"No resample changes the {', '.join(f'{one} of the text arm (1.000)' for one in told)}:"
    )


def test_what_only_rounding_tells_apart_is_one_number() -> None:
    chances = to_probabilities(np.zeros((7, 3)))  # says the same of all: every resample comes to the log of 3
    same = OutOfFold("text", chances, np.zeros((7, 3)), np.zeros(7, dtype=np.int64))
    found = evaluate_arms(
        [same],
        targets=np.array([0, 0, 1, 1, 2, 2, 2]),
        patients=list("abcdefg"),
        folds=np.zeros(7, dtype=np.int64),
        classes=("a", "b", "c"),
        confidence=0.95,
        samples=100,
        seed=1,
    )
    loss = next(own for own in found.arms[0].metrics if own.name == "log_loss")
    assert loss.estimate == pytest.approx(np.log(3))
    lines = said(found, samples=100)
    assert not any("outside" in line for line in lines)
    assert any("log loss of the text arm (1.099)" in line for line in lines if line.startswith("No resample changes"))
    moved = metric("brier", 0.3, 0.2, np.nextafter(0.3, 0))
    assert said(cohort(arms=(ArmEvaluation("text", (moved,)),), differences=())) == []


def test_numbers_that_are_in_order_call_for_no_remark() -> None:
    assert said(cohort()) == []


@pytest.mark.parametrize(("low", "high"), [(-0.02, 0.12), (0.0, 0.2), (-0.1, 0.0)])
def test_a_difference_whose_interval_contains_zero_is_no_gain(low: float, high: float) -> None:
    (sentence,) = said(cohort(differences=(metric("auroc", 0.05, low, high, "image"),)))
    assert sentence == (
        "Fused does not beat image-only: the 95 % interval of the AUROC difference contains 0 "
        f"({low:+.3f} to {high:+.3f})."
    )


def test_a_difference_below_zero_is_said_to_be_worse() -> None:
    (sentence,) = said(cohort(differences=(metric("auroc", -0.05, -0.09, -0.01, "text"),)))
    assert sentence.startswith("Fused is worse than text-only")


def test_a_difference_without_an_interval_cannot_be_told() -> None:
    (sentence,) = said(cohort(differences=(metric("auroc", 0.05, None, None, "text"),)))
    assert sentence == "Whether fused beats text-only cannot be told: the AUROC difference has no interval."


def test_differences_none_of_which_is_defined_break_nothing() -> None:
    (sentence,) = said(cohort(differences=(metric("auroc", None, None, None, "text"),)))
    assert sentence.startswith("Whether fused beats text-only cannot be told")


@pytest.mark.parametrize(("auroc", "count"), [(0.97, 0), (0.98, 1), (1.0, 1)])
def test_an_auroc_near_one_calls_for_a_look_for_a_leak(auroc: float, count: int) -> None:
    found = said(cohort(auroc=metric("auroc", auroc, 0.9, 1.0)))
    assert sum("look for a leak" in sentence for sentence in found) == count == len(found)
    assert all(sentence.startswith("AUROC of the fused arm is") for sentence in found)


@pytest.mark.parametrize(("gain", "count"), [(0.19, 0), (0.2, 1)])
def test_so_large_a_gain_is_a_leak_until_shown_otherwise(gain: float, count: int) -> None:
    found = said(cohort(differences=(metric("auroc", gain, 0.1, 0.3, "image"),)))
    assert len(found) == count
    assert all("a leak until shown otherwise" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("over_image", "over_text", "named"),
    [
        (0.0, 0.4, []),  # the note tells nothing, the image all: no leak
        (0.4, 0.0, ["image"]),  # the note tells all: it may give the answer away
        (0.3, 0.25, ["image", "text"]),
    ],
)
def test_a_gain_is_a_leak_over_the_best_single_arm_or_over_images(
    over_image: float, over_text: float, named: list[str]
) -> None:
    gains = tuple(metric("auroc", own, 0.001, 0.5, arm) for arm, own in (("image", over_image), ("text", over_text)))
    found = [sentence for sentence in said(cohort(differences=gains)) if "leak until shown otherwise" in sentence]
    assert [sentence.partition("over ")[2].partition("-only")[0] for sentence in found] == named


def test_one_patient_is_one_patient_and_none_are_none() -> None:
    one, none = (said(cohort(class_patients=(140, patients))) for patients in (1, 0))
    assert one[0].startswith("Class malignant has 1 patient, fewer than 10")
    assert one[1].startswith("The smallest class has 1 patient; below 100")
    assert none[0].startswith("Class malignant has 0 patients, fewer than 10")
    arms = (ArmEvaluation("image", (metric("c_index", 0.7, 0.6, 0.8),)),)
    timed = said(cohort(classes=("death", "censored"), class_patients=(1,), arms=arms, differences=()))
    assert timed[1].startswith("1 patient has the event; below 100")


@pytest.mark.parametrize(("patients", "count"), [(9, 1), (10, 0)])
def test_fewer_than_ten_patients_of_a_class_allow_no_conclusion(patients: int, count: int) -> None:
    found = said(cohort(class_patients=(140, patients)))
    assert sum(f"Class malignant has {patients} patients, fewer than 10" in sentence for sentence in found) == count


@pytest.mark.parametrize(("patients", "count"), [(99, 1), (100, 0)])
def test_fewer_than_a_hundred_patients_make_calibration_rough(patients: int, count: int) -> None:
    found = said(cohort(class_patients=(patients, 140)))
    assert len(found) == count
    assert all(f"The smallest class has {patients} patients" in sentence for sentence in found)
    assert all(sentence.endswith("calibration slope and intercept are rough.") for sentence in found)
    grades = (ArmEvaluation("text", (metric("auroc", 0.8, 0.7, 0.9), metric("ece", 0.05, 0.02, 0.08))),)
    without_a_slope = said(cohort(class_patients=(patients, 140), arms=grades, differences=()))
    assert [line.rpartition(" per class ")[2] for line in without_a_slope] == ["all calibration is rough."] * count


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.5, 0.7, "is not shown to beat chance"), (0.41, 0.49, "is worse than chance"), (0.501, 0.7, None)],
)
def test_an_arm_no_better_than_chance_is_called_so(low: float, high: float, words: str | None) -> None:
    found = said(cohort(auroc=metric("auroc", (low + high) / 2, low, high)))
    assert [sentence for sentence in found if "chance" in sentence] == found
    assert len(found) == (words is not None)
    assert all(sentence.startswith(f"The fused arm {words}") for sentence in found)


@pytest.mark.parametrize(("low", "high", "words"), [(0.3, 0.8, "too extreme"), (1.2, 1.8, "too timid"), (1, 1.4, None)])
def test_a_slope_away_from_one_says_in_which_direction(low: float, high: float, words: str | None) -> None:
    found = said(cohort(calibration_slope=metric("calibration_slope", (low + high) / 2, low, high)))
    assert len(found) == (words is not None)
    assert all(f"Probabilities of the fused arm are {words}:" in sentence for sentence in found)


def test_no_number_is_said_to_be_less_than_nothing_by_rounding() -> None:
    slope = metric("calibration_slope", -0.0004, -0.001, 0.001)
    intercept, flat = metric("calibration_intercept", 0.4, 0.3, 0.5), metric("sensitivity", -0.0, -0.0, -0.0)
    lines = said(cohort(arms=(ArmEvaluation("image", (slope, intercept, flat)),), differences=()))
    assert any("slope is 0.00 to 0.00, 1 is right" in line for line in lines)
    assert any("sensitivity of the image arm (0.000)" in line for line in lines)
    gain = metric("auroc", -0.0004, -0.0004, 0.2, "image")
    assert any("contains 0 (+0.000 to +0.200)" in line for line in said(cohort(differences=(gain,))))


def test_a_slope_that_does_not_exist_is_said() -> None:
    (sentence,) = said(cohort(calibration_slope=metric("calibration_slope", None, None, None)))
    assert sentence == "The calibration slope of the fused arm cannot be estimated with an interval."


@pytest.mark.parametrize(
    ("low", "high", "words"), [(-0.9, -0.1, "too high"), (0.1, 0.9, "too low"), (-0.1, 0, None), (0, 0.1, None)]
)
def test_an_intercept_away_from_zero_says_in_which_direction(low: float, high: float, words: str | None) -> None:
    found = said(cohort(calibration_intercept=metric("calibration_intercept", (low + high) / 2, low, high)))
    assert len(found) == (words is not None)
    assert all(f"are {words} on average" in sentence for sentence in found)
    missing = cohort(calibration_intercept=metric("calibration_intercept", None, None, None))
    assert said(missing) == []


@pytest.mark.parametrize(("lacking", "count"), [(20, 0), (21, 1)])
def test_many_resamples_without_a_class_make_the_intervals_rough(lacking: int, count: int) -> None:
    found = said(cohort(resamples_lacking_a_class=lacking), samples=2000)
    assert (
        found == ["21 of 2000 bootstrap resamples lacked a class and were left out: the intervals are rough."] * count
    )


@pytest.mark.parametrize(("confidence", "words"), [(0.9, "the 90 % interval"), (0.975, "the 97.5 % interval")])
def test_the_level_of_the_interval_is_stated(confidence: float, words: str) -> None:
    no_gain = cohort(differences=(metric("auroc", 0.05, -0.1, 0.2, "image"),))
    assert words in said(no_gain, confidence=confidence)[0]


def test_the_most_serious_remark_comes_first_and_undefined_numbers_break_nothing() -> None:
    found = said(
        cohort(
            class_patients=(4, 140),
            auroc=metric("auroc", None, None, None),
            differences=(metric("auroc", None, None, None, "image"),),
        )
    )
    assert found[0].startswith("Class benign has 4 patients")
    assert found[-1].startswith("Whether fused beats image-only cannot be told")
