"""De-identify a folder of studies.

STUDIES -> index -> study by study -> OUT/PATIENT_KEY/STUDY_KEY/..., OUT/labels.csv, OUT/ledger.csv,
OUT/deidentification.json; and the linkage table where it is asked for
"""

import csv
import io
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from medmllm.csv_tables import check_writable, sole_writer, write_table
from medmllm.deidentify_config import DeidentifyConfig
from medmllm.ingest.deidentify import FolderRun, deidentify_folder, kept_facts
from medmllm.ingest.deidentify_dicom import method_codes
from medmllm.ingest.deidentify_writing import write_text
from medmllm.ingest.keys import load_keyring
from medmllm.ingest.study_folder import StudyIndex, folder_of
from medmllm.ingest.tables import check_kept, read_label_table
from medmllm.pipelines.index import read_index
from medmllm.pipelines.linkage_table import check_linkage, write_linkage
from medmllm.pipelines.progress import progress_bar
from medmllm.provenance import stamp
from medmllm.result_documents import DeidentificationDocument
from medmllm.table_rows import ProblemRow

REPORT = "deidentification.json"
LIMITS = (
    "Faces are not removed: a head scan can be rendered and recognised.",
    "Text drawn into pixels is refused by kind of object and header, not looked for in the pixels.",
    "Notes are scrubbed by rules: a name that nothing announces can be missed. Read a sample before sharing.",
    "Keys, UIDs and dates can be traced back with the site secret: this is pseudonymisation in the sense of the GDPR.",
)


@dataclass(frozen=True, slots=True)
class DeidentifyResult:
    """How the folder went."""

    studies: int
    written: int  # files
    refused: int  # files
    ignored: int  # files of no study


def run(
    studies: Path,
    *,
    out: Path,
    config: DeidentifyConfig,
    labels: Path | None = None,
    linkage: Path | None = None,
    passphrase: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> DeidentifyResult:
    """De-identify a folder; a bad file costs itself alone.

    Args:
        studies: Folder of DICOM or NIfTI studies, or a list of them.
        out: Folder for the result; made if absent, and outside `studies`.
        config: Resolved settings.
        labels: Label table; None takes labels.csv or participants.tsv of `studies` if there.
        linkage: Where to write key -> original identifier, outside `out`; None writes none.
        passphrase: Encrypts the linkage table; None leaves it readable.
        dry_run: Write the report and the ledger alone.
        overwrite: Replace an earlier result.

    Raises:
        MisuseError: No studies, results already there, the label table, its columns, the place of the linkage table.
        MedmllmError: The result cannot be written.
    """
    check_writable(out, overwrite=overwrite, marker=REPORT, studies=folder_of(studies))
    check_linkage(linkage, out)
    with sole_writer(out):
        table = read_label_table(labels) if labels else None
        index = read_index(studies, labels=table)
        check_kept(config.table_columns, index.studies, given=table)
        _remove_earlier(out)  # not before it is sure that there will be another one
        work = FolderRun(
            root=folder_of(studies),
            out=None if dry_run else out,
            keyring=load_keyring(),
            config=config,
            originals={row.key: row.original for row in index.linkage},
        )
        with progress_bar("De-identifying studies", len(index.studies)) as advance:
            deidentify_folder(index, work, advance)
        if not dry_run:
            write_labels(index, work, out)
        write_table(out / "ledger.csv", ProblemRow, work.ledger)
        if linkage is not None:
            whole = replace(index, linkage=(*index.linkage, *work.linkage))
            write_linkage(linkage, whole, passphrase=passphrase)
        report = report_of(work, dry_run=dry_run)
        report.write(out / REPORT)  # last: it marks the folder as whole
    return DeidentifyResult(report.studies, sum(report.written.values()), report.refused, report.ignored)


def write_labels(index: StudyIndex, work: FolderRun, out: Path) -> None:
    """Write the label table of the studies that were written: keys, and the columns that the settings list."""
    rows = [study for study in index.studies if study.study_key in work.studies and study.facts]
    if not rows:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient_id", "study_id", *work.config.table_columns])
    for study in rows:
        writer.writerow([study.patient_key, study.study_key, *kept_facts(study, work)])
    write_text(out / "labels.csv", text.getvalue())


def report_of(work: FolderRun, *, dry_run: bool) -> DeidentificationDocument:
    """Return the report: counts and settings, no value of any attribute."""
    refused = Counter(row.code for row in work.ledger if row.severity == "refused")
    options = {
        "take_recordings": str(work.config.take_recordings),
        "table_columns": ", ".join(work.config.table_columns),
        "notes.dates": work.config.notes.dates,
        **{f"dicom.{name}": str(value) for name, value in work.config.dicom.model_dump(mode="json").items()},
    }
    actions: dict[str, dict[str, int]] = {}
    for (action, attribute), count in sorted(work.actions.items()):
        actions.setdefault(action, {})[attribute] = count
    return DeidentificationDocument(
        dry_run=dry_run,
        method_codes=dict(method_codes(work.config.dicom)),
        options=options,
        studies=len(work.studies),
        written=dict(sorted(work.written.items())),
        refused=sum(refused.values()),
        refused_by_code=dict(sorted(refused.items())),
        ignored=sum(row.severity == "ignored" for row in work.ledger),
        actions=actions,
        placeholders=dict(sorted(work.placeholders.items())),
        limits=LIMITS,
        provenance=stamp("medmllm deidentify STUDIES --out OUT"),
    )


def _remove_earlier(out: Path) -> None:
    """Remove what an earlier run wrote, so that no file of it stays among the new ones."""
    for folder in out.iterdir():
        if re.fullmatch(r"pt-[0-9a-f]{16}", folder.name) and folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
    for name in (REPORT, "ledger.csv", "labels.csv"):
        (out / name).unlink(missing_ok=True)
