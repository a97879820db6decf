"""Take a network once through its training part.

batches -> device -> changed a little -> loss -> gradients, clipped -> optimizer, schedule
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from medmllm.models.classifier import StudyClassifier
from medmllm.records import Batch
from medmllm.training.batches import augment
from medmllm.training.feeding import feed
from medmllm.training.losses import Loss
from medmllm.training.machine import Machine
from medmllm.training.processes import ALONE, Crew
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
    crew: Crew = ALONE


def train_epoch(learner: Learner, batches: Iterator[Batch], generator: torch.Generator) -> float:
    """Take the network through the batches, and return the mean loss of their studies.

    Args:
        learner: Changed in place.
        batches: With targets, in the processor's memory; of each, this process's part.
        generator: Of the augmentation.
    """
    learner.network.train()
    machine, crew, studies = learner.machine, learner.crew, 0.0
    # Summed on the device: reading each step's loss would make the processor wait for the step.
    total = torch.zeros((), dtype=torch.float64, device=machine.device)
    fed = feed(batches, machine.move, machine.device)
    while group := tuple(islice(fed, learner.settings.accumulate)):
        changed = [machine.lay_out(augment(batch, learner.settings, generator)) for batch in group]
        (count,) = crew.totals(float(sum(len(batch.study_keys) for batch in group)))
        total += _step(learner, changed).double() * count
        studies += float(count)
    crew.average_statistics(learner.network)
    (whole,) = crew.totals(total)
    return float(whole) / studies


def _step(learner: Learner, group: Sequence[Batch]) -> Tensor:
    """Change the network by the gradient of several batches' studies.

    Returns:
        Their mean loss before; where several processes share the batches, this one's part of it.
    """
    targets = [batch.target for batch in group]
    divisors = [
        # What stands in where a batch has no study for this process weighs nothing.
        learner.loss_of.divisor(target) if batch.study_keys else 0.0
        for batch, target in zip(group, targets, strict=True)
        if target is not None
    ]
    assert len(divisors) == len(group), "training samples have targets"
    mean = torch.zeros((), device=learner.machine.device)
    (whole,) = learner.crew.totals(sum(divisors))
    learner.optimizer.zero_grad(set_to_none=True)
    for batch, target, divisor in zip(group, targets, divisors, strict=True):
        assert target is not None
        with learner.machine.autocast():
            logits = learner.network(batch)
        # As if all studies of the group were one batch: a short last batch counts less, a heavy class more.
        loss = learner.loss_of(logits, target) * (divisor / whole)
        loss.backward()
        mean += loss.detach()
    learner.crew.add_up(learner.network)
    nn.utils.clip_grad_norm_(learner.network.parameters(), learner.settings.gradient_clip)
    learner.optimizer.step()
    learner.schedule.step()
    return mean
