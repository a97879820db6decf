"""Train and score on every modality at once: arms, packages, a table for scoring, and what is refused or missing."""

import csv
import html
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from medmllm.csv_tables import read_table
from medmllm.errors import PackageError
from medmllm.ingest.keys import Keyring
from medmllm.model_documents import ModelCard
from medmllm.models.package import load_package
from medmllm.result_documents import ExplanationDocument, PredictionDocument
from medmllm.table_documents import TableCodes
from medmllm.table_rows import LedgerRow, OutOfFoldRow, PredictionRow
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import EXPLAINED, NIFTI_SETTINGS, SECRET, UNTRACKED, Trained, score, site_key, train

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))
SETTINGS = (
    NIFTI_SETTINGS.replace("tiny_width = 16", "tiny_width = 16\naudio_width = 2\ntable_width = 8")
    + "\n[recording]\nenabled = true\nsample_rate_hz = 2000\nduration_s = 1.0\nmels = 8\n"
    + '\n[table]\ncolumns = ["age", "sex"]\n'
)
ODD_SEX = "Kxyzzy"  # one patient's alone: it must not leave the table
ONLY_TABLE = "case-003-1"


def write_cohort(folder: Path) -> Path:
    """The NIfTI cohort with ages and sexes: one study has neither, one no age, one nothing else."""
    labels = write_nifti_cohort(folder, without_image=[1], without_note=[4])
    with labels.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rng = np.random.default_rng(4)
    for k, row in enumerate(rows):
        age = 40 + 25 * int(row["outcome"]) + int(rng.integers(10))
        row |= {"age": str(age), "sex": "FM"[k % 2]}
    rows[2] |= {"age": "", "sex": ""}
    rows[3]["age"] = ""
    rows[6]["sex"] = ODD_SEX
    write_rows(labels, rows)
    for k, row in enumerate(rows):
        for number in range((k + 1) % 3):  # one, two, none, one ...
            write_sine(folder / "studies" / row["study_id"] / f"{number}.wav", 200 + 400 * int(row["outcome"]), k)
    for file in (folder / "studies" / ONLY_TABLE).iterdir():
        file.unlink()
    (folder / "studies" / ONLY_TABLE / "note.txt").write_text("\n")  # nothing to read in it
    return labels


def write_sine(file: Path, hz: float, seed: int) -> None:
    seconds = np.arange(6000) / 4000
    noise = np.random.default_rng(seed).normal(0, 0.05, len(seconds))
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * hz * seconds) + noise, 4000)


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("modalities")
    labels = write_cohort(folder / "data")
    with site_key(folder):
        outcome = train(folder / "data" / "studies", labels, folder / "run", *UNTRACKED, settings=SETTINGS)
        yield Trained(folder / "data" / "studies", labels, folder / "run", outcome)


def scored(run: Trained, out: Path, *more: object, model: str = "model") -> dict[str, PredictionRow]:
    outcome = score(run.studies, run.run / model, out, *more)
    assert outcome.code in (0, 3), outcome.said
    return {row.study_key: row for row in read_table(out / "predictions.csv", PredictionRow)}


def test_every_modality_has_an_arm_and_the_fused_one_reads_them_all(run: Trained) -> None:
    assert run.outcome.code in (0, 3), run.outcome.said
    rows = read_table(run.run / "out_of_fold.csv", OutOfFoldRow)
    assert {row.arm for row in rows} == {"image", "text", "recording", "table", "fused"}
    cards = {name: ModelCard.read(run.run / name / "model.json") for name in ("model", "model_table", "model_image")}
    assert cards["model"].arm == "fused"
    read = cards["model"].contract
    assert None not in (read.image, read.text, read.recording, read.table)
    assert (cards["model_table"].arm, cards["model_table"].contract.image) == ("table", None)
    assert cards["model_image"].contract.table is None
    assert not {"table", "recording"} & set(cards["model_image"].contract.model_dump())


