"""Our training loop and a bare one on the same network, batches and recipe, taking turns.

settings, samples -> a network, its optimizer; kept batches -> bare epochs; samples -> our epochs -> seconds
"""

import math
import statistics
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import BertConfig

from medmllm.documents import ImageSettings, PreprocessingContract, TextSettings
from medmllm.model_documents import ModelSettings, Task
from medmllm.models.package import FoldNetwork, build_network
from medmllm.models.text_encoder import from_config
from medmllm.preprocessing.sample import collate
from medmllm.records import Batch, Sample
from medmllm.training.batches import batches
from medmllm.training.epoch import Learner, train_epoch
from medmllm.training.loop import new_learner
from medmllm.training.machine import Machine
from medmllm.training_config import TrainingSettings

SETTINGS = Path(__file__).resolve().parents[2] / "pipelines" / "train.toml"
TASK = Task.of("outcome", ("no", "yes"))
SEED = 20


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What is trained on what."""

    contract: PreprocessingContract
    model: ModelSettings
    training: TrainingSettings
    text: BertConfig
    samples: Sequence[Sample]

    def network(self) -> FoldNetwork:
        """Return fresh random weights, the same each time."""
        torch.manual_seed(SEED)
        return FoldNetwork(build_network(self.contract, self.model, TASK, from_config(self.text)), None)


def packaged(table: str, document: type[Any], **changes: object) -> Any:
    """Return a table of train.toml with some values changed; keys that are another document's are left out."""
    given = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))[table]
    return document.model_validate({key: given[key] for key in document.model_fields if key in given} | changes)


def contract_for(edge: int, tokens: int) -> PreprocessingContract:
    """Return the contract of one channel on a cubic grid, and of notes read in one piece."""
    image = packaged("image", ImageSettings, size=(edge, edge, edge))
    text = packaged("text", TextSettings, max_tokens=tokens, window=tokens, overlap=0)
    return PreprocessingContract(version=1, orientation="RAS", image=image, accepted={}, text=text)


def made_up(count: int, edge: int, tokens: int, words: int) -> list[Sample]:
    """Return samples of noise, half of each class, with notes of random words, all of the same length."""
    draw = torch.Generator().manual_seed(SEED)
    return [
        Sample(
            study_key=f"st-{k:016x}",
            patient_key=f"pt-{k:016x}",
            image=torch.randn(1, edge, edge, edge, generator=draw) + k % 2,
            channel_present=(True,),
            token_ids=torch.randint(5, words, (tokens,), generator=draw),
            words=(),
            target=k % 2,
        )
        for k in range(count)
    ]


def keep_batches(case: Case, machine: Machine) -> list[Batch]:
    """Return the samples as batches, already where and as the network takes them."""
    size = case.training.batch_size
    parts = [case.samples[start : start + size] for start in range(0, len(case.samples), size)]
    return [machine.bring(collate(part, case.contract)) for part in parts]


def bare_epoch(learner: Learner, kept: Sequence[Batch]) -> None:
    """Train as one would write it in ten lines: the tensors are at hand, nothing is shuffled, changed or reported."""
    network, optimizer, clip = learner.network, learner.optimizer, learner.settings.gradient_clip
    network.train()
    for batch in kept:
        bare_step(network, batch, optimizer, clip, learner.machine)


def bare_step(network: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, clip: float, where: Machine) -> None:
    """Take one step."""
    with torch.autocast(where.device.type, torch.bfloat16, enabled=where.bf16):
        logits = network(batch)
    assert batch.target is not None
    loss = functional.binary_cross_entropy_with_logits(logits[:, 0], batch.target.float())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()


def our_epoch(case: Case, learner: Learner, order: torch.Generator) -> float:
    """Train as `medmllm train` does: shuffled, collated, changed a little, brought to the device, weighted, summed."""
    pinned = learner.machine.pin_memory
    drawn = batches(case.samples, case.contract, case.training, 0, order, pin_memory=pinned)
    return train_epoch(learner, drawn, order)


def compare(case: Case, *, rounds: int, settle: Callable[[], None], limit_s: float = math.inf) -> dict[str, Any]:
    """Let a bare loop and ours take turns; return the seconds of each epoch and the median of the rounds' ratios.

    Args:
        case: What is trained.
        rounds: Pairs of epochs; every other pair the other way round. One more of each goes before.
        settle: Waits until the device is done; called before and after each epoch.
        limit_s: No round begins later than this after the first.
    """
    bare = new_learner(case.network().network, case.samples, case.training)
    ours = new_learner(case.network().network, case.samples, case.training)
    kept, order = keep_batches(case, bare.machine), torch.Generator().manual_seed(SEED)
    turns: dict[str, Callable[[], object]] = {
        "bare": lambda: bare_epoch(bare, kept),
        "ours": lambda: our_epoch(case, ours, order),
    }
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    start = time.perf_counter()
    for number in range(rounds + 1):
        if number > 1 and time.perf_counter() - start > limit_s:
            break
        for name in turns if number % 2 else reversed(turns):
            settle()
            began = time.perf_counter()
            turns[name]()
            settle()
            if number:
                seconds[name].append(time.perf_counter() - began)
    ratios = [own / plain for own, plain in zip(seconds["ours"], seconds["bare"], strict=True)]
    return {
        "studies": len(case.samples),
        "steps_per_epoch": len(kept),
        "seconds": {name: [round(one, 4) for one in found] for name, found in seconds.items()},
        "median_seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "ratios": [round(ratio, 4) for ratio in ratios],
        "ratio": statistics.median(ratios),
    }
