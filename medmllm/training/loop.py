"""Fit one network on one fold, and predict with it.

    training samples -> batches -> loss -> AdamW, warm-up + cosine -> best epoch on the tuning part

The same code runs on CPU and CUDA. The loop knows no tracking server: it tells a Tracker, and it
chooses the epoch on the tuning part alone.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.optim.lr_scheduler import LambdaLR

from medmllm.documents import PreprocessingContract
from medmllm.errors import ConfigError, MedmllmError
from medmllm.models.classifier import StudyClassifier
from medmllm.models.package import FoldNetwork
from medmllm.records import Sample
from medmllm.training.batches import batches, smallest_batch, training_starts
from medmllm.training.checkpoint import Checkpoint, FitState, fixed_digest, learned, restore
from medmllm.training.epoch import Learner, train_epoch
from medmllm.training.feeding import feed
from medmllm.training.followers import crew_of
from medmllm.training.losses import Loss, make_loss
from medmllm.training.machine import Machine, set_determinism
from medmllm.training.processes import ALONE, Crew
from medmllm.training_config import TrainingSettings


class Tracker(Protocol):
    """Whoever wants to know how training goes."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one epoch, counted from 1."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How one fold's training went; the network holds the best epoch's weights."""

    best_epoch: int  # from 1
    epochs: int
    tuning_loss: float


def fit(
    member: FoldNetwork,
    train: Sequence[Sample],
    tune: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    *,
    seed: int,
    tracker: Tracker,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Train a network in place and leave it with the weights of the best epoch on the tuning part.

    Args:
        member: The network and its tokenizer; the network is changed.
        train: Samples with targets.
        tune: Samples with targets of other patients; choose the epoch, nothing else.
        contract: What the samples were prepared under.
        settings: Epochs, rates, batch size, device.
        seed: Of the order of samples, dropout and augmentation.
        tracker: Told of every epoch.
        checkpoint: Where the state is kept after every epoch, and gone on from; None keeps none.

    Raises:
        ConfigError: The device is absent, or there are too few studies or GPUs for so many processes.
        MedmllmError: `diverged`: no epoch had a finite tuning loss; `process_lost`: one of several ended.
    """
    machine = Machine.of(settings.device, settings.precision, channels_last=settings.channels_last)
    if settings.processes > 1 and len(train) < 2 * settings.processes:
        raise ConfigError(f"[training] processes = {settings.processes} is too many for {len(train)} training studies")
    work = (member, train, contract, settings, seed, checkpoint)
    with crew_of(settings.processes, machine.device, _follow, work) as crew:
        state = _lead(crew, *work, tune=tune, tracker=tracker)
    return _best(state)  # not before the others are done: a training that diverged does not end them


def _lead(
    crew: Crew,
    member: FoldNetwork,
    train: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    seed: int,
    checkpoint: Checkpoint | None,
    *,
    tune: Sequence[Sample],
    tracker: Tracker,
) -> FitState:
    learner, state = _begin(crew, member.network, train, settings, seed, checkpoint)
    # Asked before each epoch: a state saved after its last one must not train on.
    while crew.goes_on(state.epoch < settings.epochs and state.epoch - state.best_epoch < settings.patience):
        train_loss = _train_on(learner, state, member, train, contract)
        tuning_loss = _tuning_loss(member, tune, contract, settings, learner.loss_of, learner.machine)
        state.epoch += 1
        tracker.log_epoch(state.epoch, {"train_loss": train_loss, "tuning_loss": tuning_loss})
        if tuning_loss < state.best_loss:
            state.best_epoch, state.best_loss = state.epoch, tuning_loss
            state.best_weights = copy.deepcopy(learned(state.network))
        if checkpoint is not None:
            checkpoint.save(state)
    member.network.share_statistics(False)
    return state


def _follow(
    crew: Crew,
    member: FoldNetwork,
    train: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    seed: int,
    checkpoint: Checkpoint | None,
) -> None:
    """Take part in every epoch that the leader begins."""
    set_determinism(settings)
    member = copy.deepcopy(member)  # what came here lies in memory shared with the leader
    learner, state = _begin(crew, member.network, train, settings, seed, checkpoint)
    while crew.goes_on(False):
        _train_on(learner, state, member, train, contract)


