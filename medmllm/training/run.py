"""The result of a cross-validation, as files: model packages, out-of-fold table, evaluation.

    arms, evaluation -> RUN/model*/, RUN/out_of_fold.csv, EvaluationDocument

`model` is the fused arm where there is one; the other arms' packages lie beside it as `model_ARM`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medmllm.config import TrainConfig
from medmllm.csv_tables import write_table
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.conformal import SetEvaluation, evaluate_sets, missed_remarks, too_few_remarks
from medmllm.evaluation.remarks import remarks
from medmllm.ingest.study_folder import StudyIndex
from medmllm.model_documents import FoldModel, ModelCard, Task
from medmllm.models.package import CARD, digest_files, key_digest, write_background, write_reference
from medmllm.records import CohortEvaluation, Metric, Provenance, Survival
from medmllm.result_documents import (
    ArmDocument,
    ClassCoverageDocument,
    ConformalDocument,
    EvaluationDocument,
    MetricDocument,
)
from medmllm.survival_documents import SurvivalArmDocument
from medmllm.table_rows import OutOfFoldRow
from medmllm.training.arms import mean_image
from medmllm.training.cohort import Cohort
from medmllm.training.cross_validation import ArmResult
from medmllm.training.groups import Groups
from medmllm.training.learning_curve import learning_line, learning_metrics, learning_remark, trace_learning
from medmllm.training.policy import unmet
from medmllm.training.splits import SplitPlan, count_folds
from medmllm.training.starting_weights import REPORT
from medmllm.training.tracking import Run
from medmllm.training.trust import Trust, packaged_arm
from medmllm.trust_documents import RuleDocument

CALIBRATIONS = {
    "temperature": "temperature scaling, fitted per fold on its tuning part; the folds' logits are then averaged",
    "isotonic": "temperature scaling, then isotonic regression, fitted per fold on its tuning part; the folds' "
    "log-odds are then averaged. Explanations are of the logit before the isotonic curve",
}

SURVIVAL = (
    "temperature scaling of each hazard's distance from the training studies' own, fitted per fold on its tuning part; "
    "the folds' log cumulative hazards are then averaged"
)

FIRST = {"auroc": "AUROC", "c_index": "C-index"}
"""The metric that the terminal shows of each kind of target, and how it is called."""


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
        return [member.sample.patient_key for member in self.cohort.members]


def write_package(trained: Trained, arm: ArmResult) -> ModelCard:
    """Complete an arm's package beside the fold weights already there, and return its card."""
    if arm.contract.image is not None:
        write_background(arm.folder, mean_image(trained.cohort))
    write_reference(arm.folder, _reference(trained, arm))
    weights = {fold.weights for fold in arm.folds}
    card = ModelCard(
        task=trained.task,
        arm=arm.arm,
        contract=arm.contract,
        contract_fingerprint=arm.contract.fingerprint,
        model=trained.config.model,
        folds=arm.folds,
        files={name: digest for name, digest in digest_files(arm.folder).items() if name not in weights},
        operating_point=float(np.mean([fold.threshold for fold in arm.folds])),
        operating_points=_operating_points(trained.task, arm.folds),
        conformal_coverage=trained.config.evaluation.coverage if trained.cohort.targets else None,
        calibration=SURVIVAL if trained.cohort.survived else CALIBRATIONS[trained.config.evaluation.calibration],
        intended_use=trained.config.intended_use,
        training_patients=tuple(sorted({key_digest(key) for key in trained.patients})),
        training_studies=tuple(sorted(key_digest(m.sample.study_key) for m in trained.cohort.members)),
        split_digest=trained.plan.digest,
        synthetic=trained.synthetic,
        provenance=trained.provenance,
    )
    card.write(arm.folder / CARD)
    return card


def _operating_points(task: Task, folds: Sequence[FoldModel]) -> dict[str, float] | None:
    """Return the mean threshold of each of several labels; None where there is one target."""
    decided = [fold.labels for fold in folds if fold.labels is not None]
    if not decided:
        return None
    return {name: float(np.mean([own[k].threshold for own in decided])) for k, name in enumerate(task.classes)}


