"""Cross-validate models of each modality alone, and of all fused, on the same folds.

    cohort, splits -> per arm and fold: fit; calibration, threshold and conformal thresholds on the tuning part
    -> out-of-fold predictions, also with each modality taken away, and of smaller trainings for a learning curve

Each fold's network is written to its arm's folder as soon as it is trained, so memory stays flat. A run that was killed
goes on where it was: see resuming.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from medmllm.config import TrainConfig
from medmllm.documents import FoldModel, PreprocessingContract
from medmllm.errors import ConfigError
from medmllm.evaluation.calibration import to_probabilities
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.conformal import conformal_sets
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.modality_use import Deprived
from medmllm.evaluation.multilabel import LabelsOutOfFold
from medmllm.evaluation.ordinal import median_class
from medmllm.models.fine_tuning import limit_training, merge_adapters
from medmllm.models.package import FoldNetwork, build_network, new_text_network, weights_name, write_weights
from medmllm.preprocessing.stored_image import load_image
from medmllm.provenance import file_digest
from medmllm.records import MODALITIES, FloatArray, Sample
from medmllm.table_documents import TableCodes
from medmllm.training.checkpoint import FOLDER as CHECKPOINTS
from medmllm.training.checkpoint import Origin
from medmllm.training.cohort import Cohort, draft_contract, final_contract
from medmllm.training.epoch_count import EpochCount
from medmllm.training.fold_inputs import fold_codes, fold_tokenizer, tokenize_cohort
from medmllm.training.label_fold import label_probabilities, labels_predicted
from medmllm.training.label_splits import split_labels
from medmllm.training.loop import Tracker, fit, predict_logits
from medmllm.training.machine import Machine, set_determinism
from medmllm.training.missing_inputs import remark_missing
from medmllm.training.modality_test import FoldDeprived, assemble, take_away
from medmllm.training.note_features import read_notes
from medmllm.training.resuming import Kept, origin_of
from medmllm.training.splits import FoldSplit, SplitPlan, make_splits
from medmllm.training.starting_weights import report_weights, start_from_weights
from medmllm.training.subsets import nested_subsets
from medmllm.training.tracking import Run
from medmllm.training.tuning_part import decide_on_tuning
from medmllm.training_config import Arm, TrainingSettings


@dataclass(frozen=True, slots=True, eq=False)
class SmallerTraining:
    """An arm trained on a part of each fold's training patients; its networks are not kept."""

    fraction: float
    folds: tuple[FoldSplit, ...]
    out_of_fold: OutOfFold | LabelsOutOfFold


@dataclass(frozen=True, slots=True, eq=False)
class ArmResult:
    """One arm, cross-validated."""

    arm: Arm
    contract: PreprocessingContract  # the cohort's, less what the arm does not read
    out_of_fold: OutOfFold | LabelsOutOfFold
    folds: tuple[FoldModel, ...]
    folder: Path  # holds the folds' weights and tokenizers
    deprived: tuple[Deprived, ...] = ()  # out of fold, with each modality taken away
    smaller: tuple[SmallerTraining, ...] = ()  # of the main arm, where a learning curve is asked for


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What all arms and folds of a cross-validation share."""

    cohort: Cohort
    config: TrainConfig
    classes: tuple[str, ...]
    out: Path
    origin: Origin
    tracked: Run
    advance: Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class FoldPrediction:
    """One fold's model on its test part."""

    model: FoldModel
    logits: FloatArray  # (studies, outputs), calibrated
    predicted: IntArray | BoolArray  # (studies,) class index; or (studies, labels)
    sets: BoolArray | None  # (studies, classes): in the conformal set; None for several labels
    deprived: FoldDeprived  # the same studies, with each modality taken away


def arm_contract(contract: PreprocessingContract, arm: str) -> PreprocessingContract:
    """Return the contract of an arm: all of it when fused, else what it says of one modality."""
    if arm == "fused":
        return contract
    left_out: dict[str, object] = {name: None for name in MODALITIES if name != arm}
    return contract.model_copy(update=left_out if arm == "image" else left_out | {"accepted": {}})


