"""Settings are chosen in each fold by its tuning part alone: the right ones, alike each time, without test parts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.config import TrainConfig
from medmllm.errors import MedmllmError
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.discrimination import auroc
from medmllm.evaluation.tuning_score import tuning_score
from medmllm.model_documents import Task
from medmllm.records import UNKNOWN
from medmllm.training import fold as one_fold
from medmllm.training import search as one_search
from medmllm.training.arms import split_cohort
from medmllm.training.candidates import candidates
from medmllm.training.checkpoint import FOLDER, Origin
from medmllm.training.class_odds import offsets_of
from medmllm.training.cohort import Cohort, Member
from medmllm.training.course import Course
from medmllm.training.cross_validation import ArmResult, cross_validate
from medmllm.training.held import hold_classes
from medmllm.training.inner_folds import nest
from medmllm.training.resuming import origin_of
from medmllm.training.search import best_of
from medmllm.training.splits import FoldSplit, SplitPlan
from medmllm.training.tracking import NoRun
from medmllm.training_config import Arm
from tests.models.small import a_sample
from tests.training.small_cohort import (
    FACTS,
    TASK,
    ToldRun,
    a_cohort,
    a_config,
    with_other_content,
    with_targets_turned,
)

RIGHT, TOO_STRONG = 0.01, 100.0  # the latter times the learning rate is 1: each step begins with weights of 0
PENALTIES = {"weight_decay": (TOO_STRONG, RIGHT)}


def searching(grid: Mapping[str, tuple[object, ...]], **training: object) -> TrainConfig:
    return a_config(search=dict(grid), **training)


def run(
    cohort: Cohort, config: TrainConfig, out: Path, plan: SplitPlan, *, arm: Arm = "text", tracked: NoRun | None = None,
    resume: bool = False, steps: list[int] | None = None,
) -> ArmResult:  # fmt: skip
    (found,) = cross_validate(
        [arm], cohort, plan, config, TASK, out=out, tracked=tracked or NoRun(), resume=resume,
        advance=[].append if steps is None else steps.append,
    )  # fmt: skip
    return found


def chosen(found: ArmResult) -> list[dict[str, object]]:
    return [dict(choice.best.settings) for choice in found.choices]


def auroc_of(found: ArmResult, cohort: Cohort) -> float:
    assert isinstance(found.out_of_fold, OutOfFold)
    return float(auroc(np.array(cohort.targets) == 1, found.out_of_fold.probabilities[:, 1]))


def noise(seed: int, patients: int, *, every: int = 2) -> Cohort:
    """Images of noise, and outcomes drawn without looking at them; one patient in so many has it."""
    outcome = np.random.default_rng(seed).permutation(patients) % every == 0
    members = []
    for k in range(patients):
        sample = a_sample(1000 * seed + k, note=None, target=int(outcome[k]))
        members.append(Member(replace(sample, patient_key=f"pt-{k:016x}"), None, {"ct": FACTS}))
    return Cohort(tuple(members), ())


# --- what is chosen -------------------------------------------------------------------------


def test_of_a_right_penalty_and_one_that_leaves_nothing_each_fold_takes_the_right_one(tmp_path: Path) -> None:
    cohort = a_cohort(24)
    plan = split_cohort(cohort, a_config().training)
    alone = run(cohort, a_config(epochs=6, weight_decay=TOO_STRONG), tmp_path / "strong", plan)
    assert auroc_of(alone, cohort) == pytest.approx(0.5, abs=0.1)
    found = run(cohort, searching(PENALTIES, epochs=6, weight_decay=TOO_STRONG), tmp_path / "searched", plan)
    assert chosen(found) == [{"weight_decay": RIGHT}] * 2
    assert auroc_of(found, cohort) > 0.95
    right = run(cohort, a_config(epochs=6, weight_decay=RIGHT), tmp_path / "right", plan)
    pairs = zip(found.folds, right.folds, strict=True)
    assert all(one.model_copy(update={"searched": {}}) == other for one, other in pairs)  # weights to the last bit
    assert all(one.searched == {"weight_decay": RIGHT} for one in found.folds)


@pytest.mark.parametrize("score", ["log_loss", "auroc"])
def test_a_fold_takes_the_candidate_whose_score_on_its_tuning_part_is_best(
    tmp_path: Path, predicted: list[tuple[list[str], np.ndarray]], score: str
) -> None:
    grid = {"learning_rate": (1e-6, 1e-2, 5e-2), "dropout": (0.0, 0.6)}
    cohort, config = noise(7, 36, every=3), searching(grid, search_score=score, deterministic=True)
    plan = split_cohort(cohort, config.training)
    found = run(cohort, config, tmp_path, plan, arm="image")
    said = [logits for _, logits in predicted]
    for choice, split in zip(found.choices, plan.folds, strict=True):
        *tried, again, _ = said[8 * split.fold : 8 * split.fold + 8]  # candidates, then the chosen one also on the test
        truth = np.array([cohort.targets[k] for k in split.tune])
        offsets = offsets_of([[cohort.members[k].sample for k in split.train]], config.training, TASK)
        expected = [tuning_score(score, raw, truth, TASK, offsets=offsets[0]) for raw in tried]
        assert len(set(expected)) > 1
        assert list(choice.scores) == expected
        assert choice.chosen == expected.index(min(expected) if score == "log_loss" else max(expected))  # type: ignore[type-var]
        np.testing.assert_array_equal(again, tried[choice.chosen])  # it is trained once more as it was


def test_of_equal_scores_the_first_is_taken_and_none_that_has_no_score() -> None:
    assert best_of([0.7, 0.5, 0.5], larger=False) == 1
    assert best_of([0.7, 0.9, 0.9], larger=True) == 1
    assert best_of([None, 0.2, None], larger=True) == 1
    assert best_of([None, None], larger=True) is None


def test_with_inner_folds_a_candidate_is_judged_on_all_training_studies_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[np.ndarray, list[int]]] = []
    judge = one_search.judge

    def spy(course, splits, raw, candidate):  # type: ignore[no-untyped-def]
        judged.append((raw, [int(k) for split in splits for k in split.tune]))
        return judge(course, splits, raw, candidate)

    monkeypatch.setattr(one_search, "judge", spy)
    cohort, config = a_cohort(24), searching(PENALTIES, epochs=2)
    patients = [member.sample.patient_key for member in cohort.members]
    keys = [member.sample.study_key for member in cohort.members]
    outer = split_cohort(cohort, config.training)
    plan = nest(outer, patients, hold_classes(cohort.targets), study_keys=keys, inner_folds=3, seed=1)
    found = run(cohort, config, tmp_path, plan)
    assert len(judged) == 2 * 2  # candidates of two folds, not of six networks
    for fold, (raw, studies) in enumerate(judged[1::2]):
        rest = np.setdiff1d(np.arange(len(cohort.members)), outer.folds[fold].test)
        assert sorted(studies) == rest.tolist()
        assert raw.shape == (rest.size, 1)
    assert [one.searched for one in found.folds] == [{"weight_decay": RIGHT}] * 6


def test_several_targets_count_alike_each_where_it_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    parts = (Task.of("nodule", ("no", "yes")), Task.of("effusion", ("none", "some")))
    truth = np.where(rng.random((30, 2)) < 0.3, UNKNOWN, rng.integers(0, 2, (30, 2)))
    labels = [tuple(map(int, own)) for own in truth]
    members = (Member(a_sample(k, image=False, note=None, target=own), None, {}) for k, own in enumerate(labels))
    config = searching({"dropout": (0.1, 0.2)}, search_score="auroc", class_weights="none")
    origin = Origin("", "", "")
    task = Task.of_several(parts)
    course = Course(Cohort(tuple(members), ()), config, task, tmp_path, origin, NoRun(), lambda more: None)
    split = FoldSplit(0, np.arange(10), np.arange(10, 30), np.array([], dtype=np.int64))
    raw = rng.normal(size=(20, 2))
    each = []
    for own, said in zip(truth[10:].T, raw.T, strict=True):
        each.append(roc_auc_score(own[own != UNKNOWN], said[own != UNKNOWN]))
    found = one_search.judge(course, [split], raw, candidates(config, "text")[0])
    assert found == pytest.approx(np.mean(each))
    changed = np.where(truth[10:] == UNKNOWN, 50.0, raw)
    assert one_search.judge(course, [split], changed, candidates(config, "text")[0]) == found


def test_a_candidate_that_diverges_is_not_taken_and_a_grid_that_does_fails(tmp_path: Path) -> None:
    cohort = a_cohort(24)
    config = searching({"text_learning_rate": (1e30, 1e-2), "learning_rate": (1e30, 1e-2)}, gradient_clip=1e30)
    plan = split_cohort(cohort, config.training)
    found = run(cohort, config, tmp_path / "one", plan)
    assert chosen(found) == [{"text_learning_rate": 1e-2, "learning_rate": 1e-2}] * 2
    assert found.choices[0].scores[0] is None
    config = searching({"text_learning_rate": (1e30, 1e31)}, learning_rate=1e30, gradient_clip=1e30)
    with pytest.raises(MedmllmError, match=r"none of the 2 candidates .* fold 0 \(text\).* lower learning rates"):
        run(cohort, config, tmp_path / "all", plan)


# --- no leak --------------------------------------------------------------------------------


def test_neither_targets_nor_content_of_a_test_part_change_a_score_or_a_choice_of_its_fold(tmp_path: Path) -> None:
    grid = {"text_learning_rate": (1e-3, 1e-2), "weight_decay": (0.01, 10.0)}
    cohort, config = a_cohort(24), searching(grid, epochs=2)
    plan = split_cohort(cohort, config.training)
    before = run(cohort, config, tmp_path / "a", plan).choices
    test = plan.folds[0].test
    for number, changed in enumerate((with_targets_turned(cohort, test), with_other_content(cohort, test))):
        after = run(changed, config, tmp_path / f"b{number}", plan).choices
        assert after[0].scores == before[0].scores  # to the last bit
        assert after[0].chosen == before[0].chosen
        assert after[1].scores != before[1].scores  # there the same studies are learnt from


def test_no_candidate_predicts_a_study_of_a_test_part(
    tmp_path: Path, predicted: list[tuple[list[str], np.ndarray]]
) -> None:
    cohort, config = a_cohort(24), searching(PENALTIES, epochs=1)
    plan = split_cohort(cohort, config.training)
    run(cohort, config, tmp_path, plan)
    keys = [member.sample.study_key for member in cohort.members]
    asked = [set(names) for names, _ in predicted]
    for fold, split in enumerate(plan.folds):
        own = asked[4 * fold : 4 * fold + 4]  # tuning part of two candidates and of the chosen one, test part
        tune, test = ({keys[k] for k in part} for part in (split.tune, split.test))
        assert own == [tune, tune, tune, test]


def test_on_pure_noise_the_best_of_many_looks_good_where_it_is_chosen_and_is_at_chance_out_of_fold(
    tmp_path: Path,
) -> None:
    grid = {"image_width": (2, 3, 4, 5), "learning_rate": (1e-2, 5e-2)}
    config = searching(grid, folds=4, batch_size=8, tuning_fraction=0.3, search_score="auroc")
    config = config.model_copy(update={"model": config.model.model_copy(update={"image_encoder": "cells"})})
    tuned, out_of_fold = [], []
    for seed in range(1, 4):
        cohort = noise(seed, 48)
        found = run(cohort, config, tmp_path / str(seed), split_cohort(cohort, config.training), arm="image")
        tuned += [choice.scores[choice.chosen] for choice in found.choices]
        out_of_fold.append(auroc_of(found, cohort))
    assert np.mean(tuned) > 0.7  # 12 folds
    # Of 24 against 24 the AUROC of noise has a deviation of sqrt(49 / (12 * 24 * 24)) = 0.084, their mean of 0.049.
    assert np.mean(out_of_fold) == pytest.approx(0.5, abs=2 * 0.049)


# --- alike each time ------------------------------------------------------------------------


def test_equal_seeds_give_equal_scores_and_choices(tmp_path: Path) -> None:
    cohort, config = a_cohort(24), searching({"text_learning_rate": (1e-3, 1e-2)}, deterministic=True)
    plan = split_cohort(cohort, config.training)
    first, again = (run(cohort, config, tmp_path / name, plan) for name in ("a", "b"))
    assert [one.scores for one in first.choices] == [one.scores for one in again.choices]
    assert first.folds == again.folds
    other = run(cohort, searching({"text_learning_rate": (1e-3, 1e-2)}, seed=9), tmp_path / "c", plan)
    assert [one.scores for one in other.choices] != [one.scores for one in first.choices]


@pytest.mark.parametrize("fits", [2, 3, 5])  # in the second candidate, in the chosen one, in the next fold's second
def test_a_run_cut_off_anywhere_goes_on_to_the_same_choices_and_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    config, cohort = searching({"text_learning_rate": (1e-3, 1e-2)}, deterministic=True), a_cohort(24)
    plan = split_cohort(cohort, config.training)
    whole = run(cohort, config, tmp_path / "whole", plan)
    fit, fitted = one_fold.fit, list[int]()

    def counted(*given, **named):  # type: ignore[no-untyped-def]
        fitted.append(1)
        if len(fitted) == fits:
            raise KeyboardInterrupt
        return fit(*given, **named)

    monkeypatch.setattr(one_fold, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        run(cohort, config, tmp_path / "cut", plan)
    again = run(cohort, config, tmp_path / "cut", plan, resume=True)
    assert len(fitted) == 6 + 1  # what was done is not done again
    assert again.folds == whole.folds
    assert [one.scores for one in again.choices] == [one.scores for one in whole.choices]


def test_another_grid_or_score_is_another_training() -> None:
    cohort, config = a_cohort(), searching(PENALTIES)
    others = (searching({"weight_decay": (TOO_STRONG, 0.1)}), searching(PENALTIES, search_score="auroc"))
    assert all(origin_of(other, "", cohort) != origin_of(config, "", cohort) for other in others)


def test_a_candidate_leaves_what_it_said_of_the_tuning_part_and_no_weights(tmp_path: Path) -> None:
    cohort, config = a_cohort(24), searching(PENALTIES, epochs=1)
    run(cohort, config, tmp_path, split_cohort(cohort, config.training))
    kept = {path.name: path.stat().st_size for path in (tmp_path / FOLDER).iterdir() if "candidate" in path.name}
    assert set(kept) == {f"text_fold_{fold}.candidate_{k}.tuned.safetensors" for fold in (0, 1) for k in (0, 1)}
    assert max(kept.values()) < 1000  # bytes


# --- how it is told -------------------------------------------------------------------------


def test_each_fold_tells_its_choice_and_every_candidate_counts_as_progress(tmp_path: Path) -> None:
    cohort, config, told, steps = a_cohort(24), searching(PENALTIES, epochs=3), ToldRun(), list[int]()
    found = run(cohort, config, tmp_path, split_cohort(cohort, config.training), tracked=told, steps=steps)
    assert [child.name for child in told.children] == ["text fold 0", "text fold 1"]
    scores = [choice.scores[choice.chosen] for choice in found.choices]
    assert [child.metrics["tuning_log_loss"] for child in told.children] == scores
    assert sum(steps) == 2 * 3 * 3  # folds, two candidates and the chosen one, epochs


def test_an_arm_in_which_the_grid_makes_no_difference_is_trained_once(tmp_path: Path) -> None:
    cohort, steps = a_cohort(24), list[int]()
    config = searching({"image_width": (4, 8)}, epochs=1)
    found = run(cohort, config, tmp_path, split_cohort(cohort, config.training), steps=steps)
    assert found.choices == ()
    assert found.folds[0].searched == {}
    assert sum(steps) == 2
