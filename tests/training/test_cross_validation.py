"""Nothing of a fold's test part reaches its model; temperature and threshold come from its tuning part."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from medmllm.config import TrainConfig, load_config
from medmllm.errors import ConfigError
from medmllm.evaluation.calibration import PRIOR_DEVIATION, TEMPERATURE_BOUNDS
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.fold_decisions import decide
from medmllm.model_documents import FoldModel, Task
from medmllm.preprocessing.contract import VolumeFacts
from medmllm.records import Note, Refusal, Section, Study
from medmllm.training import cross_validation
from medmllm.training import fold as one_fold
from medmllm.training.arms import arm_contract, main_arm, mean_image, split_cohort, usable_arms
from medmllm.training.checkpoint import Origin
from medmllm.training.cohort import Cohort, Member, draft_contract
from medmllm.training.cross_validation import ArmResult, Course, cross_validate
from medmllm.training.fold_inputs import fold_tokenizer, tokenize_cohort
from medmllm.training.resuming import origin_of
from medmllm.training.splits import FoldSplit, count_folds
from medmllm.training.tracking import NoRun
from medmllm.training_config import Arm
from tests.models.small import IMAGE, PARTS, SIZE, TABLE, TEXT, a_sample, encoder_settings

TASK = Task.of("outcome", ("no", "yes"))
FACTS = VolumeFacts("CT", (4.0, 4.0, 4.0), (36.0, 32.0, 40.0), -900.0, 400.0)
TRAINING = {"folds": 2, "epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "text_learning_rate": 1e-2,
            "shift_voxels": 0, "device": "cpu", "channels_last": False, "threads": 1,
            "deterministic": False}  # fmt: skip


def a_config(**training: object) -> TrainConfig:
    packaged = load_config(TrainConfig, "train")
    settings = packaged.training.model_copy(update=TRAINING | training)
    packaged = packaged.model_copy(update={"evaluation": packaged.evaluation.model_copy(update={"permutations": 0})})
    return packaged.model_copy(
        update={"image": IMAGE, "text": encoder_settings("full"), "model": PARTS, "training": settings}
    )


def a_note(text: str) -> Note:
    return Note(text, (Section("history", 0, len(text)),))


def a_cohort(
    patients: int = 12, *, images: bool = True, notes: bool = True, planted: Mapping[int, str] | None = None
) -> Cohort:
    """Every third patient comes twice; image and note tell the outcome. `planted`: member -> its note."""
    members = []
    for patient in range(patients):
        outcome = patient % 2
        for _ in range(2 if patient % 3 == 0 else 1):
            k = len(members)
            sample = a_sample(k, image=images, note=None, target=outcome)
            sample = replace(sample, patient_key=f"pt-{patient:016x}")
            text = (planted or {}).get(k, ("clear lungs and no cough", "marked cough and nodule")[outcome])
            members.append(Member(sample, a_note(text) if notes else None, {"ct": FACTS} if images else {}))
    return Cohort(tuple(members), ())


def run(cohort: Cohort, config: TrainConfig, out: Path, arms: tuple[str, ...] = ("fused",)) -> tuple[ArmResult, ...]:
    plan = split_cohort(a_cohort(), config.training)
    return cross_validate(
        arms, cohort, plan, config, TASK, out=out, tracked=NoRun(), advance=lambda more: None  # type: ignore[arg-type]
    )  # fmt: skip


def with_targets_turned(cohort: Cohort, which: np.ndarray) -> Cohort:
    members = list(cohort.members)
    for k in which:
        sample = members[k].sample
        members[k] = replace(members[k], sample=replace(sample, target=1 - int(sample.target or 0)))
    return Cohort(tuple(members), ())


def with_other_content(cohort: Cohort, which: np.ndarray) -> Cohort:
    """Other voxels and other words."""
    members = list(cohort.members)
    for k in which:
        other = replace(members[k].sample, image=a_sample(900 + int(k)).image)
        members[k] = replace(members[k], sample=other, note=a_note("zebra zebra stripes stripes"))
    return Cohort(tuple(members), ())


def log_odds(truth: np.ndarray) -> float:
    """Return the log-odds of a part: what training with classes of equal weight took from its logits."""
    return float(np.log(truth.sum() / (1 - truth).sum()))


def fold_models(results: tuple[ArmResult, ...]) -> tuple[FoldModel, ...]:
    (arm,) = results
    return arm.folds


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
    cohort = Cohort(tuple(Member(a_sample(k, note=None, target=0), note, {}) for k in range(2)), ())
    tokenizer = fold_tokenizer(cohort, split, draft_contract(None, text))
    assert tokenizer is not None
    assert "cough" in tokenizer.get_vocab()
    assert "xylophone" not in tokenizer.get_vocab()


def test_a_word_that_one_patient_alone_has_is_no_whole_word_of_the_vocabulary() -> None:
    split = FoldSplit(0, np.array([0, 1, 2]), np.array([], dtype=int), np.array([], dtype=int))
    notes = [Note("cough Quockerwodger Quockerwodger", ()), Note("cough Quockerwodger", ()), Note("cough", ())]
    patients = ["pt-1", "pt-1", "pt-2"]
    members = [
        Member(replace(a_sample(k, note=None, target=0), patient_key=patient), note, {})
        for k, (patient, note) in enumerate(zip(patients, notes, strict=True))
    ]
    tokenizer = fold_tokenizer(Cohort(tuple(members), ()), split, draft_contract(None, TEXT))
    assert tokenizer is not None
    assert "cough" in tokenizer.get_vocab()
    assert "quockerwodger" not in tokenizer.get_vocab()


# --- what comes out -------------------------------------------------------------------------


def test_temperature_minimises_the_tuning_loss_and_threshold_maximises_youdens_j(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], np.ndarray]] = []
    predict = one_fold.predict_logits

    def spy(member, samples, *more):  # type: ignore[no-untyped-def]
        logits = predict(member, samples, *more)
        asked.append(([sample.study_key for sample in samples], logits))
        return logits

    monkeypatch.setattr(one_fold, "predict_logits", spy)
    config, cohort = a_config(), a_cohort()
    plan = split_cohort(cohort, config.training)
    cohort = with_targets_turned(cohort, np.array([split.tune[0] for split in plan.folds]))  # not separable
    (arm,) = run(cohort, config, tmp_path)
    keys = [member.sample.study_key for member in cohort.members]
    for split, fold, tune, test in zip(plan.folds, arm.folds, asked[0::2], asked[1::2], strict=True):
        assert tune[0] == [keys[k] for k in split.tune]
        assert test[0] == [keys[k] for k in split.test]
        truth = np.array([cohort.targets[k] for k in split.tune])
        logits, offset = tune[1][:, 0], log_odds(np.array(cohort.targets)[split.train])

        def loss(log_temperature: float, z: np.ndarray = logits, y: np.ndarray = truth, b: float = offset) -> float:
            cooled = z / np.exp(log_temperature) + b
            prior = (log_temperature / PRIOR_DEVIATION) ** 2 / 2
            return float(np.sum(np.logaddexp(0, cooled) - y * cooled)) + prior

        best = minimize_scalar(loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded")
        assert loss(float(np.log(fold.temperature))) <= best.fun + 1e-4
        np.testing.assert_allclose(
            arm.out_of_fold.logits[split.test], test[1][:, 0] / fold.temperature + offset, atol=1e-6
        )
        probabilities = 1 / (1 + np.exp(-logits / fold.temperature - offset))

        def youden(threshold: float, p: np.ndarray = probabilities, y: np.ndarray = truth) -> float:
            return float((p[y == 1] >= threshold).mean() - (p[y == 0] >= threshold).mean())

        assert youden(fold.threshold) == pytest.approx(max(youden(p) for p in probabilities))
        expected = 1 / (1 + np.exp(-arm.out_of_fold.logits[split.test])) >= fold.threshold
        assert arm.out_of_fold.predicted[split.test].tolist() == expected.astype(int).tolist()


def test_conformal_thresholds_are_of_the_tuning_part_and_the_sets_of_the_test_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray] = []
    predict = one_fold.predict_logits

    def spy(*given):  # type: ignore[no-untyped-def]
        asked.append(predict(*given))
        return asked[-1]

    monkeypatch.setattr(one_fold, "predict_logits", spy)
    config, cohort = a_config(), a_cohort()
    half = config.evaluation.model_copy(update={"coverage": 0.5})  # which few tuning studies can promise
    plan = split_cohort(cohort, config.training)
    (arm,) = run(cohort, config.model_copy(update={"evaluation": half}), tmp_path)
    targets = np.array(cohort.targets)
    assert arm.out_of_fold.sets is not None
    for split, fold, *logits in zip(plan.folds, arm.folds, asked[0::2], asked[1::2], strict=True):
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
        tuple(replace(m, note=o.note) for m, o in zip(cohort.members, other.members, strict=True)), ()
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


# --- on fewer patients ----------------------------------------------------------------------


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


def test_a_run_may_go_on_with_other_parts_as_no_fold_depends_on_them() -> None:
    cohort = a_cohort(4)
    plain, curved, other = (
        origin_of(a_config(**changes), "split", cohort)
        for changes in ({}, {"learning_curve": (0.5,)}, {"epochs": 3})  # type: ignore[arg-type]
    )
    assert curved == plain
    assert other != plain


# --- the parts ------------------------------------------------------------------------------


def test_a_probability_at_the_threshold_counts_as_positive() -> None:
    logits = np.log([[0.25 / 0.75], [0.2499 / 0.7501], [0.9 / 0.1]])
    assert decide(logits, 0.25 - 1e-12).tolist() == [1, 0, 1]
    assert decide(np.array([[0.1, 2.0, 1.0], [3.0, 0.0, 1.0]]), 0.5).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("images", "notes", "arms"),
    [(True, True, ["image", "text", "fused"]), (True, False, ["image"]), (False, True, ["text"])],
)
def test_the_arms_are_those_that_the_cohort_can_feed(images: bool, notes: bool, arms: list[str]) -> None:
    found, said = usable_arms(a_cohort(4, images=images, notes=notes), a_config())
    assert found == arms
    assert [remark.split()[1] for remark in said] == [a for a in ("image", "text", "fused") if a not in arms]


def test_a_table_has_an_arm_and_makes_a_fused_one_with_any_other_modality() -> None:
    rows = a_cohort(4, images=False, notes=False)
    members = tuple(replace(m, sample=replace(m.sample, image=None), values={"age": 1.0}) for m in rows.members)
    packaged = a_config()
    config = packaged.model_copy(update={"table": packaged.table.model_copy(update={"columns": ("age",)})})
    alone, said = usable_arms(Cohort(members, ()), config)
    assert alone == ["table"]
    assert [remark.split()[1] for remark in said] == ["image", "text", "fused"]
    noted = (replace(members[0], note=a_note("clear")), *members[1:])
    assert usable_arms(Cohort(noted, ()), config)[0] == ["text", "table", "fused"]
    contract = arm_contract(draft_contract(IMAGE, TEXT, table=TABLE), "table")
    assert (contract.image, contract.text, contract.table) == (None, None, TABLE)


def test_an_arm_that_is_not_there_is_not_blamed_on_studies_that_were_refused() -> None:
    there = a_cohort(4, notes=False)
    refused = (Study("st-9", "pt-9", "folder"), Refusal("read", "note_unreadable", "no text", retryable=False))
    _, said = usable_arms(Cohort(there.members, (refused,)), a_config())
    read = f"the {len(there.members)} studies that can be read lack what it reads"
    assert said[:1] == [f"No text arm: {read}; others were refused (1), see training_ledger.csv."]


def test_a_cohort_that_feeds_no_arm_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="arms"):
        usable_arms(a_cohort(4, notes=False), a_config(arms=("text", "fused")))


def test_the_main_arm_is_the_fused_one_where_there_is_one() -> None:
    assert [main_arm(arms) for arms in (["image", "fused"], ["text", "image"], ["image"])] == ["fused", "text", "image"]


def test_the_contract_of_an_arm_leaves_out_what_it_does_not_read() -> None:
    contract = draft_contract(IMAGE, TEXT)
    assert arm_contract(contract, "image").text is None
    assert arm_contract(contract, "text").image is None
    assert arm_contract(contract, "fused") == contract


def test_an_arm_that_reads_no_image_gets_none() -> None:
    cohort = a_cohort(4)
    contract = arm_contract(draft_contract(IMAGE, TEXT), "text")
    split = FoldSplit(0, np.arange(5), np.array([], dtype=int), np.array([], dtype=int))
    samples = tokenize_cohort(cohort, contract, fold_tokenizer(cohort, split, contract))
    assert all(sample.image is None and sample.token_ids is not None for sample in samples)
    images = tokenize_cohort(cohort, arm_contract(draft_contract(IMAGE, TEXT), "image"), None)
    assert all(sample.image is not None and sample.token_ids is None for sample in images)


def test_the_mean_image_averages_each_channel_over_the_studies_that_have_it() -> None:
    def member(k: int, value: float, channels: tuple[bool, bool]) -> Member:
        sample = replace(a_sample(k, channels=channels), image=torch.full((2, *SIZE), value))
        return Member(sample, None, {})

    cohort = Cohort((member(0, 1.0, (True, True)), member(1, 5.0, (True, False)), member(2, 4.0, (False, True))), ())
    cohort = Cohort((*cohort.members, Member(a_sample(3, image=False), None, {})), ())
    mean = mean_image(cohort)
    assert mean.shape == (2, *SIZE)
    assert mean[0].unique().tolist() == [3.0]  # (1 + 5) / 2
    assert mean[1].unique().tolist() == [2.5]  # (1 + 4) / 2


def test_folds_are_counted_by_study_and_by_patient() -> None:
    config, cohort = a_config(), a_cohort()
    patients = [member.sample.patient_key for member in cohort.members]
    folds = count_folds(split_cohort(cohort, config.training), patients)
    assert sum(fold.test_studies for fold in folds) == 16
    assert sum(fold.test_patients for fold in folds) == 12
    for fold in folds:
        assert fold.training_studies + fold.tuning_studies + fold.test_studies == 16
        assert fold.training_patients + fold.tuning_patients + fold.test_patients == 12
