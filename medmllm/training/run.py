"""The result of a cross-validation: model packages, what is tracked and told.

    arms -> RUN/model*/; EvaluationDocument -> metrics for tracking, lines for the terminal

`model` is the fused arm where there is one; the other arms' packages lie beside it as `model_ARM`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medmllm.config import TrainConfig
from medmllm.evaluation.remarks import NAMES
from medmllm.ingest.study_folder import StudyIndex
from medmllm.model_documents import FoldModel, ModelCard, Task
from medmllm.models.package import CARD, digest_files, key_digest, write_background, write_reference
from medmllm.records import UNKNOWN, Provenance, Survival
from medmllm.result_documents import EvaluationDocument, MetricDocument, TargetEvaluation
from medmllm.told_settings import told_contract, without_paths
from medmllm.training.arms import mean_image
from medmllm.training.cohort import Cohort
from medmllm.training.cross_validation import ArmResult
from medmllm.training.groups import Groups
from medmllm.training.learning_curve import learning_line, learning_metrics
from medmllm.training.splits import SplitPlan
from medmllm.training.starting_weights import REPORT
from medmllm.training.survival_targets import time_of
from medmllm.training.tracking import Run

SEARCH = "search.csv"
WHOLE = "evaluation.json"  # written last: it marks a run as whole

INDEX_AGAIN = "`medmllm index STUDIES --labels TABLE --out INDEX`"

CALIBRATIONS = {
    "temperature": "temperature scaling{odds}, fitted per fold on {where}; {whose} logits are then averaged",
    "isotonic": "temperature scaling{odds}, then isotonic regression, fitted per fold on {where}; {whose} log-odds are "
    "then averaged. Explanations are of the logit before the isotonic curve",
    "hazards": "temperature scaling of each hazard's distance from that of all the fold's training studies, fitted per "
    "fold on {where}; {whose} log cumulative hazards are then averaged",
}


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What all files of a run are made from."""

    task: Task
    cohort: Cohort
    plan: SplitPlan
    arms: tuple[ArmResult, ...]
    config: TrainConfig
    provenance: Provenance
    synthetic: bool
    groups: Groups = field(default_factory=dict)

    @property
    def patients(self) -> list[str]:
        """patient_key of each member."""
        return self.cohort.patients


def write_package(trained: Trained, arm: ArmResult) -> ModelCard:
    """Complete an arm's package beside the fold weights already there, and return its card."""
    if arm.contract.image is not None:
        write_background(arm.folder, mean_image(trained.cohort))
    write_reference(arm.folder, _reference(trained, arm))
    weights, contract = {fold.weights for fold in arm.folds}, told_contract(arm.contract)
    card = ModelCard(
        task=trained.task,
        arm=arm.arm,
        contract=contract,
        contract_fingerprint=contract.fingerprint,
        model=without_paths(trained.config).model,
        folds=arm.folds,
        files={name: digest for name, digest in digest_files(arm.folder).items() if name not in weights},
        operating_point=float(np.mean([fold.threshold for fold in arm.folds])),
        operating_points=_operating_points(trained.task, arm.folds),
        conformal_coverage=None if trained.cohort.survived else trained.config.evaluation.coverage,
        calibration=_calibration(trained, arm),
        intended_use=trained.config.intended_use,
        training_patients=tuple(sorted({key_digest(key) for key in trained.patients})),
        training_studies=tuple(sorted(key_digest(m.sample.study_key) for m in trained.cohort.members)),
        split_digest=trained.plan.digest,
        synthetic=trained.synthetic,
        provenance=trained.provenance,
    )
    card.write(arm.folder / CARD)
    return card


