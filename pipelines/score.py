"""Score a folder with a trained model, and explain each study where asked.

STUDIES -> index -> score_folder (model loaded once) -> predictions.csv, ledger.csv, quality.csv, problems.csv,
studies/<study_key>/{prediction.json, explanation.json, attribution.nii.gz, report.html}, summary.json, index.html
"""

import os
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from medmllm.config import ScoreConfig
from medmllm.csv_tables import check_writable, read_table, sole_writer, table_writer, write_table
from medmllm.errors import MedmllmError, MisuseError
from medmllm.evaluation.leading import check_target
from medmllm.ingest.study_folder import StudyIndex, folder_of
from medmllm.ingest.table_inputs import check_columns
from medmllm.ingest.tables import read_label_table
from medmllm.models.package import CARD, ModelPackage, load_package
from medmllm.pipelines.index import read_index
from medmllm.pipelines.linkage_table import check_linkage, write_linkage
from medmllm.pipelines.progress import progress_bar
from medmllm.pipelines.study_output import write_study
from medmllm.provenance import stamp
from medmllm.quality.gate import log_warnings
from medmllm.records import Explanation, Provenance
from medmllm.reporting.folder import write_folder_index
from medmllm.result_documents import ScoringSummary
from medmllm.scoring.results import prediction_row, row_type, summarise
from medmllm.scoring.study_folder import Refused, predicted_class, score_folder
from medmllm.table_rows import LedgerRow, ProblemRow, QualityRow
from medmllm.told_settings import command
from medmllm.training.machine import Machine


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """How the folder went."""

    scored: int
    refused: int  # studies of the ledger
    files: int  # refused, of no study
    index: Path


def run(
    studies: Path,
    *,
    model: Path,
    out: Path,
    config: ScoreConfig,
    explain: bool = False,
    table: Path | None = None,
    linkage: Path | None = None,
    overwrite: bool = False,
) -> ScoreResult:
    """Score every study of a folder; a bad study costs itself alone.

    `table` has the columns that the model reads; None takes the list of studies, or the table in their folder, if any.

    Raises:
        MisuseError: No model there, no such device, no such folder, a folder that already holds results, or a table
            that lacks a column or fits no study.
        MedmllmError: The model cannot be loaded, the folder holds no study, or results cannot be written.
    """
    machine = Machine.of(config.device)
    if not (model / CARD).is_file():
        raise MisuseError(f"no {CARD} in the --model folder: give the folder RUN/model that `medmllm train` wrote.")
    package = load_package(model, device=machine.device)
    check_target(config.explain.target, package.card.task)
    check_writable(out, overwrite=overwrite, marker="predictions.csv", studies=folder_of(studies))
    check_linkage(linkage, out)
    with sole_writer(out):
        return _run(studies, package, out, config, table=table, explain=explain, linkage=linkage)


def _run(
    studies: Path,
    package: ModelPackage,
    out: Path,
    config: ScoreConfig,
    *,
    table: Path | None,
    explain: bool,
    linkage: Path | None,
) -> ScoreResult:
    for whole in ("summary.json", "index.html"):  # these mark a finished folder
        (out / whole).unlink(missing_ok=True)
    given = read_label_table(table) if table else None
    index = read_index(studies, labels=given)
    check_columns(index, package.card.contract.table, given=given)
    write_table(out / "problems.csv", ProblemRow, index.problems)
    if linkage is not None:
        write_linkage(linkage, index)
    if not index.studies:
        raise MedmllmError("the folder holds no study; problems.csv says what is there instead", code="no_study")
    for earlier in (out / "studies").glob("st-*"):  # when overwriting: another model's explanation is not ours
        shutil.rmtree(earlier)
    torch.set_num_threads(os.cpu_count() or 1)
    inputs = {"model": package.weights_digest, "contract": package.card.contract_fingerprint}
    asked = f"{' --explain' if explain else ''}{' --table TABLE' if table else ''}"
    said = command(f"medmllm score STUDIES --model MODEL --out OUT{asked}", config, "score")
    provenance = stamp(said, inputs=inputs | {"quality": config.quality.digest})
    summary = _score_all(index, package, config, out, provenance, explain=explain)
    summary.write(out / "summary.json")
    write_folder_index(
        out / "index.html",
        predictions=read_table(out / "predictions.csv", row_type(package.card)),
        ledger=read_table(out / "ledger.csv", LedgerRow),
        summary=summary,
        explained={path.parent.name for path in (out / "studies").glob("*/explanation.json")},
        card=package.card,
    )
    orphans = sum(problem.severity == "refused" and problem.study_key is None for problem in index.problems)
    return ScoreResult(summary.scored, summary.refused, orphans, out / "index.html")


def _score_all(
    index: StudyIndex, package: ModelPackage, config: ScoreConfig, out: Path, provenance: Provenance, *, explain: bool
) -> ScoringSummary:
    """Write each result as it comes: what is done stays done if the machine stops."""
    refused: Counter[str] = Counter()
    warned: Counter[str] = Counter()
    explained = 0
    with ExitStack() as stack:
        predictions = stack.enter_context(
            table_writer(out / "predictions.csv", row_type(package.card), classes=package.card.task.columns)
        )
        ledger = stack.enter_context(table_writer(out / "ledger.csv", LedgerRow))
        quality = stack.enter_context(table_writer(out / "quality.csv", QualityRow))
        advance = stack.enter_context(progress_bar("Scoring studies", len(index.studies)))
        for result in score_folder(index.studies, package, config, explain=explain, advance=advance):
            study = result.study
            for finding in result.findings:
                quality.write(QualityRow.of(study.study_key, finding))
                warned[finding.code] += finding.severity == "warn"
            if isinstance(result, Refused):
                ledger.write(LedgerRow.of(study.study_key, study.patient_key, result.refusal))
                refused[result.refusal.code] += 1
                continue
            write_study(result, package, config, out / "studies" / study.study_key, provenance)
            explained += isinstance(result.explanation, Explanation)
            predicted = predicted_class(result.prediction, package)
            predictions.write(prediction_row(result.prediction, package.card, predicted))
    log_warnings(+warned)
    return summarise(predictions.count, refused, explained, index, package.card, provenance)
