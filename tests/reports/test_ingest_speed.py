"""The speed report: folders hold what they say, readers give the same voxels, ratios are of the same round."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medmllm.ingest.dicom import read_series
from reports.ingest_speed import folders
from reports.ingest_speed.measure import against, in_turn, run_index
from reports.ingest_speed.readers import (
    byte_limit,
    decoder_alone,
    decoder_and_scaling,
    medmllm,
    medmllm_headers,
    medmllm_index,
    pydicom_headers,
    pydicom_index,
)
from reports.ingest_speed.readers import pydicom as headers_first


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices of 512 x 512."""
    folder = tmp_path_factory.mktemp("speed") / "series"
    folders.write_series(folder, 2, None)
    return folder


def test_the_byte_limit_and_the_readers_give_the_same_voxels(series: Path) -> None:
    limit = byte_limit(series)
    assert limit.shape == (2, 512, 512)
    assert limit.min() >= -1024
    assert np.array_equal(headers_first(series), limit)
    assert np.array_equal(medmllm(series).transpose(2, 1, 0), limit)


@pytest.mark.parametrize("codec", sorted(folders.CODECS))
def test_a_compressed_copy_holds_the_same_values_and_the_decoder_alone_finds_them(
    series: Path, tmp_path: Path, codec: str
) -> None:
    files = folders.compress_series(sorted(series.iterdir()), tmp_path / "compressed", codec, 1)
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID == folders.CODECS[codec][0]
    expected = byte_limit(series)[0]
    assert np.array_equal(read_series(files).voxels[..., 0].T, expected)
    (frame,) = decoder_alone(codec)(tmp_path / "compressed")()
    assert np.array_equal(np.asarray(frame).reshape(512, 512).astype(np.float32) - 1024, expected)
    assert np.array_equal(decoder_and_scaling(codec)(tmp_path / "compressed")()[0], expected)


def test_a_mixed_folder_holds_what_it_says(tmp_path: Path) -> None:
    counts = folders.write_mixed(tmp_path / "mixed", 200)
    assert sum(counts.values()) == sum(path.is_file() for path in (tmp_path / "mixed").rglob("*")) == 200
    dicom_files = counts["plain DICOM"] + counts["implicit, JPEG-LS, report"]
    for count in (pydicom_index, pydicom_headers, medmllm_headers):
        assert count(tmp_path / "mixed").tolist() == [dicom_files]
    # 110 slices make 2 series, the others 1 series in each encoding, and each NIfTI file is one
    assert medmllm_index(tmp_path / "mixed").tolist() == [2 + 2 + counts["NIfTI"]]


def test_links_repeat_a_folder_until_there_are_enough(tmp_path: Path) -> None:
    (tmp_path / "few" / "a").mkdir(parents=True)
    for name in ("a/x", "y", "z"):
        (tmp_path / "few" / name).write_text(name)
    folders.write_links(tmp_path / "many", tmp_path / "few", 7)
    names = sorted(path.relative_to(tmp_path / "many").as_posix() for path in (tmp_path / "many").rglob("[xyz]"))
    assert names == ["round0/a/x", "round0/y", "round0/z", "round1/a/x", "round1/y", "round1/z", "round2/a/x"]


def test_the_memory_of_a_command_is_its_own_and_not_what_the_measuring_process_held(tmp_path: Path) -> None:
    ballast = np.ones(2**27)  # 1 GiB, touched
    folders.write_mixed(tmp_path / "mixed", 30)
    answer = run_index(tmp_path / "mixed", tmp_path / "out", again=False)
    assert answer["exit_code"] in (0, 3)
    assert 20 < answer["peak_mib"] < ballast.nbytes / 2**20


def said(*seconds: float, total: float = 10.0, peak: int = 100) -> list[dict[str, Any]]:
    return [{"seconds": value, "peak_bytes": peak, "sum": total} for value in seconds]


def test_a_ratio_is_the_median_of_the_ratios_within_a_round() -> None:
    found = against({"limit": said(1, 10, 2), "reader": said(3, 20, 10)}, "limit", volume_bytes=50)
    assert found["reader"]["ratios"] == [3, 2, 5]
    assert found["reader"]["ratio"] == 3  # the ratio of the medians would be 5
    assert found["reader"]["peak_over_volume"] == 2


def test_other_voxels_and_a_failed_reader_are_told() -> None:
    answers = {"limit": said(1, 1), "wrong": said(1, 1, total=11.0), "broken": [{"failed": "exit code 1"}]}
    found = against(answers, "limit")
    assert (found["limit"]["same_voxels"], found["wrong"]["same_voxels"]) == (True, False)
    assert found["broken"] == {"failed": "exit code 1"}
    with pytest.raises(SystemExit, match="nothing to compare with"):
        against({"limit": answers["broken"], "reader": said(1)}, "limit")


@pytest.mark.slow
def test_readers_take_turns_in_processes_of_their_own(series: Path) -> None:
    found = in_turn(("byte limit", "medmllm", "pydicom, headers first"), series, 2)
    assert [len(answers) for answers in found.values()] == [2, 2, 2]
    assert all(answer["same_voxels"] for answer in against(found, "byte limit").values())
