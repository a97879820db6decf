"""Train on the cohorts with `medmllm train`, as a user would, and collect what came out beside the baselines.

    DATA -> (prepare) -> medmllm train per task and seed -> OUT/runs -> results.json beside this file

    python reports/cohorts/run.py DATA OUT --text-encoder FOLDER [--only TASK ...] [--seeds 20 21 22] [--resume]

results.json holds figures of whole cohorts only. A task that is not run now keeps what stands there.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prepare import lay_out_stacks, mask_sex

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
SHOWN = ("estimate", "low", "high")
KEYS = re.compile(r":? \b[a-z]{2}-[0-9a-f]{16}\b.*")  # a remark's list of studies, to its end
PREPARED = {
    "nodule_stacks": (lay_out_stacks, "ct_lidc_nodules/nodule_stacks_64.npz"),
    "lgg_without_sex": (mask_sex, "brain_mr_lgg"),
}
"""Folder under OUT/data -> what makes it, from what of DATA."""


CELLS = ('model.image_encoder="cells"', "model.dropout=0.5", "training.epochs=60", "training.patience=20")
"""What a task is trained with once more, with the image encoder that is linear in cells."""

INNER = (
    'model.image_encoder="cells"',
    "model.dropout=0.2",
    "training.epochs=60",
    "training.patience=20",
    "training.inner_folds=5",
    "training.flips=false",
    "training.shift_voxels=0",
)
"""What a task is trained with for the third time: with inner folds, and images as they are."""

REPEATED = (*CELLS, "training.repeats=5")
"""What a task is trained with to see it over five draws of the folds, as its stated baseline was."""

SEARCHING = (
    'model.image_encoder="cells"',
    "image.spacing_mm=[1.0, 1.0, 1.0]",
    "training.epochs=60",
    "training.patience=10",
    "training.inner_folds=3",
    "training.flips=false",
    "training.shift_voxels=0",
    "training.search.weight_decay=[0.01, 10.0]",
    "training.search.dropout=[0.2, 0.5]",
)
"""What the nodule cubes are trained with to let each fold choose its penalties: of weights, and by hidden cells."""

VARIANTS = ("_cells", "_inner", "_tones", "_repeated", "_measures", "_search")


@dataclass(frozen=True, slots=True)
class CohortTask:
    """One question to one cohort; its settings are NAME.toml, those of its variants with others laid over them."""

    name: str
    cohort: str  # folder of DATA, or one of PREPARED
    target: str
    baseline: Mapping[str, float]  # arm -> AUROC of 5-fold logistic regressions, stated with the cohorts, +-0.05
    pretrained: bool = False  # reads notes with the pretrained text encoder
    changes: tuple[str, ...] = ()  # laid over the settings, as by --set

    @property
    def settings(self) -> str:
        """The file of its settings."""
        plain = self.name
        for variant in VARIANTS:
            plain = plain.removesuffix(variant)
        return f"{plain}.toml"


RESNETS = (
    CohortTask(
        "lidc_spiculation",
        "ct_lidc_nodules",
        "spiculation>=3",
        {"image": 0.80, "text": 0.83, "fused": 0.89},
        pretrained=True,
    ),
    CohortTask("lidc_malignancy", "ct_lidc_nodules", "malignancy>=4", {"image": 0.85}, pretrained=True),
    CohortTask(
        "medpix_region",
        "ct_mr_medpix",
        "region",
        {"image": 0.79, "text": 0.85, "fused": 0.89},
        pretrained=True,
    ),
    CohortTask("nodule_stacks", "nodule_stacks", "malignant>=1", {"image": 0.89}),
    CohortTask("lgg_sex", "lgg_without_sex", "sex", {"image": 0.73}),
    CohortTask("lgg_death", "brain_mr_lgg", "death>=1", {"text": 0.74}),
)
SMALLER_FIELD = "image.spacing_mm=[1.0, 1.0, 1.0]"  # 24 mm, not 32
AGAIN = {
    "lidc_spiculation": (*INNER, SMALLER_FIELD),
    "lidc_malignancy": (*INNER, SMALLER_FIELD),
}
"""Task that was trained for the third time -> its changes."""

TONES = (
    *CELLS,
    'model.image_encoder="cells_tones"',
    "model.dropout=0.2",
    "training.flips=false",
    "training.shift_voxels=0",
)
"""What the stacks are trained with for the third time: tones counted beside cells, and images as they are."""

IN_CELLS_TOO = (*INNER, SMALLER_FIELD, 'model.image_encoder="cells_measures"')
MEASURES = {
    "nodule_stacks": (*TONES, 'model.image_encoder="measures"', "model.image_width=32", "model.dropout=0.1"),
    "lidc_spiculation": IN_CELLS_TOO,
    "lidc_malignancy": IN_CELLS_TOO,
}
"""Task that was trained once more, with logarithms of volumes and surfaces above thresholds -> its changes."""


def variants(plain: CohortTask) -> Iterator[CohortTask]:
    """Yield a task and its variants."""
    yield plain
    yield replace(plain, name=f"{plain.name}_cells", changes=CELLS)
    if plain.name in AGAIN:
        yield replace(plain, name=f"{plain.name}_inner", changes=AGAIN[plain.name])
        yield replace(plain, name=f"{plain.name}_search", changes=SEARCHING)
    if plain.name == "lidc_spiculation":
        yield replace(plain, name=f"{plain.name}_repeated", changes=REPEATED)
    if plain.name == "nodule_stacks":
        yield replace(plain, name=f"{plain.name}_tones", changes=TONES)
    if plain.name in MEASURES:
        yield replace(plain, name=f"{plain.name}_measures", changes=MEASURES[plain.name])


TASKS = tuple(task for plain in RESNETS for task in variants(plain))


def cohort_folder(task: CohortTask, data: Path, out: Path) -> Path:
    """Return where a task's studies and labels lie, made now where they do not come as they are needed."""
    if task.cohort not in PREPARED:
        return data / task.cohort
    folder = out / "data" / task.cohort
    if not (folder / "labels.csv").is_file():  # written last
        shutil.rmtree(folder, ignore_errors=True)
        make, source = PREPARED[task.cohort]
        make(data / source, folder)
    return folder


