"""Compare runs that were split alike, by what each said of every study out of fold.

RUN/{evaluation.json, out_of_fold.csv, settings.json, model/model.json} of each -> the same studies, paired
-> OUT/comparison.json, comparison.csv, comparison.html
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medmllm.config import TrainConfig
from medmllm.csv_tables import check_writable
from medmllm.errors import MisuseError
from medmllm.evaluation.comparison import compare_models, comparison_remarks
from medmllm.pipelines.compare_input import TABLE, check_alike, read_repeats, read_run
from medmllm.provenance import file_digest, stamp
from medmllm.reporting.comparison import (
    ComparisonDocument,
    compared_runs,
    differing_settings,
    run_differences,
    summary,
    write_comparison,
)


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
    entrants = [read_run(path, arm) for path in runs]
    check_alike(entrants)
    check_writable(out, overwrite=overwrite, marker="comparison.json")
    first = entrants[0].evaluation
    rows = [entrants[0].rows[0, study] for study in entrants[0].studies]
    classes, seed = first.task.classes, first.provenance.seed or 0
    whole, *more = read_repeats(entrants)
    found = compare_models(
        whole.arms,
        targets=np.array([classes.index(row.target) for row in rows]),
        patients=[row.patient_key for row in rows],
        folds=whole.folds,
        classes=classes,
        confidence=first.confidence,
        samples=first.bootstrap_samples,
        seed=seed,
        ordered=first.task.kind == "ordinal",
        more=more,
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
