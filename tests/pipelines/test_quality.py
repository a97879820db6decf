"""`medmllm quality`, and the gate in `train` and `score`: what is implausible is told, and refused by the policy."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import soundfile

from medmllm.csv_tables import read_table
from medmllm.ingest.keys import Keyring
from medmllm.records import Volume
from medmllm.result_documents import QualitySummary, ScoringSummary
from medmllm.table_rows import LedgerRow, PredictionRow, QualityRow
from tests.factories import a_volume, write_dicom_study, write_nifti_study
from tests.pipelines.runs import SECRET, Outcome, Trained, found_in_files, invoke, score, site_key
from tests.quality.phantoms import a_scan, a_trunk

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))
NOTE = "HISTORY: " + " ".join(f"made-up{number} word" for number in range(15)) + "\n"


def rescale_again(folder: Path) -> str:
    """Store a CT series' HU as they are and leave an intercept of -1024, as faulty exports do; return its study."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "note.txt"):
        header = pydicom.dcmread(file)
        hu = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        header.PixelData = np.rint(hu).astype("<i2").tobytes()
        header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 15, 1
        header.RescaleSlope, header.RescaleIntercept = 1, -1024
        header.save_as(file)
    return str(header.StudyInstanceUID)


# --- score ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, ct_run: Trained) -> tuple[Path, str]:
    """The demo's scoring folder with one study rescaled twice; its key."""
    root = tmp_path_factory.mktemp("twice")
    shutil.copytree(ct_run.studies.parents[1] / "scoring" / "studies", root / "studies")
    homes = sorted({file.parent for file in (root / "studies").rglob("note.txt")})
    whole = next(home for home in homes if len(list(home.rglob("*"))) >= 13)  # one of them lacks a slice
    return root / "studies", KEYRING.study(rescale_again(whole))


@pytest.fixture(scope="session")
def scored(
    tmp_path_factory: pytest.TempPathFactory, ct_run: Trained, folder: tuple[Path, str]
) -> Iterator[tuple[Path, Outcome]]:
    root = tmp_path_factory.mktemp("twice_scored")
    with site_key(root):
        yield root / "out", score(folder[0], ct_run.run / "model", root / "out")


def test_a_ct_rescaled_twice_is_refused_by_score_with_the_code_in_the_ledger(
    scored: tuple[Path, Outcome], folder: tuple[Path, str]
) -> None:
    out, outcome = scored
    (row,) = [row for row in read_table(out / "ledger.csv", LedgerRow) if row.study_key == folder[1]]
    assert (row.stage, row.code, row.retryable) == ("quality", "ct_double_rescale", False)
    assert "below -1100 HU (bound 2%)" in row.reason
    assert 'set quality.decisions.ct_double_rescale = "warn"' in row.reason
    assert folder[1] not in {row.study_key for row in read_table(out / "predictions.csv", PredictionRow)}
    assert outcome.code == 3
    summary = ScoringSummary.read(out / "summary.json")
    assert summary.refused_by_code["ct_double_rescale"] == 1
    assert len(summary.provenance.inputs["quality"]) == 64


def test_the_findings_stand_in_quality_csv_and_the_others_are_scored(
    scored: tuple[Path, Outcome], folder: tuple[Path, str]
) -> None:
    out, _ = scored
    (refused,) = [row for row in read_table(out / "quality.csv", QualityRow) if row.decision == "refuse"]
    assert (refused.study_key, refused.code, refused.bound) == (folder[1], "ct_double_rescale", 0.02)
    assert (refused.series_key or "").startswith("se-")
    assert len(read_table(out / "predictions.csv", PredictionRow)) == 2
    assert 'href="quality.csv"' in (out / "index.html").read_text()


