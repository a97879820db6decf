"""What the tuning part decides for each of several targets, and what a fold's model says by it."""

import numpy as np
import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.calibration import fit_temperature, to_probabilities
from medmllm.evaluation.conformal import class_thresholds, conformal_sets
from medmllm.evaluation.discrimination import choose_threshold
from medmllm.evaluation.fold_decisions import calibrate_fold, class_probabilities, fold_sets, predicted_classes
from medmllm.evaluation.isotonic import calibrate
from medmllm.model_documents import FoldModel, Task
from medmllm.records import UNKNOWN, FloatArray
from medmllm.training.tuning_part import UNDECIDED, decide_each, decide_on_tuning
from medmllm.training_config import EvaluationSettings
from medmllm.tuning_documents import TuningDecisions

RNG = np.random.default_rng(6)
TRUTH = np.where(RNG.random((60, 2)) < 0.3, UNKNOWN, RNG.integers(0, 2, (60, 2)))
LABELS = list(map(tuple, TRUTH.tolist()))
LOGITS = 4 * (RNG.normal(size=(60, 2)) + [0.0, 2.0] + (TRUTH == 1))
TASK = Task.of_several((Task.of("nodule", ("no", "yes")), Task.of("effusion", ("none", "some"))))


def evaluation(**changes: object) -> EvaluationSettings:
    return load_config(TrainConfig, "train").evaluation.model_copy(update=changes)


def a_fold(decided: tuple[TuningDecisions, ...]) -> FoldModel:
    targets = dict(zip(TASK.names, decided, strict=True))
    return FoldModel(
        fold=0, weights="fold_0.safetensors", weights_sha256="0" * 64, best_epoch=1, targets=targets, **dict(UNDECIDED)
    )


def chance(logits: FloatArray) -> FloatArray:
    return 1 / (1 + np.exp(-logits))


def test_each_target_is_decided_on_its_own_known_studies() -> None:
    decided = decide_each(LOGITS, LABELS, evaluation(), TASK)
    for label in (0, 1):
        known = TRUTH[:, label] != UNKNOWN
        truth = TRUTH[known, label]
        temperature = fit_temperature(LOGITS[known, label], truth)
        chances = chance(LOGITS[known, label] / temperature)
        assert decided[label].temperature == temperature
        assert decided[label].threshold == pytest.approx(choose_threshold(truth, chances))
        both = np.stack([1 - chances, chances], axis=1)
        assert decided[label].conformal_thresholds == pytest.approx(class_thresholds(both, truth, coverage=0.9))
    assert decided[0].threshold != decided[1].threshold
    assert decided[0].conformal_thresholds != decided[1].conformal_thresholds


def test_what_is_stored_for_an_unknown_target_decides_nothing() -> None:
    changed = np.where(TRUTH == UNKNOWN, 50.0, LOGITS)
    assert decide_each(changed, LABELS, evaluation(), TASK) == decide_each(LOGITS, LABELS, evaluation(), TASK)


def test_one_target_is_decided_as_it_was() -> None:
    truth = TRUTH[:, 0].clip(min=0)
    assert decide_each(LOGITS[:, :1], truth.tolist(), evaluation(), TASK.parts[0]) == (
        decide_on_tuning(LOGITS[:, :1], truth, evaluation()),
    )


def test_a_fold_says_of_each_target_what_its_own_decisions_make_of_it() -> None:
    one, two = decided = decide_each(LOGITS, LABELS, evaluation(), TASK)
    fold = a_fold(decided)
    found = calibrate_fold(LOGITS, fold, TASK)
    np.testing.assert_array_equal(found, LOGITS / [one.temperature, two.temperature])
    chances = class_probabilities(found, TASK)
    np.testing.assert_allclose(chances[:, [1, 3]], chance(found))
    np.testing.assert_allclose(chances[:, [0, 2]], 1 - chance(found))
    expected = chance(found) >= [one.threshold, two.threshold]
    np.testing.assert_array_equal(predicted_classes(found, fold, TASK), expected)
    sets = fold_sets(chances, fold, TASK)
    assert one.conformal_thresholds is not None
    assert two.conformal_thresholds is not None
    np.testing.assert_array_equal(sets, 1 - chances <= [*one.conformal_thresholds, *two.conformal_thresholds])
    assert 0 < sets.mean() < 1


def test_each_target_has_an_isotonic_curve_of_its_own() -> None:
    one, two = decided = decide_each(LOGITS, LABELS, evaluation(calibration="isotonic"), TASK)
    assert one.isotonic is not None
    assert two.isotonic is not None
    assert one.isotonic != two.isotonic
    found = calibrate_fold(LOGITS, a_fold(decided), TASK)
    for label, own in enumerate(decided):
        np.testing.assert_array_equal(found[:, [label]], calibrate(LOGITS[:, [label]], own.temperature, own.isotonic))


def test_a_fold_without_thresholds_has_no_sets() -> None:
    one, two = decide_each(LOGITS, LABELS, evaluation(), TASK)
    without = a_fold((one, two.model_copy(update={"conformal_thresholds": None})))
    assert fold_sets(class_probabilities(LOGITS, TASK), without, TASK) is None


def test_sets_behind_curves_of_several_classes_hold_the_truth_as_often_as_asked() -> None:
    covered = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = [rng.integers(0, 5, n) for n in (75, 400)]
        logits = [2 * (rng.normal(size=(own.size, 5)) + 1.3 * np.eye(5)[own]) for own in truth]
        own = decide_on_tuning(logits[0], truth[0], evaluation(calibration="isotonic", coverage=0.9))
        assert own.isotonic is not None
        assert own.conformal_thresholds is not None
        chances = to_probabilities(calibrate(logits[1], own.temperature, own.isotonic))
        sets = conformal_sets(chances, own.conformal_thresholds)
        covered.append(sets[np.arange(400), truth[1]].mean())
    assert np.mean(covered) > 0.89  # 0.855 by thresholds of the curves' own studies


def test_a_curve_of_two_classes_changes_no_set_but_by_ties() -> None:
    truth, logits = TRUTH[:, 0].clip(min=0), LOGITS[:, :1]
    curved = decide_on_tuning(logits, truth, evaluation(calibration="isotonic"))
    plain = decide_on_tuning(logits, truth, evaluation())

    def sets_of(own: TuningDecisions) -> tuple[np.ndarray, np.ndarray]:
        positive = chance(calibrate(logits, own.temperature, own.isotonic)[:, 0])
        both = np.stack([1 - positive, positive], axis=1)
        assert own.conformal_thresholds is not None
        return conformal_sets(both, own.conformal_thresholds), np.isclose(1 - both, own.conformal_thresholds)

    (before, _), (after, tied) = sets_of(plain), sets_of(curved)
    assert (after >= before).all()
    assert np.array_equal(after[~tied], before[~tied])


def test_curves_of_several_classes_with_a_study_each_rule_no_class_out() -> None:
    own = decide_on_tuning(np.eye(3)[[1, 0, 2]], np.arange(3), evaluation(calibration="isotonic"))
    assert own.conformal_thresholds == (1.0, 1.0, 1.0)
