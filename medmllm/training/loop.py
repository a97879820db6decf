"""Fit one network on one fold, and predict with it.

    training samples -> batches -> loss -> AdamW, warm-up + cosine -> best epoch on the tuning part

The same code runs on CPU and CUDA. The loop knows no tracking server: it tells a Tracker, and it
chooses the epoch on the tuning part alone.
"""

import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from medmllm.config import TrainingSettings
from medmllm.documents import PreprocessingContract
from medmllm.errors import ConfigError, MedmllmError
from medmllm.models.classifier import StudyClassifier
from medmllm.models.package import FoldNetwork
from medmllm.preprocessing.sample import collate, to_device
from medmllm.records import Batch, Sample
from medmllm.training.checkpoint import Checkpoint, FitState


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


def set_determinism(settings: TrainingSettings) -> None:
    """Make this process compute the same bits each time, or let it be as fast as it can."""
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS sums in any order
    torch.use_deterministic_algorithms(settings.deterministic)
    torch.backends.cudnn.deterministic = settings.deterministic
    torch.backends.cudnn.benchmark = False


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how the arithmetic runs."""

    device: torch.device
    bf16: bool
    channels_last: bool

    @classmethod
    def of(cls, device: str, precision: str = "auto", *, channels_last: bool = False) -> "Machine":
        """Resolve `auto`, `cpu`, `cuda` or `cuda:N`.

        Raises:
            ConfigError: The device is unknown or absent.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            found = torch.device(device)
        except RuntimeError:
            found = None
        if found is None or found.type not in ("cpu", "cuda"):
            raise ConfigError(f"device = {device!r} is none of auto, cpu, cuda, cuda:N")
        usable = torch.cuda.device_count() if found.type == "cuda" and torch.cuda.is_available() else 0
        if found.type == "cuda" and (found.index or 0) >= usable:
            raise ConfigError(
                f"device = {device!r}: {usable or 'no'} CUDA devices are usable here; use device = 'cpu' or 'auto'"
            )
        bf16 = precision == "bf16-mixed" or (precision == "auto" and found.type == "cuda")
        return cls(found, bf16, channels_last)

    def place(self, network: StudyClassifier) -> None:
        """Move a network here, in the memory layout asked for."""
        network.to(self.device)
        if self.channels_last and network.image_encoder is not None:
            network.image_encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def bring(self, batch: Batch) -> Batch:
        """Move a batch here, in the memory layout asked for."""
        moved = to_device(batch, self.device)
        if not self.channels_last:
            return moved
        return replace(moved, image=moved.image.contiguous(memory_format=torch.channels_last_3d))

    def autocast(self) -> torch.autocast:
        """Return the context for forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


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
        ConfigError: The device is absent.
        MedmllmError: `diverged`: no epoch had a finite tuning loss.
    """
    torch.manual_seed(seed)
    network, generator = member.network, torch.Generator().manual_seed(seed)
    machine = Machine.of(settings.device, settings.precision, channels_last=settings.channels_last)
    machine.place(network)
    optimizer, schedule = _optimizer(network, settings, math.ceil(len(train) / settings.batch_size))
    loss_of = make_loss(train, settings, network.outputs, machine.device)
    state = FitState(network, optimizer, schedule, generator)
    if checkpoint is not None:
        checkpoint.load(state)
    # Asked before each epoch: a state saved after its last one must not train on.
    while state.epoch < settings.epochs and state.epoch - state.best_epoch < settings.patience:
        network.train()
        total = 0.0
        for batch in batches(train, contract, settings, member.pad_token_id, generator):
            here = machine.bring(augment(batch, settings, generator))
            loss = _step(network, here, loss_of, machine, optimizer, settings.gradient_clip)
            schedule.step()
            total += loss * len(batch.study_keys)
        tuning_loss = _tuning_loss(member, tune, contract, settings, loss_of, machine)
        state.epoch += 1
        tracker.log_epoch(state.epoch, {"train_loss": total / len(train), "tuning_loss": tuning_loss})
        if tuning_loss < state.best_loss:
            state.best_epoch, state.best_loss = state.epoch, tuning_loss
            state.best_weights = copy.deepcopy(network.state_dict())
        if checkpoint is not None:
            checkpoint.save(state)
    return _best(state)


