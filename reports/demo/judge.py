"""Judge a finished demo against what was planted: SYNTHETIC throughout.

medmllm demo --out OUT; python reports/demo/judge.py OUT -> reports/demo/results.json
"""

import csv
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from medmllm.ingest.keys import load_keyring

HERE = Path(__file__).resolve().parent


def peak_lies_in_lesion(study: Path, mask_file: Path) -> bool:
    """Say whether the attribution's largest absolute voxel lies in the planted lesion."""
    image, mask = nib.load(study / "attribution.nii.gz"), nib.load(mask_file)
    attribution = np.abs(np.asanyarray(image.dataobj))
    peak = np.unravel_index(int(attribution.argmax()), attribution.shape)
    voxel = np.rint(np.linalg.inv(mask.affine) @ image.affine @ [*peak, 1])[:3].astype(int)
    return bool(np.asanyarray(mask.dataobj)[tuple(voxel)])


def judge(out: Path) -> dict[str, object]:
    """Return what results.json holds; needs the site secret that the demo ran with."""
    keys = load_keyring()
    with (out / "cohort" / "scoring" / "labels.csv").open(newline="") as stream:
        truth = {keys.study(row["study_id"]): row for row in csv.DictReader(stream)}
    with (out / "scored" / "predictions.csv").open(newline="") as stream:
        predictions = list(csv.DictReader(stream))
    hits, errors = [], []
    for row in predictions:
        planted, study = truth[row["study_key"]], out / "scored" / "studies" / row["study_key"]
        explained = json.loads((study / "explanation.json").read_text())
        errors.append(explained["completeness_error"])
        if planted["outcome"] == row["predicted"] == "1":
            mask = out / "cohort" / "lesion_masks" / "scoring" / f"{planted['study_id']}.nii.gz"
            hits.append(peak_lies_in_lesion(study, mask))
    evaluation = json.loads((out / "run" / "evaluation.json").read_text())
    return {
        "command": "medmllm demo --out OUT; python reports/demo/judge.py OUT",
        "cohort": "SYNTHETIC, with planted causes; no clinical meaning",
        "out_of_fold_auroc": {
            arm["arm"]: {key: metric[key] for key in ("estimate", "low", "high")}
            for arm in evaluation["arms"]
            for metric in arm["metrics"]
            if metric["name"] == "auroc"
        },
        "scored": len(predictions),
        "correct": sum(truth[row["study_key"]]["outcome"] == row["predicted"] for row in predictions),
        "true_positives": len(hits),
        "peak_in_lesion": float(np.mean(hits)),
        "largest_completeness_error": max(errors),
        "provenance": evaluation["provenance"],
    }


def main() -> None:
    """Write results.json beside this file."""
    (HERE / "results.json").write_text(json.dumps(judge(Path(sys.argv[1])), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
