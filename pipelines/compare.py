"""Compare runs that were split alike, by what each said of every study out of fold.

RUN/{evaluation.json, out_of_fold.csv, settings.json, model/model.json} of each -> the same studies, paired
-> OUT/comparison.json, comparison.csv, comparison.html
"""

from collections.abc import Sequence
from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.csv_tables import check_writable
from medmllm.errors import MisuseError, PackageError
from medmllm.evaluation.comparison import comparison_remarks
from medmllm.model_documents import Task
from medmllm.pipelines.compared_runs import compare_entrants
from medmllm.pipelines.finished_run import TABLE, Entrant, read_run
from medmllm.provenance import file_digest, stamp
from medmllm.reporting.comparison import (
    ComparisonDocument,
    compared_runs,
    run_differences,
    summary,
    write_comparison,
)
from medmllm.table_rows import OutOfFoldRow, SurvivalOutOfFoldRow
from medmllm.told_settings import differing_settings


def run(
    runs: Sequence[Path], *, out: Path, arm: str | None = None, target: str | None = None, overwrite: bool = False
) -> str:
    """Compare runs and write what is found; return what the terminal shows.

    Args:
        runs: Two or more folders that `medmllm train` wrote.
        out: Folder for the results.
        arm: The arm to compare in every run; None takes that of RUN/model.
        target: The target to compare in; None where the runs have one.
        overwrite: Write over an earlier comparison.

    Raises:
        MisuseError: Not two runs, no runs, or runs of different splits, tasks or without that arm or target.
        PackageError: A file of a run cannot be read, or was changed.
    """
    if len(runs) < 2 or len({path.resolve() for path in runs}) < len(runs):
        raise MisuseError("give two or more different RUN folders")
    entrants = [read_run(path, arm, target) for path in runs]
    _check_alike(entrants)
    check_writable(out, overwrite=overwrite, marker="comparison.json")
    first = entrants[0].evaluation
    seed = first.provenance.seed or 0
    found = compare_entrants(entrants)
    asked = "" if target is None else f" --target '{target}'"
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
        settings=differing_settings(
            [TrainConfig.read(entrant.folder / "settings.json") for entrant in entrants], {"tracking": True}
        ),
        remarks=comparison_remarks(found, confidence=first.confidence),
        provenance=stamp(f"medmllm compare{' RUN' * len(runs)}{asked} --out OUT", seed=seed, inputs=inputs),
    )
    write_comparison(out, comparison)
    return summary(comparison, out)


def _check_alike(entrants: Sequence[Entrant]) -> None:
    """Refuse runs of different tasks or splits.

    Raises:
        MisuseError: Names the two, and how they differ.
        PackageError: A table was changed after training.
    """
    first = entrants[0]
    for other in entrants[1:]:
        tasks = [one.evaluation.task for one in (first, other)]
        if _asked(tasks[0]) != _asked(tasks[1]):
            told = [_in_words(task) for task in tasks]
            raise MisuseError(
                f"{first.name} was trained for {told[0]}, {other.name} for {told[1]}: compare runs of one target."
            )
        digests = [one.evaluation.split_digest for one in (first, other)]
        if digests[0] != digests[1]:
            raise MisuseError(
                f"{first.name} and {other.name} were not split alike, so that a difference may be the studies': split "
                f"digests {digests[0]} and {digests[1]}. Train one of them again on the same studies and labels, with "
                "the same folds or group_out, tuning_fraction, inner_folds, repeats and seed under [training]."
            )
        if _cohort(first) != _cohort(other):
            raise PackageError(
                f"{TABLE} of {first.name} and of {other.name} hold other studies, targets or folds, though they were "
                "split alike: one was changed after training. Restore it, or train again."
            )


def _in_words(task: Task) -> str:
    """Name a target with all that may tell it from another of its name: one may be graded, or have other horizons."""
    asked = task.classes if task.survival is None else (task.survival.event, *task.survival.horizon_names)
    return f"{task.target} ({task.kind}: {', '.join(asked)})"


def _asked(task: Task) -> Task:
    """Return what is asked, whatever a time to an event is learnt by: Cox and discrete time answer one question."""
    if task.survival is None:
        return task
    return task.model_copy(update={"survival": task.survival.model_copy(update={"model": "cox"})})


def _cohort(entrant: Entrant) -> dict[tuple[int, str], tuple[object, ...]]:
    return {key: (row.patient_key, *_truth(row), row.fold) for key, row in entrant.rows.items()}


def _truth(row: OutOfFoldRow | SurvivalOutOfFoldRow) -> tuple[object, ...]:
    return (row.target,) if isinstance(row, OutOfFoldRow) else (row.time, row.event)
