import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from medmllm.attribution.overlay import (
    explanation_document,
    peak_voxel,
    to_ras_mm,
    to_source_grid,
    write_attribution,
    write_attributions,
)
from medmllm.records import ChannelAttribution, Explanation, Volume, WordAttribution
from medmllm.result_documents import ExplanationDocument
from tests.factories import a_volume
from tests.reporting.made_up import provenance

MODEL_AFFINE = np.array([[3.0, 0, 0, -30], [0, 2.0, 0, -20], [0, 0, 4.0, 10], [0, 0, 0, 1]])  # an RAS grid
MODEL_SIZE = (21, 24, 13)


def an_oblique_volume(size: tuple[int, int, int] = (30, 26, 14)) -> Volume:
    """1.5 x 2 x 4.5 mm, turned by 25 degrees about S-I, axes to the left, back and head; covers part of the grid."""
    return a_volume(size, spacing_mm=(1.5, 2.0, 4.5), origin_mm=(24.0, 20.0, 4.0), turn_deg=25.0)


def places(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """RAS+ mm of every voxel, shape (x, y, z, 3)."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


# --- from the model's grid to the source's


@pytest.mark.parametrize("tilt_deg", [0.0, 14.0])
def test_trilinear_overlay_of_a_ramp_in_millimetres_is_exact_inside_and_zero_outside(tilt_deg: float) -> None:
    source = a_volume((30, 26, 14), spacing_mm=(1.5, 2.0, 4.5), origin_mm=(24, 20, 4), turn_deg=25, tilt_deg=tilt_deg)
    slope = np.array([0.5, -0.25, 0.125])
    placed = to_source_grid(places(MODEL_SIZE, MODEL_AFFINE) @ slope + 40, MODEL_AFFINE, source)
    here = places(source.voxels.shape, source.affine)
    first, last = MODEL_AFFINE[:3, 3], MODEL_AFFINE[:3, 3] + np.diag(MODEL_AFFINE)[:3] * (np.array(MODEL_SIZE) - 1)
    step = np.diag(MODEL_AFFINE)[:3]
    inside = ((here > first) & (here < last)).all(axis=-1)
    outside = ((here < first - step) | (here > last + step)).any(axis=-1)
    assert min(inside.sum(), outside.sum()) > 1000
    np.testing.assert_allclose(placed[inside], (here @ slope + 40)[inside], atol=1e-3)
    assert not placed[outside].any()
    assert (placed.shape, placed.dtype) == (source.voxels.shape, np.float32)


def test_a_blob_lies_where_it_was_in_the_patient() -> None:
    source = an_oblique_volume()
    spot = np.array([3.0, -2.0, 30.0])  # RAS+ mm, no voxel of either grid
    distance = (places(MODEL_SIZE, MODEL_AFFINE) - spot) / [5.0, 5.0, 7.0]
    blob = -np.exp(-(distance**2).sum(axis=-1))  # lowers the logit: the peak is of the absolute value
    placed = to_source_grid(blob, MODEL_AFFINE, source)
    found = np.array(to_ras_mm(peak_voxel(placed), source.affine))
    in_model_voxels = np.abs(found - spot) / np.diag(MODEL_AFFINE)[:3]
    assert in_model_voxels.max() < 1.0
    assert placed.min() == placed[peak_voxel(placed)] < -0.7


def test_overlay_agrees_with_monai() -> None:
    source = an_oblique_volume()
    attribution = np.random.default_rng(4).normal(size=MODEL_SIZE).astype(np.float32)
    image = MetaTensor(torch.from_numpy(attribution)[None], affine=torch.from_numpy(MODEL_AFFINE))
    expected = SpatialResample(mode="bilinear", padding_mode="zeros")(
        image, dst_affine=torch.from_numpy(source.affine), spatial_size=source.voxels.shape
    )[0].numpy()
    np.testing.assert_allclose(to_source_grid(attribution, MODEL_AFFINE, source), expected, atol=1e-5)


def test_on_its_own_grid_an_attribution_stays_as_it_is() -> None:
    attribution = np.random.default_rng(5).normal(size=(4, 3, 2)).astype(np.float32)
    affine = an_oblique_volume().affine
    source = Volume(np.zeros((4, 3, 2), np.float32), affine, None, None)
    np.testing.assert_allclose(to_source_grid(attribution, affine, source), attribution, atol=1e-6)


# --- the file


def test_the_file_lies_on_the_series_and_holds_the_values(tmp_path: Path) -> None:
    source = an_oblique_volume((5, 4, 3))
    attribution = np.random.default_rng(6).normal(size=(5, 4, 3)) * 1e-4
    write_attribution(tmp_path / "attribution.nii.gz", attribution, source)
    image = nibabel.load(tmp_path / "attribution.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), attribution.astype(np.float32))
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), source.affine, atol=1e-3)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert [file.name for file in tmp_path.iterdir()] == ["attribution.nii.gz"]


def test_a_sheared_grid_is_written_without_a_quaternion_that_would_deny_the_shear(tmp_path: Path) -> None:
    source = a_volume((5, 4, 3), tilt_deg=12.0)
    write_attribution(tmp_path / "tilted.nii.gz", np.zeros((5, 4, 3)), source)
    image = nibabel.load(tmp_path / "tilted.nii.gz")
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)


def test_the_file_says_nothing_but_the_grid_and_the_values_and_is_the_same_each_time(tmp_path: Path) -> None:
    source = an_oblique_volume((5, 4, 3))
    for name in ("Jane_Doe.nii.gz", "again.nii.gz"):
        write_attribution(tmp_path / name, np.ones((5, 4, 3)), source)
    first, second = ((tmp_path / name).read_bytes() for name in ("Jane_Doe.nii.gz", "again.nii.gz"))
    assert first == second
    assert first[3] & 0b1000 == 0  # no file name in the gzip header (RFC 1952)
    header = nibabel.Nifti1Header(gzip.decompress(first)[:348])
    for text in ("descrip", "aux_file", "intent_name", "db_name"):
        assert header[text].item() == b""
    assert len(header.extensions) == 0


# --- the explanation as files


def an_explanation(*channels: str) -> Explanation:
    source = an_oblique_volume((5, 4, 3))
    maps = []
    for number, channel in enumerate(channels, start=1):
        attribution = np.zeros((5, 4, 3), np.float32)
        attribution[number, 2, 1] = -number
        maps.append(ChannelAttribution(channel, f"se-{number:016x}", source, attribution))
    return Explanation(
        study_key="st-00000000000000a1",
        explained_class=2,
        channels=tuple(maps),
        words=(WordAttribution(9, 14, "history", 0.5), WordAttribution(30, 33, "findings", -0.25)),
        modality_shares={"image": 0.75, "text": 0.25},
        modality_sums={"image": -1.0, "text": 0.25},
        method="m",
        baseline="b",
        steps=40,
        logit=-0.5,
        baseline_logit=0.25,
        convergence_delta=0.003,
    )


def test_one_channel_is_written_as_attribution_and_several_by_name(tmp_path: Path) -> None:
    assert write_attributions(tmp_path, an_explanation("ct")) == {"ct": "attribution.nii.gz"}
    files = write_attributions(tmp_path, an_explanation("t1 post/../x", "t1.post"))
    assert files == {"t1 post/../x": "attribution_1_t1-post-x.nii.gz", "t1.post": "attribution_2_t1-post.nii.gz"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["attribution.nii.gz", *sorted(files.values())]
    second = np.asanyarray(nibabel.load(tmp_path / files["t1.post"]).dataobj)
    assert peak_voxel(second) == (2, 2, 1)
    assert write_attributions(tmp_path, an_explanation()) == {}


def test_the_document_says_what_the_explanation_says_and_where_each_peak_lies(tmp_path: Path) -> None:
    explanation = an_explanation("ct", "pet")
    document = explanation_document(
        explanation, classes=("chest", "head", "spine"), files={"ct": "a", "pet": "b"}, provenance=provenance()
    )
    document.write(tmp_path / "explanation.json")
    assert ExplanationDocument.read(tmp_path / "explanation.json") == document
    assert document.explained_class == "spine"
    assert document.completeness_error == pytest.approx(0.003 / 0.75)
    assert [(c.channel, c.series_key, c.file, c.peak_voxel) for c in document.channels] == [
        ("ct", "se-0000000000000001", "a", (1, 2, 1)),
        ("pet", "se-0000000000000002", "b", (2, 2, 1)),
    ]
    place = explanation.channels[1].source.affine @ [2, 2, 1, 1]
    assert document.channels[1].peak_ras_mm == pytest.approx(tuple(place[:3]))
    assert document.section_sums == {"history": 0.5, "findings": -0.25}
    assert [(w.start, w.end, w.section, w.attribution) for w in document.words] == [
        (9, 14, "history", 0.5),
        (30, 33, "findings", -0.25),
    ]
    for same in ("study_key", "method", "baseline", "steps", "logit", "baseline_logit", "convergence_delta"):
        assert getattr(document, same) == getattr(explanation, same)
    assert document.modality_shares == {"image": 0.75, "text": 0.25}
    assert document.modality_sums == {"image": -1.0, "text": 0.25}