def usable_arms(cohort: Cohort, config: TrainConfig) -> tuple[list[Arm], list[str]]:
    """Return the arms that the cohort can train, and remarks on those it cannot and on what many studies lack.

    Raises:
        ConfigError: No arm is left.
    """
    has = {
        "image": cohort.has_images,
        "text": cohort.has_notes,
        "recording": cohort.has_recordings,
        "table": cohort.has_values,
    }
    has["fused"] = sum(has.values()) > 1
    off = {"recording": not config.recording.enabled, "table": not config.table.columns}
    asked = [arm for arm in config.training.arms if not off.get(arm, False)]
    arms = [arm for arm in asked if has[arm]]
    said = [f"No {arm} arm: the studies lack what it reads." for arm in asked if not has[arm]]
    said += remark_missing(cohort, config.image.channels)
    if not arms:
        raise ConfigError("no study has what [training] arms reads: add notes or images, or name other arms")
    return arms, said


def split_cohort(cohort: Cohort, settings: TrainingSettings, labels: Sequence[str] = ()) -> SplitPlan:
    """Return the folds of a cohort, as the settings ask; `labels` names several labels, where there are any."""
    if labels:
        return split_labels(
            [member.sample.patient_key for member in cohort.members],
            cohort.labels,
            labels,
            study_keys=[member.sample.study_key for member in cohort.members],
            folds=settings.folds,
            tuning_fraction=settings.tuning_fraction,
            seed=settings.seed,
        )
    return make_splits(
        [member.sample.patient_key for member in cohort.members],
        cohort.targets,
        study_keys=[member.sample.study_key for member in cohort.members],
        folds=settings.folds,
        tuning_fraction=settings.tuning_fraction,
        seed=settings.seed,
    )


def main_arm(arms: Sequence[Arm]) -> Arm:
    """Return the arm whose package is RUN/model: fused where there is one."""
    return "fused" if "fused" in arms else arms[0]


def cross_validate(
    arms: Sequence[Arm],
    cohort: Cohort,
    plan: SplitPlan,
    config: TrainConfig,
    classes: tuple[str, ...],
    *,
    out: Path,
    tracked: Run,
    advance: Callable[[int], None],
    resume: bool = False,
) -> tuple[ArmResult, ...]:
    """Train every arm on the same folds, each fold in a child run of its own.

    Packages go to OUT/model (the main arm) and OUT/model_ARM; a fold's weights are written as soon as it is trained.
    What is reached is kept in OUT/checkpoints; with `resume`, training goes on from there. `advance` is told of every
    epoch, and of those that a fold did not need when it is done.
    """
    set_determinism(config.training)
    text = config.text.reading if cohort.has_notes else None
    table = cohort.table if cohort.has_values else None
    recording = config.recording if cohort.has_recordings else None
    draft = draft_contract(config.image if cohort.has_images else None, text, recording, table)
    contract = final_contract(cohort, draft, margin=config.acceptance_margin)
    # When overwriting, also what is left of arms that are not trained now.
    for earlier in [] if resume else [out / CHECKPOINTS, out / "model", *out.glob("model_*")]:
        shutil.rmtree(earlier, ignore_errors=True)
    report_weights(config, contract, out)
    course = Course(cohort, config, classes, out, origin_of(config, plan.digest, cohort), tracked, advance)
    results = {}
    for arm in arms:
        folder = out / ("model" if arm == main_arm(arms) else f"model_{arm}")
        results[arm] = _train_arm(course, arm, arm_contract(contract, arm), plan.folds, folder, name=arm)
    main = results[main_arm(arms)]
    results[main.arm] = replace(main, smaller=_train_on_less(course, main, plan.folds))
    return tuple(results.values())


