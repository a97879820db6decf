"""Made-up scans whose findings are known: a trunk in air, and the packaged policy."""

from dataclasses import replace

import numpy as np

from medmllm.config import QualityBounds, QualityConfig, QualityPolicy, load_config
from medmllm.quality.image import check_volume
from medmllm.records import FloatArray, Volume

POLICY: QualityPolicy = load_config(QualityConfig, "quality").quality
BOUNDS: QualityBounds = POLICY.bounds
KEY = "se-" + "a" * 16
SIZE = (40, 36, 12)
PADDING = (-1024.0, -2000.0, -2048.0, -3000.0, -3024.0)


def a_trunk(*, noise: float = 15.0, seed: int = 2) -> FloatArray:
    """HU of an ellipse of soft tissue in fat, with two lungs and a spine, in air; shape SIZE."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, size) for size in SIZE), indexing="ij")
    hu = np.full(SIZE, -1000.0)
    hu[(x / 0.9) ** 2 + (y / 0.8) ** 2 < 1] = -100.0
    hu[(x / 0.8) ** 2 + (y / 0.7) ** 2 < 1] = 40.0
    for side in (-0.4, 0.4):
        hu[((x - side) / 0.25) ** 2 + (y / 0.45) ** 2 < 1] = -850.0
    hu[x**2 + ((y + 0.5) / 0.8) ** 2 < 0.015] = 700.0
    return (hu + np.random.default_rng(seed).normal(0, noise, SIZE)).astype(np.float32)


def padded(hu: FloatArray, padding: float) -> FloatArray:
    """The same with what lies outside the scanned circle set to one value."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, size) for size in SIZE), indexing="ij")
    return np.where(np.hypot(x, y) > 1.0, np.float32(padding), hu)


def a_scan(voxels: FloatArray, *, modality: str | None = "CT", spacing_mm: float = 9.0) -> Volume:
    """A volume on a plain grid."""
    affine = np.diag([spacing_mm, spacing_mm, 5.0, 1.0])
    return Volume(np.asarray(voxels, dtype=np.float32), affine, None, modality)


def codes(volume: Volume, **bounds: object) -> set[str]:
    """The codes that the checks find, under the packaged bounds but for `bounds`."""
    return {finding.code for finding in check_volume(volume, KEY, BOUNDS.model_copy(update=bounds))}


def with_grid(volume: Volume, affine: FloatArray) -> Volume:
    """The same voxels elsewhere."""
    return replace(volume, affine=affine)
