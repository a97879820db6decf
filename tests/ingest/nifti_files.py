"""Small NIfTI files of a sheared grid, whole or with header fields that nibabel would not write."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmllm.errors import IngestError
from medmllm.ingest.nifti import read_volume

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
