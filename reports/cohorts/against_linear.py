"""Compare the runs with the logistic regressions study by study: the same folds, the same resamples of patients.

    OUT/runs/TASK_20/out_of_fold.csv, regressions fitted on its folds -> AUROC of the run minus that of the regression

    python reports/cohorts/against_linear.py DATA OUT [--only TASK ...] -> against_linear.json beside this file

A run whose studies were not tested in the same folds is refused.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from linear_baselines import LINEAR, SEEDS, Cohort, LinearTask, arms_of, logits_of, read_cohort
from run import TASKS, VARIANTS, command_line, parse

from medmllm.evaluation.discrimination import weighted_auroc
from medmllm.evaluation.resampling import Measure, resample
from medmllm.records import FloatArray
from medmllm.training.splits import SplitPlan

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "against_linear.json"
ARMS = ("image", "text", "fused")
ADDED = "image + text"
"""A run's two arms with their logits added, as the regressions' fused is: tells what its fusion gains or costs."""

SIZE = "logarithms of size and brightness"
"""What the stacks' image arm is compared with as well: a regression that reads no places."""


def read_run(run: Path, cohort: Cohort, plan: SplitPlan) -> dict[str, FloatArray]:
    """Return arm -> logit of each study out of fold, in the cohort's order.

    Raises:
        SystemExit: Other studies, or other test folds.
    """
    table = pd.read_csv(run / "out_of_fold.csv")
    keys = [study.study_key for study in cohort.studies]
    (logit,) = (name for name in table.columns if name.startswith("logits[") and table[name].notna().any())
    found = {}
    for arm, rows in table.groupby("arm"):
        ordered = rows.set_index("study_key")
        if set(ordered.index) != set(keys) or (ordered.loc[keys, "fold"].to_numpy() != plan.test_fold).any():
            raise SystemExit(f"{run.name}: its folds are not those of the regressions")
        found[str(arm)] = ordered.loc[keys, logit].to_numpy(dtype=np.float64)
    if {"image", "text"} <= set(found):
        found[ADDED] = found["image"] + found["text"]
    return found


def compare(own: Mapping[str, FloatArray], linear: Mapping[str, FloatArray], cohort: Cohort) -> dict[str, object]:
    """Return arm -> AUROC of the run minus that of the regression, with its interval."""
    positive, wanted = cohort.targets == 1, cohort.settings.evaluation
    pairs = {arm: (arm, "fused" if arm == ADDED else arm) for arm in (*ARMS, ADDED)}
    pairs[f"image, against {SIZE}"] = ("image", SIZE)
    pairs = {name: (arm, other) for name, (arm, other) in pairs.items() if arm in own and other in linear}
    measures: dict[str, Measure] = {}
    for arm, other in pairs.values():
        measures[f"run {arm}"] = partial(weighted_auroc, positive, own[arm])
        measures[f"linear {other}"] = partial(weighted_auroc, positive, linear[other])
    drawn = resample(
        measures,
        targets=cohort.targets,
        patients=cohort.patients,
        samples=wanted.bootstrap_samples,
        seed=cohort.settings.training.seed,
    )
    found: dict[str, object] = {}
    for name, (arm, other) in pairs.items():
        if arm == ADDED:
            found["image + text auroc"] = drawn.estimates[f"run {arm}"]
        interval = drawn.difference(f"run {arm}", f"linear {other}", wanted.confidence)
        found[name] = {key: getattr(interval, key) for key in ("estimate", "low", "high")}
    return found


def run_task(task: LinearTask, data: Path, out: Path) -> dict[str, object]:
    """Return run -> arm -> difference, for the runs of a task that lie in OUT."""
    (asked,) = (own for own in TASKS if own.name == task.name)
    cohort = read_cohort(asked, data, out)
    plan = cohort.split(SEEDS[0])
    arms = {name: arm for name, arm in arms_of(task, cohort.studies).items() if name in (*ARMS, SIZE)}
    linear = logits_of(arms, cohort, plan, SEEDS[0])
    found: dict[str, object] = {}
    drawn_once = [variant for variant in VARIANTS if variant != "_repeated"]  # its figures are means over draws
    for name in (task.name, *(f"{task.name}{variant}" for variant in drawn_once)):
        run = out / "runs" / f"{name}_{SEEDS[0]}"
        if (run / "out_of_fold.csv").is_file():
            found[name] = compare(read_run(run, cohort, plan), linear, cohort)
    return found


def main() -> None:
    """Read the command line and compare what it asks for."""
    asked, tasks = parse(command_line("Compare runs with regressions and write against_linear.json.", LINEAR), LINEAR)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for task in tasks:
        known |= run_task(task, asked.data, asked.out)
    ordered = {"command": "python reports/cohorts/against_linear.py DATA OUT"}
    ordered |= {task.name: known[task.name] for task in TASKS if task.name in known}
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
