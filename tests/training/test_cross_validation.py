"""Nothing of a fold's test part reaches its model; temperature and threshold come from its tuning part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from medmllm.evaluation.calibration import TEMPERATURE_BOUNDS
from medmllm.evaluation.fold_decisions import decide
from medmllm.model_documents import Task
from medmllm.records import Note, Section
from medmllm.training.arms import split_cohort
from medmllm.training.cohort import Cohort, Member, draft_contract
from medmllm.training.cross_validation import cross_validate
from medmllm.training.fold_inputs import fold_tokenizer
from medmllm.training.splits import FoldSplit, count_folds
from medmllm.training.tracking import NoRun
from tests.models.small import TEXT, a_sample
from tests.training.small_cohort import (
    TASK,
    a_cohort,
    a_config,
    fold_models,
    log_odds,
    noted,
    run,
    temperature_loss,
    with_other_content,
    with_targets_turned,
    youden,
)

# --- no leak --------------------------------------------------------------------------------


def test_neither_targets_nor_content_of_a_test_part_change_its_fold_model(tmp_path: Path) -> None:
    config, cohort = a_config(), a_cohort()
    first = split_cohort(cohort, config.training).folds[0]
    fold, other = fold_models(run(cohort, config, tmp_path / "a"))
    for number, changed in enumerate((with_targets_turned(cohort, first.test), with_other_content(cohort, first.test))):
        again, other_again = fold_models(run(changed, config, tmp_path / f"b{number}"))
        assert again == fold  # weights to the last bit, temperature, threshold and epoch
        assert other_again.weights_sha256 != other.weights_sha256  # there the same studies are trained on


def test_the_tuning_part_sets_temperature_and_threshold_and_trains_no_weight(tmp_path: Path) -> None:
    config, cohort = a_config(epochs=1), a_cohort()
    coverage = config.evaluation.model_copy(update={"coverage": 0.5})  # which few tuning studies can promise
    config = config.model_copy(update={"evaluation": coverage})
    first = split_cohort(cohort, config.training).folds[0]
    fold, _ = fold_models(run(cohort, config, tmp_path / "a"))
    turned, _ = fold_models(run(with_targets_turned(cohort, first.tune), config, tmp_path / "b"))
    assert turned.weights_sha256 == fold.weights_sha256  # one epoch: there is no epoch to choose
    assert turned.temperature != fold.temperature
    assert turned.conformal_thresholds != fold.conformal_thresholds
    retrained, _ = fold_models(run(with_targets_turned(cohort, first.train), config, tmp_path / "c"))
    assert retrained.weights_sha256 != fold.weights_sha256


def test_a_word_that_only_test_notes_hold_is_not_in_the_folds_vocabulary() -> None:
    config = a_config()
    plain = a_cohort()
    split = split_cohort(plain, config.training).folds[0]
    contract = draft_contract(config.image, config.text)
    for part, known in (("test", False), ("tune", False), ("train", True)):
        chosen = getattr(split, part)[:2]
        cohort = a_cohort(planted={int(k): "xylophone xylophone marked cough" for k in chosen})
        tokenizer = fold_tokenizer(cohort, split, contract)
        assert tokenizer is not None
        assert ("xylophone" in tokenizer.get_vocab()) == known, part
        assert "cough" in tokenizer.get_vocab()


def test_only_the_sections_that_are_read_are_learnt_from() -> None:
    text = TEXT.model_copy(update={"sections": ("history",)})
    split = FoldSplit(0, np.array([0, 1]), np.array([], dtype=int), np.array([], dtype=int))
    note = Note("cough cough xylophone xylophone", (Section("history", 0, 11), Section("findings", 12, 31)))
    cohort = Cohort(tuple(noted(Member(a_sample(k, note=None, target=0), note, {})) for k in range(2)), ())
    tokenizer = fold_tokenizer(cohort, split, draft_contract(None, text))
    assert tokenizer is not None
    assert "cough" in tokenizer.get_vocab()
    assert "xylophone" not in tokenizer.get_vocab()


def test_a_word_that_one_patient_alone_has_is_no_whole_word_of_the_vocabulary() -> None:
    split = FoldSplit(0, np.array([0, 1, 2]), np.array([], dtype=int), np.array([], dtype=int))
    notes = [Note("cough Quockerwodger Quockerwodger", ()), Note("cough Quockerwodger", ()), Note("cough", ())]
    patients = ["pt-1", "pt-1", "pt-2"]
    members = [
        noted(Member(replace(a_sample(k, note=None, target=0), patient_key=patient), note, {}))
        for k, (patient, note) in enumerate(zip(patients, notes, strict=True))
    ]
    tokenizer = fold_tokenizer(Cohort(tuple(members), ()), split, draft_contract(None, TEXT))
    assert tokenizer is not None
    assert "cough" in tokenizer.get_vocab()
    assert "quockerwodger" not in tokenizer.get_vocab()


# --- what comes out -------------------------------------------------------------------------


def test_temperature_minimises_the_tuning_loss_and_threshold_maximises_youdens_j(
    tmp_path: Path, predicted: list[tuple[list[str], np.ndarray]]
) -> None:
    config, cohort = a_config(), a_cohort()
    plan = split_cohort(cohort, config.training)
    cohort = with_targets_turned(cohort, np.array([split.tune[0] for split in plan.folds]))  # not separable
    (arm,) = run(cohort, config, tmp_path)
    keys = [member.sample.study_key for member in cohort.members]
    for split, fold, tune, test in zip(plan.folds, arm.folds, predicted[0::2], predicted[1::2], strict=True):
        assert tune[0] == [keys[k] for k in split.tune]
        assert test[0] == [keys[k] for k in split.test]
        truth = np.array([cohort.targets[k] for k in split.tune])
        logits, offset = tune[1][:, 0], log_odds(np.array(cohort.targets)[split.train])
        loss = temperature_loss(logits, truth, offset)
        best = minimize_scalar(loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded")
        assert loss(float(np.log(fold.temperature))) <= best.fun + 1e-4
        np.testing.assert_allclose(
            arm.out_of_fold.logits[split.test], test[1][:, 0] / fold.temperature + offset, atol=1e-6
        )
        probabilities = 1 / (1 + np.exp(-logits / fold.temperature - offset))
        best_youden = max(youden(probabilities, truth, p) for p in probabilities)
        assert youden(probabilities, truth, fold.threshold) == pytest.approx(best_youden)
        expected = 1 / (1 + np.exp(-arm.out_of_fold.logits[split.test])) >= fold.threshold
        assert arm.out_of_fold.predicted[split.test].tolist() == expected.astype(int).tolist()


def test_conformal_thresholds_are_of_the_tuning_part_and_the_sets_of_the_test_part(
    tmp_path: Path, predicted: list[tuple[list[str], np.ndarray]]
) -> None:
    config, cohort = a_config(), a_cohort()
    half = config.evaluation.model_copy(update={"coverage": 0.5})  # which few tuning studies can promise
    plan = split_cohort(cohort, config.training)
    (arm,) = run(cohort, config.model_copy(update={"evaluation": half}), tmp_path)
    targets = np.array(cohort.targets)
    assert arm.out_of_fold.sets is not None
    raw = [logits for _, logits in predicted]
    for split, fold, *logits in zip(plan.folds, arm.folds, raw[0::2], raw[1::2], strict=True):
        offset = log_odds(targets[split.train])
        positive, tested = (1 / (1 + np.exp(-z[:, 0] / fold.temperature - offset)) for z in logits)
        truth, thresholds = targets[split.tune], []
        for label, score in ((0, positive), (1, 1 - positive)):
            own = sorted(score[truth == label])
            thresholds.append(own[int(np.ceil((len(own) + 1) / 2)) - 1])
        assert fold.conformal_thresholds == pytest.approx(thresholds)
        wanted = np.stack([tested, 1 - tested], axis=1) <= thresholds
        np.testing.assert_array_equal(arm.out_of_fold.sets[split.test], wanted)


def test_all_arms_share_the_folds_and_read_their_own_modality_alone(tmp_path: Path) -> None:
    config, cohort = a_config(epochs=1), a_cohort()
    results = {arm.arm: arm for arm in run(cohort, config, tmp_path, ("image", "text", "fused"))}
    other = with_other_content(cohort, np.arange(len(cohort.members)))
    unread = Cohort(
        tuple(noted(replace(m, note=o.note)) for m, o in zip(cohort.members, other.members, strict=True)), ()
    )  # other notes, the same images
    again = {arm.arm: arm for arm in run(unread, config, tmp_path / "again", ("image", "text"))}
    assert again["image"].folds == results["image"].folds
    np.testing.assert_array_equal(again["image"].out_of_fold.logits, results["image"].out_of_fold.logits)
    assert again["text"].folds[0].weights_sha256 != results["text"].folds[0].weights_sha256
    assert results["image"].contract.text is None
    assert results["text"].contract.image is None
    assert results["text"].contract.accepted == {}
    assert results["fused"].contract.accepted["ct"].modalities == ("CT",)
    assert {arm.folder.name for arm in results.values()} == {"model", "model_image", "model_text"}
    assert results["fused"].folder.name == "model"


def test_three_classes_give_three_logits_and_the_most_probable_is_predicted(tmp_path: Path) -> None:
    cohort = a_cohort()
    members = tuple(
        replace(m, sample=replace(m.sample, target=int(m.sample.patient_key[-1], 16) % 3)) for m in cohort.members
    )
    cohort = Cohort(members, ())
    config = a_config(epochs=1)
    plan = split_cohort(cohort, config.training)
    (arm,) = cross_validate(
        ["image"],
        cohort,
        plan,
        config,
        Task.of("outcome", ("a", "b", "c")),
        out=tmp_path,
        tracked=NoRun(),
        advance=lambda more: None,
    )
    found = arm.out_of_fold
    assert found.logits.shape == found.probabilities.shape == (16, 3)
    assert found.predicted.tolist() == found.probabilities.argmax(axis=1).tolist()
    assert {fold.threshold for fold in arm.folds} == {0.5}


def test_each_fold_is_told_of_once(tmp_path: Path) -> None:
    steps: list[int] = []
    config, cohort = a_config(epochs=1), a_cohort()
    plan = split_cohort(cohort, config.training)
    cross_validate(["image", "text"], cohort, plan, config, TASK, out=tmp_path, tracked=NoRun(), advance=steps.append)
    assert steps == [1, 1, 1, 1]


# --- the parts ------------------------------------------------------------------------------


def test_a_probability_at_the_threshold_counts_as_positive() -> None:
    logits = np.log([[0.25 / 0.75], [0.2499 / 0.7501], [0.9 / 0.1]])
    assert decide(logits, 0.25 - 1e-12).tolist() == [1, 0, 1]
    assert decide(np.array([[0.1, 2.0, 1.0], [3.0, 0.0, 1.0]]), 0.5).tolist() == [1, 0]


def test_folds_are_counted_by_study_and_by_patient() -> None:
    config, cohort = a_config(), a_cohort()
    patients = [member.sample.patient_key for member in cohort.members]
    folds = count_folds(split_cohort(cohort, config.training), patients)
    assert sum(fold.test_studies for fold in folds) == 16
    assert sum(fold.test_patients for fold in folds) == 12
    for fold in folds:
        assert fold.training_studies + fold.tuning_studies + fold.test_studies == 16
        assert fold.training_patients + fold.tuning_patients + fold.test_patients == 12