def _calibration(trained: Trained, arm: ArmResult) -> str:
    """Return in words how the probabilities of an arm were calibrated."""
    networks = len(trained.plan.outer[0])
    where = "its tuning part" if networks == 1 else f"the tuning parts of its {networks} networks together"
    whose = "the folds'" if networks == 1 else "its networks', and the folds',"
    decided = [one for fold in arm.folds for one in fold.decisions(trained.task)]
    odds = " with what weighted classes did to the odds taken back" if any(one.offsets for one in decided) else ""
    of_classes = CALIBRATIONS[trained.config.evaluation.calibration].format(where=where, whose=whose, odds=odds)
    of_time = CALIBRATIONS["hazards"].format(where=where, whose=whose)
    if trained.task.timed is None:
        return of_classes
    return f"{of_classes}. Of {trained.task.timed.target}: {of_time}" if trained.task.several else of_time


def _operating_points(task: Task, folds: Sequence[FoldModel]) -> dict[str, float] | None:
    """Return the mean threshold of each of several targets; None where there is one."""
    if not task.several:
        return None
    return {name: float(np.mean([fold.targets[name].threshold for fold in folds])) for name in task.names}


def _reference(trained: Trained, arm: ArmResult) -> pd.DataFrame:
    """Return one row per study without keys, sorted by what it holds: a shuffle by a known seed can be undone."""
    rows = []
    for k, member in enumerate(trained.cohort.members):
        row: dict[str, float | int | str | None] = {
            "note_words": 0 if member.note is None else len(member.note.text.split())
        }
        if isinstance(member.sample.target, tuple):
            row |= {
                f"target[{part.target}]": None if own == UNKNOWN else part.classes[own]
                for part, own in zip(trained.task.parts, member.sample.target, strict=True)
                if part.survival is None and not isinstance(own, Survival)
            }
        elif isinstance(member.sample.target, int):
            row["target"] = trained.task.classes[member.sample.target]
        if trained.task.timed is not None:
            survived = time_of(member.sample.target)
            row |= {
                "time": None if survived is None else survived.time,
                "event": None if survived is None else int(survived.event),
            }
        for index, name in enumerate(trained.task.classes):
            row[f"probability[{name}]"] = float(arm.out_of_fold.probabilities[k, index])
        for name, facts in member.facts.items():
            row |= {f"{name}_low": facts.low, f"{name}_high": facts.high, f"{name}_modality": facts.modality}
            for axis, spacing, extent in zip("xyz", facts.spacing_mm, facts.extent_mm, strict=True):
                row |= {f"{name}_spacing_{axis}_mm": spacing, f"{name}_extent_{axis}_mm": extent}
        rows.append(row)
    found = pd.DataFrame(rows)
    return found.sort_values(list(found.columns), ignore_index=True)


def headline(evaluation: EvaluationDocument) -> dict[str, float]:
    """Return every defined estimate by `ARM_METRIC`, those of one of several targets by `ARM_METRIC_TARGET`.

    For tracking; what is told of a horizon goes by `ARM_METRIC_HORIZON`, the AUROC of smaller trainings by
    `ARM_auroc_at_FRACTION`.
    """
    found = _estimates(evaluation)
    for own in evaluation.targets:
        found |= {f"{name}_{own.task.target}": value for name, value in _estimates(own).items()}
    return found


def _estimates(told: TargetEvaluation) -> dict[str, float]:
    return {
        f"{arm.arm}_{metric.name}" + ("" if metric.group == "all" else f"_{metric.group}"): metric.estimate
        for arm in told.arms
        for metric in arm.metrics
        if metric.estimate is not None
    } | learning_metrics(told.learning_curve)


def track_result(tracked: Run, evaluation: EvaluationDocument, out: Path, config: TrainConfig) -> None:
    """Give the tracking what a finished run holds: estimates, tables, report, figures and the model.

    Args:
        tracked: The parent run.
        evaluation: The result.
        out: RUN.
        config: The resolved settings; what MLflow keeps of them names no folder and no address.
    """
    tracked.log_metrics(headline(evaluation))
    tracked.log_text("settings.json", f"{without_paths(config).model_dump_json(indent=2)}\n")
    for name in ("splits.json", "evaluation.json", "out_of_fold.csv", "report.html", "figures"):
        tracked.log_file(out / name)
    for name in (REPORT, SEARCH):
        if (out / name).is_file():
            tracked.log_file(out / name)
    tracked.log_model(out / "model", register_as=config.tracking.register_as)


