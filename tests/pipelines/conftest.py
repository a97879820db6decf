"""What all tests of pipelines share: two small trained models, one on NIfTI and one on DICOM, and a folder scored."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import write_nifti_cohort, write_small_cohort
from tests.pipelines.runs import (
    CT_SETTINGS,
    EXPLAINED,
    UNTRACKED,
    Outcome,
    Trained,
    cut_image,
    rename_studies,
    score,
    site_key,
    train,
)
from tests.pipelines.scored import BROKEN, KNOWN, PLANTED

SECRET_WORD = "Quockerwodger"  # stands in one training note


@pytest.fixture(scope="session")
def nifti_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """16 studies of 12 patients, tracked; one cannot be read, one has a note only, one an image only."""
    folder = tmp_path_factory.mktemp("nifti_run")
    labels = write_nifti_cohort(folder / "data", without_image=[1], without_note=[4])
    studies = folder / "data" / "studies"
    cut_image(studies / "case-003-1")
    with (studies / "case-005-0" / "note.txt").open("a") as note:
        note.write(f"Reported by {SECRET_WORD}.\n")
    with site_key(folder):
        outcome = train(studies, labels, folder / "run")
        yield Trained(studies, labels, folder / "run", outcome)


@pytest.fixture(scope="session")
def ct_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The demo's cohort, small: 12 studies for training under training/, 4 for scoring beside it."""
    folder = tmp_path_factory.mktemp("ct_run")
    training = write_small_cohort(folder / "cohort") / "training"
    with site_key(folder):
        outcome = train(training / "studies", training / "labels.csv", folder / "run", *UNTRACKED, settings=CT_SETTINGS)
        yield Trained(training / "studies", training / "labels.csv", folder / "run", outcome)


@pytest.fixture(scope="session")
def nifti_folder(tmp_path_factory: pytest.TempPathFactory, nifti_run: Trained) -> Path:
    """Seven NIfTI studies: six new ones, of which one is broken and one has no note, and one from the training."""
    root = tmp_path_factory.mktemp("score")
    write_nifti_cohort(root, patients=4, seed=9, without_note=[2])
    rename_studies(root / "studies", "next-")
    cut_image(root / "studies" / BROKEN)
    with (root / "studies" / "next-case-003-1" / "note.txt").open("a") as note:
        note.write(f"Seen with {PLANTED}.\n")
    shutil.copytree(nifti_run.studies / KNOWN, root / "studies" / KNOWN)
    return root / "studies"


@pytest.fixture(scope="session")
def nifti_scored(
    tmp_path_factory: pytest.TempPathFactory, nifti_folder: Path, nifti_run: Trained
) -> Iterator[tuple[Path, Outcome]]:
    """The folder, scored and explained once."""
    root = tmp_path_factory.mktemp("scored")
    with site_key(root):
        yield root / "out", score(nifti_folder, nifti_run.run / "model", root / "out", *EXPLAINED)
