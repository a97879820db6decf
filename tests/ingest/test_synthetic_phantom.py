"""The painted trunk: what lies where, and that the lesion stays inside a lung."""

import numpy as np
import pytest

from medmllm.ingest.synthetic_phantom import LESION_HU, Body, Lesion, draw_affine, draw_body, draw_lesion, paint

EXTENT = (146.0, 175.0, 106.0)  # close to the least that is allowed, where a lesion fits worst
BODY = Body(centre_mm=(3.0, -5.0, 50.0), trunk_mm=(60.0, 45.0), lung_mm=(20.0, 28.0, 40.0))


def test_every_lesion_lies_inside_one_lung_and_has_the_stated_size() -> None:
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    sides = set()
    for _ in range(200):
        body = draw_body(rng, EXTENT)
        lesion = draw_lesion(rng, body)
        assert 17.0 <= lesion.short_mm <= 18.5 < 34.0 <= lesion.long_mm <= 36.0
        held = []
        for upright in (True, False):
            surface = np.array(lesion.centre_mm) + directions * lesion.radius_mm(upright=upright)
            inside = [
                ((((surface - body.lung_centre(side)) / body.lung_mm) ** 2).sum(axis=1) < 1).all() for side in (1, -1)
            ]
            assert sorted(inside) == [False, True]
            held.append(inside.index(True))
        assert held[0] == held[1]
        sides.add(held[0])
    assert sides == {0, 1}


def test_body_and_lungs_lie_inside_the_field_of_view() -> None:
    rng = np.random.default_rng(6)
    size, spacing = (29, 25, 16), (146 / 29, 7.0, 6.625)  # gives EXTENT
    for _ in range(100):
        body = draw_body(rng, EXTENT)
        inverse = np.linalg.inv(draw_affine(rng, body.centre_mm, size, spacing))
        for side in (1, -1):
            for axis in range(3):
                for sign in (1, -1):
                    tip = np.array([*body.lung_centre(side), 1.0])
                    tip[axis] += sign * body.lung_mm[axis]
                    index = (inverse @ tip)[:3]
                    assert (index > -0.5).all()
                    assert (index < np.array(size) - 0.5).all()


def test_tissues_lie_where_the_formulas_put_them() -> None:
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])
    size = (70, 50, 20)
    affine[:3, 3] = [3.0 + 69, -5.0 + 49, 50.0 - 47.5]
    lesion = Lesion(centre_mm=(3.0 + 27.6, -5.0 + 2.25, 50.0), short_mm=10.0, long_mm=14.0)
    volume, mask = paint(
        BODY, lesion, upright=True, affine=affine, size=size, frame_of_reference_uid="2.25.9",
        rng=np.random.default_rng(1),
    )  # fmt: skip

    def mean_around(right: float, front: float, up: float) -> float:
        centre = np.linalg.inv(affine) @ [3.0 + right, -5.0 + front, 50.0 + up, 1.0]
        x, y, z = centre[:3].round().astype(int)
        return float(volume.voxels[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2].mean())

    noise = 4 * 20 / np.sqrt(27)  # four standard errors
    assert mean_around(0, 36, 0) == pytest.approx(40, abs=noise)  # front wall
    assert mean_around(-27.6, 2.25, 0) == pytest.approx(-800, abs=noise)  # left lung
    assert mean_around(0, -31.5, 0) == pytest.approx(300, abs=noise)  # spine, at the back
    assert mean_around(27.6, 2.25, 0) == pytest.approx(LESION_HU, abs=noise)  # lesion in the right lung
    assert mean_around(-66, 40, 0) == pytest.approx(-1000, abs=noise + 10)  # air, cut off at -1024
    volume_mm3 = mask.sum() * 2 * 2 * 5
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 10 * 10 * 14, rel=0.1)


def test_turning_the_grid_moves_no_tissue() -> None:
    lesion = Lesion(centre_mm=(30.0, -3.0, 50.0), short_mm=10.0, long_mm=14.0)
    centres = []
    for angle in (0.0, 0.1):
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag([-2.0, -2.0, 3.0])
        affine[:3, 3] = np.array(BODY.centre_mm) - affine[:3, :3] @ [34.5, 24.5, 14.5]
        _, mask = paint(
            BODY, lesion, upright=False, affine=affine, size=(70, 50, 30), frame_of_reference_uid="2.25.9",
            rng=np.random.default_rng(1),
        )  # fmt: skip
        centres.append(affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3])
    np.testing.assert_allclose(centres, [lesion.centre_mm] * 2, atol=0.3)
