"""A fold with inner folds: k networks, decided on together, averaged, and no say of the test part in any of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression

from medmllm.config import TrainConfig
from medmllm.evaluation.calibration import TEMPERATURE_BOUNDS
from medmllm.training import fold as one_fold
from medmllm.training.arms import split_cohort
from medmllm.training.checkpoint import FOLDER
from medmllm.training.cohort import Cohort
from medmllm.training.cross_validation import ArmResult, cross_validate
from medmllm.training.held import hold_classes
from medmllm.training.inner_folds import nest
from medmllm.training.splits import FoldSplit, SplitPlan
from medmllm.training_config import Arm
from tests.training.small_cohort import (
    TASK,
    ToldRun,
    a_cohort,
    a_config,
    log_odds,
    one_output,
    temperature_loss,
    with_other_content,
    with_targets_turned,
    youden,
)

INNER = 3


def the_plan(config: TrainConfig) -> SplitPlan:
    cohort = a_cohort(20)
    patients = [member.sample.patient_key for member in cohort.members]
    keys = [member.sample.study_key for member in cohort.members]
    outer = split_cohort(cohort, config.training)
    return nest(outer, patients, hold_classes(cohort.targets), study_keys=keys, inner_folds=INNER, seed=4)


def run(
    cohort: Cohort, config: TrainConfig, out: Path, *, arm: Arm = "fused", tracked: ToldRun | None = None,
    resume: bool = False, steps: list[int] | None = None,
) -> ArmResult:  # fmt: skip
    (found,) = cross_validate(
        [arm], cohort, the_plan(config), config, TASK, out=out, tracked=tracked or ToldRun(), resume=resume,
        advance=[].append if steps is None else steps.append,
    )  # fmt: skip
    return found


def with_evaluation(config: TrainConfig, **changes: object) -> TrainConfig:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})


# --- no leak --------------------------------------------------------------------------------


def test_neither_targets_nor_content_of_a_test_part_change_any_network_or_decision_of_its_fold(tmp_path: Path) -> None:
    config, cohort = a_config(epochs=1), a_cohort(20)
    test = the_plan(config).folds[0].test
    before = run(cohort, config, tmp_path / "a").folds
    assert [(one.fold, one.inner) for one in before] == [(fold, k) for fold in (0, 1) for k in range(INNER)]
    for number, changed in enumerate((with_targets_turned(cohort, test), with_other_content(cohort, test))):
        after = run(changed, config, tmp_path / f"b{number}").folds
        assert after[:INNER] == before[:INNER]  # weights to the last bit, temperature, thresholds, epochs
        others = zip(after[INNER:], before[INNER:], strict=True)
        assert all(one.weights_sha256 != other.weights_sha256 for one, other in others)  # there they are trained on


def test_an_inner_fold_trains_every_network_of_its_fold_but_its_own(tmp_path: Path) -> None:
    config, cohort = a_config(epochs=1), a_cohort(20)  # one epoch: there is no epoch to choose
    before = run(cohort, config, tmp_path / "a").folds
    turned = with_targets_turned(cohort, the_plan(config).folds[1].tune)
    after = run(turned, config, tmp_path / "b").folds
    same = [one.weights_sha256 == other.weights_sha256 for one, other in zip(after, before, strict=True)]
    assert same[:INNER] == [False, True, False]
    assert after[1].temperature != before[1].temperature


def test_networks_of_a_fold_start_differently(tmp_path: Path) -> None:
    config = a_config(epochs=1, learning_rate=1e-12, text_learning_rate=1e-12)  # they end where they started
    run(a_cohort(20), config, tmp_path, arm="image")
    weights = [load_file(tmp_path / "model" / f"fold_0_{k}.safetensors") for k in range(INNER)]
    name = next(name for name, value in weights[0].items() if value.ndim == 5)
    assert all((weights[k][name] - weights[k - 1][name]).abs().max() > 1e-2 for k in range(INNER))


# --- what is decided ------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], np.ndarray]]:
    """Study keys and raw logits of every prediction, made unlike for studies that look alike."""
    found: list[tuple[list[str], np.ndarray]] = []
    predict = one_fold.predict_logits

    def spy(member, samples, *more):  # type: ignore[no-untyped-def]
        names = [sample.study_key for sample in samples]
        own = np.array([[int(name[-4:], 16) % 7 - 3.0] for name in names])
        found.append((names, predict(member, samples, *more) + 0.4 * own + 0.1 * len(found)))
        return found[-1][1]

    monkeypatch.setattr(one_fold, "predict_logits", spy)
    return found


def pooled(
    cohort: Cohort, asked: list[tuple[list[str], np.ndarray]], fold: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return logits and targets of a fold's tuning parts by what was predicted, and its networks' test logits."""
    target = {member.sample.study_key: member.sample.target for member in cohort.members}
    own = asked[2 * INNER * fold : 2 * INNER * (fold + 1)]
    tune = [
        (logit, target[name]) for names, logits in own[0::2] for name, logit in zip(names, logits[:, 0], strict=True)
    ]
    logits, truth = (np.array(side) for side in zip(*tune, strict=True))
    return logits, truth, [logits[:, 0] for _, logits in own[1::2]]


