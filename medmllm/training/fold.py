"""Train the networks of one fold of one arm, decide on their tuning parts, and predict the fold's test part.

    split, cohort, contract -> fit -> raw logits of the tuning and the test part
    tuning logits of the fold's networks, pooled -> temperature, threshold and conformal thresholds
    -> entries in the card, calibrated logits of the test part, also with each modality taken away

The test part has no say in anything that is decided. Each network is written before the next one is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from medmllm.config import TrainConfig
from medmllm.documents import PreprocessingContract, Setting
from medmllm.errors import MedmllmError
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.evaluation.fold_decisions import calibrate_fold, class_probabilities, fold_sets, predicted_classes
from medmllm.model_documents import FoldModel, Task
from medmllm.models.fine_tuning import limit_training, merge_adapters
from medmllm.models.package import FoldNetwork, build_network, new_text_network, weights_name, write_weights
from medmllm.provenance import file_digest
from medmllm.records import FloatArray, Sample
from medmllm.table_documents import TableCodes
from medmllm.training.checkpoint import Checkpoint
from medmllm.training.class_odds import offsets_of
from medmllm.training.cohort import Cohort
from medmllm.training.course import Course
from medmllm.training.fold_inputs import fold_codes, fold_tokenizer, tokenize_cohort
from medmllm.training.loop import Tracker, fit, predict_logits
from medmllm.training.machine import Machine
from medmllm.training.modality_test import FoldDeprived, take_away
from medmllm.training.note_features import read_notes
from medmllm.training.resuming import Kept, KeptCandidate, NetworkResult
from medmllm.training.splits import FoldSplit
from medmllm.training.starting_weights import start_from_weights
from medmllm.training.survival_fold import Timeline, fold_timeline
from medmllm.training.tuning_part import UNDECIDED, decide_each
from medmllm.tuning_documents import TuningDecisions


@dataclass(frozen=True, slots=True, eq=False)
class FoldPrediction:
    """One fold's model on its test part."""

    models: tuple[FoldModel, ...]  # its networks: one, or one per inner fold
    logits: FloatArray  # (studies, outputs), calibrated; mean over the networks
    predicted: IntArray  # (studies, targets) class index
    sets: BoolArray | None  # (studies, classes): in the conformal set
    deprived: FoldDeprived  # probabilities of the same studies, with each modality taken away


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """A network that is trained, and the parts of its fold in its terms."""

    member: FoldNetwork
    best_epoch: int
    parts: Mapping[str, Sequence[Sample]]  # train, tune, test
    predict: Callable[[Sequence[Sample]], FloatArray]  # raw logits, shape (samples, outputs)


def train_network(
    split: FoldSplit,
    course: Course,
    contract: PreprocessingContract,
    config: TrainConfig,
    kept: Kept,
    tracker: Tracker,
) -> NetworkResult:
    """Train the network of a fold, or of an inner fold, and return its raw logits of the tuning and the test part.

    Args:
        split: What the network sees.
        course: Gives cohort, task, and the notes that are read already.
        contract: What the arm reads.
        config: Settings of the run, with those that a search chose.
        kept: Where its weights, and what it says, are kept.
        tracker: Told of every epoch.

    Raises:
        MedmllmError: As of `loop.fit`.
    """
    fitted = _fit(split, course, contract, config, kept.checkpoint, tracker)
    tune, test = fitted.predict(fitted.parts["tune"]), fitted.predict(fitted.parts["test"])
    # By the fold's seed: all its networks are given the same patients' inputs, as their mean is what is tested.
    deprived = take_away(
        fitted.predict,
        fitted.parts["test"],
        fitted.member.network.modalities,
        permutations=config.evaluation.permutations,
        seed=_fold_seed(config, split),
    )
    write_weights(kept.folder, split.fold, fitted.member, split.inner)
    own = NetworkResult(fitted.best_epoch, tune, test, deprived)
    kept.finish(own)
    return own


def try_network(
    split: FoldSplit,
    course: Course,
    contract: PreprocessingContract,
    config: TrainConfig,
    kept: KeptCandidate,
    tracker: Tracker,
) -> FloatArray | None:
    """Train a network as a candidate of a search would, and return its raw logits of the tuning part alone.

    Its weights are not kept, and it predicts no study of the test part. None: its training diverged.
    """
    try:
        fitted = _fit(split, course, contract, config, kept.checkpoint, tracker)
    except MedmllmError as error:
        if error.code != "diverged":
            raise
        kept.finish(None)
        return None
    tune = fitted.predict(fitted.parts["tune"])
    kept.finish(tune)
    return tune


def _fit(
    split: FoldSplit,
    course: Course,
    contract: PreprocessingContract,
    config: TrainConfig,
    checkpoint: Checkpoint,
    tracker: Tracker,
) -> _Fitted:
    settings, fold_seed, cohort, task = config.training, _fold_seed(config, split), course.cohort, course.task
    seed = fold_seed if split.inner is None else _inner_seed(fold_seed, split.inner)
    torch.manual_seed(seed)
    tokenizer, codes = fold_tokenizer(cohort, split, contract), fold_codes(cohort, split, contract)
    timeline = fold_timeline(cohort, split, task, config.task)
    member = _new_member(tokenizer, codes, contract, task, config, timeline)
    samples = read_notes(member, tokenize_cohort(cohort, contract, tokenizer, codes), contract, settings, course.notes)
    parts = {name: [samples[k] for k in getattr(split, name)] for name in ("train", "tune", "test")}
    uncoded = parts["train"]
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
        checkpoint=checkpoint,
    )
    merge_adapters(member.network)  # before it predicts: what is calibrated is what is packaged
    machine = Machine.of(settings.device, settings.precision, channels_last=settings.channels_last)

    def predict(samples: Sequence[Sample]) -> FloatArray:
        return predict_logits(member, samples, contract, settings, machine)

    if timeline is not None:
        timeline.settle(member.network, uncoded, lambda: predict(parts["train"]))
    return _Fitted(member, done.best_epoch, parts, predict)


