"""Fields of a NIfTI header that nibabel mends without a word: told, or refused where nothing can be known."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmllm.errors import NiftiError
from medmllm.ingest.nifti import read_header, read_volume
from tests.ingest.nifti_files import VALUES, patch, refusal_of

AFFINE = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, -7], [0, 0, 4.0, 30], [0, 0, 0, 1]])  # 3 x 2 x 4 mm, turned
PIXDIM = [1.0, 3.0, 2.0, 4.0, 1, 1, 1, 1]


def save(path: Path, *, sform: int, qform: int, data: np.ndarray = VALUES) -> Path:
    image = nibabel.Nifti1Image(data, AFFINE)
    image.set_qform(AFFINE, code=qform)
    image.set_sform(AFFINE, code=sform)
    nibabel.save(image, path)
    return path


def codes_of(path: Path) -> list[str]:
    return [code for code, _ in read_header(path).warnings]


def with_depth(depth: float) -> list[float]:
    return [*PIXDIM[:3], depth, *PIXDIM[4:]]


@pytest.mark.parametrize("depth", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("qform", [0, 1])
def test_a_spacing_of_nothing_is_unknown_and_not_one_mm(tmp_path: Path, depth: float, qform: int) -> None:
    path = patch(save(tmp_path / "a.nii", sform=0, qform=qform), pixdim=with_depth(depth))
    assert refusal_of(path) == "no_spacing"


def test_the_depth_of_an_only_slice_may_be_unknown_and_is_told(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", sform=0, qform=1, data=VALUES[..., :1]), pixdim=with_depth(0.0))
    assert codes_of(path) == ["no_spacing"]
    assert read_header(path).spacing_mm == pytest.approx((3.0, 2.0, 1.0))


def test_a_negative_spacing_is_read_as_nibabel_does_and_told(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", sform=0, qform=1), pixdim=with_depth(-4.0))
    assert codes_of(path) == ["negative_spacing"]
    assert read_volume(path).affine == pytest.approx(nibabel.load(path).affine)


@pytest.mark.parametrize("depth", [0.0, -4.0])
def test_an_sform_needs_no_spacing(tmp_path: Path, depth: float) -> None:
    path = patch(save(tmp_path / "a.nii", sform=1, qform=0), pixdim=with_depth(depth))
    assert codes_of(path) == []
    assert read_volume(path).affine == pytest.approx(AFFINE)


@pytest.mark.parametrize(("depth", "told"), [(4.03, []), (4.05, ["spacing_differs"]), (8.0, ["spacing_differs"])])
def test_a_spacing_beside_that_of_the_sform_is_told(tmp_path: Path, depth: float, told: list[str]) -> None:
    path = patch(save(tmp_path / "a.nii", sform=1, qform=0), pixdim=with_depth(depth))
    assert codes_of(path) == told
    assert read_volume(path).affine == pytest.approx(AFFINE)


def test_a_form_code_that_nobody_defined_counts_as_none_and_is_told(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", sform=1, qform=1), sform_code=99, srow_x=[9, 9, 9, 9])
    assert codes_of(path) == ["unknown_form_code"]
    assert read_volume(path).affine == pytest.approx(AFFINE, abs=1e-5)


def test_an_infinite_slope_scales_nothing_and_is_told(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", sform=1, qform=1), scl_slope=np.inf)
    assert codes_of(path) == ["infinite_slope"]
    assert read_volume(path).voxels.tolist() == VALUES.tolist()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"scl_slope": 2.0, "scl_inter": np.nan}, "bad_scaling"),
        ({"vox_offset": np.nan}, "nifti_unreadable"),
        ({"sform_code": 0, "pixdim": with_depth(0.0)}, "no_spacing"),
        ({"sform_code": 0, "quatern_b": 0.9, "quatern_c": 0.9}, "bad_qform"),
    ],
)
def test_what_cannot_be_decided_is_refused_with_a_way_out(tmp_path: Path, fields: dict[str, object], code: str) -> None:
    path = patch(save(tmp_path / "a.nii", sform=1, qform=1), **fields)
    assert refusal_of(path) == code
    with pytest.raises(NiftiError, match=r"convert (it|the file) again"):
        read_header(path)


def test_a_zero_slope_makes_the_intercept_meaningless(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", sform=1, qform=1), scl_slope=0.0, scl_inter=np.nan)
    assert read_volume(path).voxels.tolist() == VALUES.tolist()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("more", "told"), [(23, []), (24, ["more_voxels"]), (48, ["more_voxels"])])
def test_voxels_beyond_the_declared_ones_are_told(tmp_path: Path, zipped: bool, more: int, told: list[str]) -> None:
    path = save(tmp_path / "a.nii", sform=1, qform=1)  # slices of 4 x 3 voxels of 2 bytes
    data = path.read_bytes() + bytes(more)
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert codes_of(path) == told
    assert read_volume(path).voxels.tolist() == VALUES.tolist()


@pytest.mark.parametrize("tail", [bytes(8), b"\xff" * 8])
def test_what_follows_a_gzip_stream_says_nothing_of_its_length(tmp_path: Path, tail: bytes) -> None:
    noise = np.random.default_rng(1).integers(0, 2**15, (40, 30, 10)).astype(np.int16)  # more than is read for a header
    path = save(tmp_path / "a.nii", sform=1, qform=1, data=noise)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()) + tail)
    assert codes_of(tmp_path / "b.nii.gz") == []
    if any(tail):
        with pytest.raises(NiftiError, match="something else follows it: copy the file again"):
            read_volume(tmp_path / "b.nii.gz")
    else:
        assert read_volume(tmp_path / "b.nii.gz").voxels.tolist() == noise.tolist()


def test_more_axes_than_there_can_be_are_refused_as_such(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", sform=1, qform=1), dim=[8, 4, 3, 2, 1, 1, 1, 1])
    with pytest.raises(NiftiError, match=r"axes, of 1 to 7"):
        read_header(path)
