"""Make the features of the logistic regressions: means of cells of an image, and a stack's size.

    a study's volumes -> the middle of each, cut into cells -> their means, side by side
    a note            -> left as words: they are counted within each training part

Volumes are read with nibabel and not resampled: nothing here shares the preprocessing that it is compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from medmllm.records import FloatArray, Study


@dataclass(frozen=True, slots=True)
class Cells:
    """Which part of a volume is looked at, and how finely."""

    crop: tuple[int, int, int] | None  # voxels along (x, y, z) about the middle; None: all there are
    cells: tuple[int, int, int]  # along (x, y, z)
    series: tuple[str, ...] = ("",)  # file stems, a block of cells each; "": the only one
    standardise: bool = False  # each volume by its own mean and deviation, as MR has no unit


def cell_features(studies: Sequence[Study], how: Cells) -> FloatArray:
    """Return the means of the cells of each study's volumes, (studies, series x cells).

    A series that a study lacks has the mean of those that have it.
    """
    rows = np.full((len(studies), len(how.series), int(np.prod(how.cells))), np.nan)
    for row, study in zip(rows, studies, strict=True):
        files = {reference.description or "": reference.files[0] for reference in study.series}
        for block, name in zip(row, how.series, strict=True):
            file = files.get(name) if name else next(iter(files.values()))
            if file is not None:
                block[:] = cell_means(_standard(_voxels(file)) if how.standardise else _voxels(file), how)
    mean = np.nanmean(rows, axis=0)
    return np.where(np.isnan(rows), mean, rows).reshape(len(studies), -1)


def cell_means(voxels: FloatArray, how: Cells) -> FloatArray:
    """Return the mean of each cell of a volume's middle; where the volume is smaller than the crop, zeros fill it.

    >>> cell_means(np.arange(16.0).reshape(4, 2, 2), Cells((2, 2, 2), (1, 2, 1)))
    array([6.5, 8.5])
    """
    middle = voxels if how.crop is None else _middle(voxels, how.crop)
    for axis, cells in enumerate(how.cells):
        parts = np.array_split(middle, cells, axis=axis)
        middle = np.stack([part.mean(axis=axis) for part in parts], axis=axis)
    return middle.ravel()


def size_features(studies: Sequence[Study]) -> FloatArray:
    """Return logarithms of each study's only series, (studies, 7): what a nodule cut out of its surroundings is like.

    Slices, voxels that are not zero, sum and maximum of all, largest area in a slice, extent along x and along y.
    """
    rows = []
    for study in studies:
        voxels = _voxels(study.series[0].files[0]) / 255
        inside = voxels > 0
        extents = [int(inside.any(axis=axes).sum()) for axes in ((1, 2), (0, 2))]
        rows.append([len(voxels.T), inside.sum(), voxels.sum(), voxels.max(), inside.sum(axis=(0, 1)).max(), *extents])
    return np.log1p(np.array(rows, dtype=np.float64))


def slice_count(studies: Sequence[Study]) -> FloatArray:
    """Return how many slices each study's only series has, (studies, 1)."""
    return np.array([[study.series[0].shape[2]] for study in studies if study.series[0].shape], dtype=np.float64)


def read_words(studies: Sequence[Study]) -> list[str]:
    """Return the text of each study's note."""
    return ["\n".join(note.file.read_text(encoding="utf-8") for note in study.notes) for study in studies]


def _voxels(file: object) -> FloatArray:
    return np.asarray(nib.load(file).dataobj, dtype=np.float64)


def _standard(voxels: FloatArray) -> FloatArray:
    return (voxels - voxels.mean()) / voxels.std()


def _middle(voxels: FloatArray, size: tuple[int, int, int]) -> FloatArray:
    lacking = [max(0, want - has) for want, has in zip(size, voxels.shape, strict=True)]
    padded = np.pad(voxels, [(lack // 2, lack - lack // 2) for lack in lacking])
    starts = [(has - want) // 2 for has, want in zip(padded.shape, size, strict=True)]
    return padded[tuple(slice(start, start + want) for start, want in zip(starts, size, strict=True))]
