"""Volumes hold a straight slope through the patient: linear interpolation must give it back exactly anywhere."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medmllm.documents import Channel, ImageSettings
from medmllm.errors import ContractError
from medmllm.preprocessing.image import prepare_image
from medmllm.records import Volume
from tests.factories import a_volume

SLOPE = np.array([3.0, -5.0, 7.0])  # units per mm along R, A, S


def settings(**changes: object) -> ImageSettings:
    plain = {
        "spacing_mm": (2.0, 2.5, 3.0),
        "size": (9, 8, 7),
        "intensity": "window",
        "regrid": "never",
        "window": (-2000.0, 2000.0),
        "channels": {"ct": Channel(), "pet": Channel()},
    }
    return ImageSettings.model_validate(plain | changes)


def oblique_affine(spacing_mm: tuple[float, float, float], *, centre_mm: tuple[float, float, float], size: object):
    """Axes permuted (first voxel axis to the head), flipped, and turned about two axes; centred where asked."""
    about_s, about_r = np.deg2rad(17.0), np.deg2rad(-11.0)
    turn = np.array([[np.cos(about_s), -np.sin(about_s), 0], [np.sin(about_s), np.cos(about_s), 0], [0, 0, 1.0]])
    tip = np.array([[1.0, 0, 0], [0, np.cos(about_r), -np.sin(about_r)], [0, np.sin(about_r), np.cos(about_r)]])
    permuted = np.array([[0, -1.0, 0], [0, 0, -1.0], [1.0, 0, 0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tip @ permuted @ np.diag(spacing_mm)
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return affine


def places(affine: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(size), 0, -1))


def sloped(affine: np.ndarray, size: tuple[int, int, int], frame: str | None = None) -> Volume:
    return Volume((places(affine, size) @ SLOPE).astype(np.float32), affine, frame, "CT")


def inside(volume: Volume, at_mm: np.ndarray, margin: float = 1e-6) -> np.ndarray:
    voxel = nib.affines.apply_affine(np.linalg.inv(volume.affine), at_mm)
    return ((voxel >= -margin) & (voxel <= np.array(volume.voxels.shape) - 1 + margin)).all(-1)


def plain_affine(size: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -np.array(spacing_mm) * (np.array(size) - 1) / 2
    return affine


SIZE = (14, 16, 12)
SOURCES = {
    "oblique, flipped, permuted": oblique_affine((2.2, 1.7, 3.1), centre_mm=(11, -7, 30), size=SIZE),
    "coarser than the model's grid": oblique_affine((5.0, 4.0, 4.5), centre_mm=(-40, 9, 2), size=SIZE),
    "gantry tilted": a_volume(SIZE, spacing_mm=(1.5, 2.0, 3.0), tilt_deg=20.0).affine,
    "turned about the body axis": a_volume(SIZE, spacing_mm=(1.5, 2.0, 3.0), turn_deg=35.0).affine,
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_lies_at_a_place_in_the_patient_lies_there_on_the_models_grid(name: str) -> None:
    source = sloped(SOURCES[name], SIZE)
    image, _ = prepare_image({"ct": source}, settings())
    at_mm = places(image.affine.numpy(), (9, 8, 7))
    real = inside(source, at_mm)
    assert real.sum() > 200
    expected = (at_mm @ SLOPE + 2000) / 4000
    np.testing.assert_allclose(image[0].numpy()[real], expected[real], atol=2e-5)


@pytest.mark.parametrize("name", SOURCES)
def test_the_grid_has_the_asked_spacing_in_ras_order_about_the_same_centre(name: str) -> None:
    source = sloped(SOURCES[name], SIZE)
    image, _ = prepare_image({"ct": source}, settings())
    affine = image.affine.numpy()
    assert image.shape == (2, 9, 8, 7)
    assert image.dtype == torch.float32
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), (2.0, 2.5, 3.0), rtol=1e-6)
    centre = nib.affines.apply_affine(affine, (np.array([9, 8, 7]) - 1) / 2)
    was = nib.affines.apply_affine(source.affine, (np.array(SIZE) - 1) / 2)
    # Cropping an even number of voxels to an odd one, and resampling to whole voxels, shift by up to one voxel.
    assert (np.abs(np.linalg.inv(affine[:3, :3]) @ (centre - was)) <= 1.0).all()


def test_one_bright_voxel_keeps_its_place() -> None:
    affine = SOURCES["oblique, flipped, permuted"]
    voxels = np.zeros(SIZE, np.float32)
    voxels[8, 6, 7] = 1000
    image, _ = prepare_image(
        {"ct": Volume(voxels, affine, None, "CT")}, settings(spacing_mm=(1.0, 1.0, 1.0), size=(24, 24, 24))
    )
    brightest = np.unravel_index(int(image[0].argmax()), (24, 24, 24))
    found_mm = nib.affines.apply_affine(image.affine.numpy(), brightest)
    assert np.linalg.norm(found_mm - nib.affines.apply_affine(affine, (8, 6, 7))) < 1.0


def test_window_values_are_clipped_and_scaled_to_0_and_1() -> None:
    size = (5, 4, 3)
    voxels = np.full(size, -3000, np.float32)
    voxels[0, 0, 0], voxels[1, 0, 0], voxels[2, 0, 0], voxels[3, 0, 0] = -1000, -300, 400, 3000
    volume = Volume(voxels, plain_affine(size, (2.0, 2.5, 3.0)), None, "CT")
    image, _ = prepare_image({"ct": volume}, settings(size=size, window=(-1000.0, 400.0)))
    assert image[0, :4, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert image[0, 4, 3, 2] == 0.0


def test_zscore_gives_each_volume_mean_0_and_standard_deviation_1() -> None:
    size = (5, 4, 3)
    voxels = np.random.default_rng(2).normal(70, 9, size).astype(np.float32)
    volume = Volume(voxels, plain_affine(size, (2.0, 2.5, 3.0)), None, "MR")
    image, _ = prepare_image({"ct": volume}, settings(size=size, intensity="zscore"))
    np.testing.assert_allclose(image[0].numpy(), (voxels - voxels.mean()) / voxels.std(), atol=1e-5)


def test_a_volume_of_one_value_under_zscore_is_zero_not_nan() -> None:
    volume = Volume(np.full((5, 4, 3), 7, np.float32), plain_affine((5, 4, 3), (2.0, 2.5, 3.0)), None, "MR")
    image, _ = prepare_image({"ct": volume}, settings(intensity="zscore"))
    assert not image.any()


def test_what_lies_outside_the_volume_gets_its_lowest_value() -> None:
    size = (3, 4, 3)
    voxels = np.full(size, 5, np.float32)
    voxels[1, 1, 1] = 1.0  # the lowest
    volume = Volume(voxels, plain_affine(size, (2.0, 2.5, 3.0)), None, "MR")
    image, _ = prepare_image({"ct": volume}, settings(size=(7, 8, 7), window=(0.0, 10.0)))
    expected = np.full((7, 8, 7), 0.1)
    expected[2:5, 2:6, 2:5] = 0.5
    expected[3, 3, 3] = 0.1
    np.testing.assert_allclose(image[0].numpy(), expected, atol=1e-6)


def test_a_second_channel_is_brought_onto_the_firsts_grid_at_its_own_place() -> None:
    first = sloped(SOURCES["oblique, flipped, permuted"], SIZE)
    size = (10, 9, 8)
    affine = plain_affine(size, (2.5, 2.0, 1.5))
    affine[:3, 3] += [14.0, -9.0, 33.0]
    second = sloped(affine, size)
    image, present = prepare_image({"pet": second, "ct": first}, settings())
    assert present == (True, True)
    at_mm = places(image.affine.numpy(), (9, 8, 7))
    covered = inside(second, at_mm)
    assert 20 < covered.sum() < covered.size  # partly outside, or the test would say little
    expected = (at_mm @ SLOPE + 2000) / 4000
    np.testing.assert_allclose(image[1].numpy()[covered], expected[covered], atol=2e-5)
    lowest = (second.voxels.min() + 2000) / 4000
    far = ~inside(second, at_mm, margin=1.0)
    np.testing.assert_allclose(image[1].numpy()[far], lowest, atol=2e-5)
    alone, _ = prepare_image({"ct": first}, settings())
    assert torch.equal(image[0], alone[0])  # the second changes nothing of the first
    assert torch.equal(image.affine, alone.affine)


def test_volumes_of_different_frames_of_reference_are_refused() -> None:
    affine = plain_affine(SIZE, (2.0, 2.0, 2.0))
    volumes = {"ct": sloped(affine, SIZE, "1.2.3"), "pet": sloped(affine, SIZE, "1.2.4")}
    with pytest.raises(ContractError, match="ct, pet have 2 different frames of reference") as caught:
        prepare_image(volumes, settings())
    assert caught.value.code == "frames_differ"
    same = {"ct": sloped(affine, SIZE, "1.2.3"), "pet": sloped(affine, SIZE, None)}
    assert prepare_image(same, settings())[1] == (True, True)


@pytest.mark.parametrize(("given", "present"), [("ct", (True, False)), ("pet", (False, True))])
def test_a_missing_channel_is_marked_and_the_other_sets_the_grid(given: str, present: tuple[bool, bool]) -> None:
    source = sloped(SOURCES["gantry tilted"], SIZE)
    image, found = prepare_image({given: source}, settings())
    assert found == present
    assert image.shape == (2, 9, 8, 7)
    assert image[found.index(True)].any()


def test_no_volume_for_any_channel_is_refused() -> None:
    with pytest.raises(ContractError, match="no series for any channel") as caught:
        prepare_image({"us": a_volume()}, settings())
    assert caught.value.code == "no_matching_series"


def test_flipped_read_only_and_big_endian_arrays_are_taken_and_left_as_they_were() -> None:
    volume = a_volume((8, 7, 6))
    expected, _ = prepare_image({"ct": volume}, settings())
    flipped = np.ascontiguousarray(volume.voxels[::-1])[::-1]
    big_endian = volume.voxels.astype(">f4")
    read_only = volume.voxels.copy()
    read_only.flags.writeable = False
    for voxels in (flipped, big_endian, read_only):
        before = voxels.copy()
        image, _ = prepare_image({"ct": Volume(voxels, volume.affine, None, "CT")}, settings())
        assert torch.equal(image, expected)
        np.testing.assert_array_equal(voxels, before)


def test_the_image_is_a_metatensor_that_knows_its_place() -> None:
    image, _ = prepare_image({"ct": a_volume()}, settings())
    assert isinstance(image, MetaTensor)
    assert image.affine.dtype == torch.float64
