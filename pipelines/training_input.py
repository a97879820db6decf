"""Read the studies that a training is given and split them, and leave no image of theirs behind where it cannot begin.

labelled studies -> prepared once -> Cohort -> arms, folds
-> RUN/{training_ledger.csv, quality.csv, leaks.csv, settings.json, splits.json, splits_final.json}
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.csv_tables import write_table
from medmllm.errors import MedmllmError
from medmllm.ingest.table_inputs import settle_columns
from medmllm.pipelines.progress import progress_bar
from medmllm.quality.gate import log_warnings
from medmllm.records import Study, Target
from medmllm.table_rows import LedgerRow, QualityRow
from medmllm.training.arms import usable_arms
from medmllm.training.checkpoint import FOLDER
from medmllm.training.cohort import Cohort, draft_contract, read_cohort
from medmllm.training.held import Called
from medmllm.training.image_cache import RUN_FOLDER, ImageCache
from medmllm.training.planning import Given, settle_folds
from medmllm.training.read_notes import check_training_notes, remark_unread
from medmllm.training.refused_studies import refused_told
from medmllm.training.resuming import origin_of
from medmllm.training.run import WHOLE
from medmllm.training.same_run import SETTINGS, check_same_origin
from medmllm.training.split_file import write_splits
from medmllm.training.splits import SplitPlan
from medmllm.training_config import Arm


@dataclass(frozen=True, slots=True, eq=False)
class TrainingInput:
    """What is trained, on what, with which folds."""

    cohort: Cohort
    arms: list[Arm]
    plan: SplitPlan
    lacking: list[str]  # remarks on arms that cannot be trained, and on what studies lack
    leaks: list[str]  # remarks on what leaks, and on sites


def read_and_split(
    studies: Sequence[Study],
    targets: Mapping[str, Target],
    config: TrainConfig,
    out: Path,
    *,
    among: Path,
    given: Given | None,
    called: Called,
    resume: bool,
) -> TrainingInput:
    """Return the cohort and its folds; settings and split of RUN are written once nothing can be refused any more.

    What marks an earlier run there as whole goes then: the one that writes over it, if it is killed, can go on.

    Args:
        studies: Labelled ones.
        targets: study_key -> class index, or labels.
        config: Resolved settings.
        out: RUN.
        among: Folder of the studies.
        given: Folds of a file or of sites, as of `look_ahead`.
        called: The targets and their classes, in a refusal.
        resume: Whether RUN was interrupted and goes on.

    Raises:
        MisuseError: Nothing to train, no folds, or another run than the interrupted one.
    """
    with _no_images_left_behind(out):
        cache = ImageCache.open(Path(config.training.cache or out / RUN_FOLDER), among)
        cohort = _read(studies, targets, cache, config, out)
        with refused_told(cohort):
            arms, lacking = usable_arms(cohort, config)
            lacking += remark_unread(cohort, config.text, arms)
            plan, leaks = settle_folds(cohort, config.training, given, out, called=called)
            check_training_notes(cohort, plan, config.text, arms)
        if resume:
            check_same_origin(out, origin_of(config, plan.digest, cohort))
    (out / WHOLE).unlink(missing_ok=True)
    config.write(out / SETTINGS)
    write_splits(plan, [member.sample.study_key for member in cohort.members], out)
    return TrainingInput(cohort, arms, plan, lacking, leaks)


@contextmanager
def _no_images_left_behind(out: Path) -> Iterator[None]:
    """Delete the prepared images of a training that is refused before it began; an interrupted one keeps its own."""
    try:
        yield
    except MedmllmError:
        if not any((out / FOLDER).glob("*.safetensors")):
            shutil.rmtree(out / RUN_FOLDER, ignore_errors=True)
        raise


def _read(
    studies: Sequence[Study], targets: Mapping[str, Target], cache: ImageCache, config: TrainConfig, out: Path
) -> Cohort:
    """Prepare the labelled studies, and write what was refused and what is implausible."""
    sound = config.recording if config.recording.enabled else None
    draft = draft_contract(config.image, config.text.reading, sound, settle_columns(studies, config.table))
    with progress_bar("Preparing studies", len(targets)) as more:
        workers = os.cpu_count() or 1
        cohort = read_cohort(studies, targets, draft, policy=config.quality, workers=workers, advance=more, cache=cache)
    ledger = [LedgerRow.of(study.study_key, study.patient_key, refusal) for study, refusal in cohort.refused]
    write_table(out / "training_ledger.csv", LedgerRow, ledger)
    write_table(out / "quality.csv", QualityRow, (QualityRow.of(key, finding) for key, finding in cohort.findings))
    log_warnings(Counter(finding.code for _, finding in cohort.findings if finding.severity == "warn"))
    return cohort