def _fold_seed(config: TrainConfig, split: FoldSplit) -> int:
    return config.training.seed + 1000 * (split.fold + 1)


def _inner_seed(fold_seed: int, inner: int) -> int:
    """Return the seed of an inner fold's network, far from those of other folds and of other seeds of a run."""
    return int(np.random.SeedSequence([fold_seed, inner]).generate_state(1)[0])


def _new_member(
    tokenizer: PreTrainedTokenizerBase | None,
    codes: TableCodes | None,
    contract: PreprocessingContract,
    task: Task,
    config: TrainConfig,
    timeline: Timeline | None,
) -> FoldNetwork:
    """Return what a fold's training starts from, and learns of."""
    text_network = None
    if contract.text is not None and tokenizer is not None:
        text_network = new_text_network(contract.text, config.model, tokenizer)
    survival = None if timeline is None else timeline.fold
    network = build_network(contract, config.model, task, text_network, codes, survival=survival)
    if timeline is not None:
        timeline.start(network)
    start_from_weights(network, config.model)
    limit_training(network, config.text)
    return FoldNetwork(network, tokenizer, codes)


def decide_fold(
    splits: Sequence[FoldSplit],
    trained: Sequence[NetworkResult],
    cohort: Cohort,
    task: Task,
    config: TrainConfig,
    folder: Path,
    searched: Mapping[str, Setting] | None = None,
) -> FoldPrediction:
    """Decide on the tuning parts of a fold's networks, and return what they say together of its test part.

    With inner folds the tuning parts together are all of the fold's training studies, each predicted by the one network
    that did not learn from its patient. Temperature, operating point and conformal thresholds are decided once, on all
    of them: on single networks' logits, as of an average no training study is out of sample.

    Each network's logits are calibrated, and then averaged. For a temperature the order makes no difference; a curve
    holds for the logits it was fitted on, those of single networks. Where networks disagree their mean lies nearer to 0
    than a calibrated model's would (Rahaman & Thiery, NeurIPS 2021): probabilities err towards 0.5, and the calibration
    slope out of fold tells by how much.

    One conformal threshold over the scores of several networks is cross-conformal prediction (Vovk 2015) as far as the
    networks agree. CV+, which compares a study under each network with that network's scores, covers at least 1 - 2
    alpha less sqrt(2 / n) however they differ (Barber, Candes, Ramdas & Tibshirani, Annals of Statistics 2021), where a
    single tuning part promises 1 - alpha. For averaged logits neither is proven: coverage is measured out of fold.

    Args:
        splits: Of the fold's networks.
        trained: What they said, in the same order.
        cohort: All studies.
        task: Says which outputs are of which target.
        config: What is asked of calibration and sets.
        folder: Of the arm's package, with the networks' weights.
        searched: Settings that a search chose for the fold.
    """
    tuned = [cohort.members[k].sample for split in splits for k in split.tune]
    raw, timeline = np.concatenate([own.tune for own in trained]), fold_timeline(cohort, splits[0], task, config.task)
    learnt = [[cohort.members[k].sample for k in split.train] for split in splits]
    offsets = offsets_of(learnt, config.training, task)
    targets = [sample.target for sample in tuned]
    decided = decide_each(raw, targets, config.evaluation, task, timeline=timeline, offsets=offsets)
    models = tuple(
        _entry(split, own, decided, task, folder).model_copy(update={"searched": dict(searched or {})})
        for split, own in zip(splits, trained, strict=True)
    )
    logits = _together([own.test for own in trained], models[0], task)
    sets = fold_sets(class_probabilities(logits, task), models[0], task)
    predicted = predicted_classes(logits, models[0], task)
    return FoldPrediction(
        models, logits, predicted, sets, _deprived([own.deprived for own in trained], models[0], task)
    )


def _entry(
    split: FoldSplit, own: NetworkResult, decided: Sequence[TuningDecisions], task: Task, folder: Path
) -> FoldModel:
    """Return a network's entry in the card; what was decided is the same for all networks of a fold."""
    weights = weights_name(split.fold, split.inner)
    return FoldModel(
        fold=split.fold,
        inner=split.inner,
        weights=weights,
        weights_sha256=file_digest(folder / weights),
        best_epoch=own.best_epoch,
        targets=dict(zip(task.names, decided, strict=True)) if task.several else {},
        **dict(UNDECIDED if task.several else decided[0]),
    )


def _together(raw: Sequence[FloatArray], model: FoldModel, task: Task) -> FloatArray:
    """Return the mean over networks of their calibrated logits, (studies, outputs)."""
    return np.mean([calibrate_fold(logits, model, task) for logits in raw], axis=0)


def _deprived(networks: Sequence[FoldDeprived], model: FoldModel, task: Task) -> FoldDeprived:
    """Return probabilities of the fold's model, from its networks' logits with each modality taken away."""

    def say(raw: Sequence[FloatArray]) -> FloatArray:
        return class_probabilities(_together(raw, model, task), task)

    names = [name for name in networks[0].permuted if all(name in own.permuted for own in networks)]
    return FoldDeprived(
        permuted={
            name: np.stack([say(drawn) for drawn in np.stack([own.permuted[name] for own in networks], axis=1)])
            for name in names
        },
        absent={name: say([own.absent[name] for own in networks]) for name in names},
    )
