"""Measure the memory that training takes with few and with many studies.

    python -m reports.training_speed.memory           -> reports/training_speed/memory.json, in some minutes
    python -m reports.training_speed.memory --small   -> the same, tiny, printed only

Each training has a process of its own: it reads a cohort whose prepared images are kept on the disk already, and trains
and predicts for one epoch. What counts is the most resident memory that it ever had. For comparison, the same with the
images in memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medmllm.config import QualityConfig, load_config
from medmllm.documents import ImageSettings
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder
from medmllm.model_documents import ModelSettings
from medmllm.models.package import FoldNetwork, build_network
from medmllm.provenance import package_versions
from medmllm.training.cohort import draft_contract, read_cohort
from medmllm.training.image_cache import ImageCache
from medmllm.training.loop import fit
from medmllm.training_config import TrainingSettings
from reports.training_speed.loops import SEED, TASK, packaged

HERE = Path(__file__).resolve().parent
EDGE, COUNTS = 64, (200, 2000)
SMALL_EDGE, SMALL_COUNTS = 24, (10, 40)


def write_studies(folder: Path, count: int, edge: int) -> None:
    """Write studies of noise: int16 NIfTI files of the model's own grid."""
    draw = np.random.default_rng(SEED)
    for number in range(count):
        voxels = draw.normal(0.0, 200.0, (edge, edge, edge)).astype(np.int16)
        (folder / f"s{number:05d}").mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"s{number:05d}" / "image.nii")


class Silent:
    """A tracker that keeps nothing."""

    def log_epoch(self, epoch: int, metrics: object) -> None:
        """Take an epoch's metrics."""


def train_once(studies: Path, kept: Path | None, count: int, edge: int) -> dict[str, float]:
    """Train for one epoch on the first studies; return the seconds and the most resident memory of this process."""
    began = time.monotonic()
    index = index_folder(studies, keyring=Keyring(b"a secret of thirty-two bytes ...."))
    chosen = index.studies[:count]
    contract = draft_contract(packaged("image", ImageSettings, size=(edge, edge, edge)), None)
    cohort = read_cohort(
        chosen,
        {study.study_key: k % 2 for k, study in enumerate(chosen)},
        contract,
        policy=load_config(QualityConfig, "quality").quality,
        workers=2,
        advance=lambda more: None,
        cache=None if kept is None else ImageCache.open(kept, studies),
    )
    read_s = time.monotonic() - began
    samples = [member.sample for member in cohort.members]
    network = build_network(contract, packaged("model", ModelSettings, image_width=4), TASK, None)
    settings = packaged("training", TrainingSettings, epochs=1, device="cpu")
    fit(FoldNetwork(network, None), samples[: -count // 5], samples[-count // 5 :], contract, settings,
        seed=SEED, tracker=Silent())  # fmt: skip
    return {
        "studies": len(samples),
        "read_s": round(read_s, 1),
        "fit_s": round(time.monotonic() - began - read_s, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def measure(edge: int, counts: Sequence[int]) -> dict[str, Any]:
    """Return what memory.json holds."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_studies(root / "studies", max(counts), edge)

        def run(count: int, *kept: str) -> dict[str, float]:
            words = [sys.executable, "-m", "reports.training_speed.memory", "--one", str(root), str(count), str(edge)]
            done = subprocess.run([*words, *kept], stdout=subprocess.PIPE, text=True, check=True)
            found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return found

        run(max(counts), "kept")  # what keeps the images is not what is measured
        found = {f"{count} studies": {"on_disk": run(count, "kept"), "in_memory": run(count)} for count in counts}
    few, many = (found[f"{count} studies"] for count in counts)
    return {
        "command": "python -m reports.training_speed.memory",
        "grid": [edge, edge, edge],
        "image_mib": edge**3 * 4 / 2**20,
        "versions": package_versions(),
        **found,
        "ratio": {way: round(many[way]["peak_mib"] / few[way]["peak_mib"], 3) for way in ("on_disk", "in_memory")},
    }


def main(words: Sequence[str] | None = None) -> None:
    """Measure; write memory.json, or print it for a small trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a trial; writes nothing")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.one:
        root, count, edge, *kept = given.one
        found = train_once(Path(root) / "studies", Path(root) / kept[0] if kept else None, int(count), int(edge))
        sys.stdout.write(json.dumps(found) + "\n")
        return
    results = measure(SMALL_EDGE, SMALL_COUNTS) if given.small else measure(EDGE, COUNTS)
    text = json.dumps(results, indent=1) + "\n"
    if given.small:
        sys.stdout.write(text)
    else:
        (HERE / "memory.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
