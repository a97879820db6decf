"""Keep a cohort's prepared images on the disk: they need not fit into memory, and are prepared once.

    chosen series -> digest of the bytes of their files, the contract, bounds and versions -> FOLDER/DIGEST.safetensors
        -> image on the model's grid, and what reading it told: real channels, facts, digests of pixels, findings

The same bytes under the same settings are the same file, whatever they are called and wherever they lie; anything else
is another. A file holds no key, name or path. One that is not as it was written is made again.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from medmllm import __version__
from medmllm.config import QualityBounds
from medmllm.documents import Document, PreprocessingContract
from medmllm.errors import MedmllmError, MisuseError
from medmllm.preprocessing.contract import VolumeFacts
from medmllm.preprocessing.stored_image import UNREADABLE, read_stored, store_image, voxel_digest
from medmllm.provenance import file_digest, package_versions, text_digest
from medmllm.quality.gate import Findings
from medmllm.records import QualityFinding, SeriesReference, StoredImage

logger = logging.getLogger(__name__)

RUN_FOLDER = "prepared_images"
SHAPING = ("torch", "monai", "numpy", "pydicom", "nibabel", "imagecodecs")
"""Libraries that read and prepare an image: another version may give other voxels."""


class AboutImage(Document):
    """What reading and preparing an image told."""

    voxels: str  # sha256
    channel_present: tuple[bool, ...]
    facts: dict[str, VolumeFacts]  # by channel name
    pixels: tuple[str, ...]  # digests of the volumes as read
    findings: tuple[QualityFinding, ...]  # without severity, which the policy gives; `where` is the channel's name


@dataclass(frozen=True, slots=True, eq=False)
class KeptImage:
    """A prepared image on the disk."""

    image: StoredImage
    about: AboutImage

    def findings(self, series: Mapping[str, SeriesReference]) -> Findings:
        """Return what the quality checks found, told of these series; not judged yet."""
        return tuple(replace(found, where=series[found.where].series_key) for found in self.about.findings)


@dataclass(frozen=True, slots=True)
class ImageCache:
    """A folder of prepared images."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, studies: Path) -> "ImageCache":
        """Make the folder.

        Raises:
            MisuseError: It lies among the studies.
            MedmllmError: `cannot_write`.
        """
        if folder.resolve().is_relative_to(studies.resolve()):
            raise MisuseError("[training] cache lies inside the folder of studies: name a folder outside it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MedmllmError(
                f"cannot make the folder of [training] cache: {error.strerror}", code="cannot_write"
            ) from None
        return cls(folder)

    def key(
        self, series: Mapping[str, SeriesReference], contract: PreprocessingContract, bounds: QualityBounds
    ) -> str | None:
        """Return the digest of all that an image and what is told of it depend on; None when a file cannot be read.

        Args:
            series: By channel name, as chosen.
            contract: Its image part, and what it always holds.
            bounds: Of the quality checks.
        """
        versions = [f"{name} {version}" for name, version in package_versions().items() if name in SHAPING]
        own = contract.model_dump_json(include={"version", "orientation", "image"})
        parts = [__version__, *versions, own, bounds.model_dump_json()]
        try:
            for name, reference in series.items():
                parts += [name, reference.kind, str(reference.modality), str(reference.frames)]
                parts.append(str(reference.damaged_beside))
                parts += [file_digest(path) for path in reference.files]
        except OSError:
            return None  # whoever reads it next will say what is wrong
        return text_digest(parts)

    def find(self, key: str) -> KeptImage | None:
        """Return what is kept under a key; None when nothing is, or it is damaged."""
        file = self._file(key)
        if not file.exists():
            return None
        try:
            image, header = read_stored(file)
            digest, _, words = header["about"].partition(" ")
            about = AboutImage.model_validate_json(words)
            whole = text_digest([words]) == digest and voxel_digest(image) == about.voxels
        except UNREADABLE:
            whole = False
        if not whole:
            logger.warning("a prepared image in the cache is damaged, and is made again")
            return None
        return KeptImage(StoredImage(file, about.voxels), about)

    def keep(
        self,
        key: str,
        image: Tensor,
        channel_present: tuple[bool, ...],
        *,
        facts: Mapping[str, VolumeFacts],
        pixels: tuple[str, ...],
        findings: Findings,
    ) -> StoredImage:
        """Write an image and what is told of it; return where it lies.

        Args:
            key: As of `key`.
            image: As of `prepare_image`.
            channel_present: Likewise.
            facts: By channel name.
            pixels: Digests of the volumes.
            findings: Of the image, `where` being the channel's name.

        Raises:
            MedmllmError: `cannot_write`.
        """
        plain = image.as_subclass(Tensor)
        about = AboutImage(
            voxels=voxel_digest(plain),
            channel_present=channel_present,
            facts=dict(facts),
            pixels=pixels,
            findings=tuple(replace(finding, severity=None) for finding in findings),
        )
        words = about.model_dump_json()
        store_image(self._file(key), plain, {"about": f"{text_digest([words])} {words}"})
        return StoredImage(self._file(key), about.voxels)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
