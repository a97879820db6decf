"""`medmllm score` on the demo's DICOM cohort: what is refused, who is known, and that no one is named."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medmllm.csv_tables import read_table
from medmllm.ingest.keys import Keyring
from medmllm.table_rows import LedgerRow, PredictionRow, ProblemRow
from tests.pipelines.runs import (
    EXPLAINED,
    SECRET,
    Outcome,
    Trained,
    copy_as_other_study,
    found_in_files,
    score,
    site_key,
)

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))


@pytest.fixture(scope="session")
def ct_scored(tmp_path_factory: pytest.TempPathFactory, ct_run: Trained) -> Iterator[tuple[Path, Path, Outcome]]:
    """The demo's scoring folder, and with it a training patient's new study and a training study by another name."""
    root = tmp_path_factory.mktemp("ct_scored")
    shutil.copytree(ct_run.studies.parents[1] / "scoring" / "studies", root / "studies")
    homes = sorted({file.parent for file in ct_run.studies.rglob("note.txt")})
    copy_as_other_study(homes[0], root / "studies" / "again")
    copy_as_other_study(homes[1], root / "studies" / "renamed", patient="SYN-9999")
    with site_key(root):
        yield root / "studies", root / "out", score(root / "studies", ct_run.run / "model", root / "out", *EXPLAINED)


def predictions(out: Path) -> list[PredictionRow]:
    return read_table(out / "predictions.csv", PredictionRow)


def first_headers(folder: Path) -> Mapping[str, pydicom.Dataset]:
    """One header per study, by study key."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.read_bytes()[128:132] == b"DICM"]
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    return {KEYRING.study(header.StudyInstanceUID): header for header in headers}


def test_dicom_studies_are_scored_and_the_one_that_lacks_a_slice_is_refused(
    ct_scored: tuple[Path, Path, Outcome],
) -> None:
    folder, out, outcome = ct_scored
    headers = first_headers(folder)
    rows, (refused,) = predictions(out), read_table(out / "ledger.csv", LedgerRow)
    assert {row.study_key for row in rows} | {refused.study_key} == headers.keys()
    assert (len(rows), outcome.code) == (5, 3)
    assert (refused.stage, refused.code) == ("contract", "no_matching_series")
    assert "1 slice is missing" in refused.reason
    problems = read_table(out / "problems.csv", ProblemRow)
    assert {problem.code for problem in problems} >= {"missing_slice"}
    assert all(row.modalities_used == "image+text" for row in rows)


def test_a_training_patient_is_known_by_number_and_a_training_study_under_another_number(
    ct_scored: tuple[Path, Path, Outcome], ct_run: Trained
) -> None:
    folder, out, _ = ct_scored
    headers, training = first_headers(folder), first_headers(ct_run.studies)
    patients = {header.PatientID for header in training.values()}
    flagged = {row.study_key for row in predictions(out) if row.training_patient}
    by_patient = {key for key, header in headers.items() if header.PatientID in patients}
    by_study = headers.keys() & training.keys()
    assert (len(by_patient), len(by_study), by_patient & by_study) == (1, 1, set())
    assert flagged == by_patient | by_study


def test_the_map_of_a_dicom_study_lies_where_the_lesion_mask_lies(
    ct_scored: tuple[Path, Path, Outcome], ct_run: Trained
) -> None:
    folder, out, _ = ct_scored
    headers = first_headers(folder)
    compared = 0
    for row in predictions(out):
        uid = headers[row.study_key].StudyInstanceUID
        mask_file = ct_run.studies.parents[1] / "lesion_masks" / "scoring" / f"{uid}.nii.gz"
        if mask_file.exists():
            mask, found = nibabel.load(mask_file), nibabel.load(out / "studies" / row.study_key / "attribution.nii.gz")
            assert found.shape == mask.shape
            np.testing.assert_allclose(found.affine, mask.affine, atol=1e-4)
            compared += 1
    assert compared == 3


def test_the_dicom_results_name_no_one_either(ct_scored: tuple[Path, Path, Outcome]) -> None:
    folder, out, outcome = ct_scored
    headers = first_headers(folder).values()
    words = {"SYN-", "SYNTHETIC^PHANTOM", "SYNTHETIC chest", str(folder)}
    words |= {uid for h in headers for uid in (h.StudyInstanceUID, h.SeriesInstanceUID, h.FrameOfReferenceUID)}
    words |= {path.name for path in folder.rglob("*") if len(path.name) >= 8 and path.name != "note.txt"}
    assert len(words) > 40
    assert found_in_files(out, words) == []
    assert [word for word in words if word in outcome.said] == []
    assert found_in_files(out, ["asbestos", "welder", "teacher"], but=["report.html"]) == []
