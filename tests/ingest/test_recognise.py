"""What a file is, by content before name."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import soundfile

from medmllm.ingest.recognise import Kind, Recognised, recognise
from medmllm.ingest.walk import FoundFile, walk
from tests.factories import a_volume, edit_dicom, write_dicom_study, write_nifti


def recognised(root: Path, name: str) -> Recognised:
    return recognise(next(found for found in walk(root) if isinstance(found, FoundFile) and found.relative == name))


def put(root: Path, name: str, content: bytes) -> Recognised:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    return recognised(root, name)


@pytest.mark.parametrize("name", ["IM1", "scan.txt", "labels.csv", "a.wav", ".hidden", "image.nii.png"])
def test_dicom_is_dicom_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    write_dicom_study(tmp_path / "ct", note=None)
    item = put(tmp_path, name, (tmp_path / "ct" / "0001.dcm").read_bytes())
    assert item.kind is Kind.DICOM
    assert item.dicom is not None


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_nifti_goes_by_its_name(tmp_path: Path, name: str) -> None:
    write_nifti(tmp_path / "x.nii", a_volume())
    data = (tmp_path / "x.nii").read_bytes()
    item = put(tmp_path, name, gzip.compress(data) if name.lower().endswith("gz") else data)
    assert item.kind is Kind.NIFTI
    assert item.nifti is not None
    assert item.nifti.shape == (6, 5, 4)


def test_a_damaged_nifti_file_is_still_a_series_with_a_refusal(tmp_path: Path) -> None:
    item = put(tmp_path, "a.nii.gz", b"not gzip")
    assert item.kind is Kind.NIFTI
    assert item.refusal is not None
    assert item.refusal.code == "nifti_truncated"
    assert item.problem is None


@pytest.mark.parametrize("ends", [(".hdr", ".img"), (".HDR", ".IMG"), (".hdr", ".img.gz")])
def test_header_and_voxels_of_a_pair_find_each_other(tmp_path: Path, ends: tuple[str, str]) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Pair(np.zeros((2, 3, 4), np.int16), np.eye(4)), tmp_path / "x.hdr")
    put(tmp_path, f"pair/a{ends[1]}", (tmp_path / "x.img").read_bytes())
    assert put(tmp_path, f"pair/a{ends[0]}", (tmp_path / "x.hdr").read_bytes()).kind is Kind.NIFTI
    assert recognised(tmp_path, f"pair/a{ends[1]}").kind is Kind.NIFTI_VOXELS


@pytest.mark.parametrize("name", ["alone.hdr", "alone.img", "ALONE.IMG", "alone.hdr.gz"])
def test_half_a_pair_is_refused_by_name(tmp_path: Path, name: str) -> None:
    half = put(tmp_path, name, b"x" * 400)
    assert half.kind is Kind.OTHER
    assert half.problem is not None
    assert (half.problem.severity, half.problem.code) == ("refused", "half_a_pair")


@pytest.mark.parametrize("name", ["note.txt", "Befund.TXT", "report.md"])
def test_text_is_a_note(tmp_path: Path, name: str) -> None:
    assert put(tmp_path, name, b"HISTORY: x").kind is Kind.NOTE


def test_an_empty_note_is_a_note(tmp_path: Path) -> None:
    assert put(tmp_path, "note.txt", b"").kind is Kind.NOTE


def test_sounds_are_recordings_and_damaged_ones_stay_recordings_with_a_refusal(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", np.zeros(80), 8000)
    assert recognised(tmp_path, "good.wav").kind is Kind.RECORDING
    item = put(tmp_path, "bad.flac", b"fLaC but no more")
    assert (item.kind, item.problem) == (Kind.RECORDING, None)
    assert item.refusal is not None
    assert (item.refusal.stage, item.refusal.code) == ("index", "recording_unreadable")
    hidden = put(tmp_path, "._good.wav", b"Mac OS X")  # what macOS leaves beside a file is no recording
    assert hidden.problem is not None
    assert hidden.problem.severity == "ignored"


@pytest.mark.parametrize(
    ("name", "content", "severity", "code"),
    [
        ("README.md", b"# data", "ignored", "not_a_note"),
        ("LICENSE.txt", b"MIT", "ignored", "not_a_note"),
        ("Read_Me.txt", b"# data", "ignored", "not_a_note"),
        ("requirements.txt", b"numpy", "ignored", "not_a_note"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0", "ignored", "not_recognised"),
        ("sub-01_T1w.json", b"{}", "ignored", "bids_sidecar"),
        ("dataset_description.json", b"{}", "ignored", "bids_sidecar"),
        ("data.json", b"{}", "ignored", "not_recognised"),
        ("study.ZIP", b"PK\x03\x04", "ignored", "packed"),
        ("IM0001.dcm.gz", b"\x1f\x8b\x08", "ignored", "packed"),
        ("IM0001", b"", "refused", "empty_file"),
        (".gitkeep", b"", "ignored", "empty_file"),
        ("half.dcm", bytes(128) + b"DICM", "refused", "no_pixels"),
        ("broken.dcm", bytes(128) + b"DICM\x02\x00\x00\x00UL\x09\x00" + bytes(9), "refused", "dicom_unreadable"),
        ("sub/labels.csv", b"study_id,x\n", "ignored", "not_recognised"),
        ("ledger.csv", b"date,amount,paid\n", "ignored", "not_recognised"),
        ("deidentification.json", b'{"tool": "another"}', "ignored", "not_recognised"),
    ],
)
def test_every_other_file_is_a_problem_with_a_reason(
    tmp_path: Path, name: str, content: bytes, severity: str, code: str
) -> None:
    item = put(tmp_path, name, content)
    assert item.problem is not None
    assert (item.problem.severity, item.problem.code) == (severity, code)
    assert len(item.problem.reason) > 10


def test_a_sidecar_beside_its_image_and_the_description_of_an_nnunet_data_set_are_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "t1.nii.gz").write_bytes(b"x")
    (tmp_path / "set" / "imagesTr").mkdir(parents=True)
    for name, code in (
        ("t1.json", "sidecar"),
        ("set/dataset.json", "nnunet_names"),
        ("dataset.json", "not_recognised"),
    ):
        problem = put(tmp_path, name, b"{}").problem
        assert problem is not None
        assert (problem.severity, problem.code) == ("ignored", code)


@pytest.mark.parametrize("name", ["labels.csv", "participants.tsv"])
def test_tables_lie_in_the_root(tmp_path: Path, name: str) -> None:
    assert put(tmp_path, name, b"study_id\n").kind is Kind.TABLE


def test_a_slice_without_pixels_is_refused_not_ignored(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    edit_dicom(tmp_path, only=[1], PixelData=None)
    problem = recognised(tmp_path, "0002.dcm").problem
    assert problem is not None
    assert (problem.severity, problem.code) == ("refused", "no_pixels")
