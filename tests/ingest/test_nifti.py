"""NIfTI: what nibabel reads is what comes back, and what is odd about it is told."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmllm.errors import NiftiError
from medmllm.ingest import nifti
from medmllm.ingest.nifti import modality_of, read_header, read_volume
from tests.ingest.nifti_files import AFFINE, VALUES, patch, save


@pytest.mark.parametrize("name", ["MEIER.nii", "MEIER.nii.gz", "MEIER.hdr"])
def test_voxels_and_affine_come_back_as_nibabel_reads_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "MEIER.hdr":
        nibabel.save(nibabel.Nifti1Pair(VALUES, AFFINE), path)
    else:
        save(path)
    volume = read_volume(path, modality="MR")
    assert volume.voxels.dtype == np.float32
    assert volume.voxels.tolist() == VALUES.tolist()
    assert volume.affine == pytest.approx(nibabel.load(path).affine)
    assert volume.modality == "MR"
    header = read_header(path)
    assert header.shape == (4, 3, 2)
    assert header.spacing_mm == pytest.approx(np.sqrt((AFFINE[:3, :3] ** 2).sum(axis=0)), rel=1e-6)
    assert [code for code, _ in header.warnings] == ["sheared"]  # by 2.9 degrees


def test_nifti_2_and_a_trailing_axis_of_one_are_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(VALUES[..., None, None], AFFINE), tmp_path / "MEIER.nii.gz")
    assert read_volume(tmp_path / "MEIER.nii.gz").voxels.tolist() == VALUES.tolist()


def test_slope_and_intercept_are_applied_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "CHUNK_BYTES", 5)  # 24 voxels in five pieces
    path = patch(save(tmp_path / "MEIER.nii"), scl_slope=0.5, scl_inter=-100.25)
    assert read_volume(path).voxels == pytest.approx(VALUES * 0.5 - 100.25)


def test_a_slope_that_is_no_number_means_no_scaling(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "MEIER.nii"), scl_slope=np.nan, scl_inter=np.nan)
    assert read_volume(path).voxels.tolist() == VALUES.tolist()


def test_the_qform_places_voxels_where_there_is_no_sform(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, None)
    image.set_qform(np.diag([-2.0, 3.0, 4.0, 1.0]), 1)
    nibabel.save(image, tmp_path / "MEIER.nii")
    assert read_volume(tmp_path / "MEIER.nii").affine == pytest.approx(np.diag([-2.0, 3.0, 4.0, 1.0]))
    assert read_header(tmp_path / "MEIER.nii").warnings == ()


def test_without_sform_and_qform_the_orientation_is_reported_as_unknown(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "MEIER.nii"), sform_code=0, qform_code=0)
    assert [code for code, _ in read_header(path).warnings] == ["orientation_unknown"]
    assert read_volume(path).affine == pytest.approx(nibabel.load(path).affine)


def test_sform_and_qform_that_disagree_are_reported_with_the_distance_and_the_sform_wins(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, np.diag([2.0, 3.0, 4.0, 1.0]))
    image.set_sform(np.diag([2.0, 3.0, 4.0, 1.0]), 1)
    moved = np.diag([2.0, 3.0, 4.0, 1.0])
    moved[0, 3] = 5.0
    image.set_qform(moved, 1)
    nibabel.save(image, tmp_path / "MEIER.nii")
    ((code, reason),) = read_header(tmp_path / "MEIER.nii").warnings
    assert code == "sform_qform_differ"
    assert "5.00 mm" in reason
    assert read_volume(tmp_path / "MEIER.nii").affine[0, 3] == 0.0


def test_a_qform_that_is_no_rotation_is_reported(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "MEIER.nii"), qform_code=1, quatern_b=0.9, quatern_c=0.9)
    assert [code for code, _ in read_header(path).warnings] == ["sform_qform_differ", "sheared"]


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    save(tmp_path / "MEIER.nii.gz").rename(tmp_path / "b.nii")
    assert read_volume(tmp_path / "b.nii").voxels.tolist() == VALUES.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_stay_what_they_are(tmp_path: Path, value: float) -> None:
    data = np.ones((4, 3, 2), dtype=np.float32)
    data[1, 2, 0] = value
    np.testing.assert_array_equal(read_volume(save(tmp_path / "MEIER.nii", data)).voxels, data)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
def test_each_volume_of_a_longer_image_is_read_by_its_number(tmp_path: Path, suffix: str) -> None:
    data = np.arange(4 * 3 * 2 * 5 * 2, dtype=np.int16).reshape(4, 3, 2, 5, 2)
    kind = nibabel.Nifti1Pair if suffix == ".hdr" else nibabel.Nifti1Image
    path = tmp_path / f"MEIER{suffix}"
    nibabel.save(kind(data, AFFINE), path)
    assert (read_header(path).shape, read_header(path).volumes) == ((4, 3, 2), 10)
    flat = data.reshape(4, 3, 2, 10, order="F")
    for number in range(10):
        assert read_volume(path, number=number).voxels.tolist() == flat[..., number].tolist()
    with pytest.raises(NiftiError, match="no volume 11 among 10"):
        read_volume(path, number=10)


def test_the_voxels_of_a_pair_may_be_zipped_and_in_capitals(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(VALUES, AFFINE), tmp_path / "MEIER.hdr")
    (tmp_path / "MEIER.img.gz").write_bytes(gzip.compress((tmp_path / "MEIER.img").read_bytes()))
    (tmp_path / "MEIER.img").rename(tmp_path / "B.IMG")
    (tmp_path / "B.HDR").write_bytes((tmp_path / "MEIER.hdr").read_bytes())
    assert read_volume(tmp_path / "MEIER.hdr").voxels.tolist() == VALUES.tolist()
    assert read_volume(tmp_path / "B.HDR").voxels.tolist() == VALUES.tolist()


@pytest.mark.parametrize(
    ("name", "sidecar", "modality"),
    [
        ("sub-01_T1w.nii.gz", None, "MR"),
        ("sub-01_ses-2_pet.nii.gz", None, "PT"),
        ("sub-01_thing.nii.gz", None, None),
        ("T1w.nii.gz", None, None),
        ("chest.nii.gz", {"Modality": "CT"}, "CT"),
        ("brain.nii.gz", {"Modality": "MagneticResonanceImaging"}, "MR"),
        ("sub-01_bold.nii.gz", {"Modality": "Tea"}, "MR"),
        ("chest.nii.gz", ["CT"], None),
        ("chest.nii.gz", {"Modality": ["CT"]}, None),
    ],
)
def test_modality_is_what_the_sidecar_or_the_bids_name_says(
    tmp_path: Path, name: str, sidecar: object, modality: str | None
) -> None:
    if sidecar is not None:
        (tmp_path / f"{name.partition('.')[0]}.json").write_text(json.dumps(sidecar))
    assert modality_of(tmp_path / name) == modality


def test_every_open_hard_case_is_read_as_nibabel_reads_it_or_refused(shared: Path) -> None:
    refused = {}
    for case in sorted((shared / "torture" / "open").glob("nii_*")):
        file = min(file for file in (case / "data").iterdir() if file.suffix != ".img")
        try:
            volume = read_volume(file)
            others = [read_volume(file, number=k).voxels for k in range(1, read_header(file).volumes)]
        except NiftiError as error:
            refused[case.name] = error.code
            continue
        data = file.read_bytes()
        zipped = data[:2] == b"\x1f\x8b" and file.suffix == ".nii"  # called .nii: nibabel gives up
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data)) if zipped else nibabel.load(file)
        assert volume.affine == pytest.approx(image.affine)
        truth = image.get_fdata().reshape(*image.shape[:3], -1, order="F")
        assert np.allclose(volume.voxels, truth[..., 0], atol=2e-4, rtol=1e-6, equal_nan=True)
        assert [np.allclose(one, truth[..., k], atol=2e-4, rtol=1e-6) for k, one in enumerate(others, start=1)] == [
            True
        ] * (truth.shape[3] - 1)
    assert {"nii_gz_bitflip", "nii_gz_truncated", "nii_units_micron", "nii_singular_sform", "nii_zero_byte"} <= set(
        refused
    )
    assert len(refused) <= 8


def test_the_header_of_another_file_is_its_own_though_it_differs_in_one_field(tmp_path: Path) -> None:
    one, other = save(tmp_path / "a.nii"), save(tmp_path / "b.nii", affine=AFFINE @ np.diag([1, 1, 2, 1]))
    assert read_header(one).spacing_mm[2] * 2 == pytest.approx(read_header(other).spacing_mm[2])
    assert read_header(one).spacing_mm == read_header(one).spacing_mm
    with pytest.raises(ValueError, match="read-only"):
        read_header(one).affine[0, 0] = 5.0  # kept in mind for the next file


@pytest.mark.parametrize(("degrees", "told"), [(0.0, False), (0.4, False), (0.6, True), (12.0, True)])
def test_a_sheared_grid_is_told_of_and_keeps_its_affine(tmp_path: Path, degrees: float, told: bool) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 2] = 4 * np.array([0, np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
    header = read_header(save(tmp_path / "a.nii", affine=affine))
    assert ("sheared" in dict(header.warnings)) == told
    assert header.affine == pytest.approx(affine, abs=1e-5)
    if degrees == 12:
        assert "78.0 degrees" in dict(header.warnings)["sheared"]


@pytest.mark.parametrize("time_unit", [0, 8, 16, 56, 192])
def test_a_unit_of_time_that_nobody_knows_does_not_matter(tmp_path: Path, time_unit: int) -> None:
    path = patch(save(tmp_path / "a.nii"), xyzt_units=2 + time_unit)
    assert np.array_equal(read_volume(path).voxels, VALUES)