def mean_log_odds(cohort: Cohort, networks: Sequence[FoldSplit]) -> float:
    """Return what weighing the classes alike took from the logits of a fold's networks, each by its own part."""
    return float(np.mean([log_odds(np.array(cohort.targets)[one.train]) for one in networks]))


def test_temperature_point_and_sets_come_from_all_tuning_parts_and_the_test_part_gets_the_mean(
    tmp_path: Path, asked: list[tuple[list[str], np.ndarray]]
) -> None:
    cohort, config = a_cohort(20), with_evaluation(a_config(epochs=1), coverage=0.7)
    found = run(cohort, config, tmp_path)
    plan, out = the_plan(config), one_output(found)
    for fold, networks in enumerate(plan.outer):
        own = found.folds[INNER * fold]
        logits, truth, tests = pooled(cohort, asked, fold)
        assert logits.size == networks[0].train.size + networks[0].tune.size
        offset = mean_log_odds(cohort, networks)
        loss = temperature_loss(logits, truth, offset)
        best = minimize_scalar(loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded")
        assert loss(float(np.log(own.temperature))) <= best.fun + 1e-4
        assert own.temperature == pytest.approx(np.exp(best.x), rel=1e-2)
        chance = 1 / (1 + np.exp(-logits / own.temperature - offset))
        assert youden(chance, truth, own.threshold) == pytest.approx(max(youden(chance, truth, p) for p in chance))
        thresholds = []
        for label, score in ((0, chance), (1, 1 - chance)):
            sorted_score = sorted(score[truth == label])
            thresholds.append(sorted_score[int(np.ceil((len(sorted_score) + 1) * 0.7)) - 1])
        assert own.conformal_thresholds == pytest.approx(thresholds)
        mean = np.mean(tests, axis=0) / own.temperature + offset
        test = networks[0].test
        np.testing.assert_allclose(out.logits[test], mean, atol=1e-6)
        positive = 1 / (1 + np.exp(-mean))
        assert out.predicted[test].tolist() == (positive >= own.threshold).astype(int).tolist()
        assert out.sets is not None
        np.testing.assert_array_equal(out.sets[test], np.stack([positive, 1 - positive], axis=1) <= thresholds)
        assert {one.decided["temperature"] for one in found.folds[INNER * fold : INNER * (fold + 1)]} == {
            own.temperature
        }


def test_a_rising_curve_is_fitted_to_single_networks_logits_which_go_through_it_before_they_are_averaged(
    tmp_path: Path, asked: list[tuple[list[str], np.ndarray]]
) -> None:
    cohort, config = a_cohort(20), with_evaluation(a_config(epochs=1), calibration="isotonic")
    found = run(cohort, config, tmp_path)
    networks, out = the_plan(config).outer[0], one_output(found)
    logits, truth, tests = pooled(cohort, asked, 0)
    temperature, least = found.folds[0].temperature, 1 / (len(truth) + 2)
    offset = mean_log_odds(cohort, networks)
    curve = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    curve.fit(np.round(1 / (1 + np.exp(-logits / temperature - offset)), 4), truth)
    each = [curve.predict(1 / (1 + np.exp(-z / temperature - offset))) for z in tests]
    mean = np.mean([np.log(p / (1 - p)) for p in each], axis=0)
    np.testing.assert_allclose(out.logits[networks[0].test], mean, atol=1e-6)


def test_a_modality_is_taken_from_all_networks_alike_before_they_are_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[tuple[int, ...]]] = []
    predict = one_fold.predict_logits

    def spy(member, samples, *more):  # type: ignore[no-untyped-def]
        given.append([tuple(np.asarray(sample.image).ravel()[:3].tolist()) for sample in samples])
        return predict(member, samples, *more)

    monkeypatch.setattr(one_fold, "predict_logits", spy)
    config = with_evaluation(a_config(epochs=1), permutations=1)
    found = run(a_cohort(20), config, tmp_path)
    calls = len(given) // (2 * INNER)  # tuning, test, and of each of two modalities permuted and absent
    assert calls == 6
    permuted = [given[calls * k + 2] for k in range(INNER)]
    assert permuted[0] == permuted[1] == permuted[2]
    assert {own.modality for own in found.deprived} == {"image", "text"}
    for own in found.deprived:
        np.testing.assert_allclose(own.absent.sum(axis=1), 1)


