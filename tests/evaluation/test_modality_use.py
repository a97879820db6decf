"""What a model takes from a modality is what its AUROC loses without it; `ignored` and `used` want evidence."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.evaluation.calibration import to_probabilities
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.modality_use import Deprived, ModalityUse, Probed, evaluate_use, use_remarks, verdict
from medmllm.evaluation.resampling import Interval, draw_weights

RNG = np.random.default_rng(4)
N = 120
TARGETS = np.array([0, 0, 1] * 40)
PATIENTS = [f"pt-{number // 2}" for number in range(N)]
LOGITS = RNG.normal(size=N) + 3.0 * TARGETS
ARM = OutOfFold("fused", to_probabilities(LOGITS), LOGITS, (LOGITS > 0).astype(int))
SHUFFLED = np.stack([to_probabilities(RNG.permutation(LOGITS)) for _ in range(3)])
KEPT = np.stack([ARM.probabilities] * 3)


def use(deprived: Deprived, arm: OutOfFold = ARM, targets: np.ndarray = TARGETS, **changes: object) -> ModalityUse:
    settings: dict[str, object] = {"bound": 0.02, "confidence": 0.9, "samples": 200, "seed": 3}
    (found,) = evaluate_use(arm, [deprived], targets=targets, patients=PATIENTS, **(settings | changes))  # type: ignore[arg-type]
    return found


def test_the_fall_is_the_auroc_less_the_mean_auroc_of_the_permutations() -> None:
    found = use(Deprived("image", SHUFFLED, ARM.probabilities))
    as_it_is = roc_auc_score(TARGETS, LOGITS)
    permuted = np.mean([roc_auc_score(TARGETS, one[:, 1]) for one in SHUFFLED])
    assert found.auroc.estimate == pytest.approx(as_it_is)
    assert found.permuted.estimate == pytest.approx(permuted)
    assert found.fall.estimate == pytest.approx(as_it_is - permuted)
    assert found.fall_absent.estimate == 0.0
    assert (found.n, found.patients, found.permutations) == (120, 60, 3)
    assert found.verdict == "used"


def test_three_classes_are_measured_by_the_mean_one_versus_rest_auroc() -> None:
    targets = np.arange(N) % 3
    logits = RNG.normal(size=(N, 3)) + 2.0 * np.eye(3)[targets]
    arm = OutOfFold("fused", to_probabilities(logits), logits, logits.argmax(axis=1))
    other = to_probabilities(RNG.permutation(logits))
    found = use(Deprived("text", other[None], arm.probabilities), arm, targets)
    expected = [roc_auc_score(targets, p, multi_class="ovr") for p in (arm.probabilities, other)]
    assert found.fall.estimate == pytest.approx(expected[0] - expected[1])


def test_ordered_classes_are_measured_by_the_mean_auroc_over_their_cuts() -> None:
    targets = np.arange(N) % 3
    logits = RNG.normal(size=(N, 3)) + 2.0 * np.eye(3)[targets]
    arm = OutOfFold("fused", to_probabilities(logits), logits, logits.argmax(axis=1))
    p = arm.probabilities
    found = use(Deprived("text", p[None], p), arm, targets, ordered=True)
    expected = [roc_auc_score(targets >= 1, 1 - p[:, 0]), roc_auc_score(targets >= 2, p[:, 2])]
    assert found.auroc.estimate == pytest.approx(np.mean(expected))


def test_only_studies_that_were_permuted_count() -> None:
    part = SHUFFLED.copy()
    part[:, ::4] = np.nan
    inside = np.arange(N) % 4 != 0
    found = use(Deprived("image", part, ARM.probabilities))
    assert found.n == inside.sum()
    assert found.auroc.estimate == pytest.approx(roc_auc_score(TARGETS[inside], LOGITS[inside]))
    assert evaluate_use(
        ARM, [Deprived("image", np.full_like(part, np.nan), ARM.probabilities)], targets=TARGETS, patients=PATIENTS,
        bound=0.02, confidence=0.9, samples=100, seed=3,
    ) == ()  # fmt: skip


def test_the_fall_is_paired_by_patient() -> None:
    # A tiny change of every score: each AUROC alone is uncertain by several hundredths, their difference is not.
    found = use(Deprived("image", to_probabilities(LOGITS + 0.02 * RNG.normal(size=N))[None], ARM.probabilities))
    assert found.auroc.high is not None
    assert found.auroc.low is not None
    assert found.fall.high is not None
    assert found.fall.low is not None
    assert found.auroc.high - found.auroc.low > 0.03
    assert found.fall.high - found.fall.low < 0.01
    assert found.verdict == "ignored"


@pytest.mark.parametrize(
    ("fall", "expected"),
    [
        ((0.001, -0.01, 0.0199), "ignored"),
        ((0.001, -0.01, 0.02), "unclear"),  # not below the bound
        ((0.03, 0.001, 0.06), "used"),
        ((0.03, 0.0, 0.06), "unclear"),
        ((0.005, 0.001, 0.01), "ignored"),  # above 0, and yet no more than the bound
        ((None, None, None), "unclear"),
    ],
)
def test_a_verdict_wants_the_whole_interval(fall: tuple[float | None, ...], expected: str) -> None:
    assert verdict(Interval(0.8, 0.7, 0.9, 0), Interval(*fall, 0), bound=0.02) == expected  # type: ignore[call-arg, arg-type]


def test_nothing_is_said_of_an_arm_that_may_be_guessing() -> None:
    nothing, much = Interval(0.0, -0.001, 0.001, 0), Interval(0.2, 0.1, 0.3, 0)
    for auroc in (Interval(0.55, 0.5, 0.6, 0), Interval(0.5, None, None, 0)):
        assert {verdict(auroc, fall, bound=0.02) for fall in (nothing, much)} == {"unclear"}


def test_remarks_name_what_is_ignored_and_what_cannot_be_told_and_nothing_else() -> None:
    ignored = use(Deprived("image", KEPT, ARM.probabilities))
    used = use(Deprived("text", SHUFFLED, ARM.probabilities))
    (said,) = use_remarks([ignored, used], confidence=0.9)
    assert said == (
        "The fused model ignores the image: given another patient's, its AUROC falls by +0.000 "
        "(90 % interval +0.000 to +0.000, all below 0.02)."
    )
    missed = replace(ignored, fall_absent=Interval(0.16, 0.04, 0.302, 0))
    (said,) = use_remarks([missed], confidence=0.9)
    assert said.endswith(
        "all below 0.02). That the AUROC falls by +0.160 without any is no use of what it says: the network misses an "
        "input that it was trained with."
    )
    open_ = replace(used, verdict="unclear", fall=Interval(0.01, -0.02, 0.04, 0))
    guessing = replace(open_, auroc=Interval(0.6, 0.48, 0.7, 0))
    first, second = use_remarks([open_, guessing], confidence=0.95)
    assert "uses the note cannot be told" in first
    assert "by +0.010 (95 % interval -0.020 to +0.040), which is neither above 0 nor below 0.02" in first
    assert "not shown to beat chance (the 95 % interval of its AUROC starts at 0.48)" in second


def test_of_several_repeats_every_auroc_and_fall_is_the_mean_over_them() -> None:
    other = to_probabilities(LOGITS + RNG.normal(size=N))
    swapped = np.stack([to_probabilities(RNG.permutation(LOGITS)) for _ in range(3)])
    found = use(
        Deprived("image", SHUFFLED, ARM.probabilities), more=[Probed(other, [Deprived("image", swapped, swapped[0])])]
    )
    as_it_is = [roc_auc_score(TARGETS, own[:, 1]) for own in (ARM.probabilities, other)]
    permuted = [np.mean([roc_auc_score(TARGETS, one[:, 1]) for one in own]) for own in (SHUFFLED, swapped)]
    assert found.auroc.estimate == pytest.approx(np.mean(as_it_is))
    assert found.fall.estimate == pytest.approx(np.mean(as_it_is) - np.mean(permuted))
    absent = [as_it_is[0], roc_auc_score(TARGETS, swapped[0][:, 1])]
    assert found.fall_absent.estimate == pytest.approx(np.mean(as_it_is) - np.mean(absent))
    assert (found.n, found.patients, found.permutations) == (120, 60, 3)  # not twice as many


def test_the_verdict_is_of_the_mean_and_the_same_repeat_again_narrows_nothing() -> None:
    ignores, uses = Deprived("image", KEPT, ARM.probabilities), Deprived("image", SHUFFLED, ARM.probabilities)
    assert use(ignores).verdict == "ignored"
    assert use(ignores, more=[Probed(ARM.probabilities, [uses])]).verdict == "used"
    alone, again = use(uses), use(uses, more=[Probed(ARM.probabilities, [uses])] * 2)
    assert (again.fall.low, again.fall.high) == pytest.approx((alone.fall.low, alone.fall.high))


def test_a_study_that_only_some_repeats_could_permute_counts_in_these() -> None:
    part = SHUFFLED.copy()
    part[:, ::4] = np.nan
    inside = np.arange(N) % 4 != 0
    whole = Probed(ARM.probabilities, [Deprived("image", SHUFFLED, ARM.probabilities)])
    found = use(Deprived("image", part, ARM.probabilities), more=[whole])
    assert found.n == N
    each = [roc_auc_score(TARGETS[own], LOGITS[own]) for own in (inside, np.full(N, fill_value=True))]
    assert found.auroc.estimate == pytest.approx(np.mean(each))
    weights = np.concatenate(list(draw_weights(PATIENTS, samples=200, seed=3)))
    draws = [
        np.mean([roc_auc_score(TARGETS[k], LOGITS[k], sample_weight=row[k]) for k in (inside, np.arange(N))])
        for row in weights
    ]
    assert (found.auroc.low, found.auroc.high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
    kept = np.where(np.isnan(part), np.nan, KEPT)
    alike = Probed(ARM.probabilities, [Deprived("image", KEPT, ARM.probabilities)])
    falls = use(Deprived("image", kept, ARM.probabilities), more=[alike])
    bounds = (falls.fall.low, falls.fall.high, falls.fall_absent.low, falls.fall_absent.high)
    assert bounds == pytest.approx((0, 0, 0, 0))  # on the same studies in each repeat nothing falls
    nothing = np.full_like(part, np.nan)
    same = use(Deprived("image", nothing, ARM.probabilities), more=[whole])
    assert same.fall == use(whole.deprived[0]).fall  # a repeat in which nothing was permuted has no say
