"""NIfTI: what nibabel reads is what comes back, and what nibabel lets pass silently is refused."""

import gzip
import json
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from medmllm.errors import IngestError, NiftiError
from medmllm.ingest import nifti
from medmllm.ingest.nifti import modality_of, read_header, read_volume

AFFINE = np.array([[-1.9, 0.3, 0, 11], [0.3, 2.8, 0.1, -7], [0, -0.1, 4.2, 30], [0, 0, 0, 1]])
VALUES = np.random.default_rng(4).integers(-900, 900, (4, 3, 2)).astype(np.int16)


def save(path: Path, data: np.ndarray = VALUES, affine: np.ndarray | None = AFFINE, **header: object) -> Path:
    """Write with nibabel, then change header fields in the plain file."""
    image = nibabel.Nifti1Image(data, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patch(path: Path, **fields: object) -> Path:
    """Change header fields behind nibabel's back; for plain .nii files."""
    data = path.read_bytes()
    raw = np.frombuffer(data[:348], dtype=nibabel.nifti1.header_dtype).copy()
    for name, value in fields.items():
        raw[name] = value
    path.write_bytes(raw.tobytes() + data[348:])
    return path


def refusal_of(path: Path) -> str:
    with pytest.raises(IngestError) as refusal:
        read_volume(path)
    assert "MEIER" not in refusal.value.reason
    return refusal.value.code


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


def test_one_flipped_bit_in_a_gzip_stream_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 250, (9, 8, 7)).astype(np.uint8)
    data = bytearray(gzip.compress(save(tmp_path / "MEIER.nii", noise).read_bytes(), compresslevel=0))
    data[-100] ^= 1  # stored, not packed: only the checksum can tell
    (tmp_path / "b.nii.gz").write_bytes(data)
    read_header(tmp_path / "b.nii.gz")
    assert refusal_of(tmp_path / "b.nii.gz") == "nifti_unreadable"


def test_a_wrong_length_in_a_gzip_stream_is_refused(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "MEIER.nii.gz").read_bytes())
    data[-4] ^= 1
    (tmp_path / "MEIER.nii.gz").write_bytes(data)
    assert refusal_of(tmp_path / "MEIER.nii.gz") == "nifti_unreadable"


@pytest.mark.parametrize(
    ("keep", "code"),
    [(0, "empty_file"), (100, "nifti_truncated"), (352, "nifti_truncated"), (399, "nifti_truncated")],
)
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int, code: str) -> None:
    data = save(tmp_path / "MEIER.nii").read_bytes()
    assert len(data) == 352 + 2 * VALUES.size
    (tmp_path / "MEIER.nii").write_bytes(data[:keep])
    assert refusal_of(tmp_path / "MEIER.nii") == code


def test_a_gzip_stream_cut_short_is_refused(tmp_path: Path) -> None:
    data = save(tmp_path / "MEIER.nii.gz").read_bytes()
    (tmp_path / "MEIER.nii.gz").write_bytes(data[:-9])
    assert refusal_of(tmp_path / "MEIER.nii.gz") == "nifti_unreadable"


def test_what_goes_on_long_after_the_voxels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "LARGEST_EXTRA_BYTES", 1000)
    path = save(tmp_path / "MEIER.nii")
    plain = path.read_bytes()
    path.write_bytes(plain + bytes(1000))
    assert read_volume(path).voxels.tolist() == VALUES.tolist()
    path.write_bytes(plain + bytes(1001))
    assert refusal_of(path) == "nifti_unreadable"


def test_a_header_that_declares_terabytes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "MEIER.nii"), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    assert refusal_of(path) == "too_large"


def test_voxels_said_to_start_far_away_are_refused(tmp_path: Path) -> None:
    assert refusal_of(patch(save(tmp_path / "MEIER.nii"), vox_offset=2.0**30)) == "nifti_unreadable"


@pytest.mark.parametrize("offset", [0.0, 347.0])
def test_voxels_said_to_start_within_the_header_are_refused(tmp_path: Path, offset: float) -> None:
    path = patch(save(tmp_path / "MEIER.nii"), vox_offset=offset)
    assert refusal_of(path) == "nifti_unreadable"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"xyzt_units": 3}, "not_millimetres"),
        ({"xyzt_units": 1}, "not_millimetres"),
        ({"xyzt_units": 7}, "not_millimetres"),
        ({"srow_x": [0, 0, 0, 0]}, "singular_affine"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "singular_affine"),
        ({"dim": [2, 4, 6, 1, 1, 1, 1, 1]}, "not_3d"),
        ({"dim": [3, 4, 0, 2, 1, 1, 1, 1]}, "no_voxels"),
        ({"dim": [4, 4, 3, 2, 0, 1, 1, 1]}, "no_voxels"),
        ({"intent_code": 3006}, "not_a_volume"),
        ({"magic": b"xyz"}, "not_nifti"),
        ({"sizeof_hdr": 7}, "not_nifti"),
        ({"datatype": 77}, "unsupported_datatype"),
        ({"datatype": 1, "bitpix": 1}, "unsupported_datatype"),  # bits, which nibabel has no array for
    ],
)
def test_a_header_that_makes_no_volume_is_refused(tmp_path: Path, fields: dict[str, object], code: str) -> None:
    path = patch(save(tmp_path / "MEIER.nii"), **fields)
    with pytest.raises(NiftiError):
        read_header(path)
    assert refusal_of(path) == code


@pytest.mark.parametrize(
    "kind", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])], ids=["complex", "colour"]
)
def test_voxels_that_are_not_one_number_each_are_refused(tmp_path: Path, kind: np.dtype) -> None:
    assert refusal_of(save(tmp_path / "MEIER.nii", np.zeros((2, 3, 4), dtype=kind))) == "not_scalar"


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


