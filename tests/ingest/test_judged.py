"""The door for outside judges: every readable volume, or an error; and no silent mistake on the open hard cases."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from medmllm.errors import IngestError
from medmllm.ingest.judged import load
from tests.factories import a_volume, write_dicom_study, write_nifti_study


def test_all_volumes_of_a_folder_come_back_with_their_affines(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a", {"x": a_volume(seed=1), "y": a_volume(seed=2)})
    volumes = load(str(tmp_path))
    assert [voxels.sum() for voxels, _ in volumes] == [a_volume(seed=seed).voxels.sum() for seed in (1, 2)]
    assert np.allclose(volumes[0][1], a_volume().affine)


def test_what_is_refused_is_logged_beside_what_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_nifti_study(tmp_path / "a")
    write_dicom_study(tmp_path / "b", leave_out=[1])
    with caplog.at_level(logging.WARNING):
        assert len(load(str(tmp_path))) == 1
    assert "missing_slice" in caplog.text


@pytest.mark.parametrize("leave_out", [[1], [0, 1, 2, 3]])
def test_a_folder_without_a_readable_series_is_an_error(tmp_path: Path, leave_out: list[int]) -> None:
    write_dicom_study(tmp_path, leave_out=leave_out)
    with pytest.raises(IngestError):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "volumes"),
    [
        ("ct_siemens_j2k", 1),
        ("ct_tilt_siemens", 1),
        ("ct_duplicate_sop", 1),
        ("ct_two_phases", 2),
        ("ct_scout_in_series", 1),
        ("ct_no_preamble", 1),
        ("ct_big_endian", 1),
        ("ct_htj2k_lossless", 1),
        ("mr_per_slice_slope", 1),
        ("mr_dual_echo_siemens", 2),
        ("mr_multifrag_jpegll", 1),
        ("mr_ts_rle", 1),
        ("nii_slope", 1),
    ],
)
def test_a_hard_case_holds_the_expected_values_at_the_expected_places(shared: Path, name: str, volumes: int) -> None:
    sys.path.insert(0, str(shared / "torture"))
    try:
        import judge  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    found = judge.volumes(load(str(shared / "torture" / "open" / name / "data")))
    assert len(found) == volumes
    cases = (shared / "torture").glob("*cases*.json")
    case = next(case for file in cases for case in judge.json.loads(file.read_text()) if case["name"] == name)
    acceptable, word, detail = judge.verdict(case, found, None, "")
    assert acceptable, f"{word}: {detail}"