def train(task: CohortTask, cohort: Path, run: Path, *, seed: int, encoder: Path | None, resume: bool) -> str:
    """Run `medmllm train`, and return its command with the places left out."""
    fixed = ["--target", task.target, "--config", f"reports/cohorts/{task.settings}"]
    fixed += [word for setting in (f"training.seed={seed}", *task.changes) for word in ("--set", setting)]
    places = ["--studies", str(cohort / "studies"), "--labels", str(cohort / "labels.csv"), "--out", str(run)]
    shown = ["--studies", "STUDIES", "--labels", "LABELS", "--out", "RUN"]
    if task.pretrained:
        if encoder is None:
            raise SystemExit(f"{task.name} reads notes with a pretrained encoder: give --text-encoder FOLDER")
        places += ["--set", f"text.encoder={encoder.resolve()}"]
        shown += ["--set", "text.encoder=FOLDER"]
    command = ["medmllm", "train", *fixed, *places, "--resume" if resume else "--overwrite"]
    program = str(Path(sys.executable).with_name("medmllm"))
    if not (resume and (run / "evaluation.json").is_file()):  # else the run is whole
        done = subprocess.run([program, *command[1:]], check=False, cwd=HERE.parents[1])
        if done.returncode not in (0, 3):  # 3: finished, but some studies were refused
            raise SystemExit(f"{task.name}: medmllm train ended with {done.returncode}")
    return shlex.join(["medmllm", "train", *shown, *fixed])


def collect(task: CohortTask, run: Path, command: str) -> dict[str, object]:
    """Return what results.json holds of one run."""
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return {
        "command": command,
        "target": evaluation["task"]["target"],
        "studies": evaluation["n"],
        "patients": evaluation["patients"],
        "excluded": evaluation["excluded"],
        "class_counts": evaluation["class_counts"],
        "baseline_auroc": task.baseline,
        "arms": {
            arm["arm"]: {m["name"]: {key: m[key] for key in SHOWN} for m in arm["metrics"]}
            for arm in evaluation["arms"]
        },
        "fused_minus": {d["group"]: {key: d[key] for key in SHOWN} for d in evaluation["differences"]},
        "search": choices_by_arm(evaluation["search"]),
        "split_digest": evaluation["split_digest"],
        "remarks": [KEYS.sub(".", said) for said in evaluation["remarks"]],
        "provenance": evaluation["provenance"],
    }


