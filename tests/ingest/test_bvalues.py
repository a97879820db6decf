"""Volumes of a 4D NIfTI file are told apart by the b-values beside it, or by nothing."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmllm.documents import Channel
from medmllm.ingest.bvalues import bvalues_beside
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import StudyIndex, index_folder, read_volume
from medmllm.preprocessing.selection import choose_series
from tests.preprocessing.small import reading

KEYRING = Keyring(b"the secret of these tests")
TOLD = ["DiffusionBValue=0", "DiffusionBValue=50", "DiffusionBValue=1000"]


def index(folder: Path, values: bytes | None, name: str = "dwi.nii.gz") -> StudyIndex:
    """Index a study of one file of three volumes, of 0, 1 and 2 everywhere but for a corner, and its b-values."""
    voxels = np.zeros((4, 5, 6, 3), dtype=np.float32) + np.arange(3, dtype=np.float32)
    voxels[0, 0, 0] = 9
    (folder / "a").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "a" / name)  # type: ignore[no-untyped-call]
    if values is not None:
        (folder / "a" / "dwi.bval").write_bytes(values)
    return index_folder(folder, keyring=KEYRING)


@pytest.mark.parametrize("values", [b"0 50 1000\n", b"0\n50.0\n1e3\n", b"\t0  50\t1000"])
def test_each_volume_is_told_its_b_value_and_a_channel_may_ask_for_it(values: bytes, tmp_path: Path) -> None:
    found = index(tmp_path, values)
    (study,) = found.studies
    assert [series.technique.apart for series in study.series] == TOLD
    assert study.series[2].description == "dwi volume 3 of 3 DiffusionBValue=1000"
    chosen = choose_series(study, reading(b1000=Channel(description=r"DiffusionBValue=1000\b")))
    assert read_volume(chosen["b1000"]).voxels[1, 1, 1] == 2
    assert not [problem for problem in found.problems if problem.code == "bvalues_unused"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (b"0 1000\n", "2 b-values for 3 volumes"),
        (b"0 50 Meier\n", "cannot be read as numbers"),
        (b"0 50 \xff\n", "cannot be read as numbers"),
        (b"0 50 nan\n", "no b-value"),
        (b"0 50 -1000\n", "no b-value"),
        (b"", "0 b-values for 3 volumes"),
    ],
)
def test_a_file_that_tells_no_b_values_is_remarked_and_not_used(values: bytes, said: str, tmp_path: Path) -> None:
    found = index(tmp_path, values)
    (study,) = found.studies
    assert [series.technique.apart for series in study.series] == [None] * 3
    reasons = {problem.reason for problem in found.problems if problem.code == "bvalues_unused"}
    assert len(reasons) == 1
    assert said in reasons.pop()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("0 50 1000")
    os.symlink(tmp_path / "elsewhere", tmp_path / "dwi.bval")
    assert bvalues_beside(tmp_path / "dwi.nii", 3)[0] == ["", "", ""]


def test_without_a_file_nothing_is_told_and_nothing_remarked(tmp_path: Path) -> None:
    found = index(tmp_path, None)
    assert [series.technique.apart for series in found.studies[0].series] == [None] * 3
    assert [problem.code for problem in found.problems] == []


def test_a_file_of_one_volume_has_nothing_to_tell_apart(tmp_path: Path) -> None:
    (tmp_path / "adc.bval").write_text("0")
    assert bvalues_beside(tmp_path / "adc.nii.gz", 1) == ([""], "")


@pytest.mark.parametrize("name", ["dwi.nii", "dwi.nii.gz", "dwi.hdr", "dwi.img.gz", "DWI.NII.GZ"])
def test_the_file_beside_is_found_whatever_the_ending(name: str, tmp_path: Path) -> None:
    (tmp_path / "dwi.bval").write_text("0 1000")
    (tmp_path / "DWI.bval").write_text("0 1000")
    assert bvalues_beside(tmp_path / name, 2)[0] == ["DiffusionBValue=0", "DiffusionBValue=1000"]
