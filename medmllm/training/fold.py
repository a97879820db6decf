"""Train one fold's network of one arm, decide on its tuning part, and predict its test part.

    split, cohort, contract -> fit -> temperature, threshold and conformal thresholds from the tuning part
    -> the fold's entry in the card, calibrated logits of the test part, also with each modality taken away

The test part has no say in anything that is decided. The network is written before the next one is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from medmllm.config import TrainConfig
from medmllm.documents import PreprocessingContract
from medmllm.evaluation.calibration import to_probabilities
from medmllm.evaluation.conformal import conformal_sets
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.ordinal import median_class
from medmllm.evaluation.survival import horizon_chances
from medmllm.model_documents import FoldModel
from medmllm.models.fine_tuning import limit_training, merge_adapters
from medmllm.models.package import FoldNetwork, build_network, new_text_network, weights_name, write_weights
from medmllm.provenance import file_digest
from medmllm.records import FloatArray, Sample
from medmllm.table_documents import TableCodes
from medmllm.training.cohort import Cohort
from medmllm.training.fold_inputs import fold_codes, fold_tokenizer, tokenize_cohort
from medmllm.training.label_fold import label_probabilities, labels_predicted
from medmllm.training.loop import Tracker, fit, predict_logits
from medmllm.training.machine import Machine
from medmllm.training.modality_test import FoldDeprived, take_away
from medmllm.training.note_features import read_notes
from medmllm.training.resuming import Kept
from medmllm.training.splits import FoldSplit
from medmllm.training.starting_weights import start_from_weights
from medmllm.training.survival_fold import Timeline, fold_timeline, survived_of
from medmllm.training.tuning_part import decide_on_tuning


@dataclass(frozen=True, slots=True, eq=False)
class FoldPrediction:
    """One fold's model on its test part."""

    model: FoldModel
    logits: FloatArray  # (studies, outputs), calibrated
    predicted: IntArray | BoolArray  # (studies,) class index; or (studies, labels)
    sets: BoolArray | None  # (studies, classes): in the conformal set; None for several labels and times
    deprived: FoldDeprived  # the same studies, with each modality taken away


def train_fold(
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
    timeline = fold_timeline(cohort, split, config.task)
    member = _new_member(tokenizer, codes, contract, classes, config, timeline, labels=bool(cohort.labels))
    samples = read_notes(member, tokenize_cohort(cohort, contract, tokenizer, codes), contract, settings)
    parts = {name: [samples[k] for k in getattr(split, name)] for name in ("train", "tune", "test")}
    survived = {name: survived_of(own) for name, own in parts.items()}
    if timeline is not None:
        parts = {name: timeline.code(own) for name, own in parts.items()}
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

    def raw(samples: Sequence[Sample]) -> FloatArray:
        return predict_logits(member, samples, contract, settings, machine)

    if timeline is None:
        truth = np.array([sample.target for sample in parts["tune"]])
        decided = decide_on_tuning(raw(parts["tune"]), truth, config.evaluation)
    else:
        timeline.settle(member.network, survived["train"], lambda: raw(parts["train"]))
        decided = timeline.decide(raw(parts["tune"]), survived["tune"], config.task.horizons)
    logits = decided.calibrate(raw(parts["test"]))
    horizons = len(config.task.asked_horizons)

    def predict(changed: Sequence[Sample]) -> FloatArray:
        return chances(decided.calibrate(raw(changed)), labels=decided.labels is not None, horizons=horizons)

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
        survival=decided.survival,
    )
    kept.finish(model, logits, deprived)
    return model, logits, deprived


def _new_member(
    tokenizer: PreTrainedTokenizerBase | None,
    codes: TableCodes | None,
    contract: PreprocessingContract,
    classes: tuple[str, ...],
    config: TrainConfig,
    timeline: Timeline | None,
    *,
    labels: bool,
) -> FoldNetwork:
    """Return what a fold's training starts from, and learns of."""
    text_network = None
    if contract.text is not None and tokenizer is not None:
        text_network = new_text_network(contract.text, config.model, tokenizer)
    network = build_network(
        contract,
        config.model,
        classes,
        text_network,
        codes,
        ordered=config.task.ordered,
        labels=labels,
        intervals=0 if timeline is None else len(timeline.fold.bounds),
        cox=timeline is not None and timeline.cox,
    )
    if timeline is not None:
        timeline.start(network)
    start_from_weights(network, config.model)
    limit_training(network, config.text)
    return FoldNetwork(network, tokenizer, codes)


def predict_fold(
    model: FoldModel, logits: FloatArray, deprived: FoldDeprived, *, ordered: bool, horizons: int
) -> FoldPrediction:
    """Return what a fold's model says of its test part, from its logits calibrated."""
    if model.survival is not None:
        above = chances(logits, horizons=horizons)[:, 1] >= model.threshold
        return FoldPrediction(model, logits, above.astype(np.int64), None, deprived)
    if model.labels is not None:
        return FoldPrediction(model, logits, labels_predicted(logits, model.labels), None, deprived)
    assert model.conformal_thresholds is not None  # this training has them
    sets = conformal_sets(chances(logits), model.conformal_thresholds)
    return FoldPrediction(model, logits, decide(logits, model.threshold, ordered=ordered), sets, deprived)


def chances(logits: FloatArray, *, labels: bool = False, horizons: int = 0) -> FloatArray:
    """Return probabilities, of each label or of each class, from calibrated logits (studies, outputs).

    With horizons these are log cumulative hazards, and the classes no event by the largest horizon, and the event.
    """
    if horizons:
        return horizon_chances(logits, horizons)
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