def _train_arm(
    course: Course, arm: Arm, contract: PreprocessingContract, folds: Sequence[FoldSplit], folder: Path, *, name: str
) -> ArmResult:
    """Train one arm on all folds; under `name` its runs are tracked and its checkpoints kept."""
    found = []
    for split in folds:
        child = course.tracked.child(f"{name} fold {split.fold}")
        kept = Kept(course.out, folder, course.origin, name.replace(" ", "_"), split.fold)
        done = kept.finished()
        count = EpochCount(child, course.advance, course.config.training.epochs)
        if done is None:
            done = _run_fold(split, course.cohort, contract, course.classes, course.config, kept, count)
        own = _predicted(*done, ordered=course.config.task.ordered)
        if own.model.labels is None:
            child.log_metrics({"temperature": own.model.temperature, "threshold": own.model.threshold})
        child.end()
        found.append(own)
        count.finish()
    return _assemble(arm, contract, folds, found, folder)


def _train_on_less(course: Course, main: ArmResult, folds: Sequence[FoldSplit]) -> tuple[SmallerTraining, ...]:
    """Train the main arm on each part of the training patients that the learning curve asks for.

    The networks lie among the checkpoints, and go with them when the run is whole.
    """
    config, members = course.config, course.cohort.members
    fractions = config.training.learning_curve
    if not fractions:
        return ()
    patients, seed = [member.sample.patient_key for member in members], config.training.seed
    parts = nested_subsets(folds, patients, course.cohort.targets, fractions, seed=seed)
    untested = config.evaluation.model_copy(update={"permutations": 0})  # use of modalities is told of whole trainings
    less = replace(course, config=config.model_copy(update={"evaluation": untested}))
    found = []
    for fraction, own in zip(fractions, parts, strict=True):
        name = f"{main.arm} at {fraction}"
        folder = course.out / CHECKPOINTS / name.replace(" ", "_")
        done = _train_arm(less, main.arm, main.contract, own, folder, name=name)
        found.append(SmallerTraining(fraction, own, done.out_of_fold))
    return tuple(found)


def _assemble(
    arm: Arm,
    contract: PreprocessingContract,
    splits: Sequence[FoldSplit],
    folds: Sequence[FoldPrediction],
    folder: Path,
) -> ArmResult:
    order = np.concatenate([split.test for split in splits]).argsort()
    logits = np.concatenate([found.logits for found in folds])[order]
    predicted = np.concatenate([found.predicted for found in folds])[order]
    out_of_fold: OutOfFold | LabelsOutOfFold
    if folds[0].model.labels is not None:
        out_of_fold = LabelsOutOfFold(arm, label_probabilities(logits), logits, predicted)
    else:
        sets = np.concatenate([found.sets for found in folds if found.sets is not None])[order]
        shown = logits[:, 0] if logits.shape[1] == 1 else logits
        out_of_fold = OutOfFold(arm, to_probabilities(shown), shown, predicted, sets)
    deprived = assemble([(split.test, found.deprived) for split, found in zip(splits, folds, strict=True)], len(order))
    return ArmResult(arm, contract, out_of_fold, tuple(found.model for found in folds), folder, deprived)


