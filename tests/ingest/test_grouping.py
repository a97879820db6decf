"""What the series of one study tell of each other."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from medmllm.ingest.judged import load
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder
from tests.factories import a_volume, edit_dicom, write_dicom_study


def torn_of(folder: Path) -> int:
    """Return how many series are remarked as torn apart."""
    return sum(problem.code == "torn_series" for problem in index_folder(folder, keyring=Keyring(bytes(32))).problems)


def write_torn(folder: Path, numbers: Sequence[int], **elements: object) -> None:
    """Write some of five slices, each of a series of its own; feet to head."""
    write_dicom_study(folder, a_volume((6, 5, 5)), leave_out=set(range(5)) - set(numbers))
    for number in range(len(numbers)):
        edit_dicom(folder, only=[number], SeriesInstanceUID=f"1.2.9.{number}", **elements)


def test_series_of_one_slice_each_that_make_a_stack_are_remarked_and_read_as_they_are(tmp_path: Path) -> None:
    write_torn(tmp_path, range(5))
    assert torn_of(tmp_path) == 5
    assert [voxels.shape for voxels, _ in load(str(tmp_path))] == [(6, 5, 1)] * 5


@pytest.mark.parametrize("numbers", [(0, 1), (0, 1, 3)])
def test_slices_that_make_no_stack_are_series_of_their_own(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    write_torn(tmp_path, numbers)
    assert torn_of(tmp_path) == 0


def test_images_without_a_place_make_no_stack(tmp_path: Path) -> None:
    write_torn(tmp_path, range(5), ImagePositionPatient=None)
    assert torn_of(tmp_path) == 0


def test_series_of_several_slices_are_not_torn(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, a_volume((6, 5, 6)))
    for number in range(6):
        edit_dicom(tmp_path, only=[number], SeriesInstanceUID=f"1.2.9.{number // 2}")
    assert torn_of(tmp_path) == 0