def _begin(
    crew: Crew,
    network: StudyClassifier,
    train: Sequence[Sample],
    settings: TrainingSettings,
    seed: int,
    checkpoint: Checkpoint | None,
) -> tuple[Learner, FitState]:
    torch.manual_seed(seed)
    network.share_statistics(settings.sync_batch_norm and crew.size > 1)
    learner = new_learner(network, train, settings, crew)
    state = FitState(network, learner.optimizer, learner.schedule, torch.Generator().manual_seed(seed))
    if checkpoint is not None:
        state.fixed = fixed_digest(network)
        checkpoint.load(state)
    return learner, state


def _train_on(
    learner: Learner,
    state: FitState,
    member: FoldNetwork,
    train: Sequence[Sample],
    contract: PreprocessingContract,
) -> float:
    """Train for one epoch and return its mean loss."""
    order, crew = state.generator, learner.crew
    changes = order
    if crew.size > 1:  # all draw the same order; dropout and changes of the images are each one's own
        own = int(torch.randint(2**62, (), generator=order.clone_state())) + crew.rank
        torch.manual_seed(own)
        changes = torch.Generator().manual_seed(own)
    drawn = batches(
        train, contract, learner.settings, member.pad_token_id, order, pin_memory=learner.machine.pin_memory, crew=crew
    )
    return train_epoch(learner, drawn, changes)


def new_learner(
    network: StudyClassifier, train: Sequence[Sample], settings: TrainingSettings, crew: Crew = ALONE
) -> Learner:
    """Return a network, moved to its device, with all that an epoch on these samples takes.

    Raises:
        ConfigError: The device is absent.
    """
    device = settings.device if crew.size == 1 else str(crew.device)
    machine = Machine.of(device, settings.precision, channels_last=settings.channels_last)
    machine.place(network)
    drawn = len(training_starts(len(train), settings.batch_size, smallest_batch(settings, crew.size)))
    optimizer, schedule = _optimizer(network, settings, math.ceil(drawn / settings.accumulate))
    loss_of = make_loss(train, settings, network.task, machine.device)
    return Learner(network, machine, loss_of, optimizer, schedule, settings, crew)


def _best(state: FitState) -> Fit:
    if not state.best_weights:
        raise MedmllmError(
            f"training diverged: none of {state.epoch} epochs had a finite tuning loss. "
            "Lower [training] learning_rate.",
            code="diverged",
        )
    restore(state.network, state.best_weights)
    state.network.eval()
    return Fit(state.best_epoch, state.epoch, state.best_loss)


def _optimizer(
    network: StudyClassifier, settings: TrainingSettings, steps: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    text = [] if network.text_encoder is None else list(network.text_encoder.parameters())
    owned = {id(parameter) for parameter in text}
    text = [parameter for parameter in text if parameter.requires_grad]
    rest = [parameter for parameter in network.parameters() if parameter.requires_grad and id(parameter) not in owned]
    groups = [{"params": rest, "lr": settings.learning_rate}, {"params": text, "lr": settings.text_learning_rate}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=settings.weight_decay, fused=True)
    warmup = max(1, round(settings.warmup_epochs * steps))
    last = max(warmup + 1, settings.epochs * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (last - warmup)))

    return optimizer, LambdaLR(optimizer, factor)


@torch.no_grad()
def predict_logits(
    member: FoldNetwork,
    samples: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    machine: Machine,
) -> npt.NDArray[np.float64]:
    """Return raw logits, shape (samples, outputs)."""
    member.network.eval()
    found = []
    prepared = batches(samples, contract, settings, member.pad_token_id, None, pin_memory=machine.pin_memory)
    for batch in feed(prepared, machine.bring, machine.device):
        with machine.autocast():
            found.append(member.network(batch).float())
    return torch.cat(found).cpu().double().numpy()


def _tuning_loss(
    member: FoldNetwork,
    tune: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    loss_of: Loss,
    machine: Machine,
) -> float:
    logits = torch.from_numpy(predict_logits(member, tune, contract, settings, machine)).float().to(machine.device)
    target = torch.tensor([s.target for s in tune], device=machine.device)
    return float(loss_of(logits, target))
