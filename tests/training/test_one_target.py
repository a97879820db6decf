"""Each of several targets is told of as if it were the only one, on the studies where it is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.delong import compare_aurocs
from medmllm.evaluation.modality_use import Deprived
from medmllm.evaluation.several import SeveralOutOfFold, out_of_fold
from medmllm.model_documents import FoldModel, Task
from medmllm.records import UNKNOWN
from medmllm.training.cohort import Cohort, Member
from medmllm.training.cross_validation import ArmResult, Draw, SmallerTraining
from medmllm.training.one_target import one_by_one
from medmllm.training.run import Trained
from medmllm.training.splits import FoldSplit, SplitPlan
from medmllm.training.target_evaluation import of_target, tell_means, tell_target
from medmllm.tuning_documents import TuningDecisions
from tests.models.small import CONTRACT, a_sample
from tests.reporting import made_up

RNG = np.random.default_rng(8)
N = 48
NODULE, PART = Task.of("nodule", ("no", "yes")), Task.of("part", ("a", "b", "c"))
TASK = Task.of_several((NODULE, PART))
TRUTH = np.stack([np.arange(N) % 2, np.arange(N) // 2 % 3], axis=1)
TRUTH[RNG.random((N, 2)) < 0.25] = UNKNOWN
FOLDS = tuple(
    FoldSplit(k, np.flatnonzero(np.arange(N) % 4 == 3 - 3 * k), np.flatnonzero(np.arange(N) % 4 == 1 + k),
              np.flatnonzero(np.isin(np.arange(N) % 4, [0, 2 - k] if k == 0 else [1, 3])))
    for k in (0, 1)
)  # fmt: skip


def said(name: str) -> SeveralOutOfFold:
    logits = RNG.normal(size=(N, 4)) + np.concatenate([TRUTH[:, :1] == 1, TRUTH[:, 1:] == [0, 1, 2]], axis=1)
    predicted = np.stack([logits[:, 0] > 0, logits[:, 1:].argmax(axis=1)], axis=1).astype(int)
    found = out_of_fold(name, logits, predicted, RNG.random((N, 5)) < 0.7, TASK)
    assert isinstance(found, SeveralOutOfFold)
    return found


def an_arm(name: str) -> ArmResult:
    decided = {
        "nodule": TuningDecisions(temperature=2.0, threshold=0.3, conformal_thresholds=(0.5, 0.6)),
        "part": TuningDecisions(temperature=3.0, threshold=0.5, conformal_thresholds=(0.7, 0.8, 0.9)),
    }
    models = tuple(
        FoldModel(fold=k, weights="w", weights_sha256="0" * 64, best_epoch=1, temperature=1.0, threshold=0.5,
                  targets=decided) for k in (0, 1)
    )  # fmt: skip
    permuted = RNG.random((2, N, 5))
    return ArmResult(
        name, CONTRACT, said(name), models, Path("model"), (Deprived("image", permuted, permuted[0]),),  # type: ignore[arg-type]
        (SmallerTraining(0.5, FOLDS, said(name)),),
        (Draw(said(name), (Deprived("image", permuted[::-1], permuted[1]),),
              (SmallerTraining(0.5, FOLDS, said(name)),)),),
    )  # fmt: skip


def trained() -> Trained:
    members = tuple(
        Member(a_sample(k, note=None, target=tuple(map(int, own))), None, {}) for k, own in enumerate(TRUTH)
    )
    packaged = load_config(TrainConfig, "train", overrides=("evaluation.bootstrap_samples=100",))
    plan = SplitPlan(FOLDS, "0" * 64)
    arms = (an_arm("image"), an_arm("fused"))
    return Trained(TASK, Cohort(members, ()), plan, arms, packaged, made_up.provenance(), synthetic=False)


RUN = trained()


@pytest.mark.parametrize("number", [0, 1])
def test_a_target_keeps_its_known_studies_in_every_part_and_no_other(number: int) -> None:
    one = one_by_one(RUN)[number]
    known = np.flatnonzero(TRUTH[:, number] != UNKNOWN)
    assert 0 < len(known) < N
    assert one.cohort.targets == TRUTH[known, number].tolist()
    keys = [member.sample.study_key for member in one.cohort.members]
    assert keys == [RUN.cohort.members[k].sample.study_key for k in known]
    smaller = one.arms[1].smaller[0]
    for whole, own, less in zip(RUN.plan.folds, one.plan.folds, smaller.folds, strict=True):
        for part in ("train", "tune", "test"):
            expected = [RUN.cohort.members[k].sample.study_key for k in getattr(whole, part) if k in known]
            assert [keys[k] for k in getattr(own, part)] == expected
            assert [keys[k] for k in getattr(less, part)] == expected


@pytest.mark.parametrize(("number", "classes"), [(0, slice(0, 2)), (1, slice(2, 5))])
def test_what_was_said_and_decided_is_that_of_the_target(number: int, classes: slice) -> None:
    one, known = one_by_one(RUN)[number], TRUTH[:, number] != UNKNOWN
    for whole, own in zip(RUN.arms, one.arms, strict=True):
        assert isinstance(whole.out_of_fold, SeveralOutOfFold)
        assert isinstance(own.out_of_fold, OutOfFold)
        np.testing.assert_array_equal(own.out_of_fold.probabilities, whole.out_of_fold.probabilities[known, classes])
        said_of = whole.out_of_fold.targets[number]
        assert isinstance(said_of, OutOfFold)
        assert said_of.sets is not None
        np.testing.assert_array_equal(own.out_of_fold.sets, said_of.sets[known])
        np.testing.assert_array_equal(own.deprived[0].permuted, whole.deprived[0].permuted[:, known, classes])
        np.testing.assert_array_equal(own.deprived[0].absent, whole.deprived[0].absent[known, classes])
        for one, all_ in zip(own.draws, whole.draws, strict=True):
            chances = all_.out_of_fold.probabilities[known, classes]
            np.testing.assert_array_equal(one.out_of_fold.probabilities, chances)
            np.testing.assert_array_equal(one.deprived[0].permuted, all_.deprived[0].permuted[:, known, classes])
            less, part = one.smaller[0].out_of_fold, all_.smaller[0].out_of_fold
            np.testing.assert_array_equal(less.probabilities, part.probabilities[known, classes])
        assert [fold.temperature for fold in own.folds] == [(2.0, 3.0)[number]] * 2
        assert own.folds[0].conformal_thresholds == ((0.5, 0.6), (0.7, 0.8, 0.9))[number]


def test_what_is_stored_where_a_target_is_not_known_changes_nothing_that_is_told_of_it() -> None:
    def other(found: SeveralOutOfFold) -> SeveralOutOfFold:
        def one(number: int, own: OutOfFold) -> OutOfFold:
            known = TRUTH[:, number] != UNKNOWN
            shape = known if own.logits.ndim == 1 else known[:, None]
            chances = np.where(known[:, None], own.probabilities, 1 / own.probabilities.shape[1])
            sets = own.sets & known[:, None]
            return replace(own, probabilities=chances, logits=np.where(shape, own.logits, 7.0), sets=sets)

        return replace(found, targets=tuple(one(k, own) for k, own in enumerate(found.targets)))

    arms = tuple(replace(arm, out_of_fold=other(arm.out_of_fold)) for arm in RUN.arms)
    for first, second in zip(one_by_one(RUN), one_by_one(replace(RUN, arms=arms)), strict=True):
        assert tell_target(first) == tell_target(second)


def test_differences_by_delong_are_of_the_known_studies() -> None:
    told = tell_target(one_by_one(RUN)[0]).document
    known = TRUTH[:, 0] != UNKNOWN
    image, fused = (arm.out_of_fold.targets[0].probabilities[known, 1] for arm in RUN.arms)
    expected = compare_aurocs(TRUTH[known, 0], fused, image, confidence=0.95)
    assert [(own.second, own.estimate, own.p_value) for own in told.delong] == [
        ("image", pytest.approx(expected.estimate), pytest.approx(expected.p_value))
    ]


def test_remarks_and_rules_of_one_of_several_name_it() -> None:
    config = load_config(
        TrainConfig, "train", overrides=("evaluation.bootstrap_samples=100", "policy.least.auroc=0.99")
    )
    told = of_target(tell_target(one_by_one(replace(RUN, config=config))[1]))
    assert told.remarks
    assert all(line.startswith("part: ") for line in told.remarks)
    assert [(rule.rule, rule.said.split()[0]) for rule in told.rules] == [("policy.least.auroc[part]", "part:")]


def test_remarks_on_the_means_say_so() -> None:
    nothing = out_of_fold("fused", np.zeros((N, 4)), np.zeros((N, 2), dtype=int), np.ones((N, 5), dtype=bool), TASK)
    told = tell_means(replace(RUN, arms=(replace(RUN.arms[1], out_of_fold=nothing),)))
    assert told.remarks
    assert all(line.startswith("Mean over the targets: ") for line in told.remarks)
    assert not told.rules  # the policy is asked of each target


def test_a_run_of_one_target_is_itself() -> None:
    one = one_by_one(RUN)[0]
    assert one_by_one(one) == (one,)
