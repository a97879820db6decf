"""Hold finished runs against each other, by what each said of every study out of fold.

Entrants of one task and split -> Comparison: classes by their probabilities, times to an event by risk and horizon
"""

from collections.abc import Sequence

import numpy as np

from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.comparison import Comparison, compare_models
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.repeats import Repeat
from medmllm.evaluation.survival_comparison import TimesOutOfFold, compare_times
from medmllm.model_documents import SurvivalTask
from medmllm.pipelines.finished_run import Entrant
from medmllm.table_rows import OutOfFoldRow, SurvivalOutOfFoldRow


def compare_entrants(entrants: Sequence[Entrant]) -> Comparison:
    """Return the metrics of every run, and the paired differences of every two.

    Args:
        entrants: Of one task, target and split.
    """
    first = entrants[0]
    evaluation, task = first.evaluation, first.evaluation.task
    patients = [first.rows[0, study].patient_key for study in first.studies]
    confidence, samples = evaluation.confidence, evaluation.bootstrap_samples
    seed = evaluation.provenance.seed or 0
    if task.survival is not None:
        rows = _timed(first, first.studies)
        followed = Followed(np.array([row.time for row in rows]), np.array([row.event for row in rows]))
        horizons = dict(zip(task.survival.horizon_names, task.survival.horizons, strict=True))
        whole_times, *more_times = _times(entrants, task.survival)
        return compare_times(
            whole_times.arms,
            followed=followed,
            patients=patients,
            folds=whole_times.folds,
            horizons=horizons,
            confidence=confidence,
            samples=samples,
            seed=seed,
            more=more_times,
        )
    whole, *more = _classes(entrants)
    truth = [row.target for row in _classed(first, first.studies)]
    return compare_models(
        whole.arms,
        targets=np.array(list(map(task.classes.index, truth))),
        patients=patients,
        folds=whole.folds,
        classes=task.classes,
        ordered=task.ordered,
        confidence=confidence,
        samples=samples,
        seed=seed,
        more=more,
    )


def _classed(entrant: Entrant, order: Sequence[str], repeat: int = 0) -> list[OutOfFoldRow]:
    rows = [entrant.rows[repeat, key] for key in order]
    return [row for row in rows if isinstance(row, OutOfFoldRow)]


def _timed(entrant: Entrant, order: Sequence[str], repeat: int = 0) -> list[SurvivalOutOfFoldRow]:
    rows = [entrant.rows[repeat, key] for key in order]
    return [row for row in rows if isinstance(row, SurvivalOutOfFoldRow)]


def _folds(first: Entrant, repeat: int) -> IntArray:
    return np.array([first.rows[repeat, key].fold for key in first.studies], dtype=np.int64)


def _classes(entrants: Sequence[Entrant]) -> list[Repeat[OutOfFold]]:
    """Return what every run said in each repeat, study by study in the order of the first run's table."""
    first = entrants[0]
    classes = first.evaluation.task.classes
    return [
        Repeat(
            [_of_classes(one.name, _classed(one, first.studies, repeat), classes) for one in entrants],
            _folds(first, repeat),
        )
        for repeat in range(first.evaluation.repeats)
    ]


def _of_classes(run: str, rows: Sequence[OutOfFoldRow], classes: tuple[str, ...]) -> OutOfFold:
    shown = classes[1:] if len(classes) == 2 else classes
    logits = np.array([[row.logits[name] for name in shown] for row in rows])
    return OutOfFold(
        run,
        np.array([[row.probabilities[name] for name in classes] for row in rows]),
        logits[:, 0] if len(classes) == 2 else logits,
        np.array([classes.index(row.predicted) for row in rows]),
    )


def _times(entrants: Sequence[Entrant], asked: SurvivalTask) -> list[Repeat[TimesOutOfFold]]:
    first = entrants[0]
    return [
        Repeat(
            [_of_times(one.name, _timed(one, first.studies, repeat), asked.horizon_names) for one in entrants],
            _folds(first, repeat),
        )
        for repeat in range(first.evaluation.repeats)
    ]


def _of_times(run: str, rows: Sequence[SurvivalOutOfFoldRow], horizons: tuple[str, ...]) -> TimesOutOfFold:
    return TimesOutOfFold(
        run,
        np.array([row.log_hazard for row in rows]),
        np.array([[row.event_free[name] for name in horizons] for row in rows]),
    )