def _reference(trained: Trained, arm: ArmResult) -> pd.DataFrame:
    """Return one row per study without keys, in an order that tells nothing."""
    rows = []
    for k, member in enumerate(trained.cohort.members):
        row: dict[str, float | int | str | None] = {
            "note_words": 0 if member.note is None else len(member.note.text.split())
        }
        if isinstance(member.sample.target, tuple):
            row |= {
                f"target[{name}]": own for name, own in zip(trained.task.classes, member.sample.target, strict=True)
            }
        elif isinstance(member.sample.target, Survival):
            row |= {"time": member.sample.target.time, "event": int(member.sample.target.event)}
        else:
            row["target"] = trained.task.classes[member.sample.target or 0]
        for index, name in enumerate(trained.task.classes):
            row[f"probability[{name}]"] = float(arm.out_of_fold.probabilities[k, index])
        for name, facts in member.facts.items():
            row |= {f"{name}_low": facts.low, f"{name}_high": facts.high, f"{name}_modality": facts.modality}
            for axis, spacing, extent in zip("xyz", facts.spacing_mm, facts.extent_mm, strict=True):
                row |= {f"{name}_spacing_{axis}_mm": spacing, f"{name}_extent_{axis}_mm": extent}
        rows.append(row)
    return pd.DataFrame(rows).sample(frac=1, random_state=trained.config.training.seed).reset_index(drop=True)


def write_out_of_fold(path: Path, trained: Trained) -> None:
    """Write one row per study and arm."""
    classes = trained.task.classes
    binary, targets = len(classes) == 2, trained.cohort.targets

    def row(arm: str, found: OutOfFold, k: int, fold: int) -> OutOfFoldRow:
        member = trained.cohort.members[k]
        logits = {classes[1]: found.logits[k]} if binary else dict(zip(classes, found.logits[k], strict=True))
        return OutOfFoldRow(
            study_key=member.sample.study_key,
            patient_key=member.sample.patient_key,
            arm=arm,
            fold=fold,
            target=classes[targets[k]],
            predicted=classes[int(found.predicted[k])],
            probabilities=dict(zip(classes, map(float, found.probabilities[k]), strict=True)),
            logits={name: float(value) for name, value in logits.items()},
            conformal_set={} if found.sets is None else dict(zip(classes, map(bool, found.sets[k]), strict=True)),
            abstained=None if found.sets is None else int(found.sets[k].sum()) != 1,
        )

    arms = [(arm.arm, arm.out_of_fold) for arm in trained.arms if isinstance(arm.out_of_fold, OutOfFold)]
    rows = (row(*arm, k, int(fold)) for arm in arms for k, fold in enumerate(trained.plan.test_fold))
    write_table(path, OutOfFoldRow, rows, classes=classes)


def evaluation_document(
    trained: Trained,
    found: CohortEvaluation,
    trust: Trust,
    rules: tuple[RuleDocument, ...],
    *,
    more: Sequence[str],
    survival: tuple[SurvivalArmDocument, ...] = (),
) -> EvaluationDocument:
    """Return the evaluation as written to RUN/evaluation.json.

    Args:
        trained: The run.
        found: As of `evaluate_arms`.
        trust: As of `assess`.
        rules: Of the policy, judged.
        more: Remarks of the pipeline's own, before those that the numbers call for.
        survival: As of `survival_documents`.
    """
    settings = trained.config.evaluation
    curve = trace_learning(packaged_arm(trained.arms), trained.plan.folds, trained.cohort, trained.config)
    said = (
        unmet(rules)
        + trust.remarks
        + learning_remark(curve, confidence=settings.confidence)
        + remarks(
            found,
            confidence=settings.confidence,
            samples=settings.bootstrap_samples,
            labels=bool(trained.task.labels),
        )
    )
    sets = _evaluate_sets(trained)
    said += tuple(line for arm, own in sets.items() for line in missed_remarks(arm, own))
    thresholds = [fold.conformal_thresholds for fold in trained.arms[0].folds if fold.conformal_thresholds]
    said += tuple(too_few_remarks(trained.task.classes, thresholds, coverage=settings.coverage))
    return EvaluationDocument(
        task=trained.task,
        synthetic=trained.synthetic,
        n=found.n,
        patients=found.patients,
        class_counts=dict(zip(found.classes, found.class_counts, strict=True)),
        excluded=len(trained.cohort.refused),
        confidence=settings.confidence,
        bootstrap_samples=settings.bootstrap_samples,
        arms=tuple(
            ArmDocument(arm=arm.arm, metrics=tuple(map(_metric, arm.metrics)), conformal=_conformal(sets.get(arm.arm)))
            for arm in found.arms
        ),
        differences=tuple(map(_metric, found.differences)),
        delong=trust.delong,
        decision_curves=trust.decision_curves,
        modality_use=trust.modality_use,
        subgroups=trust.subgroups,
        policy=rules,
        learning_curve=curve,
        survival=survival,
        folds=count_folds(trained.plan, trained.patients),
        split_digest=trained.plan.digest,
        contract_fingerprint=trained.arms[-1].contract.fingerprint,
        remarks=(*more, *said),
        provenance=trained.provenance,
    )