def summary(evaluation: EvaluationDocument, out: Path, *, refused: int) -> str:
    """Return what the terminal shows at the end of a training; `refused` are the labelled studies that were."""
    word = "SYNTHETIC cohort: " if evaluation.synthetic else ""
    lines = [f"{word}{evaluation.n} studies of {evaluation.patients} patients, {evaluation.task.target}, out of fold:"]
    if evaluation.targets:
        lines.append("means over the targets with classes:" if evaluation.task.timed else "means over the targets:")
    lines += [f"  {line}" for line in _in_short(evaluation, synthetic=evaluation.synthetic)]
    for own in evaluation.targets:
        lines.append(f"{own.task.target}, known of {own.n} studies of {own.patients} patients:")
        lines += [f"  {line}" for line in _in_short(own, synthetic=evaluation.synthetic)]
    lines += [f"  {remark}" for remark in evaluation.remarks]
    if refused:
        some, them = ("1 labelled study was", "it") if refused == 1 else (f"{refused} labelled studies were", "them")
        lines.append(f"{some} refused: {out / 'training_ledger.csv'} lists {them} with reasons.")
    return "\n".join([*lines, f"-> {out / 'report.html'}, {out / 'model'}"])


def _in_short(told: TargetEvaluation, *, synthetic: bool) -> Iterator[str]:
    """Yield the AUROC, or C-index, of each arm, and those of smaller trainings, as lines for the terminal."""
    for arm in told.arms:
        found = next((metric for metric in arm.metrics if metric.name in NAMES), None)
        if found is not None:
            yield f"{arm.arm:6s} {NAMES[found.name]} {_numbers(found)}{' (synthetic)' if synthetic else ''}"
    if told.learning_curve is not None:
        yield learning_line(told.learning_curve, synthetic=synthetic)


def _numbers(found: MetricDocument) -> str:
    if found.estimate is None:
        return "is not defined"
    without = found.low is None or found.high is None
    interval = "no interval" if without else f"{found.low:.3f}, {found.high:.3f}"
    return f"{found.estimate:.3f} [{interval}]"


def left_out(index: StudyIndex, missing: Sequence[str], target: str, *, synthetic: bool) -> list[str]:
    """Return remarks on what the cohort lacks, and on what it is; `missing` are the studies without a value."""
    said = []
    if synthetic:
        said.append("Synthetic: the outcome was planted, to need image and note together. This is no real result.")
    unclaimed = sum(problem.code == "row_without_study" for problem in index.problems)
    if unclaimed:
        rows, whose = "1 row of the label table fits", "its line"
        if unclaimed > 1:
            rows, whose = f"{unclaimed} rows of the label table fit", "their lines"
        said.append(f"{rows} no study of the folder: {INDEX_AGAIN} names {whose} (row_without_study in problems.csv).")
    empty = sum(problem.code == "line_without_study" for problem in index.problems)
    if empty:
        some, were = ("1 study of the list has", "was") if empty == 1 else (f"{empty} studies of the list have", "were")
        said.append(f"{some} no image, note or recording, and {were} left out.")
    damaged = Counter(p.code for p in index.problems if p.severity == "refused" and p.study_key is None)
    if damaged:
        codes = ", ".join(f"{count} {code}" for code, count in sorted(damaged.items()))
        files = "1 file" if damaged.total() == 1 else f"{damaged.total()} files"
        said.append(
            f"{files} could not be read ({codes}): a study that such a file belongs to is trained "
            "without it. `medmllm index` lists them with their reasons."
        )
    if missing:
        some, were = ("1 study has", "was") if len(missing) == 1 else (f"{len(missing)} studies have", "were")
        left = f"{some} no value for {target} and {were} left out"
        unjoined = sum(not study.facts for study in index.studies if study.study_key in set(missing))
        if unjoined:
            some = "" if len(missing) == 1 else f"{unjoined} of them "
            left += f", {some}without a row in the label table: {INDEX_AGAIN} tells which (in_table in "
            left += "studies.csv)"
        said.append(f"{left}.")
    return said