def _best(state: FitState) -> Fit:
    if not state.best_weights:
        raise MedmllmError(
            f"training diverged: none of {state.epoch} epochs had a finite tuning loss. "
            "Lower [training] learning_rate.",
            code="diverged",
        )
    state.network.load_state_dict(state.best_weights)
    state.network.eval()
    return Fit(state.best_epoch, state.epoch, state.best_loss)


def _step(
    network: StudyClassifier,
    batch: Batch,
    loss_of: "_Loss",
    machine: Machine,
    optimizer: torch.optim.Optimizer,
    gradient_clip: float,
) -> float:
    with machine.autocast():
        logits = network(batch)
    loss = loss_of(logits, batch.target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), gradient_clip)
    optimizer.step()
    return float(loss.detach())


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


class _Loss(Protocol):
    def __call__(self, logits: Tensor, target: Tensor | None) -> Tensor: ...


def make_loss(train: Sequence[Sample], settings: TrainingSettings, outputs: int, device: torch.device) -> _Loss:
    """Return the cross-entropy for these samples, weighted by inverse class frequency when asked."""
    targets = torch.tensor([s.target for s in train if s.target is not None])
    counts = torch.bincount(targets, minlength=max(2, outputs)).float().clamp(min=1)
    weights = counts.sum() / (len(counts) * counts) if settings.class_weights == "balanced" else torch.ones(len(counts))
    weights = weights.to(device)

    def loss(logits: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        if outputs > 1:
            return functional.cross_entropy(logits, target, weight=weights)
        return functional.binary_cross_entropy_with_logits(logits[:, 0], target.float(), weight=weights[target])

    return loss


def batches(
    samples: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    pad_token_id: int,
    generator: torch.Generator | None,
) -> Iterator[Batch]:
    """Yield batches, shuffled when a generator is given; a last batch of one joins the one before it."""
    order = list(range(len(samples)))
    if generator is not None:
        order = torch.randperm(len(samples), generator=generator).tolist()
    size = settings.batch_size
    starts = list(range(0, len(order), size))
    if generator is not None and len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()  # batch normalisation needs two
    for number, start in enumerate(starts):
        stop = len(order) if number == len(starts) - 1 else start + size
        yield collate([samples[k] for k in order[start:stop]], contract, pad_token_id=pad_token_id)


def augment(batch: Batch, settings: TrainingSettings, generator: torch.Generator) -> Batch:
    """Return the batch with random shifts, mirror images and noise, as the settings ask.

    What a shift pushes out is lost, and the outermost voxels are repeated on the other side: nothing comes back in
    there that lies elsewhere in the patient.
    """
    image = batch.image
    if settings.shift_voxels:
        reach = settings.shift_voxels
        moves = torch.randint(-reach, reach + 1, (len(image), 3), generator=generator).tolist()
        image = torch.stack([_shift(one, move) for one, move in zip(image, moves, strict=True)])
    if settings.flips:
        chosen = torch.rand(len(image), 3, generator=generator) < 0.5
        image = torch.stack(
            [one.flip([axis + 1 for axis in range(3) if pick[axis]]) for one, pick in zip(image, chosen, strict=True)]
        )
    if settings.noise:
        noise = torch.randn(image.shape, generator=generator) * settings.noise
        image = image + noise.to(image.device)
    return batch if image is batch.image else replace(batch, image=image)


def _shift(image: Tensor, voxels: Sequence[int]) -> Tensor:
    for axis, (size, move) in enumerate(zip(image.shape[1:], voxels, strict=True), start=1):
        image = image.index_select(axis, (torch.arange(size, device=image.device) - move).clamp(0, size - 1))
    return image


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
    for batch in batches(samples, contract, settings, member.pad_token_id, None):
        with machine.autocast():
            found.append(member.network(machine.bring(batch)).float().cpu())
    return torch.cat(found).double().numpy()


def _tuning_loss(
    member: FoldNetwork,
    tune: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    loss_of: _Loss,
    machine: Machine,
) -> float:
    logits = torch.from_numpy(predict_logits(member, tune, contract, settings, machine)).float().to(machine.device)
    target = torch.tensor([s.target for s in tune], device=machine.device)
    return float(loss_of(logits, target))