def _evaluate_sets(trained: Trained) -> dict[str, SetEvaluation]:
    settings = trained.config.evaluation
    return {
        arm.arm: evaluate_sets(
            arm.out_of_fold.sets,
            np.array(trained.cohort.targets),
            trained.task.classes,
            coverage=settings.coverage,
            confidence=settings.confidence,
        )
        for arm in trained.arms
        if isinstance(arm.out_of_fold, OutOfFold) and arm.out_of_fold.sets is not None
    }


def _conformal(found: SetEvaluation | None) -> ConformalDocument | None:
    if found is None:
        return None
    return ConformalDocument(
        asked=found.asked,
        classes=tuple(ClassCoverageDocument(**asdict(own)) for own in found.classes),
        set_sizes=found.set_sizes,
        abstained=found.abstained,
    )


def _metric(metric: Metric) -> MetricDocument:
    return MetricDocument(
        name=metric.name,
        estimate=metric.estimate,
        low=metric.low,
        high=metric.high,
        n=metric.n,
        patients=metric.patients,
        group=metric.group,
    )


def headline(evaluation: EvaluationDocument) -> dict[str, float]:
    """Return every defined estimate by `ARM_METRIC`, those of a group by `ARM_METRIC_GROUP`, for tracking."""
    return {
        f"{arm.arm}_{metric.name}" + ("" if metric.group == "all" else f"_{metric.group}"): metric.estimate
        for arm in evaluation.arms
        for metric in arm.metrics
        if metric.estimate is not None
    }


def track_result(tracked: Run, evaluation: EvaluationDocument, out: Path, *, register_as: str) -> None:
    """Give the tracking what a finished run holds: estimates, tables, report, figures and the model.

    Args:
        tracked: The parent run.
        evaluation: The result.
        out: RUN.
        register_as: Name of the model in MLflow's registry; empty registers nothing.
    """
    tracked.log_metrics(headline(evaluation) | learning_metrics(evaluation.learning_curve))
    for name in ("settings.json", "splits.json", "evaluation.json", "out_of_fold.csv", "report.html", "figures"):
        tracked.log_file(out / name)
    if (out / REPORT).is_file():
        tracked.log_file(out / REPORT)
    tracked.log_model(out / "model", register_as=register_as)


def summary(evaluation: EvaluationDocument, out: Path) -> str:
    """Return what the terminal shows at the end of a training."""
    word = "SYNTHETIC cohort: " if evaluation.synthetic else ""
    lines = [f"{word}{evaluation.n} studies of {evaluation.patients} patients, {evaluation.task.target}, out of fold:"]
    for arm in evaluation.arms:
        found = next((metric for metric in arm.metrics if metric.name in FIRST), None)
        if found is not None and None not in (found.estimate, found.low, found.high):
            synthetic = " (synthetic)" if evaluation.synthetic else ""
            told = f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]{synthetic}"
            lines.append(f"  {arm.arm:6s} {FIRST[found.name]} {told}")
    if evaluation.learning_curve is not None:
        lines.append(f"  {learning_line(evaluation.learning_curve, synthetic=evaluation.synthetic)}")
    lines += [f"  {remark}" for remark in evaluation.remarks]
    return "\n".join([*lines, f"-> {out / 'report.html'}, {out / 'model'}"])


def left_out(index: StudyIndex, missing: Sequence[str], target: str, *, synthetic: bool) -> list[str]:
    """Return remarks on what the cohort lacks, and on what it is; `missing` are the studies without a value."""
    said = []
    if synthetic:
        said.append("Synthetic: the outcome was planted, to need image and note together. This is no real result.")
    unclaimed = sum(problem.code == "row_without_study" for problem in index.problems)
    if unclaimed:
        said.append(f"{unclaimed} rows of the label table fit no study of the folder.")
    damaged = Counter(p.code for p in index.problems if p.severity == "refused" and p.where_key.startswith("fi-"))
    if damaged:
        codes = ", ".join(f"{count} {code}" for code, count in sorted(damaged.items()))
        said.append(
            f"{damaged.total()} files could not be read ({codes}): a study that such a file belongs to is trained "
            "without it. `medmllm index` lists them with their reasons."
        )
    if missing:
        said.append(f"{len(missing)} studies have no value for {target} and were left out.")
    return said