def test_scale_and_categories_are_those_of_each_folds_training_part(run: Trained) -> None:
    splits = json.loads((run.run / "splits.json").read_text())["folds"]
    rows = {KEYRING.study(row["study_id"]): row for row in rows_of(run.labels)}
    for number, split in enumerate(splits):
        codes = TableCodes.read(run.run / "model" / "table" / f"fold_{number}.json")
        ages = [float(rows[key]["age"]) for key in split["train"] if rows[key]["age"]]
        assert codes.columns[0].mean == pytest.approx(np.mean(ages))
        assert codes.columns[0].deviation == pytest.approx(np.std(ages))
        assert set(codes.columns[1].categories) <= {"F", "M"}


def test_a_category_of_one_patient_stands_nowhere_in_what_training_wrote_or_said(run: Trained) -> None:
    assert ODD_SEX not in run.outcome.said
    assert "cells hold a category that the fold's training part lacks" in run.outcome.said
    written = [path for path in run.run.rglob("*") if path.is_file()]
    assert [path.name for path in written if ODD_SEX.encode() in path.read_bytes()] == []


def test_a_table_is_used_in_scoring_and_a_study_without_a_row_is_scored_without(run: Trained, tmp_path: Path) -> None:
    rows = rows_of(run.labels)
    table = tmp_path / "facts.csv"
    write_rows(
        table, [{k: v for k, v in row.items() if k != "outcome"} for row in rows if row["study_id"] != "case-001-0"]
    )
    with_table = scored(run, tmp_path / "with", "--table", table)
    bare = scored(run, tmp_path / "without")
    key = KEYRING.study("case-001-0")
    assert with_table[key].modalities_used == bare[key].modalities_used == "image+text"
    assert with_table[key].probability == pytest.approx(bare[key].probability, abs=1e-6)
    other = KEYRING.study("case-002-0")
    assert with_table[other].modalities_used == "image+text+recording+table"
    assert with_table[other].probability != pytest.approx(bare[other].probability, abs=1e-6)
    assert KEYRING.study(ONLY_TABLE) in with_table.keys() - bare.keys()


def test_a_table_that_fits_no_study_stops_the_scoring_and_one_of_no_use_is_remarked(
    run: Trained, tmp_path: Path
) -> None:
    write_rows(tmp_path / "other.csv", [{"study_id": "elsewhere", "age": "50", "sex": "F"}])
    outcome = score(run.studies, run.run / "model", tmp_path / "out", "--table", tmp_path / "other.csv")
    assert outcome.code == 2
    assert "no row of the --table, of 1, fits any" in outcome.stderr
    assert not (tmp_path / "out" / "predictions.csv").exists()
    unread = score(run.studies, run.run / "model_text", tmp_path / "text", "--table", run.labels)
    assert unread.code in (0, 3)
    assert "the model reads no column of the --table" in unread.log


def test_an_unknown_category_stands_in_the_prediction_and_on_the_case_page_by_its_column(
    run: Trained, tmp_path: Path
) -> None:
    shutil.copytree(run.studies / "case-005-0", tmp_path / "studies" / "case-005-0")
    write_rows(tmp_path / "facts.csv", [{"study_id": "case-005-0", "age": "66", "sex": ODD_SEX}])
    score(tmp_path / "studies", run.run / "model", tmp_path / "out", "--table", tmp_path / "facts.csv", *EXPLAINED)
    folder = tmp_path / "out" / "studies" / KEYRING.study("case-005-0")
    assert PredictionDocument.read(folder / "prediction.json").unknown_categories == {"sex": 2}  # of two folds
    page = (folder / "report.html").read_text()
    assert "Unknown category in the table's column sex: the model read the cell as missing" in html.unescape(page)
    assert ODD_SEX not in page


def test_a_required_row_refuses_a_study_that_has_none(run: Trained, tmp_path: Path) -> None:
    labels = run.labels
    outcome = train(run.studies, labels, tmp_path / "run", *UNTRACKED, settings=SETTINGS + "required = true\n")
    ledger = {row.study_key: row for row in read_table(tmp_path / "run" / "training_ledger.csv", LedgerRow)}
    assert outcome.code == 3
    assert ledger[KEYRING.study("case-001-0")].code == "no_table_row"


