"""`medmllm train` with groups, and sites left out, that DICOM headers tell."""

import json
from pathlib import Path

import pydicom
import pytest

from medmllm.csv_tables import read_table
from medmllm.table_rows import OutOfFoldRow
from tests.factories import write_small_cohort
from tests.pipelines.runs import CT_SETTINGS, UNTRACKED, found_in_files, invoke, train

SHORT = (*UNTRACKED, "--set", 'training.arms=["text"]', "--set", "training.epochs=1")
SCANNERS, HOSPITAL = ("Siemens Healthineers", "Brackwater Infirmary CT"), "Brackwater Infirmary"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's cohort, its patients scanned by turns, two and two; each file names its hospital, half as maker."""
    training = write_small_cohort(tmp_path_factory.mktemp("by_scanner") / "cohort") / "training"
    headers = {
        file: pydicom.dcmread(file)
        for file in (training / "studies").rglob("*")
        if file.is_file() and file.suffix not in (".txt", ".csv")
    }
    patients = sorted({header.PatientID for header in headers.values()})
    for file, header in headers.items():
        header.Manufacturer = SCANNERS[patients.index(header.PatientID) // 2 % 2]
        header.InstitutionName = HOSPITAL
        header.save_as(file)
    return training


def test_groups_of_a_result_are_those_of_the_scanners_and_the_hospital_is_in_nothing(
    cohort: Path, tmp_path: Path
) -> None:
    asked = ("--set", 'evaluation.subgroups.columns=["dicom:Manufacturer"]', "--set",
             "evaluation.subgroups.fewest_patients=2")  # fmt: skip
    outcome = train(cohort / "studies", cohort / "labels.csv", tmp_path / "run", *SHORT, *asked, settings=CT_SETTINGS)
    assert outcome.code == 0, outcome.stderr
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    (found,) = evaluation["subgroups"]
    assert found["column"] == "dicom:Manufacturer"
    assert [group["name"] for group in found["groups"]] == ["OTHER", "SIEMENS"]
    assert found["unknown"] == 0
    assert "OTHER" in (tmp_path / "run" / "report.html").read_text()
    assert found_in_files(tmp_path / "run", (HOSPITAL, HOSPITAL.upper())) == []


def test_a_scanner_is_left_out_after_the_other_and_no_folder_names_the_hospital(cohort: Path, tmp_path: Path) -> None:
    asked = ("--set", "training.group_out=dicom:Manufacturer")
    outcome = train(cohort / "studies", cohort / "labels.csv", tmp_path / "run", *SHORT, *asked, settings=CT_SETTINGS)
    assert outcome.code == 0, outcome.stderr
    assert found_in_files(tmp_path / "run", (HOSPITAL, HOSPITAL.upper())) == []
    rows = read_table(tmp_path / "run" / "out_of_fold.csv", OutOfFoldRow)
    assert {row.fold for row in rows} == {0, 1}
    assert invoke("index", cohort / "studies", "--out", tmp_path / "index").code == 0
    left = [path.name for path in (tmp_path / "index").glob("*.csv") if HOSPITAL.upper() in path.read_text().upper()]
    assert left == []
    series = (tmp_path / "index" / "series.csv").read_text().splitlines()
    fold_of = {row.study_key: row.fold for row in rows}
    told = [(fold_of[key], line) for line in series for key in fold_of if key in line]
    assert len(told) == len(rows)
    assert all(("OTHER", "SIEMENS")[fold] in line for fold, line in told)


def test_the_hospital_makes_no_groups(cohort: Path, tmp_path: Path) -> None:
    asked = ("--set", 'evaluation.subgroups.columns=["dicom:InstitutionName"]')
    outcome = train(cohort / "studies", cohort / "labels.csv", tmp_path / "run", *SHORT, *asked, settings=CT_SETTINGS)
    assert outcome.code == 2
    assert "may name persons, institutions or their devices" in outcome.stderr
    assert not (tmp_path / "run").exists()
