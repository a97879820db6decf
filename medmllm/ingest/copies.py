"""Find images of a study that are there twice.

files of one study, SOPInstanceUID and place -> the first of each image; the keys of the others

Byte for byte the same, or the same image written another way: with another file meta, one more element, another
lossless transfer syntax. What differs in a pixel or in what tells volumes apart is another image, and stays.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

import numpy as np

from medmllm.errors import IngestError, MedmllmError
from medmllm.ingest.dicom_header import DicomHeader, read_header
from medmllm.ingest.dicom_pixels import read_slice
from medmllm.ingest.opening import open_regular
from medmllm.ingest.walk import FoundFile
from medmllm.records import FloatArray

PIECE_BYTES = 2**20
MOST_DECODED = 4  # files of one UID and place whose pixels are compared; more are time points under one UID
_HOW_IT_IS_WRITTEN = frozenset({
    "file", "transfer_syntax", "pixel_place", "told", "patient_name", "instance", "bits_allocated", "bits_stored",
    "high_bit", "signed", "slope", "intercept", "description", "padding",
})  # fmt: skip
_SAME = tuple(field.name for field in fields(DicomHeader) if field.name not in _HOW_IT_IS_WRITTEN)
_SAME_BUT_UID = tuple(name for name in _SAME if name != "sop_uid")


def find_copies(alike: Iterable[list[tuple[str, FoundFile]]]) -> Iterator[tuple[str, str]]:
    """Yield (key, code) of files that hold the same image as an earlier one of their study.

    `duplicate_file` when they are byte for byte the same, `duplicate_image` when the image is. Exporters have written
    one SOPInstanceUID into every slice, so that it alone tells nothing. Hard links are the same without a look.

    Args:
        alike: Keys and files of one study, SOPInstanceUID and place.
    """
    for files in alike:
        kept: list[tuple[str, FoundFile]] = []
        inodes: set[tuple[int, int]] = set()
        digests: set[str] = set()
        sizes = Counter(found.size for _, found in files)
        several = len({found.inode for _, found in files}) > 1
        for key, found in files:
            digest = _digest(found) if several and found.inode not in inodes and sizes[found.size] > 1 else ""
            if found.inode in inodes or digest in digests:
                yield key, "duplicate_file"
            else:
                kept.append((key, found))
            inodes.add(found.inode)
            digests.update([digest] if digest else [])
        if 1 < len(kept) <= MOST_DECODED:
            yield from ((key, "duplicate_image") for key in _same_images(kept))


def _digest(found: FoundFile) -> str:
    """Return a digest of a file's content; one that cannot be read is like no other."""
    digest = hashlib.sha256()
    try:
        with open_regular(found.path) as stream:
            while piece := stream.read(PIECE_BYTES):
                digest.update(piece)
    except (IngestError, OSError):
        return f"unreadable {found.relative}"
    return digest.hexdigest()


def _same_images(files: Sequence[tuple[str, FoundFile]]) -> Iterator[str]:
    seen: list[tuple[DicomHeader, FloatArray]] = []
    for key, found in files:
        try:
            header = read_header(found.path)
            if header.sop_uid is None or header.frames > 1:
                continue
            pixels = read_slice(header)
        except MedmllmError:
            continue  # stays, and is refused with its series
        if any(_alike(header, other) and np.array_equal(pixels, values) for other, values in seen):
            yield key
        else:
            seen.append((header, pixels))


def _alike(one: DicomHeader, other: DicomHeader, names: Sequence[str] = _SAME) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)


def without_renamed_copies(headers: Sequence[DicomHeader]) -> tuple[DicomHeader, ...] | None:
    """Return slices without those that another one repeats at its place under another SOPInstanceUID.

    Meant for a stack with doubled slices, since it reads pixels: up to the first place that holds different images.

    Returns:
        The first slice of each place, in the order given; None where a place holds different images.
    """
    by_place: dict[object, list[DicomHeader]] = {}
    for header in headers:
        by_place.setdefault(header.position, []).append(header)
    for first, *others in by_place.values():
        if len(others) >= MOST_DECODED or not all(_alike(first, other, _SAME_BUT_UID) for other in others):
            return None
        try:
            pixels = read_slice(first) if others else None
            if not all(np.array_equal(pixels, read_slice(other)) for other in others):  # type: ignore[arg-type]
                return None
        except MedmllmError:
            return None
    return tuple(same[0] for same in by_place.values())
