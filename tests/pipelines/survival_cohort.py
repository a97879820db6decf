"""A made-up cohort whose image and note each carry a part of the hazard, what is known of it, and Harrell's C."""

from pathlib import Path

import numpy as np
import pandas as pd

from medmllm.evaluation.concordance import weighted_harrell
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.records import Volume
from tests.factories import write_nifti_study

WORDS = ("clear", "mild", "marked", "severe", "diffuse")
SURVIVAL = ("--target", "days", "--set", "task.kind=survival", "--set", "task.event=death",
            "--set", "task.horizons=[200, 400]")  # fmt: skip


def write_survival_cohort(folder: Path, *, patients: int, effect: float = 1.2, seed: int = 3) -> Path:
    """Write FOLDER/studies and return FOLDER/labels.csv with days, death and, for tests alone, the true log-risk.

    Times are exponential, censored at random. The brightness of a cube and a word of the note have five levels each,
    and each multiplies the hazard by exp(effect) from level to level.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        seen, told = rng.integers(0, 5, 2)
        voxels = rng.normal(0.0, 10.0, (12, 10, 8))
        voxels[2:10, 1:9, 1:7] += 40.0 * seen
        affine = np.diag([4.0, 4.0, 4.0, 1.0])
        volume = Volume(voxels.astype(np.float32), affine, None, None)
        name = f"case-{patient:03d}"
        note = f"HISTORY: Made up, {WORDS[told]} signs. Cough.\n"
        write_nifti_study(folder / "studies" / name, {"image": volume}, note=note)
        risk = effect * float(seen + told - 4)
        days, left = rng.exponential(300.0 / np.exp(risk)), rng.uniform(150.0, 900.0)
        rows.append({
            "patient_id": f"P{patient:03d}", "study_id": name, "days": round(min(days, left), 2),
            "death": "yes" if days <= left else "no", "true_risk": risk,
        })  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


def harrell(time: pd.Series, event: pd.Series, risk: pd.Series) -> float:
    """Return Harrell's C."""
    followed = Followed(time.to_numpy(dtype=float), event.to_numpy(dtype=bool))
    return float(weighted_harrell(followed, risk.to_numpy(dtype=float), np.ones((1, len(time))))[0])