def choices_by_arm(search: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """Return arm -> what each fold chose, in words, with the score of every candidate in the order of the grid."""
    found: dict[str, list[str]] = {}
    for own in () if search is None else search["choices"]:
        taken = ", ".join(f"{name} = {value}" for name, value in own["candidates"][own["chosen"]]["settings"].items())
        scores = ", ".join("none" if tried["score"] is None else f"{tried['score']:.3f}" for tried in own["candidates"])
        found.setdefault(own["arm"], []).append(f"{taken}; {search['score']}: {scores}")
    return found or None


def auroc_by_seed(runs: Mapping[int, Path]) -> dict[str, dict[str, float]]:
    """Return arm -> seed -> AUROC out of fold, and their mean: how much hangs on the draw of the folds."""
    found: dict[str, dict[str, float]] = {}
    for seed, run in runs.items():
        for arm in json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["arms"]:
            (auroc,) = (metric["estimate"] for metric in arm["metrics"] if metric["name"] == "auroc")
            found.setdefault(arm["arm"], {})[str(seed)] = auroc
    return {arm: own | {"mean": sum(own.values()) / len(own)} for arm, own in found.items()}


def run_task(
    task: CohortTask, data: Path, out: Path, *, seeds: Sequence[int], encoder: Path | None, resume: bool
) -> dict[str, object]:
    """Train a task with each seed, and return what results.json holds of it; the first seed's run is the result."""
    cohort = cohort_folder(task, data, out)
    runs = {seed: out / "runs" / f"{task.name}_{seed}" for seed in seeds}
    commands = [train(task, cohort, run, seed=seed, encoder=encoder, resume=resume) for seed, run in runs.items()]
    return collect(task, runs[seeds[0]], commands[0]) | {"auroc_by_seed": auroc_by_seed(runs)}


def write_results(found: Mapping[str, object]) -> None:
    """Lay what was found over what stands in results.json."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    known |= found
    ordered = {own.name: known[own.name] for own in TASKS if own.name in known}
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


class Named(Protocol):
    """A task of any of these scripts."""

    @property
    def name(self) -> str:
        """As --only takes it."""


Asked = TypeVar("Asked", bound=Named)


def command_line(does: str, tasks: Sequence[Named]) -> argparse.ArgumentParser:
    """Return what the command lines of all scripts of the cohorts have in common: DATA OUT [--only TASK ...]."""
    parser = argparse.ArgumentParser(description=does)
    parser.add_argument("data", type=Path, help="folder of the cohorts")
    parser.add_argument("out", type=Path, help="folder for prepared studies and runs; outside the repository")
    parser.add_argument("--only", nargs="+", choices=[task.name for task in tasks], metavar="TASK")
    return parser


def parse(parser: argparse.ArgumentParser, tasks: Sequence[Asked]) -> tuple[argparse.Namespace, list[Asked]]:
    """Return what the command line says, and the tasks that it asks for.

    Raises:
        SystemExit: OUT lies in the repository.
    """
    asked = parser.parse_args()
    if asked.out.resolve().is_relative_to(HERE.parents[1]):
        raise SystemExit("OUT lies in the repository: the cohorts cannot be shared, choose a folder outside")
    return asked, [task for task in tasks if asked.only is None or task.name in asked.only]


def main() -> None:
    """Read the command line and run what it asks for."""
    parser = command_line("Train on the cohorts and write results.json.", TASKS)
    parser.add_argument("--text-encoder", type=Path, help="folder of the pretrained text encoder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[20], metavar="SEED")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the runs in OUT that are whole, and go on with those that were cut off",
    )
    asked, tasks = parse(parser, TASKS)
    found = {
        task.name: run_task(
            task, asked.data, asked.out, seeds=asked.seeds, encoder=asked.text_encoder, resume=asked.resume
        )
        for task in tasks
    }
    write_results(found)  # last: a file changed in between would stand in the provenance of the runs behind it


if __name__ == "__main__":
    main()
