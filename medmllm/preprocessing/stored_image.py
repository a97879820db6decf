"""Put a prepared image into a file, and read it when a batch needs it.

    image (channels, x, y, z) -> FILE.safetensors -> StoredImage -> image

A file is written whole or not at all. Reading maps it into memory, and lets it go with the tensor.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medmllm.errors import MedmllmError
from medmllm.records import StoredImage

UNREADABLE = (SafetensorError, OSError, KeyError, ValueError)
"""What reading a damaged file may raise."""


def voxel_digest(image: Tensor) -> str:
    """Return the sha256 of an image's voxels."""
    return hashlib.sha256(image.contiguous().numpy().data).hexdigest()


def store_image(file: Path, image: Tensor, header: Mapping[str, str]) -> None:
    """Write an image, float32, and some words about it.

    Raises:
        MedmllmError: `cannot_write`.
    """
    # Two studies may hold the same bytes, be read side by side, and by processes of two machines of one number.
    partial = file.with_name(f".{file.name}.{uuid4().hex}.partial")
    try:
        save_file({"image": image.contiguous()}, partial, metadata=dict(header))
        os.replace(partial, file)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise MedmllmError(
            f"a prepared image cannot be written ({getattr(error, 'strerror', None) or error}): make room, or name "
            "another folder in [training] cache",
            code="cannot_write",
        ) from None


def read_stored(file: Path) -> tuple[Tensor, Mapping[str, str]]:
    """Return the image and the words of a file; raises one of UNREADABLE when it is damaged."""
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor("image"), opened.metadata() or {}


def load_image(image: Tensor | StoredImage) -> Tensor:
    """Return an image as a plain tensor, from its file if it lies in one.

    Raises:
        MedmllmError: `prepared_image_lost`: the file is gone or damaged since the cohort was read.
    """
    if not isinstance(image, StoredImage):
        return image.as_subclass(Tensor)
    try:
        return read_stored(image.file)[0]
    except UNREADABLE as error:
        raise MedmllmError(
            f"a prepared image cannot be read any more ({type(error).__name__}): something changed the folder of "
            "[training] cache, or that of the run. Go on with --resume, which prepares it again.",
            code="prepared_image_lost",
        ) from None
