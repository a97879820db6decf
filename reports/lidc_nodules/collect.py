"""Collect the evaluations of `run.sh` into results.json, beside the baselines.

OUT/{spiculation,malignancy}/evaluation.json -> results.json
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMAND = "reports/lidc_nodules/run.sh DATA OUT"
# 5-fold logistic regressions, mean of 3 to 5 shuffles, +-0.05, stated with the cohort.
BASELINES = {
    "spiculation": {"image": 0.80, "text": 0.83, "fused": 0.89},
    "malignancy": {"image": 0.85, "text": None, "fused": None},
}


def collect(out: Path) -> dict[str, object]:
    """Return what results.json holds."""
    found: dict[str, object] = {"command": COMMAND, "cohort": "134 CT nodule cubes, one per patient; not synthetic"}
    for target, baselines in BASELINES.items():
        evaluation = json.loads((out / target / "evaluation.json").read_text(encoding="utf-8"))
        found[target] = {
            "target": evaluation["task"]["target"],
            "studies": evaluation["n"],
            "patients": evaluation["patients"],
            "class_counts": evaluation["class_counts"],
            "arms": {
                arm["arm"]: {
                    metric["name"]: {key: metric[key] for key in ("estimate", "low", "high")}
                    for metric in arm["metrics"]
                }
                for arm in evaluation["arms"]
            },
            "fused_minus": {
                difference["group"]: {key: difference[key] for key in ("estimate", "low", "high")}
                for difference in evaluation["differences"]
            },
            "baseline_auroc": baselines,
            "split_digest": evaluation["split_digest"],
            "remarks": evaluation["remarks"],
            "provenance": evaluation["provenance"],
        }
    return found


def main() -> None:
    """Write results.json beside this file."""
    text = json.dumps(collect(Path(sys.argv[1])), indent=2)
    (HERE / "results.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
