"""Read the studies that a training is given, and leave no image of theirs behind where it cannot begin.

labelled studies -> prepared once -> Cohort; RUN/{training_ledger.csv, quality.csv}
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.csv_tables import write_table
from medmllm.ingest.table_inputs import settle_columns
from medmllm.pipelines.progress import progress_bar
from medmllm.quality.gate import log_warnings
from medmllm.records import Study, Target
from medmllm.table_rows import LedgerRow, QualityRow
from medmllm.training.cohort import Cohort, draft_contract, read_cohort
from medmllm.training.image_cache import ImageCache


def read_labelled(
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
