"""Volumes and surfaces above thresholds, against solids whose measures are known."""

import math
from itertools import pairwise
from math import pi

import pytest
import torch
from torch.nn import functional

from medmllm.models.cells import CELL_MEANS, LOG_TONES
from medmllm.models.linear_reader import LinearReader, Reading
from medmllm.models.measures import LEVELS, LOG_MEASURES, log_measures

FIRST = LEVELS.index(0)  # of the bands within a window


def noise(n: int = 6, *, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(n, 2, 9, 8, 10, generator=torch.Generator().manual_seed(1))


def measures(image: torch.Tensor) -> torch.Tensor:
    """Return voxels and faces themselves, (bands, 4), of one image (x, y, z)."""
    return log_measures(image[None, None])[0, 0].double().expm1()


def distance(size: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> torch.Tensor:
    """Return how far each voxel lies from the middle, in mm."""
    axes = [(torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(size, spacing_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_a_ball_has_the_volume_and_the_cross_sections_of_a_ball(spacing_mm: tuple[float, float, float]) -> None:
    radius, (x, y, z) = 12.0, spacing_mm
    ball = (distance((61, 33, 29), spacing_mm) <= radius).float()
    voxels, *faces = measures(ball)[FIRST]
    assert float(voxels) * x * y * z == pytest.approx(4 / 3 * pi * radius**3, rel=0.02)
    # Every line along an axis enters a convex solid once and leaves it once: its faces are its shadow, twice.
    for across, face in zip(faces, (y * z, x * z, x * y), strict=True):
        assert float(across) * face == pytest.approx(2 * pi * radius**2, rel=0.04)


def test_a_block_and_a_hole_in_it_are_counted_voxel_by_voxel_and_face_by_face() -> None:
    image = torch.zeros(7, 8, 9)
    image[1:4, 2:6, 3:8] = 1  # 3 x 4 x 5
    whole = [60, 2 * 4 * 5, 2 * 3 * 5, 2 * 3 * 4]
    torch.testing.assert_close(measures(image)[FIRST], torch.tensor(whole).double(), rtol=1e-5, atol=0)
    image[2, 3, 5] = 0
    holed = [59, *(faces + 2 for faces in whole[1:])]
    torch.testing.assert_close(measures(image)[FIRST], torch.tensor(holed).double(), rtol=1e-5, atol=0)


def test_a_measure_is_the_mean_over_the_thresholds_of_its_band() -> None:
    image = noise(1)[0, 0]
    found = measures(image)
    for band, (low, high) in enumerate(pairwise(LEVELS)):
        # The middles of 1,000 equal parts of the band, each a plain threshold.
        above = [image > low + (high - low) * (part + 0.5) / 1000 for part in range(1000)]
        volume = sum(int(one.sum()) for one in above) / 1000
        across_y = sum(int((one[:, 1:] != one[:, :-1]).sum()) for one in above) / 1000
        assert found[band, 0].item() == pytest.approx(volume, rel=2e-3)
        assert found[band, 2].item() == pytest.approx(across_y, rel=2e-3)


@pytest.mark.parametrize("level", [-9.0, 0.0, 1.0, 9.0])
def test_an_even_image_has_no_surface_and_lies_above_a_threshold_whole_or_not_at_all(level: float) -> None:
    found = log_measures(torch.full((1, 1, 3, 4, 5), level))[0, 0]
    expected = [61.0 if level >= high else 1.0 for high in LEVELS[1:]]
    torch.testing.assert_close(found[:, 0], torch.tensor(expected).log())
    assert not found[:, 1:].any()


def test_where_a_solid_lies_and_how_it_is_mirrored_changes_nothing() -> None:
    image, moved = torch.zeros(2, 1, 1, 12, 13, 14)
    image[..., 1:5, 1:4, 1:7] = torch.rand(4, 3, 6, generator=torch.Generator().manual_seed(2))
    moved[..., 6:10, 8:11, 7:13] = image[..., 1:5, 1:4, 1:7].flip((2, 4))
    torch.testing.assert_close(log_measures(moved), log_measures(image))


def test_a_study_is_measured_alike_whatever_stands_beside_it_in_the_batch() -> None:
    window, other = noise(1, spread=0.1).abs().clamp(0, 1), noise(3)  # the others reach bands that it does not
    found = log_measures(torch.cat([window, other]))[:1]
    torch.testing.assert_close(found, log_measures(window), rtol=1e-6, atol=0)


def test_gradients_towards_the_voxels_are_those_of_small_changes() -> None:
    image = noise(1)[:, :1, :3, :4, :5].clone().requires_grad_()
    found = log_measures(image)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((found * weights).sum(), image)
    step = 1e-3
    for place in [(0, 0, 0), (1, 2, 3), (2, 3, 4), (1, 1, 1)]:
        shift = torch.zeros_like(image)
        shift[0, 0][place] = step
        with torch.no_grad():
            change = (log_measures(image + shift) - log_measures(image - shift)).double() * weights
        assert gradient[0, 0][place].item() == pytest.approx(change.sum().item() / (2 * step), rel=0.02, abs=2e-3)


def test_where_bands_meet_the_slope_is_that_of_growing_brighter() -> None:
    image = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 4, 1, 1).requires_grad_()
    log_measures(image)[0, 0, :, 0].sum().backward()
    # A voxel above 0, 1/4 and 1/2 begins to fill the bands from there, which hold 1 + 2, 1 + 1 and 1 + 1; what lies at
    # the top of the window leaves it.
    assert image.grad is not None
    torch.testing.assert_close(image.grad.flatten(), torch.tensor([8 / 4, 8 / 3, 8 / 2, 0]))


def test_an_even_image_has_a_finite_gradient() -> None:
    empty = torch.zeros(1, 1, 2, 3, 4).requires_grad_()
    log_measures(empty).sum().backward()
    assert empty.grad is not None
    assert empty.grad.isfinite().all()


@pytest.mark.parametrize("reading", [LOG_MEASURES, CELL_MEANS, LOG_TONES])
def test_no_study_at_all_gives_no_row(reading: Reading) -> None:
    assert reading.read(torch.zeros(0, 2, 9, 8, 10)).flatten(1).shape == (0, 2 * reading.numbers)


def test_counts_are_exact_where_a_network_computes_in_half_precision() -> None:
    image = torch.zeros(1, 1, 40, 40, 40)
    image[..., :33, :32, :31] = 1
    with torch.autocast("cpu", torch.bfloat16):
        found = log_measures(image.bfloat16())[0, 0, FIRST, 0]
    assert found.item() == pytest.approx(torch.tensor(33 * 32 * 31 + 1.0).log().item(), rel=1e-6)


def test_a_combination_of_logarithms_tells_ragged_from_smooth_whatever_the_size_and_shape() -> None:
    """V^(2/3) over the geometric mean of the areas, which is 1/2 for every block, and less where it is ragged."""

    def compactness(solid: torch.Tensor) -> float:
        volume, *areas = measures(solid)[FIRST].log().tolist()
        return 2 / 3 * volume - sum(areas) / 3

    for x, y, z in [(9, 8, 10), (20, 9, 7), (9, 30, 12)]:
        block = torch.zeros(x + 4, y + 4, z + 4)
        block[2:-2, 2:-2, 2:-2] = 1
        assert compactness(block) == pytest.approx(math.log(1 / 2), abs=1e-6)
        block[1, 2:-2:2, 2:-2:2] = 1  # spikes, one voxel long
        assert compactness(block) < math.log(1 / 2) - 0.05


def test_the_encoder_learns_a_volume_that_means_of_cells_cannot_tell() -> None:
    torch.manual_seed(4)
    network, head = LinearReader(LOG_MEASURES, channels=1, width=3, dropout=0.0), torch.nn.Linear(3, 1)
    draw = torch.Generator().manual_seed(5)
    edges = torch.randint(2, 8, (40,), generator=draw)
    given = torch.zeros(40, 1, 12, 12, 12)
    for image, edge, place in zip(
        given[:, 0], edges.tolist(), torch.randint(0, 5, (40, 3), generator=draw), strict=True
    ):
        x, y, z = place.tolist()
        image[x : x + edge, y : y + edge, z : z + edge] = 0.9
    target = (edges >= 5).float()
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(head(network(given).flatten(1))[:, 0], target)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
