"""NIfTI: what nibabel lets pass silently is refused, damage and bombs before anything large is read."""

import gzip
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from medmllm.errors import IngestError, NiftiError
from medmllm.ingest import nifti
from medmllm.ingest.nifti import read_header, read_volume
from tests.ingest.nifti_files import AFFINE, VALUES, patch, refusal_of, save


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


def test_lengths_in_another_unit_are_refused_with_the_way_out(tmp_path: Path) -> None:
    for unit, name in ((1, "metres"), (3, "micrometres")):
        with pytest.raises(NiftiError, match=rf"in {name}, not mm: convert the affine to mm"):
            read_header(patch(save(tmp_path / "MEIER.nii"), xyzt_units=unit))


@pytest.mark.parametrize("kept", [60, 200, 0.5, 0.9])
def test_a_gzip_stream_that_was_cut_is_to_be_copied_again(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(1).integers(0, 900, (16, 16, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "MEIER.nii.gz")
    data = (tmp_path / "MEIER.nii.gz").read_bytes()
    (tmp_path / "MEIER.nii.gz").write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(NiftiError, match="again"):
        read_volume(tmp_path / "MEIER.nii.gz")


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
