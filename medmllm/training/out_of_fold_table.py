"""Write what every arm said of every study, each by the fold model that never saw the patient.

Trained -> RUN/out_of_fold.csv: a row per study, arm and repeat; its columns are a matter of the task

Of several targets what is one per target, or one per class, has a column for each.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medmllm.csv_tables import write_table
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.several import SeveralOutOfFold
from medmllm.evaluation.survival import SurvivalOutOfFold
from medmllm.model_documents import RISK_GROUPS, SurvivalTask, Task
from medmllm.records import UNKNOWN, Survival, Target
from medmllm.table_rows import OutOfFoldRow, SurvivalOutOfFoldRow, TargetsOutOfFoldRow
from medmllm.training.repeats import folds_by_draw
from medmllm.training.run import Trained

Cells = dict[str, object]
"""Field of a row -> what stands in it; of several targets, or of classes, a dict."""


def write_out_of_fold(path: Path, trained: Trained) -> None:
    """Write one row per study, arm and repeat."""
    task = trained.task
    row_type: type[OutOfFoldRow | SurvivalOutOfFoldRow | TargetsOutOfFoldRow] = OutOfFoldRow
    if task.several:
        row_type = TargetsOutOfFoldRow
    elif task.survival is not None:
        row_type = SurvivalOutOfFoldRow
    write_table(path, row_type, map(row_type.model_validate, _rows(trained)), classes=task.columns)


def _rows(trained: Trained) -> Iterator[Cells]:
    for repeat, folds in enumerate(folds_by_draw(trained.plan)):
        for arm in trained.arms:
            said = arm.draws[repeat].out_of_fold
            for k, fold in enumerate(folds):
                sample = trained.cohort.members[k].sample
                keys: Cells = {"study_key": sample.study_key, "patient_key": sample.patient_key, "arm": arm.arm}
                yield keys | {"repeat": repeat, "fold": int(fold)} | _cells(said, trained.task, sample.target, k)


def _cells(said: OutOfFold | SurvivalOutOfFold | SeveralOutOfFold, task: Task, target: Target | None, k: int) -> Cells:
    """Return what was said of one study, and what is known of it."""
    if isinstance(said, SeveralOutOfFold):
        return _of_several(said, task, target if isinstance(target, tuple) else (), k)
    if isinstance(said, SurvivalOutOfFold):
        assert task.survival is not None and isinstance(target, Survival)  # as the task is
        return _of_time(said, task.survival, k) | {"time": target.time, "event": target.event}
    assert isinstance(target, int)
    return _of_classes(said, task, k) | {"target": task.classes[target]}


def _of_several(said: SeveralOutOfFold, task: Task, truth: tuple[int | Survival, ...], k: int) -> Cells:
    found: defaultdict[str, Cells] = defaultdict(dict)
    for part, own, known in zip(task.parts, said.targets, truth, strict=True):
        name = part.target
        if isinstance(own, SurvivalOutOfFold):
            assert part.survival is not None
            told = _of_time(own, part.survival, k)
            found["probabilities"] |= dict(zip(part.classes, map(float, own.probabilities[k]), strict=True))
            found["logits"][part.classes[1]] = told["log_hazard"]
            found["event_free"] = dict(zip(part.survival.horizon_names, map(float, own.event_free[k]), strict=True))
            one = {"predicted": told["predicted"], "median_time": told["median_time"]}
        else:
            told = _of_classes(own, part, k)
            for field in ("probabilities", "logits", "conformal_set"):
                cells = told[field]
                assert isinstance(cells, dict)
                found[field] |= cells
            one = {"predicted": told["predicted"], "abstained": told["abstained"]}
        if isinstance(known, Survival):
            one |= {"time": known.time, "event": known.event}
        elif known != UNKNOWN:
            one["target"] = part.classes[known]
        for field, cell in one.items():
            found[field] |= {} if cell is None else {name: cell}
    return {field: found[field] for field in ("target", "conformal_set", "abstained", *found)}


def _of_classes(said: OutOfFold, task: Task, k: int) -> Cells:
    sets = None if said.sets is None else said.sets[k]
    return {
        "predicted": task.classes[int(said.predicted[k])],
        "probabilities": dict(zip(task.classes, map(float, said.probabilities[k]), strict=True)),
        "logits": dict(zip(task.classes[-task.outputs :], map(float, np.atleast_1d(said.logits[k])), strict=True)),
        "conformal_set": {} if sets is None else dict(zip(task.classes, map(bool, sets), strict=True)),
        "abstained": None if sets is None else int(sets.sum()) != 1,
    }


def _of_time(said: SurvivalOutOfFold, asked: SurvivalTask, k: int) -> Cells:
    median = float(said.median[k])
    return {
        "predicted": RISK_GROUPS[int(said.predicted[k])],
        "probability": float(said.probabilities[k, 1]),
        "event_free": dict(zip(asked.horizon_names, map(float, said.event_free[k]), strict=True)),
        "median_time": None if np.isnan(median) else median,
        "log_hazard": float(said.log_hazard[k]),
    }