# --- how it is told, and goes on ------------------------------------------------------------


def test_each_network_has_a_child_run_and_its_epochs_count(tmp_path: Path) -> None:
    told, steps = ToldRun(), list[int]()
    found = run(a_cohort(20), a_config(epochs=2), tmp_path, arm="text", tracked=told, steps=steps)
    assert [child.name for child in told.children] == [f"text fold {fold}.{k}" for fold in (0, 1) for k in range(INNER)]
    assert all(child.ended for child in told.children)
    assert [child.metrics["temperature"] for child in told.children] == [one.temperature for one in found.folds]
    assert sum(steps) == 2 * INNER * 2


@pytest.mark.parametrize("killed", [("text fold 0.1", 2), ("text fold 0.2", 1), ("text fold 1.0", 1)])
def test_a_run_cut_off_in_any_network_goes_on_to_the_same_bits(tmp_path: Path, killed: tuple[str, int]) -> None:
    config, cohort = a_config(epochs=2, deterministic=True), a_cohort(20)
    whole = run(cohort, config, tmp_path / "whole", arm="text")
    with pytest.raises(KeyboardInterrupt):
        run(cohort, config, tmp_path / "cut", arm="text", tracked=ToldRun(kill=killed))
    told = ToldRun()
    again = run(cohort, config, tmp_path / "cut", arm="text", tracked=told, resume=True)
    assert again.folds == whole.folds  # weights by their sha256
    np.testing.assert_array_equal(one_output(again).logits, one_output(whole).logits)
    cut = [child.name for child in told.children].index(killed[0])
    assert [child.epochs for child in told.children[:cut]] == [[]] * cut, "a network that is done is not trained again"
    assert told.children[cut].epochs == [1, 2][killed[1] - 1 :]


# --- of fewer patients ----------------------------------------------------------------------


def test_a_patient_outside_the_part_that_is_learnt_from_changes_none_of_a_folds_smaller_networks(
    tmp_path: Path,
) -> None:
    config, cohort = a_config(epochs=1, learning_curve=(0.8,)), a_cohort(20)  # one epoch: there is none to choose
    (smaller,) = run(cohort, config, tmp_path / "a", arm="text").smaller
    own = [split for split in smaller.folds if split.fold == 0]
    assert [split.inner for split in own] == list(range(INNER))
    learnt = np.unique(np.concatenate([split.train for split in own]))
    outside = np.setdiff1d(np.concatenate([split.tune for split in own]), learnt)
    assert outside.size
    run(with_other_content(cohort, outside), config, tmp_path / "b", arm="text")
    run(with_other_content(cohort, learnt), config, tmp_path / "c", arm="text")
    for k in range(INNER):
        one, same, other = (
            (tmp_path / name / FOLDER / "text_at_0.8" / f"fold_0_{k}.safetensors").read_bytes() for name in "abc"
        )
        assert one == same
        assert one != other
