"""A training on fewer patients knows nothing of those it leaves out, and leaves the ordinary result as it is."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medmllm.config import TrainConfig
from medmllm.evaluation.cohort import OutOfFold
from medmllm.training import cross_validation
from medmllm.training.arms import split_cohort
from medmllm.training.checkpoint import Origin
from medmllm.training.cohort import Cohort, Member
from medmllm.training.cross_validation import ArmResult, Course, cross_validate
from medmllm.training.resuming import origin_of
from medmllm.training.splits import FoldSplit
from medmllm.training.tracking import NoRun
from medmllm.training_config import Arm
from tests.models.small import a_sample
from tests.training.small_cohort import TASK, a_cohort, a_config, noted, with_other_content


def run_on_less(cohort: Cohort, config: TrainConfig, out: Path, *arms: Arm) -> tuple[ArmResult, ...]:
    plan = split_cohort(a_cohort(20), config.training)  # 4 training patients of each class
    return cross_validate(arms, cohort, plan, config, TASK, out=out, tracked=NoRun(), advance=lambda more: None)


def test_training_on_all_of_the_training_part_again_gives_the_ordinary_result(tmp_path: Path) -> None:
    (arm,) = run_on_less(a_cohort(20), a_config(learning_curve=(0.5, 1.0)), tmp_path, "text")
    half, whole = arm.smaller
    assert isinstance(arm.out_of_fold, OutOfFold)
    assert isinstance(half.out_of_fold, OutOfFold)
    assert isinstance(whole.out_of_fold, OutOfFold)
    assert np.array_equal(whole.out_of_fold.logits, arm.out_of_fold.logits)
    assert not np.array_equal(half.out_of_fold.logits, arm.out_of_fold.logits)


def test_what_a_smaller_training_leaves_out_has_no_say_in_it(tmp_path: Path) -> None:
    config, cohort = a_config(epochs=1, learning_curve=(0.5,)), a_cohort(20)
    (arm,) = run_on_less(cohort, config, tmp_path / "a", "fused")
    first = arm.smaller[0].folds[0]
    left_out = np.setdiff1d(split_cohort(cohort, config.training).folds[0].train, first.train)
    assert left_out.size
    (again,) = run_on_less(with_other_content(cohort, left_out), config, tmp_path / "b", "fused")
    for one, other, same in ((arm.smaller[0], again.smaller[0], True), (arm, again, False)):
        assert isinstance(one.out_of_fold, OutOfFold)
        assert isinstance(other.out_of_fold, OutOfFold)
        logits, others = one.out_of_fold.logits[first.test], other.out_of_fold.logits[first.test]
        assert np.array_equal(logits, others) == same


def test_only_the_main_arm_is_trained_on_less_and_its_networks_lie_among_the_checkpoints(tmp_path: Path) -> None:
    arms = run_on_less(a_cohort(20), a_config(epochs=1, learning_curve=(0.5,)), tmp_path, "text", "fused")
    assert [(arm.arm, len(arm.smaller)) for arm in arms] == [("text", 0), ("fused", 1)]
    assert {path.name for path in (tmp_path / "model").glob("*.safetensors")} == {
        "fold_0.safetensors", "fold_1.safetensors",
    }  # fmt: skip
    assert {path.parent.name for path in tmp_path.rglob("fold_0.safetensors")} == {
        "model", "model_text", "fused_at_0.5",
    }  # fmt: skip


def test_a_smaller_training_goes_on_only_with_the_patients_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [(int(a), int(b)) for a, b in np.random.default_rng(2).integers(0, 2, (60, 2))]
    cohort = Cohort(tuple(Member(a_sample(k, target=own), None, {}) for k, own in enumerate(labels)), ())
    folds = [FoldSplit(0, np.arange(40), np.arange(40, 50), np.arange(50, 60))]
    found = []
    for curve in ((0.5,), (0.25, 0.5)):  # of several targets the half depends on whether there is a quarter
        trained: dict[str, str] = {}

        def train(course: Course, *_: object, name: str, into: dict[str, str] = trained) -> object:
            into[name] = course.origin.split
            return SimpleNamespace(out_of_fold=None)

        monkeypatch.setattr(cross_validation, "_train_arm", train)
        origin, config = Origin("settings", "split", "cohort"), a_config(learning_curve=curve)
        course = Course(cohort, config, TASK, tmp_path, origin, NoRun(), lambda more: None)
        arm = SimpleNamespace(arm="text", contract=None)
        cross_validation._train_on_less(course, arm, folds)  # type: ignore[arg-type]
        found.append(trained)
    assert found[0]["text at 0.5"] not in ("split", found[1]["text at 0.5"], found[1]["text at 0.25"])


def test_a_run_does_not_go_on_where_a_study_is_another_patients() -> None:
    cohort, config = a_cohort(4), a_config()
    members = list(cohort.members)
    members[0] = replace(members[0], sample=replace(members[0].sample, patient_key="pt-other"))
    assert origin_of(config, "split", Cohort(tuple(members), ())) != origin_of(config, "split", cohort)


def test_a_run_does_not_go_on_where_headers_tell_another_name_which_no_vocabulary_may_learn() -> None:
    cohort, config = a_cohort(4), a_config()
    named = Cohort((noted(cohort.members[0], frozenset({"hippolytus"})), *cohort.members[1:]), ())
    assert origin_of(config, "split", named) != origin_of(config, "split", cohort)


def test_a_run_may_go_on_with_other_parts_as_no_fold_depends_on_them() -> None:
    cohort = a_cohort(4)
    plain, curved, other = (
        origin_of(a_config(**changes), "split", cohort)
        for changes in ({}, {"learning_curve": (0.5,)}, {"epochs": 3})  # type: ignore[arg-type]
    )
    assert curved == plain
    assert other != plain
