"""Take a network once through its training part.

batches -> device -> changed a little -> loss -> gradients, clipped -> optimizer, schedule
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from medmllm.models.classifier import StudyClassifier
from medmllm.records import Batch
from medmllm.training.batches import augment
from medmllm.training.feeding import feed
from medmllm.training.losses import Loss
from medmllm.training.machine import Machine
from medmllm.training_config import TrainingSettings


@dataclass(frozen=True, slots=True, eq=False)
class Learner:
    """A network and what changes it."""

    network: StudyClassifier
    machine: Machine
    loss_of: Loss
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    settings: TrainingSettings


def train_epoch(learner: Learner, batches: Iterator[Batch], generator: torch.Generator) -> float:
    """Take the network through the batches, and return the mean loss of their studies.

    Args:
        learner: Changed in place.
        batches: With targets, in the processor's memory.
        generator: Of the augmentation.
    """
    learner.network.train()
    machine, studies = learner.machine, 0
    # Summed on the device: reading each step's loss would make the processor wait for the step.
    total = torch.zeros((), dtype=torch.float64, device=machine.device)
    for batch in feed(batches, machine.move, machine.device):
        changed = machine.lay_out(augment(batch, learner.settings, generator))
        total += _step(learner, changed).double() * len(batch.study_keys)
        studies += len(batch.study_keys)
    return float(total) / studies


def _step(learner: Learner, batch: Batch) -> Tensor:
    """Change the network by one batch; return its loss before."""
    with learner.machine.autocast():
        logits = learner.network(batch)
    loss = learner.loss_of(logits, batch.target)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(learner.network.parameters(), learner.settings.gradient_clip)
    learner.optimizer.step()
    learner.schedule.step()
    return loss.detach()
