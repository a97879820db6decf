"""A folder of everything but what the model was trained on: all of it is refused with reasons, none is scored."""

import shutil
from collections import Counter
from pathlib import Path

from medmllm.csv_tables import read_table
from medmllm.table_rows import LedgerRow, PredictionRow, ProblemRow, SeriesRow, StudyRow
from tests.pipelines.runs import Trained, found_in_files, invoke, score


def write_junk(folder: Path) -> None:
    """Write files that look like something and are nothing."""
    folder.mkdir()
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "empty.nii.gz").write_bytes(b"")
    (folder / "noise.dcm").write_bytes(bytes(range(256)) * 9)
    (folder / "magic.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 64)
    (folder / "page.pdf").write_bytes(b"%PDF-1.7\n")
    (folder / "Zürich, 3. Mai").mkdir()
    (folder / "Zürich, 3. Mai" / "note.txt").write_text("HISTORY: none of this is an image.\n")


def test_real_and_broken_studies_of_other_kinds_are_all_refused_with_reasons(
    shared: Path, ct_run: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "studies"
    for study in sorted((shared / "data" / "brain_mr_lgg" / "studies").iterdir())[:12]:
        shutil.copytree(study, folder / "mr" / study.name)
    for case in sorted((shared / "torture" / "open").iterdir()):
        shutil.copytree(case / "data", folder / "hard" / case.name)
    write_junk(folder / "junk")
    assert invoke("index", folder, "--out", tmp_path / "index").code == 3
    indexed = {row.study_key: row for row in read_table(tmp_path / "index" / "studies.csv", StudyRow)}
    out = tmp_path / "out"
    outcome = score(folder, ct_run.run / "model", out, "--workers", 2)
    assert outcome.code == 3
    series = {
        row.study_key: (row.modality, row.status) for row in read_table(tmp_path / "index" / "series.csv", SeriesRow)
    }
    assert [series.get(row.study_key) for row in read_table(out / "predictions.csv", PredictionRow)] == []
    ledger = read_table(out / "ledger.csv", LedgerRow)
    assert Counter(row.study_key for row in ledger) == dict.fromkeys(indexed, 1)
    assert {row.code for row in ledger if row.code == "unforeseen"} == set()
    assert all(row.stage in ("read", "quality", "contract", "preprocess") and len(row.reason) > 20 for row in ledger)
    mr = [row for row in ledger if indexed[row.study_key].layout == "folder"]
    assert len(mr) >= 12
    assert not (out / "studies").exists()
    problems = read_table(out / "problems.csv", ProblemRow)
    assert all(row.code and row.reason for row in problems)
    assert "0 scored" in outcome.stdout
    words = {"TCGA_CS", "Zürich", *(case.name for case in (folder / "hard").iterdir() if len(case.name) > 8)}
    assert found_in_files(out, words) == []
    assert [word for word in words if word in outcome.said] == []
