"""Look at every readable series, note and recording of a folder, and tell what is implausible.

STUDIES -> index -> one study after the other -> quality checks -> OUT/quality.csv, problems.csv, summary.json
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from medmllm.config import QualityConfig, QualityPolicy
from medmllm.csv_tables import check_writable, sole_writer, table_writer, write_table
from medmllm.errors import MedmllmError
from medmllm.ingest.audio import read_recording
from medmllm.ingest.study_folder import StudyIndex, folder_of, read_study_note, read_volume
from medmllm.pipelines.index import read_index
from medmllm.pipelines.linkage_table import check_linkage, write_linkage
from medmllm.pipelines.progress import progress_bar
from medmllm.preprocessing.channel_rules import as_nifti_of
from medmllm.provenance import stamp
from medmllm.quality.audio import check_recording
from medmllm.quality.duplicates import NoteRegister
from medmllm.quality.gate import inspect_study, judge
from medmllm.records import QualityFinding, SeriesReference, Study
from medmllm.result_documents import QualitySummary
from medmllm.table_rows import ProblemRow, QualityRow
from medmllm.told_settings import command


@dataclass(frozen=True, slots=True)
class QualityResult:
    """What the checks found."""

    summary: QualitySummary

    @property
    def counts(self) -> str:
        """One line per code for the terminal, the most frequent first."""
        rows = [
            (-number, code, decision)
            for code, decisions in self.summary.findings.items()
            for decision, number in decisions.items()
        ]
        return "".join(f"\n  {-number:6d} {code} ({decision})" for number, code, decision in sorted(rows))


def run(
    studies: Path, *, out: Path, config: QualityConfig, linkage: Path | None = None, overwrite: bool = False
) -> QualityResult:
    """Check a folder and write what was found; one study in memory at a time.

    Args:
        studies: Folder of DICOM or NIfTI studies, or a list of them.
        out: Folder for the tables; made if absent.
        config: Resolved settings.
        linkage: Where to write the table from key to original identifier; None writes none.
        overwrite: Write over tables that are already there.

    Raises:
        MisuseError: No studies to check, or results already there.
        MedmllmError: Results cannot be written.
    """
    check_writable(out, overwrite=overwrite, marker="quality.csv", studies=folder_of(studies))
    check_linkage(linkage, out)
    with sole_writer(out):
        (out / "summary.json").unlink(missing_ok=True)  # it marks a finished folder
        index = read_index(studies)
        write_table(out / "problems.csv", ProblemRow, index.problems)
        if linkage is not None:
            write_linkage(linkage, index)
        summary = _check_all(index, config, out)
        summary.write(out / "summary.json")
    return QualityResult(summary)


def _check_all(index: StudyIndex, config: QualityConfig, out: Path) -> QualitySummary:
    """Write each study's findings as they come."""
    policy = config.quality
    register = NoteRegister(policy.bounds)
    read: Counter[str] = Counter()
    findings: dict[str, Counter[str]] = {}
    refused = set()
    with (
        table_writer(out / "quality.csv", QualityRow) as table,
        progress_bar("Checking studies", len(index.studies)) as advance,
    ):
        for study in index.studies:
            series = tuple(as_nifti_of(one, config.nifti_modality) for one in study.series)
            for finding in check_study(replace(study, series=series), policy, register, read):
                row = QualityRow.of(study.study_key, finding)
                table.write(row)
                findings.setdefault(row.code, Counter())[row.decision] += 1
                if row.decision == "refuse":
                    refused.add(study.study_key)
            advance(1)
    return QualitySummary(
        studies=len(index.studies),
        series=read["series"],
        notes=read["notes"],
        recordings=read["recordings"],
        refused_studies=len(refused),
        findings={code: dict(counts) for code, counts in sorted(findings.items())},
        provenance=stamp(
            command("medmllm quality STUDIES --out OUT", config, "quality"), inputs={"quality": policy.digest}
        ),
    )


def check_study(
    study: Study, policy: QualityPolicy, register: NoteRegister, read: Counter[str]
) -> Iterator[QualityFinding]:
    """Yield what is implausible about one study, and what of it cannot be read; what was read is counted in `read`."""
    for series in study.series:
        yield from _check_series(study, series, policy, read)
    if study.notes:
        try:
            note = read_study_note(study)
        except MedmllmError as error:
            yield _unreadable(study.study_key, error)
        else:
            read["notes"] += 1
            yield from inspect_study(study.study_key, {}, note, policy, has_note=True)
            alike = register.check(study.study_key, note)
            yield from judge([] if alike is None else [alike], policy.decisions)
    for reference in study.recordings:
        try:
            recording = read_recording(reference.file)
        except MedmllmError as error:
            yield _unreadable(study.study_key, error)
        else:
            read["recordings"] += 1
            yield from judge(check_recording(recording, study.study_key, policy.bounds), policy.decisions)


def _check_series(
    study: Study, series: SeriesReference, policy: QualityPolicy, read: Counter[str]
) -> Iterator[QualityFinding]:
    """Check one series; its voxels are given back before the next one's are read."""
    try:
        volume = read_volume(series)
    except MedmllmError as error:
        yield _unreadable(series.series_key, error)
    else:
        read["series"] += 1
        yield from inspect_study(study.study_key, {series.series_key: volume}, None, policy, has_note=False)


def _unreadable(where: str, error: MedmllmError) -> QualityFinding:
    """Return the finding for what cannot be read: it would be refused whatever the policy."""
    return QualityFinding(error.code, where, None, None, error.reason, "refuse")
