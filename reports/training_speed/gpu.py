"""Measure training on a GPU: our loop against a bare one, the share of the matmul ceiling, and what must hold there.

    python reports/training_speed/gpu.py --out DIR                        -> DIR/gpu.json
    python reports/training_speed/gpu.py --out DIR --device cpu --small   -> the same, tiny, to try the script

Wants torch, monai, transformers and what they bring along, pydantic, and this checkout on PYTHONPATH; no installation.
The network is resnet18 and a BERT of base size (random weights), fused, on 96^3 and 256 tokens, batches of 16, bf16.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig

from medmllm.model_documents import ModelSettings
from medmllm.preprocessing.sample import collate
from medmllm.provenance import git_state, package_versions
from medmllm.training.batches import augment
from medmllm.training.checkpoint import Checkpoint, Origin
from medmllm.training.loop import fit, new_learner, predict_logits
from medmllm.training.machine import Machine, set_determinism
from medmllm.training_config import TrainingSettings
from reports.training_speed.loops import (
    Case,
    bare_epoch,
    bare_step,
    compare,
    contract_for,
    keep_batches,
    made_up,
    our_epoch,
    packaged,
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    edge: int
    tokens: int
    width: int  # of the ResNet's first stage
    text: Mapping[str, int]  # what differs from BERT-base
    batch: int
    studies: int
    rounds: int
    matmul: int  # edge of the matrices


WHOLE = Sizes(96, 256, 64, {}, 16, 256, 9, 8192)
SMALL = Sizes(32, 32, 8, {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                          "intermediate_size": 128, "vocab_size": 500}, 4, 12, 3, 256)  # fmt: skip

LIMIT_S = 30.0
"""No further round is begun after this; what is asked for first gets twice as long."""


def case_of(sizes: Sizes, device: str, **changes: object) -> Case:
    """Return the fused network of these sizes on made-up studies."""
    text = BertConfig(**sizes.text)
    asked = {"device": device, "batch_size": sizes.batch, "precision": "bf16-mixed"} | changes
    return Case(
        contract_for(sizes.edge, sizes.tokens),
        packaged("model", ModelSettings, image_encoder="resnet18", image_width=sizes.width),
        packaged("training", TrainingSettings, **asked),
        text,
        made_up(sizes.studies, sizes.edge, sizes.tokens, text.vocab_size),
    )


def waiting(device: str) -> Callable[[], None]:
    """Return what waits until the device has done all it was told."""
    return (lambda: torch.cuda.synchronize(device)) if device.startswith("cuda") else (lambda: None)


def speed(sizes: Sizes, device: str) -> dict[str, Any]:
    """Return our loop against the bare one, as shipped and with the images unchanged, and the share of the ceiling."""
    settle = waiting(device)
    case = case_of(sizes, device)
    set_determinism(case.training)
    found = {"as_shipped": compare(case, rounds=sizes.rounds, settle=settle, limit_s=2 * LIMIT_S)}
    plain = replace(case, training=case.training.model_copy(update={"shift_voxels": 0, "class_weights": "none"}))
    found["images_unchanged"] = compare(plain, rounds=sizes.rounds, settle=settle, limit_s=LIMIT_S)
    torch.backends.cudnn.benchmark = False
    found["convolutions_not_chosen_by_trial"] = compare(case, rounds=3, settle=settle, limit_s=LIMIT_S)
    set_determinism(case.training)
    step_s = found["as_shipped"]["median_seconds"]["bare"] / found["as_shipped"]["steps_per_epoch"]
    own_s = found["as_shipped"]["median_seconds"]["ours"] / found["as_shipped"]["steps_per_epoch"]
    flop, peak = step_flop(case), matmul_rate(sizes.matmul, device, settle)
    return found | {
        "step_flop": flop,
        "matmul_flop_per_s": peak,
        "step_s": {"bare": step_s, "ours": own_s},
        "studies_per_s": {"bare": sizes.batch / step_s, "ours": sizes.batch / own_s},
        "share_of_matmul": {"bare": flop / step_s / peak, "ours": flop / own_s / peak},
        "peak_mib": peak_memory(case, device),
        "parts_ms": {name: parts(case, name, settle) for name in ("collate", "move", "augment")},
    }


def step_flop(case: Case) -> int:
    """Return the floating-point operations of one step, forward and backward, by torch's own count."""
    learner = new_learner(case.network().network, case.samples, case.training)
    (batch, *_) = keep_batches(replace(case, samples=case.samples[: case.training.batch_size]), learner.machine)
    with FlopCounterMode(display=False) as counter:
        bare_step(learner.network, batch, learner.optimizer, case.training.gradient_clip, learner.machine)
    return int(counter.get_total_flops())


