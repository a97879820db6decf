"""Measure training on the processor: our loop against a bare one, on stacks of slices through lung nodules.

    python -m reports.training_speed.cpu --stacks nodule_stacks_64.npz  -> reports/training_speed/cpu.json, in minutes
    python -m reports.training_speed.cpu --stacks ... --small           -> the same on few of them, printed only

The stacks are 64 x 64 voxels and a few slices, laid into the middle of 16; the targets are theirs. They come without
notes: a made-up note of random words goes with each, so that both branches of the fused network work. Network and
recipe are those of train.toml. The bare loop has all batches in memory; ours reads each image from a file, as
`medmllm train` does. Run it on an idle machine.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmllm.documents import ImageSettings, PreprocessingContract, TextSettings
from medmllm.model_documents import ModelSettings
from medmllm.models.text_encoder import tiny_config
from medmllm.preprocessing.stored_image import store_image, voxel_digest
from medmllm.provenance import git_state, package_versions
from medmllm.records import Sample, StoredImage
from medmllm.training.machine import set_determinism
from medmllm.training_config import TrainingSettings
from reports.training_speed.loops import Case, compare, made_up, packaged

HERE = Path(__file__).resolve().parent
GRID = (64, 64, 16)
TOKENS, WORDS = 64, 1000
ROUNDS, LIMIT_S = 9, 300.0
SMALL, SMALL_ROUNDS = 24, 2


def read_stacks(file: Path, most: int | None, folder: Path) -> list[Sample]:
    """Return a sample per stack: its image in a file of the folder, a made-up note, its target."""
    with np.load(file, allow_pickle=False) as stacks:
        slices, counts, malignant = stacks["slices"], stacks["slice_count"], stacks["malignant"]
    notes = made_up(len(counts), 1, TOKENS, WORDS)
    ends = np.cumsum(counts)
    samples = []
    for number, (sample, end, count) in enumerate(zip(notes[:most], ends, counts, strict=False)):
        kept = slices[end - count : end][: GRID[2]].transpose(1, 2, 0) / np.float32(255)
        image = torch.zeros(1, *GRID)
        start = (GRID[2] - kept.shape[2]) // 2
        image[0, :, :, start : start + kept.shape[2]] = torch.from_numpy(kept)
        place = folder / f"{number}.safetensors"
        store_image(place, image, {})
        stored = StoredImage(place, voxel_digest(image))
        samples.append(replace(sample, image=stored, target=int(malignant[number])))
    return samples


def case_of(samples: Sequence[Sample], threads: int) -> Case:
    """Return the network and recipe of train.toml on these samples."""
    text = packaged("text", TextSettings, max_tokens=TOKENS, window=TOKENS, overlap=0)
    image = packaged("image", ImageSettings, size=GRID)
    model = packaged("model", ModelSettings)
    return Case(
        PreprocessingContract(version=1, orientation="RAS", image=image, accepted={}, text=text),
        model,
        packaged("training", TrainingSettings, device="cpu", threads=threads),
        tiny_config(WORDS, model, text),
        samples,
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measure; write cpu.json, or print it for a small trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stacks", type=Path, required=True, help="slices, slice_count and malignant, as .npz")
    parser.add_argument("--small", action="store_true", help="a trial; writes nothing")
    given = parser.parse_args(words)
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        case = case_of(read_stacks(given.stacks, SMALL if given.small else None, Path(scratch)), threads)
        set_determinism(case.training)
        rounds = SMALL_ROUNDS if given.small else ROUNDS
        found = compare(case, rounds=rounds, settle=lambda: None, limit_s=LIMIT_S)
    commit, dirty = git_state()
    results: dict[str, Any] = {
        "command": "python -m reports.training_speed.cpu --stacks nodule_stacks_64.npz",
        "machine": {"threads": threads, "python": platform.python_version(), "load": os.getloadavg()},
        "versions": package_versions(),
        "commit": commit,
        "dirty": dirty,
        "grid": GRID,
        "batch_size": case.training.batch_size,
        **found,
    }
    text = json.dumps(results, indent=1) + "\n"
    if given.small:
        sys.stdout.write(text)
    else:
        (HERE / "cpu.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