def _run_fold(
    split: FoldSplit,
    cohort: Cohort,
    contract: PreprocessingContract,
    classes: tuple[str, ...],
    config: TrainConfig,
    kept: Kept,
    tracker: Tracker,
) -> tuple[FoldModel, FloatArray, FoldDeprived]:
    """Train one fold; return its entry in the card, the logits of its test part, and those without a modality."""
    settings = config.training
    seed = settings.seed + 1000 * (split.fold + 1)
    torch.manual_seed(seed)
    tokenizer, codes = fold_tokenizer(cohort, split, contract), fold_codes(cohort, split, contract)
    member = _new_member(tokenizer, codes, contract, classes, config, labels=bool(cohort.labels))
    samples = read_notes(member, tokenize_cohort(cohort, contract, tokenizer, codes), contract, settings)
    parts = {name: [samples[k] for k in getattr(split, name)] for name in ("train", "tune", "test")}
    done = fit(
        member,
        parts["train"],
        parts["tune"],
        contract,
        settings,
        seed=seed,
        tracker=tracker,
        checkpoint=kept.checkpoint,
    )
    merge_adapters(member.network)  # before it predicts: what is calibrated is what is packaged
    machine = Machine.of(settings.device, settings.precision, channels_last=settings.channels_last)
    raw = {name: predict_logits(member, parts[name], contract, settings, machine) for name in ("tune", "test")}
    truth = np.array([sample.target for sample in parts["tune"]])
    decided = decide_on_tuning(raw["tune"], truth, config.evaluation)
    logits = decided.calibrate(raw["test"])

    def predict(changed: Sequence[Sample]) -> FloatArray:
        found = predict_logits(member, changed, contract, settings, machine)
        return _chances(decided.calibrate(found), labels=decided.labels is not None)

    repeats = 0 if cohort.labels else config.evaluation.permutations  # told for one target only
    deprived = take_away(predict, parts["test"], member.network.modalities, permutations=repeats, seed=seed)
    write_weights(kept.folder, split.fold, member)
    model = FoldModel(
        fold=split.fold,
        weights=weights_name(split.fold),
        weights_sha256=file_digest(kept.folder / weights_name(split.fold)),
        best_epoch=done.best_epoch,
        temperature=decided.temperature,
        isotonic=decided.isotonic,
        threshold=decided.threshold,
        conformal_thresholds=decided.conformal_thresholds,
        labels=decided.labels,
    )
    kept.finish(model, logits, deprived)
    return model, logits, deprived


def _new_member(
    tokenizer: PreTrainedTokenizerBase | None,
    codes: TableCodes | None,
    contract: PreprocessingContract,
    classes: tuple[str, ...],
    config: TrainConfig,
    *,
    labels: bool,
) -> FoldNetwork:
    """Return what a fold's training starts from, and learns of."""
    text_network = None
    if contract.text is not None and tokenizer is not None:
        text_network = new_text_network(contract.text, config.model, tokenizer)
    network = build_network(
        contract, config.model, classes, text_network, codes, ordered=config.task.ordered, labels=labels
    )
    start_from_weights(network, config.model)
    limit_training(network, config.text)
    return FoldNetwork(network, tokenizer, codes)


def _predicted(model: FoldModel, logits: FloatArray, deprived: FoldDeprived, *, ordered: bool) -> FoldPrediction:
    """Return what a fold's model says of its test part, from its logits calibrated."""
    if model.labels is not None:
        return FoldPrediction(model, logits, labels_predicted(logits, model.labels), None, deprived)
    assert model.conformal_thresholds is not None  # this training has them
    sets = conformal_sets(_chances(logits), model.conformal_thresholds)
    return FoldPrediction(model, logits, decide(logits, model.threshold, ordered=ordered), sets, deprived)


def _chances(logits: FloatArray, *, labels: bool = False) -> FloatArray:
    if labels:
        return label_probabilities(logits)
    return to_probabilities(logits[:, 0] if logits.shape[1] == 1 else logits)


def decide(logits: FloatArray, threshold: float, *, ordered: bool = False) -> IntArray:
    """Return the class index of each study: at the threshold when binary, the median when ordered, else the likeliest.

    Args:
        logits: Shape (studies, outputs), calibrated.
        threshold: On the positive class's probability; read only when there is one output.
        ordered: The classes have an order.
    """
    if ordered:
        return median_class(to_probabilities(logits))
    if logits.shape[1] == 1:
        return (to_probabilities(logits[:, 0])[:, 1] >= threshold).astype(np.int64)
    return logits.argmax(axis=1)


def mean_image(cohort: Cohort) -> Tensor:
    """Return the mean of the cohort's images, shape (channels, x, y, z): the attribution baseline.

    Each channel is averaged over the studies that have it.
    """
    total: Tensor | None = None
    count: Tensor | None = None
    for member in cohort.members:
        if member.sample.image is None:
            continue
        image = load_image(member.sample.image).double()
        here = torch.tensor(member.sample.channel_present).double()[:, None, None, None]
        total = image * here if total is None else total + image * here
        count = here if count is None else count + here
    assert total is not None and count is not None, "asked for only where the cohort has images"
    return (total / count.clamp(min=1)).float()