def test_a_longer_image_that_ends_early_is_refused_from_its_first_volume_on(tmp_path: Path) -> None:
    path = tmp_path / "MEIER.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2, 5), dtype=np.int16), AFFINE), path)
    path.write_bytes(path.read_bytes()[:-7])
    assert refusal_of(path) == "nifti_truncated"


def test_a_float64_too_large_for_float32_is_refused_without_a_warning(tmp_path: Path) -> None:
    data = np.full((2, 3, 4), 1e300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal_of(save(tmp_path / "MEIER.nii", data)) == "out_of_range"


def test_a_header_without_its_voxels_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(VALUES, AFFINE), tmp_path / "MEIER.hdr")
    (tmp_path / "MEIER.img").unlink()
    assert refusal_of(tmp_path / "MEIER.hdr") == "unreadable"


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


def told_of(path: Path) -> object:
    try:
        header = read_header(path)
    except IngestError as error:
        return error.code, error.reason
    return header.shape, header.affine.tolist(), header.warnings


def told_by_gzip(path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(nifti, "zlib", SimpleNamespace(error=TypeError, MAX_WBITS=15, decompressobj=None))
    return told_of(path)


@pytest.mark.parametrize("length", [0, 900, 20_000])
@pytest.mark.parametrize("place", [12, 60, 110, -6, -2])
def test_a_zipped_header_is_told_as_gzip_itself_would_wherever_the_stream_is_damaged(
    tmp_path: Path, place: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    whole = gzip.compress(save(tmp_path / "a.nii").read_bytes() + np.random.default_rng(1).bytes(length))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :] if place > 0 else whole[:place])
    assert told_of(path) == told_by_gzip(path, monkeypatch)


@pytest.mark.parametrize(("before", "refused"), [(600, True), (8180, True), (30_000, False)])
def test_a_damaged_block_behind_the_header_is_found_as_far_as_gzip_looks(
    tmp_path: Path, before: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plain = tmp_path / "a.nii.gz", save(tmp_path / "a.nii").read_bytes()
    deflater = zlib.compressobj(0, zlib.DEFLATED, zlib.MAX_WBITS + 16)  # stored: as long as it was
    data = deflater.compress((plain + np.random.default_rng(1).bytes(before))[:before])
    data += deflater.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(data + b"\x07" + bytes(1000))  # a block of a type that there is not
    said = told_of(path)
    assert (said == ("nifti_unreadable", "the header cannot be parsed (error)")) is refused
    assert said == told_by_gzip(path, monkeypatch)


def test_the_header_of_another_file_is_its_own_though_it_differs_in_one_field(tmp_path: Path) -> None:
    one, other = save(tmp_path / "a.nii"), save(tmp_path / "b.nii", affine=AFFINE @ np.diag([1, 1, 2, 1]))
    assert read_header(one).spacing_mm[2] * 2 == pytest.approx(read_header(other).spacing_mm[2])
    assert read_header(one).spacing_mm == read_header(one).spacing_mm
    with pytest.raises(ValueError, match="read-only"):
        read_header(one).affine[0, 0] = 5.0  # kept in mind for the next file


def test_a_file_that_cannot_hold_what_its_header_declares_is_refused_before_it_is_read(tmp_path: Path) -> None:
    data = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(data[:47])
    (tmp_path / "a.nii").write_bytes(data[:390])
    with pytest.raises(NiftiError, match="declares 48 bytes of voxels, the file has 390") as refusal:
        read_header(tmp_path / "a.nii")
    assert refusal.value.code == "nifti_truncated"


@pytest.mark.parametrize(
    ("shape", "code"),
    [((400, 400, 400), "implausible_compression"), ((300, 300, 300), None), ((1000, 1000, 1000), "nifti_truncated")],
)
def test_a_small_file_that_inflates_to_an_implausible_size_is_refused_unread(
    tmp_path: Path, shape: tuple[int, int, int], code: str | None
) -> None:
    header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).header
    header["vox_offset"] = 352  # else set by nibabel only when it saves
    header.set_data_shape(shape)
    zipped = gzip.compress(header.binaryblock + bytes(4) + bytes(np.prod(shape) if code != "nifti_truncated" else 9))
    (tmp_path / "a.nii.gz").write_bytes(zipped + b"\0" * (len(zipped) % 2))
    if code is None:
        assert read_header(tmp_path / "a.nii.gz").shape == shape
        return
    with pytest.raises(NiftiError) as refusal:
        read_header(tmp_path / "a.nii.gz")
    assert refusal.value.code == code


def test_a_header_that_declares_very_many_volumes_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((1, 1, 1, 2**14), np.uint8), np.eye(4)), tmp_path / "a.nii")
    assert read_header(tmp_path / "a.nii").volumes == 2**14
    nibabel.save(nibabel.Nifti1Image(np.zeros((1, 1, 1, 2**14 + 1), np.uint8), np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(NiftiError, match="at most 16,384") as refusal:
        read_header(tmp_path / "b.nii")
    assert refusal.value.code == "too_large"


def test_a_header_of_one_version_with_the_mark_of_the_other_is_an_error_of_ours(tmp_path: Path) -> None:
    data = bytearray(save(tmp_path / "a.nii").read_bytes())
    data[344:348] = b"ni2\0"
    (tmp_path / "a.nii").write_bytes(data[:348])
    with pytest.raises(NiftiError, match="cannot be parsed"):
        read_header(tmp_path / "a.nii")


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
