"""Read the runs that are to be compared, and refuse what cannot be.

RUN/{evaluation.json, out_of_fold.csv, model/model.json} -> Entrant: what one arm said of every study, in each repeat
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmllm.csv_tables import read_table
from medmllm.errors import MisuseError, PackageError
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.repeats import Repeat
from medmllm.model_documents import ModelCard
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
    rows: dict[tuple[int, str], OutOfFoldRow]  # of that arm, by repeat and study key, in the order of the table

    @property
    def studies(self) -> list[str]:
        """Keys of the studies, in the order of the table."""
        return [study for repeat, study in self.rows if repeat == 0]


def read_run(folder: Path, arm: str | None) -> Entrant:
    """Return one run.

    Args:
        folder: RUN.
        arm: The arm to compare; None takes that of RUN/model.

    Raises:
        MisuseError: No run, one of several targets, or without that arm.
        PackageError: A file cannot be read, or was changed.
    """
    name = str(folder)
    if not (folder / "evaluation.json").is_file():
        raise MisuseError(f"{name} holds no evaluation.json: give folders that `medmllm train` wrote, whole")
    try:
        evaluation = EvaluationDocument.read(folder / "evaluation.json")
        if evaluation.task.several or evaluation.task.survival is not None:
            raise MisuseError(f"{name} was trained for several targets, or times: runs are compared in one's classes")
        arm = arm or ModelCard.read(folder / "model" / "model.json").arm
        table = read_table(folder / TABLE, OutOfFoldRow)
        rows = {(row.repeat, row.study_key): row for row in table if row.arm == arm}
    except PackageError as error:
        error.add_note(f"in {name}")
        raise
    if not rows:
        arms = ", ".join(one.arm for one in evaluation.arms)
        raise MisuseError(f"{name} has no arm {arm!r}; it has {arms}. Name one that all runs have with --arm.")
    return Entrant(name, folder, arm, evaluation, rows)


def check_alike(entrants: Sequence[Entrant]) -> None:
    """Refuse runs that were not trained for one target on one split.

    Raises:
        MisuseError: Says what differs; PackageError: a table was changed after training.
    """
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
                "the same folds or group_out, tuning_fraction, inner_folds, repeats and seed under [training]."
            )
        if _cohort(first) != _cohort(other):
            raise PackageError(
                f"{TABLE} of {first.name} and of {other.name} hold other studies, targets or folds, though they were "
                "split alike: one was changed after training. Restore it, or train again."
            )


def _cohort(entrant: Entrant) -> dict[tuple[int, str], tuple[str, str, int]]:
    return {key: (row.patient_key, row.target, row.fold) for key, row in entrant.rows.items()}


def read_repeats(entrants: Sequence[Entrant]) -> list[Repeat[OutOfFold]]:
    """Return what every run said in each repeat, study by study in the order of the first run's table.

    Args:
        entrants: Runs that are alike.
    """
    first = entrants[0]
    classes, order = first.evaluation.task.classes, first.studies
    return [
        Repeat(
            [_said(entrant.name, [entrant.rows[repeat, key] for key in order], classes) for entrant in entrants],
            np.array([first.rows[repeat, key].fold for key in order]),
        )
        for repeat in range(first.evaluation.repeats)
    ]


def _said(name: str, rows: Sequence[OutOfFoldRow], classes: tuple[str, ...]) -> OutOfFold:
    shown = classes[1:] if len(classes) == 2 else classes
    logits = np.array([[row.logits[name] for name in shown] for row in rows])
    return OutOfFold(
        name,
        np.array([[row.probabilities[name] for name in classes] for row in rows]),
        logits[:, 0] if len(classes) == 2 else logits,
        np.array([classes.index(row.predicted) for row in rows]),
    )
