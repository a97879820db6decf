"""Take a reconstructed SPECT object, one NM image of many frames, apart into its slices.

    DicomHeader of an NM file -> detector, slice and time vectors -> one DicomHeader per frame

NM images have no functional groups. The detector's item says where the first slice lies; Slice Vector says which slice
each frame is, and Spacing Between Slices, whose sign is the direction of stacking, how far the next one lies. Only
reconstructed slices have a place: projections, whole bodies and dynamic planar images stay films, and are refused.
DICOM PS3.3 C.8.4.8 (multi-frame vectors), C.8.4.11 (detector), C.8.4.15 (reconstruction).
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pydicom

from medmllm.errors import GeometryError
from medmllm.geometry import slice_normal
from medmllm.ingest.dicom_header import APART, DicomHeader, element_text
from medmllm.ingest.dicom_values import numbers_of

NUCLEAR = "1.2.840.10008.5.1.4.1.1.20"
RECONSTRUCTED = frozenset({"RECON TOMO", "RECON GATED TOMO"})
SLICES = "SliceVector"
OTHERS = (
    "EnergyWindowVector", "DetectorVector", "PhaseVector", "RotationVector", "RRIntervalVector", "TimeSlotVector",
    "AngularViewVector", "TimeSliceVector",
)  # fmt: skip
"""Vectors that tell volumes at the same places apart."""
NUCLEAR_TAGS = ("DetectorInformationSequence", "SpacingBetweenSlices", SLICES, *OTHERS)


def is_reconstructed(header: DicomHeader) -> bool:
    """Return whether a file is an NM image whose frames are slices."""
    return header.sop_class_uid == NUCLEAR and not RECONSTRUCTED.isdisjoint(header.image_type)


def slices_of(header: DicomHeader, data: pydicom.Dataset) -> tuple[DicomHeader, ...] | None:
    """Return one header per frame; None where the object does not say where they lie.

    Args:
        header: Of the file.
        data: Its `NUCLEAR_TAGS`.
    """
    first = _first_slice(data)
    gap_mm = numbers_of(element_text(data, "SpacingBetweenSlices") or "", 1)
    numbers = _vector(data, SLICES, header.frames)
    if first is None or not gap_mm or gap_mm[0] == 0 or numbers is None:
        return None
    position, orientation = first
    try:
        step = gap_mm[0] * slice_normal(np.array(orientation))
    except GeometryError:
        return None
    others = [vector for keyword in OTHERS if (vector := _vector(data, keyword, header.frames)) is not None]
    found = []
    for frame, number in enumerate(numbers):
        x, y, z = (float(part) for part in np.array(position) + (number - 1) * step)
        index = "\\".join(str(vector[frame]) for vector in others)
        told = {**dict(header.acquisition), "DimensionIndexValues": index}
        found.append(replace(
            header, placed=True, frame=frame, instance=frame, position=(x, y, z), orientation=orientation,
            thickness_mm=abs(gap_mm[0]), acquisition=tuple((word, told[word]) for word in APART if told.get(word)),
        ))  # fmt: skip
    return tuple(found)


def _first_slice(data: pydicom.Dataset) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return position and orientation of the first slice; None unless all detectors say the same."""
    detectors: Any = data.get("DetectorInformationSequence") or ()
    said = set()
    for detector in detectors:
        said.add((numbers_of(element_text(detector, "ImagePositionPatient") or "", 3),
                  numbers_of(element_text(detector, "ImageOrientationPatient") or "", 6)))  # fmt: skip
    position, orientation = said.pop() if len(said) == 1 else (None, None)
    return (position, orientation) if position and orientation else None


def _vector(data: pydicom.Dataset, keyword: str, frames: int) -> tuple[int, ...] | None:
    """Return a number for each frame; None where there is not one for each."""
    numbers = numbers_of(element_text(data, keyword) or "", frames)
    if numbers is None or not all(number.is_integer() for number in numbers):
        return None
    return tuple(int(number) for number in numbers)