def test_the_explanation_adds_up_with_the_cells_of_the_table(run: Trained, tmp_path: Path) -> None:
    shutil.copytree(run.studies / "case-005-0", tmp_path / "studies" / "case-005-0")
    outcome = score(tmp_path / "studies", run.run / "model", tmp_path / "out", "--table", run.labels, *EXPLAINED)
    assert outcome.code == 0, outcome.said
    document = ExplanationDocument.read(tmp_path / "out" / "studies" / KEYRING.study("case-005-0") / "explanation.json")
    assert set(document.modality_shares) == {"image", "text", "recording", "table"}
    assert sum(document.modality_shares.values()) == pytest.approx(1)
    assert document.modality_shares["recording"] > 0
    assert "each recording at its mean level" in document.baseline
    assert [cell.column for cell in document.cells] == ["age", "sex"]
    assert sum(cell.attribution for cell in document.cells) == pytest.approx(document.modality_sums["table"])
    assert document.modality_shares["table"] > 0
    assert document.completeness_error <= 0.01
    assert "every cell missing" in document.baseline


def test_recordings_are_judged_by_the_gate_and_one_too_coarse_for_the_model_is_refused(
    run: Trained, tmp_path: Path
) -> None:
    studies = tmp_path / "new"
    for name in ("case-002-0", "case-005-0"):
        shutil.copytree(run.studies / name, studies / name)
    silent, coarse = studies / "case-002-0" / "silent.wav", studies / "case-005-0" / "coarse.wav"
    soundfile.write(silent, np.zeros(8000), 4000)
    soundfile.write(coarse, np.sin(np.arange(4000)), 1999)
    outcome = score(studies, run.run / "model", tmp_path / "out", "--set", "quality.decisions.recording_silent=refuse")
    ledger = {row.study_key: row.code for row in read_table(tmp_path / "out" / "ledger.csv", LedgerRow)}
    assert outcome.code == 3
    assert ledger == {
        KEYRING.study("case-002-0"): "recording_silent",
        KEYRING.study("case-005-0"): "sample_rate_too_low",
    }


def test_a_study_whose_recording_cannot_be_read_is_refused_for_that_by_its_key(run: Trained, tmp_path: Path) -> None:
    for name in ("case-002-0", "case-005-0"):
        shutil.copytree(run.studies / name, tmp_path / "studies" / name)
    for sound in (tmp_path / "studies" / "case-005-0").glob("*.wav"):
        sound.write_bytes(sound.read_bytes()[:1000])
    outcome = score(tmp_path / "studies", run.run / "model", tmp_path / "out")
    assert outcome.code == 3
    assert "1 scored, 1 refused ->" in outcome.stdout
    (row,) = read_table(tmp_path / "out" / "ledger.csv", LedgerRow)
    assert (row.study_key, row.code) == (KEYRING.study("case-005-0"), "recording_cut_short")
    assert "bytes of sound are there" in row.reason


def test_the_target_is_refused_as_input_before_anything_is_read(run: Trained, tmp_path: Path) -> None:
    named = ("--set", 'table.columns=["age", "grade"]', "--target", "grade>=3")
    outcome = train(run.studies, run.labels, tmp_path / "run", *named, settings=SETTINGS)
    assert outcome.code == 2
    assert "the target 'grade>=3' is made of" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_a_package_whose_codes_were_changed_is_refused(run: Trained, tmp_path: Path) -> None:
    shutil.copytree(run.run / "model", tmp_path / "model")
    file = tmp_path / "model" / "table" / "fold_0.json"
    file.write_text(file.read_text().replace('"M"', '"W"'))
    with pytest.raises(PackageError, match=r"table/fold_0\.json of the model package was changed"):
        load_package(tmp_path / "model")