def matmul_rate(edge: int, device: str, settle: Callable[[], None]) -> float:
    """Return the operations per second of a large bf16 matrix product: the median of nine rounds of ten."""
    one, two = (torch.randn(edge, edge, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for number in range(10):
        settle()
        began = time.perf_counter()
        for _ in range(10):
            torch.mm(one, two)
        settle()
        if number:
            rates.append(10 * 2 * edge**3 / (time.perf_counter() - began))
    return statistics.median(rates)


def peak_memory(case: Case, device: str) -> dict[str, float] | None:
    """Return the most memory of the GPU that each loop holds, network and optimizer included; None elsewhere."""
    if not device.startswith("cuda"):
        return None
    found = {}
    for name in ("bare", "ours"):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        learner = new_learner(case.network().network, case.samples, case.training)
        kept = keep_batches(replace(case, samples=case.samples[: 2 * case.training.batch_size]), learner.machine)
        torch.cuda.reset_peak_memory_stats(device)
        if name == "bare":
            bare_epoch(learner, kept)
        else:
            del kept
            our_epoch(case, learner, torch.Generator().manual_seed(1))
        torch.cuda.synchronize(device)
        found[name] = round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)
        learner.optimizer.zero_grad(set_to_none=True)
        del learner
    return found


def parts(case: Case, name: str, settle: Callable[[], None]) -> float:
    """Return the milliseconds that one batch takes in one part of our loop, done alone: the median of seven."""
    machine = Machine.of(case.training.device, case.training.precision, channels_last=case.training.channels_last)
    chosen, order = case.samples[: case.training.batch_size], torch.Generator().manual_seed(1)
    batch = collate(chosen, case.contract, pin_memory=machine.pin_memory)
    moved = machine.move(batch)
    work: dict[str, Callable[[], object]] = {
        "collate": lambda: collate(chosen, case.contract, pin_memory=machine.pin_memory),
        "move": lambda: machine.move(batch),
        "augment": lambda: augment(moved, case.training, order),
    }
    taken = []
    for _ in range(8):
        settle()
        began = time.perf_counter()
        work[name]()
        settle()
        taken.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(taken[1:]), 3)


def parity(sizes: Sizes, device: str) -> dict[str, float]:
    """Return how far the device's logits are from the processor's in float32, on the spread of the logits."""
    case = case_of(replace(sizes, studies=8), device)
    member = case.network()
    with torch.random.fork_rng(devices=[]):  # away from the start, where all logits are alike
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in member.network.fusion.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    truth = predict_logits(member, case.samples, case.contract, case.training, Machine.of("cpu", "32-true"))
    found = {"spread_of_logits": float(truth.std())}
    for name, precision, tf32 in (
        ("float32", "32-true", False),
        ("tf32", "32-true", True),
        ("bf16", "bf16-mixed", True),
    ):
        torch.backends.cudnn.allow_tf32 = tf32
        machine = Machine.of(device, precision, channels_last=True)
        machine.place(member.network)
        logits = predict_logits(member, case.samples, case.contract, case.training, machine)
        found[f"largest_difference_{name}"] = float(abs(logits - truth).max())
    torch.backends.cudnn.allow_tf32 = True
    return found


class Killed(BaseException):
    """Stands for SIGKILL."""


@dataclass
class Told:
    """A tracker that ends the training in the middle of an epoch, if asked."""

    ends_in: int | None = None

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take an epoch's metrics."""
        if epoch == self.ends_in:
            raise Killed


def resume(sizes: Sizes, device: str) -> dict[str, Any]:
    """Return whether a training cut off in its second epoch goes on to the same bits, with all that is random."""
    case = case_of(replace(SMALL, edge=2 * SMALL.edge if sizes is WHOLE else SMALL.edge), device,
                   deterministic=True, epochs=3, noise=0.1, flips=True)  # fmt: skip
    set_determinism(case.training)
    train, tune = case.samples[:8], case.samples[8:]

    def trained(told: Told, checkpoint: Checkpoint | None) -> dict[str, torch.Tensor]:
        member = case.network()
        fit(member, train, tune, case.contract, case.training, seed=1, tracker=told, checkpoint=checkpoint)
        weights: dict[str, torch.Tensor] = member.network.state_dict()
        return weights

    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Checkpoint(Path(scratch) / "fold.safetensors", Origin("a", "b", "c"))
        whole, again = trained(Told(), None), trained(Told(), None)
        try:
            trained(Told(ends_in=2), checkpoint)
        except Killed:
            kept = checkpoint.path.exists()
        resumed = trained(Told(), checkpoint)
    differ = {name: not torch.equal(value, resumed[name]) for name, value in whole.items()}
    repeat = {name: not torch.equal(value, again[name]) for name, value in whole.items()}
    return {"tensors": len(whole), "kept": kept, "differ_after_resume": sum(differ.values()),
            "differ_between_two_runs": sum(repeat.values())}  # fmt: skip


PARTS: dict[str, Callable[[Sizes, str], dict[str, Any]]] = {"parity": parity, "resume": resume, "speed": speed}


def described(device: str) -> dict[str, Any]:
    """Return which device, driver and versions these numbers are of."""
    commit, dirty = git_state()
    cuda = torch.cuda.get_device_properties(device) if device.startswith("cuda") else None
    return {
        "device": "processor" if cuda is None else cuda.name,
        "memory_gib": None if cuda is None else round(cuda.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Run each part in a process of its own, as determinism is for a whole process; write what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where gpu.json goes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a trial of seconds")
    parser.add_argument("--part", choices=sorted(PARTS), help="one part alone, printed")
    given = parser.parse_args(words)
    if given.part:
        sys.stdout.write(json.dumps(PARTS[given.part](SMALL if given.small else WHOLE, given.device)) + "\n")
        return
    given.out.mkdir(parents=True, exist_ok=True)
    found, began = described(given.device), time.monotonic()
    same = ["--out", str(given.out), "--device", given.device, *(["--small"] if given.small else [])]
    for part in PARTS:
        done = subprocess.run([sys.executable, __file__, *same, "--part", part], stdout=subprocess.PIPE, text=True)
        found[part] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}
        found["seconds"] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{part}: {found['seconds']} s\n")
        (given.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
