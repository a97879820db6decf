"""Repeats: each draw tests every study once, no patient is on two sides in any, and one digest covers all."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from medmllm.errors import SplitError
from medmllm.training.arms import split_cohort
from medmllm.training.checkpoint import FOLDER
from medmllm.training.class_splits import make_splits
from medmllm.training.cross_validation import ArmResult, cross_validate
from medmllm.training.held import Carving, hold_classes
from medmllm.training.inner_folds import nest
from medmllm.training.leakage import leaks
from medmllm.training.repeats import draw_repeats, folds_by_draw, join_repeats, repeat_remarks, repeats_of
from medmllm.training.split_file import plan_given, read_split_file, write_splits
from medmllm.training.splits import SplitPlan
from medmllm.training_config import TrainingSettings
from tests.training.small_cohort import TASK, ToldRun, a_cohort, a_config, one_output, with_other_content
from tests.training.test_inner_folds import keys, plain_cohort, sides


def drawn(
    patients: Sequence[str], targets: Sequence[int], *, repeats: int = 3, inner: int = 1, seed: int = 5,
    study_keys: Sequence[str] = (),
) -> SplitPlan:  # fmt: skip
    names = study_keys or keys(len(patients))

    def draw(own: int) -> SplitPlan:
        plan = make_splits(patients, targets, study_keys=names, folds=2, tuning_fraction=0.25, seed=own)
        if inner == 1:
            return plan
        return nest(plan, patients, hold_classes(targets), study_keys=names, inner_folds=inner, seed=own)

    return draw_repeats(draw, repeats, seed=seed, study_keys=names)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=12, max_size=24), st.integers(2, 4), st.integers(1, 3), st.integers(0, 9),
    st.data(),
)  # fmt: skip
def test_any_cohort_is_drawn_cleanly_or_refused(
    sizes: list[int], repeats: int, inner: int, seed: int, data: st.DataObject
) -> None:
    patients = data.draw(st.permutations([f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]))
    targets = data.draw(st.lists(st.integers(0, 1), min_size=len(patients), max_size=len(patients)))
    try:
        plan = drawn(patients, targets, repeats=repeats, inner=inner, seed=seed)
    except SplitError:
        return
    assert len(repeats_of(plan)) == repeats
    assert len(plan.networks) == repeats * 2 * inner
    for number, folds in enumerate(repeats_of(plan)):
        tested = [k for part in folds if not part.inner for k in part.test]  # inner folds share a test part
        assert sorted(tested) == list(range(len(patients)))
        for part in folds:
            assert part.repeat == number
            owners = [{patients[k] for k in side} for side in (part.train, part.tune, part.test)]
            assert not owners[0] & owners[1]
            assert not owners[0] & owners[2]
            assert not owners[1] & owners[2]
    tests = {frozenset(tuple(part.test.tolist()) for part in folds) for folds in repeats_of(plan)}
    assert len(tests) == repeats
    again = drawn(patients, targets, repeats=repeats, inner=inner, seed=seed)
    assert [sides(SplitPlan(own, "")) for own in repeats_of(again)] == [
        sides(SplitPlan(own, "")) for own in repeats_of(plan)
    ]
    assert again.digest == plan.digest


def test_the_first_draw_is_the_one_that_is_not_repeated_and_the_next_seed_draws_the_next() -> None:
    patients, targets = plain_cohort()
    plan, alone, later = drawn(patients, targets), drawn(patients, targets, repeats=1), drawn(patients, targets, seed=6)
    assert [part.test.tolist() for part in plan.folds] == [part.test.tolist() for part in alone.folds]
    assert [part.test.tolist() for part in plan.more[0]] == [part.test.tolist() for part in later.folds]
    one = make_splits(patients, targets, study_keys=keys(40), folds=2, tuning_fraction=0.25, seed=5)
    assert alone.digest == one.digest  # what was never repeated keeps its digest


def test_the_digest_changes_with_any_membership_of_any_draw() -> None:
    patients, targets = plain_cohort()
    plan = drawn(patients, targets)
    changed = {plan.digest, drawn(patients, targets, repeats=2).digest, drawn(patients, targets, seed=6).digest}
    changed.add(join_repeats([plan.folds, plan.more[1], plan.more[0]], keys(40)).digest)
    changed.add(drawn(patients, targets, study_keys=keys(41)[1:]).digest)
    part = plan.more[1][1]
    moved = replace(part, train=part.train[1:], tune=np.sort(np.append(part.tune, part.train[0])))
    changed.add(join_repeats([plan.folds, plan.more[0], (plan.more[1][0], moved)], keys(40)).digest)
    assert len(changed) == 6


def test_the_fold_that_tested_a_study_is_told_by_draw() -> None:
    plan = drawn(*plain_cohort(), inner=3)
    for folds, owner in zip(repeats_of(plan), folds_by_draw(plan), strict=True):
        assert all(k in next(part for part in folds if part.fold == fold).test for k, fold in enumerate(owner))
    assert not np.array_equal(*folds_by_draw(plan)[:2])


def test_a_cohort_with_fewer_ways_to_split_it_than_draws_is_refused() -> None:
    with pytest.raises(SplitError, match=r"training\.repeats lower"):
        drawn(["a", "b", "c", "d", "e", "f", "g", "h"], [0, 1] * 4, repeats=40)


def test_a_leak_in_a_later_draw_is_found_and_named() -> None:
    plan = drawn(*plain_cohort())
    one, other = next(
        (a, b)
        for a in plan.more[0][0].train
        for b in plan.more[0][0].test
        if all((a in part.test) == (b in part.test) and (a in part.tune) == (b in part.tune) for part in plan.folds)
    )
    found = leaks(plan, [sorted([int(one), int(other)])])
    assert "0 of repeat 1" in {leak.fold for leak in found}


@pytest.mark.parametrize("inner", [1, 2])
def test_written_repeats_are_read_again_to_the_last_study(tmp_path: Path, inner: int) -> None:
    patients, targets = plain_cohort()
    plan = drawn(patients, targets, inner=inner)
    write_splits(plan, keys(40), tmp_path)
    given = read_split_file(tmp_path / "splits.json", str, dict(zip(keys(40), patients, strict=True)))
    again = plan_given(given, patients, targets, Carving(hold_classes(targets), keys(40), 0.1, 99, whole_tests=True))
    assert [sides(SplitPlan(own, "")) for own in repeats_of(again)] == [
        sides(SplitPlan(own, "")) for own in repeats_of(plan)
    ]
    assert again.digest == plan.digest
    content = json.loads((tmp_path / "splits.json").read_text())
    content["repeats"] = content["repeats"][::-1]
    (tmp_path / "splits.json").write_text(json.dumps(content))
    with pytest.raises(SplitError, match="was changed after it was written"):
        read_split_file(tmp_path / "splits.json", str, dict(zip(keys(40), patients, strict=True)))


def test_sites_are_refused_with_repeats() -> None:
    plain = a_config().training.model_dump()
    with pytest.raises(ValueError, match="left out in one way"):
        TrainingSettings.model_validate(plain | {"repeats": 2, "group_out": "site"})


# --- trained --------------------------------------------------------------------------------


def run(
    out: Path, *, told: ToldRun | None = None, resume: bool = False, changed: bool = False, **more: object
) -> tuple[ArmResult, ...]:
    config, cohort = a_config(**({"epochs": 2, "repeats": 2, "deterministic": True} | more)), a_cohort(20)
    patients = [member.sample.patient_key for member in cohort.members]
    names = [member.sample.study_key for member in cohort.members]

    def draw(seed: int) -> SplitPlan:
        own = config.training.model_copy(update={"seed": seed})
        return nest(
            split_cohort(cohort, own),
            patients,
            hold_classes(cohort.targets),
            study_keys=names,
            inner_folds=2,
            seed=seed,
        )

    plan = draw_repeats(draw, 2, seed=config.training.seed, study_keys=names)
    if changed:
        cohort = with_other_content(cohort, plan.more[0][0].test)
    return cross_validate(
        ["text", "image"], cohort, plan, config, TASK, out=out, tracked=told or ToldRun(), resume=resume,
        advance=lambda more: None,
    )  # fmt: skip


def test_all_arms_are_trained_on_all_draws_and_only_the_first_draws_networks_are_packaged(tmp_path: Path) -> None:
    told = ToldRun()
    text, image = run(tmp_path, told=told)
    assert (len(text.repeated), len(image.repeated)) == (1, 1)
    assert [child.name for child in told.children if child.name.startswith("text")] == [
        f"text {repeat}fold {fold}.{k}" for repeat in ("", "repeat 1 ") for fold in (0, 1) for k in (0, 1)
    ]
    assert {path.name for path in (tmp_path / "model").glob("*.safetensors")} == {one.weights for one in text.folds}
    kept = {path.parent.name for path in tmp_path.rglob("fold_*.safetensors")}
    assert kept == {"model", "model_image", "text_repeat_1", "image_repeat_1"}
    assert all(FOLDER in str(path) for path in tmp_path.rglob("*_repeat_1"))


def test_the_learning_curve_is_of_the_main_arm_in_every_draw_with_parts_of_its_own(tmp_path: Path) -> None:
    told = ToldRun()
    text, image = run(tmp_path, told=told, epochs=1, learning_curve=(0.9,))
    assert not image.smaller
    assert not image.draws[1].smaller
    steps = [draw.smaller for draw in text.draws]
    assert [[step.fraction for step in own] for own in steps] == [[0.9], [0.9]]
    assert {split.repeat for split in steps[1][0].folds} == {1}
    names = [child.name for child in told.children if " at " in child.name]
    assert names == [f"text{repeat} at 0.9 fold {fold}.{k}" for repeat in ("", " repeat 1") for fold in (0, 1)
                     for k in (0, 1)]  # fmt: skip
    assert not np.array_equal(*(own[0].out_of_fold.logits for own in steps))
    folders = [tmp_path / FOLDER / name for name in ("text_at_0.9", "text_repeat_1_at_0.9")]
    first, second = ((folder / "fold_0_0.safetensors").read_bytes() for folder in folders)
    assert first != second


def test_networks_of_each_draw_start_differently(tmp_path: Path) -> None:
    run(tmp_path, epochs=1, learning_rate=1e-12)  # they end where they started
    folders = (tmp_path / "model_image", tmp_path / FOLDER / "image_repeat_1")
    first, second = (load_file(folder / "fold_0_0.safetensors") for folder in folders)
    name = next(name for name, value in first.items() if value.ndim == 5)
    assert (first[name] - second[name]).abs().max() > 1e-2


def test_a_study_is_predicted_in_each_draw_by_networks_that_did_not_see_it(tmp_path: Path) -> None:
    plain, changed = run(tmp_path / "a")[0], run(tmp_path / "b", changed=True)[0]
    cohort = a_cohort(20)
    config = a_config(epochs=2, repeats=2, deterministic=True).training
    test = split_cohort(cohort, config.model_copy(update={"seed": config.seed + 1})).folds[0].test
    rest = np.setdiff1d(np.arange(len(cohort.members)), test)
    before, after = plain.repeated[0].out_of_fold.logits, changed.repeated[0].out_of_fold.logits
    # The changed studies are tested in fold 0 of the second draw: fold 1's model learnt from them, fold 0's did not.
    assert not np.array_equal(before[rest], after[rest])
    networks = [run_ / FOLDER / "text_repeat_1" / "fold_0_0.safetensors" for run_ in (tmp_path / "a", tmp_path / "b")]
    assert networks[0].read_bytes() == networks[1].read_bytes()


def test_networks_of_each_draw_are_tested_on_their_own_test_parts_for_what_they_use(tmp_path: Path) -> None:
    config, cohort = a_config(epochs=1, repeats=2), a_cohort(20)
    tested = config.evaluation.model_copy(update={"permutations": 1})
    config = config.model_copy(update={"evaluation": tested})
    names = [member.sample.study_key for member in cohort.members]

    def draw(seed: int) -> SplitPlan:
        return split_cohort(cohort, config.training.model_copy(update={"seed": seed}))

    plan = draw_repeats(draw, 2, seed=config.training.seed, study_keys=names)
    (fused,) = cross_validate(
        ["fused"], cohort, plan, config, TASK, out=tmp_path, tracked=ToldRun(), advance=lambda more: None
    )
    for one in fused.draws:
        assert {own.modality for own in one.deprived} == {"image", "text"}
        for own in one.deprived:
            given = np.isfinite(own.permuted).all(axis=(0, 2))
            assert given.sum() > 10
            assert (own.permuted[0][given] != one.out_of_fold.probabilities[given]).any()
    first, second = (one.deprived[0].absent for one in fused.draws)
    assert not np.array_equal(first, second)


def test_learning_curves_are_named_among_the_means_where_there_are_some() -> None:
    plan = drawn([f"p{k}" for k in range(12)], [0, 1] * 6, repeats=2)
    without, (told,) = repeat_remarks(plan, TASK, learning=False), repeat_remarks(plan, TASK, learning=True)
    assert "learning" not in without[0]
    assert told.startswith("Metrics, differences, figures, learning curves, groups of patients and use of modalities")


def test_a_run_cut_off_in_a_later_draw_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", told=ToldRun(kill=("text repeat 1 fold 0.1", 2)))
    again = run(tmp_path / "cut", resume=True)
    for one, other in zip(again, whole, strict=True):
        assert one.folds == other.folds
        np.testing.assert_array_equal(one_output(one).logits, one_output(other).logits)
        np.testing.assert_array_equal(one.repeated[0].out_of_fold.logits, other.repeated[0].out_of_fold.logits)
