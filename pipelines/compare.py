"""Compare runs that were split alike, by what each said of every study out of fold.

RUN/{evaluation.json, out_of_fold.csv, settings.json, model/model.json} of each -> the same studies, paired
-> OUT/comparison.json, comparison.csv, comparison.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmllm.config import TrainConfig
from medmllm.csv_tables import check_writable, read_table
from medmllm.errors import MisuseError, PackageError
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.comparison import compare_models, comparison_remarks
from medmllm.model_documents import ModelCard
from medmllm.provenance import file_digest, stamp
from medmllm.reporting.comparison import (
    ComparisonDocument,
    compared_runs,
    differing_settings,
    run_differences,
    summary,
    write_comparison,
)
from medmllm.result_documents import EvaluationDocument
from medmllm.table_rows import OutOfFoldRow

TABLE = "out_of_fold.csv"


@dataclass(frozen=True, slots=True)
class Entrant:
    """One run, as it was left by `medmllm train`."""

    name: str  # as given
    folder: Path
    arm: str
    evaluation: EvaluationDocument
    rows: dict[str, OutOfFoldRow]  # of that arm, by study key, in the order of the table


def run(runs: Sequence[Path], *, out: Path, arm: str | None = None, overwrite: bool = False) -> str:
    """Compare runs and write what is found; return what the terminal shows.

    Args:
        runs: Two or more folders that `medmllm train` wrote.
        out: Folder for the results.
        arm: The arm to compare in every run; None takes that of RUN/model.
        overwrite: Write over an earlier comparison.

    Raises:
        MisuseError: Not two runs, no runs, or runs of different splits, tasks or without that arm.
        PackageError: A file of a run cannot be read, or was changed.
    """
    if len(runs) < 2 or len({path.resolve() for path in runs}) < len(runs):
        raise MisuseError("give two or more different RUN folders")
    entrants = [_read_run(path, arm) for path in runs]
    _check_alike(entrants)
    check_writable(out, overwrite=overwrite, marker="comparison.json")
    first = entrants[0].evaluation
    rows, classes, seed = list(entrants[0].rows.values()), first.task.classes, first.provenance.seed or 0
    found = compare_models(
        [_predictions(entrant, list(entrants[0].rows), classes) for entrant in entrants],
        targets=np.array([classes.index(row.target) for row in rows]),
        patients=[row.patient_key for row in rows],
        folds=np.array([row.fold for row in rows]),
        classes=classes,
        confidence=first.confidence,
        samples=first.bootstrap_samples,
        seed=seed,
        ordered=first.task.kind == "ordinal",
    )
    inputs = {f"{TABLE} {number}": file_digest(one.folder / TABLE) for number, one in enumerate(entrants, start=1)}
    comparison = ComparisonDocument(
        task=first.task,
        synthetic=any(entrant.evaluation.synthetic for entrant in entrants),
        n=first.n,
        patients=first.patients,
        split_digest=first.split_digest,
        confidence=first.confidence,
        bootstrap_samples=first.bootstrap_samples,
        runs=compared_runs(found, {entrant.name: entrant.arm for entrant in entrants}),
        differences=run_differences(found),
        settings=differing_settings([TrainConfig.read(entrant.folder / "settings.json") for entrant in entrants]),
        remarks=comparison_remarks(found, confidence=first.confidence),
        provenance=stamp(f"medmllm compare{' RUN' * len(runs)} --out OUT", seed=seed, inputs=inputs),
    )
    write_comparison(out, comparison)
    return summary(comparison, out)


def _read_run(folder: Path, arm: str | None) -> Entrant:
    name = str(folder)
    if not (folder / "evaluation.json").is_file():
        raise MisuseError(f"{name} holds no evaluation.json: give folders that `medmllm train` wrote, whole")
    try:
        evaluation = EvaluationDocument.read(folder / "evaluation.json")
        if evaluation.task.several or evaluation.task.survival is not None:
            raise MisuseError(f"{name} was trained for several targets, or times: runs are compared in one's classes")
        arm = arm or ModelCard.read(folder / "model" / "model.json").arm
        rows = {row.study_key: row for row in read_table(folder / TABLE, OutOfFoldRow) if row.arm == arm}
    except PackageError as error:
        error.add_note(f"in {name}")
        raise
    if not rows:
        arms = ", ".join(one.arm for one in evaluation.arms)
        raise MisuseError(f"{name} has no arm {arm!r}; it has {arms}. Name one that all runs have with --arm.")
    return Entrant(name, folder, arm, evaluation, rows)


def _check_alike(entrants: Sequence[Entrant]) -> None:
    first = entrants[0]
    for other in entrants[1:]:
        tasks = [one.evaluation.task for one in (first, other)]
        if tasks[0] != tasks[1]:
            told = [f"{task.target} ({', '.join(task.classes)})" for task in tasks]
            raise MisuseError(
                f"{first.name} was trained for {told[0]}, {other.name} for {told[1]}: compare runs of one target."
            )
        digests = [one.evaluation.split_digest for one in (first, other)]
        if digests[0] != digests[1]:
            raise MisuseError(
                f"{first.name} and {other.name} were not split alike, so that a difference may be the studies': split "
                f"digests {digests[0]} and {digests[1]}. Train one of them again on the same studies and labels, with "
                "the same folds or group_out, tuning_fraction and seed under [training]."
            )
        if _cohort(first) != _cohort(other):
            raise PackageError(
                f"{TABLE} of {first.name} and of {other.name} hold other studies, targets or folds, though they were "
                "split alike: one was changed after training. Restore it, or train again."
            )


def _cohort(entrant: Entrant) -> dict[str, tuple[str, str, int]]:
    return {key: (row.patient_key, row.target, row.fold) for key, row in entrant.rows.items()}


def _predictions(entrant: Entrant, order: Sequence[str], classes: tuple[str, ...]) -> OutOfFold:
    rows = [entrant.rows[key] for key in order]
    shown = classes[1:] if len(classes) == 2 else classes
    logits = np.array([[row.logits[name] for name in shown] for row in rows])
    return OutOfFold(
        entrant.name,
        np.array([[row.probabilities[name] for name in classes] for row in rows]),
        logits[:, 0] if len(classes) == 2 else logits,
        np.array([classes.index(row.predicted) for row in rows]),
    )
