"""Two trained models for all tests of pipelines: one on NIfTI, one on the demo's DICOM cohort, small."""

from collections.abc import Iterator

import pytest

from tests.factories import write_nifti_cohort, write_small_cohort
from tests.pipelines.runs import CT_SETTINGS, UNTRACKED, Trained, cut_image, site_key, train

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
