"""The inputs of a run: number, kind and seed of the run decide every byte of one.

(seeds, kind, run, number) -> which seed, which damage -> the files of one input
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.robustness import damage
from reports.robustness.dicom_damage import DICOM
from reports.robustness.nifti_damage import NIFTI
from reports.robustness.seeds import FILE, NAME, Seed

KINDS: Mapping[str, Sequence[damage.Damage]] = {"dicom": DICOM, "nifti": NIFTI}
SIDECARS = ('{"Modality": "MR"}', '{"Modality": 7}', "[" * 100_000, '{"Modality": ["' + NAME + '"]}', "\0\1", "")


@dataclass(frozen=True, slots=True)
class DamagedInput:
    """One input and how it came about."""

    seed: str
    damages: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]


def make_input(seeds: Mapping[str, Sequence[Seed]], kind: str, run: int, number: int) -> DamagedInput:
    """Return input `number` of run `run`: one seed with one to three damages, or two seeds spliced."""
    rng = random.Random(f"{run}/{kind}/{number}")  # the text is hashed the same way everywhere
    seed = rng.choice(seeds[kind])
    which = rng.randrange(len(seed.files))
    name, content = seed.files[which]
    done = []
    if rng.random() < 0.06:
        other = rng.choice(seeds[kind] if rng.random() < 0.8 else seeds["nifti" if kind == "dicom" else "dicom"])
        content = damage.splice(content, other.files[0][1], rng)
        done.append("splice")
    for _ in range(rng.choice((1, 1, 1, 2, 3)) - len(done)):
        change = rng.choice(KINDS[kind])
        content = change(content, rng)
        done.append(change.__name__)
    files = [*seed.files]
    files[which] = (name, content)
    if kind == "nifti" and rng.random() < 0.02:
        files.append((f"{FILE}.json", rng.choice(SIDECARS)))
        done.append("sidecar")
    ready = tuple((name, data.encode() if isinstance(data, str) else data) for name, data in files)
    return DamagedInput(seed.name, tuple(done), ready)


def described(made: DamagedInput, kind: str, run: int, number: int) -> str:
    """Return how an input was made, as JSON, to lie beside its files."""
    return json.dumps({"kind": kind, "run": run, "number": number, "seed": made.seed, "damages": made.damages})
