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
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.fold_decisions import calibrate_fold, class_probabilities, fold_sets, predicted_classes
from medmllm.model_documents import FoldModel, Task
from medmllm.models.fine_tuning import limit_training, merge_adapters
from medmllm.models.package import FoldNetwork, build_network, new_text_network, weights_name, write_weights
from medmllm.provenance import file_digest
from medmllm.records import FloatArray, Sample
from medmllm.table_documents import TableCodes
from medmllm.training.cohort import Cohort
from medmllm.training.fold_inputs import fold_codes, fold_tokenizer, tokenize_cohort
from medmllm.training.loop import Tracker, fit, predict_logits
from medmllm.training.machine import Machine
from medmllm.training.modality_test import FoldDeprived, take_away
from medmllm.training.note_features import read_notes
from medmllm.training.resuming import Kept
from medmllm.training.splits import FoldSplit
from medmllm.training.starting_weights import start_from_weights
from medmllm.training.tuning_part import UNDECIDED, decide_each


@dataclass(frozen=True, slots=True, eq=False)
class FoldPrediction:
    """One fold's model on its test part."""

    model: FoldModel
    logits: FloatArray  # (studies, outputs), calibrated
    predicted: IntArray  # (studies, targets) class index
    sets: BoolArray | None  # (studies, classes): in the conformal set
    deprived: FoldDeprived  # the same studies, with each modality taken away


def train_fold(
    split: FoldSplit,
    cohort: Cohort,
    contract: PreprocessingContract,
    task: Task,
    config: TrainConfig,
    kept: Kept,
    tracker: Tracker,
) -> tuple[FoldModel, FloatArray, FoldDeprived]:
    """Train one fold; return its entry in the card, the logits of its test part, and those without a modality."""
    settings = config.training
    seed = settings.seed + 1000 * (split.fold + 1)
    torch.manual_seed(seed)
    tokenizer, codes = fold_tokenizer(cohort, split, contract), fold_codes(cohort, split, contract)
    member = _new_member(tokenizer, codes, contract, task, config)
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
    decided = decide_each(raw["tune"], truth, config.evaluation, task)
    write_weights(kept.folder, split.fold, member)
    model = FoldModel(
        fold=split.fold,
        weights=weights_name(split.fold),
        weights_sha256=file_digest(kept.folder / weights_name(split.fold)),
        best_epoch=done.best_epoch,
        targets=dict(zip(task.names, decided, strict=True)) if task.several else {},
        **dict(UNDECIDED if task.several else decided[0]),
    )
    logits = calibrate_fold(raw["test"], model, task)

    def predict(changed: Sequence[Sample]) -> FloatArray:
        found = predict_logits(member, changed, contract, settings, machine)
        return class_probabilities(calibrate_fold(found, model, task), task)

    repeats = config.evaluation.permutations
    deprived = take_away(predict, parts["test"], member.network.modalities, permutations=repeats, seed=seed)
    kept.finish(model, logits, deprived)
    return model, logits, deprived


def _new_member(
    tokenizer: PreTrainedTokenizerBase | None,
    codes: TableCodes | None,
    contract: PreprocessingContract,
    task: Task,
    config: TrainConfig,
) -> FoldNetwork:
    """Return what a fold's training starts from, and learns of."""
    text_network = None
    if contract.text is not None and tokenizer is not None:
        text_network = new_text_network(contract.text, config.model, tokenizer)
    network = build_network(contract, config.model, task, text_network, codes)
    start_from_weights(network, config.model)
    limit_training(network, config.text)
    return FoldNetwork(network, tokenizer, codes)


def predict_fold(model: FoldModel, logits: FloatArray, deprived: FoldDeprived, *, task: Task) -> FoldPrediction:
    """Return what a fold's model says of its test part, from its logits calibrated."""
    sets = fold_sets(class_probabilities(logits, task), model, task)
    return FoldPrediction(model, logits, predicted_classes(logits, model, task), sets, deprived)