def test_the_policy_of_the_settings_turns_the_refusal_into_a_warning(
    folder: tuple[Path, str], ct_run: Trained, tmp_path: Path
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[quality.decisions]\nct_double_rescale = "warn"\n')
    out = tmp_path / "out"
    score(folder[0], ct_run.run / "model", out, "--config", config)
    rows = [row for row in read_table(out / "quality.csv", QualityRow) if row.study_key == folder[1]]
    assert [(row.code, row.decision) for row in rows if row.code == "ct_double_rescale"] == [
        ("ct_double_rescale", "warn")
    ]
    ledger = {row.study_key: row.stage for row in read_table(out / "ledger.csv", LedgerRow)}
    assert ledger.get(folder[1]) in (None, "contract")  # the model's own contract is another matter


# --- train ---------------------------------------------------------------------------------


def test_training_runs_list_their_findings_and_the_synthetic_cohort_is_not_refused(
    nifti_run: Trained, ct_run: Trained
) -> None:
    for run in (nifti_run, ct_run):
        assert run.outcome.code in (0, 3)
        rows = read_table(run.run / "quality.csv", QualityRow)
        assert [row for row in rows if row.decision == "refuse"] == []
        ledger = read_table(run.run / "training_ledger.csv", LedgerRow)
        assert [row for row in ledger if row.stage == "quality"] == []
        said = "quality.csv has warnings: " in run.outcome.said
        assert said is any(row.decision == "warn" for row in rows)
    assert {row.code for row in read_table(ct_run.run / "quality.csv", QualityRow)} <= {"spacing_implausible"}


# --- the verb ------------------------------------------------------------------------------


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A good CT, one rescaled twice, one that lacks a slice, two NIfTI studies with one note, a silent recording."""
    root = tmp_path / "studies"
    write_dicom_study(root / "HUBER", phantom(), patient="HUBER", study=1, note=NOTE)
    write_dicom_study(root / "MEIER", phantom(), patient="MEIER", study=2, note="HISTORY:\n")
    rescale_again(root / "MEIER")
    write_dicom_study(root / "KOCH", a_volume(), patient="KOCH", study=3, leave_out=[1], note=None)
    write_nifti_study(root / "ANNA", {"t1": a_scan(a_trunk() + 3000, modality=None)}, note=None)
    write_nifti_study(root / "EMIL", {"t1": a_scan(a_trunk() - 1024, modality=None)}, note=NOTE)
    soundfile.write(root / "ANNA" / "dictation.wav", np.zeros(20_000), 8000)
    return root


def phantom() -> Volume:
    return a_scan(np.rint(a_trunk()))


def run(studies: Path, out: Path, *more: object) -> tuple[Outcome, list[QualityRow]]:
    outcome = invoke("quality", studies, "--out", out, *more)
    return outcome, read_table(out / "quality.csv", QualityRow) if (out / "quality.csv").exists() else []


def test_everything_readable_is_looked_at_and_what_is_not_is_told(studies: Path, tmp_path: Path) -> None:
    outcome, rows = run(studies, tmp_path / "out")
    assert Counter((row.code, row.decision) for row in rows) == {
        ("ct_double_rescale", "refuse"): 2,
        ("missing_slice", "refuse"): 1,
        ("note_only_headings", "warn"): 1,
        ("note_duplicate", "warn"): 1,
        ("recording_silent", "warn"): 1,
    }
    (unreadable,) = [row for row in rows if row.code == "missing_slice"]
    assert (unreadable.value, unreadable.bound) == (None, None)
    assert "1 slice is missing" in unreadable.reason
    assert outcome.code == 3
    assert "5 studies: 4 series, 3 notes and 1 recordings read, 3 studies would be refused" in outcome.stdout
    assert "2 ct_double_rescale (refuse)" in outcome.stdout
    summary = QualitySummary.read(tmp_path / "out" / "summary.json")
    assert (summary.studies, summary.series, summary.notes, summary.recordings) == (5, 4, 3, 1)
    assert summary.refused_studies == 3
    assert summary.findings["ct_double_rescale"] == {"refuse": 2}


def test_findings_of_notes_and_recordings_carry_no_series_key_and_those_of_series_do(
    studies: Path, tmp_path: Path
) -> None:
    _, rows = run(studies, tmp_path / "out")
    for row in rows:
        assert (row.series_key is None) == row.code.startswith(("note_", "recording_"))


def test_no_name_and_no_word_of_a_note_is_written_or_said(studies: Path, tmp_path: Path) -> None:
    outcome, rows = run(studies, tmp_path / "out")
    words = {"HUBER", "MEIER", "KOCH", "ANNA", "EMIL", "made-up7", "dictation", "t1", str(studies)}
    assert rows
    assert found_in_files(tmp_path / "out", words - {"t1"}) == []
    assert [word for word in words - {"t1"} if word in outcome.said] == []


@pytest.mark.parametrize(
    ("hu_plus", "sidecar", "code"),
    [
        (-1024, True, "ct_double_rescale"),
        (-1024, False, "ct_double_rescale"),
        (1024, True, "ct_not_rescaled"),
        (1024, False, None),  # nothing says that it is a CT
        (0, True, None),
    ],
)
def test_a_nifti_ct_is_held_to_hounsfield_units_where_a_sidecar_calls_it_one(
    hu_plus: float, sidecar: bool, code: str | None, tmp_path: Path
) -> None:
    root = tmp_path / "studies"
    write_nifti_study(root / "ANNA", {"chest": a_scan(a_trunk() + hu_plus)}, note=None)
    if sidecar:
        (root / "ANNA" / "chest.json").write_text('{"Modality": "CT"}')
    _, rows = run(root, tmp_path / "out")
    assert [row.code for row in rows if row.decision == "refuse"] == ([] if code is None else [code])


@pytest.mark.parametrize(("said", "codes"), [("", []), ("MR", []), ("CT", ["ct_not_rescaled"])])
def test_a_plain_nifti_file_is_held_to_hounsfield_units_where_the_settings_call_it_a_ct(
    said: str, codes: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "studies"
    write_nifti_study(root / "ANNA", {"chest": a_scan(a_trunk() + 1024)}, note=None)
    _, rows = run(root, tmp_path / "out", "--set", f"nifti_modality={said}")
    assert [row.code for row in rows if row.decision == "refuse"] == codes


@pytest.mark.parametrize(("decision", "code"), [("warn", 0), ("refuse", 3)])
def test_a_cut_file_beside_a_series_and_a_guessed_encoding_are_findings(
    decision: str, code: int, tmp_path: Path
) -> None:
    root = tmp_path / "studies"
    write_dicom_study(root / "ANNA", a_scan(a_trunk()), patient="ANNA", note=None)
    last = sorted((root / "ANNA").glob("*.dcm"))[-1]
    last.write_bytes(last.read_bytes()[:400])
    (root / "ANNA" / "note.txt").write_bytes("HISTORY: Müdigkeit seit Wochen".encode("cp1252"))
    outcome, rows = run(root, tmp_path / "out", "--set", f"quality.decisions.damaged_beside={decision}")
    found = {row.code: row for row in rows}
    assert (found["damaged_beside"].decision, found["damaged_beside"].value) == (decision, 1.0)
    assert found["damaged_beside"].series_key is not None
    assert found["note_encoding"].series_key is None
    assert outcome.code == code
    assert "digkeit" not in outcome.said


def test_a_policy_that_only_warns_ends_well(studies: Path, tmp_path: Path) -> None:
    shutil.rmtree(studies / "KOCH")  # what cannot be read is refused whatever the policy
    warn = "quality.decisions.ct_double_rescale=warn"
    outcome, rows = run(studies, tmp_path / "out", "--set", warn)
    assert outcome.code == 0
    assert {row.decision for row in rows} == {"warn"}


def test_a_decision_that_is_none_and_a_code_that_is_none_are_misuse(studies: Path, tmp_path: Path) -> None:
    for key, said in (
        ("quality.decisions.noisy=ignore", "[quality.decisions] noisy"),
        ("quality.decisions.ct_double_rescal=warn", "did you mean 'ct_double_rescale'?"),
    ):
        outcome, _ = run(studies, tmp_path / "out", "--set", key)
        assert outcome.code == 2
        assert said in outcome.stderr


def test_results_are_written_over_only_when_asked(studies: Path, tmp_path: Path) -> None:
    first, rows = run(studies, tmp_path / "out")
    again, _ = run(studies, tmp_path / "out")
    assert (first.code, again.code) == (3, 2)
    assert "already holds quality.csv" in again.stderr
    assert run(studies, tmp_path / "out", "--overwrite")[1] == rows
