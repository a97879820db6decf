"""Single DICOM slices: files that hold given pixels, and headers that need no file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from medmllm.errors import MedmllmError
from medmllm.ingest.dicom_header import APART, DicomHeader
from medmllm.ingest.dicom_stack import arrange
from tests.factories import edit_dicom, write_dicom_study

TURNED = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)  # sagittal


def write_slice(folder: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """Write FOLDER/ct, whose first slice holds unsigned pixels; `elements` say how. Return that slice."""
    write_dicom_study(folder / "ct", note=None)
    edit_dicom(folder / "ct", only=[0], PixelData=pixels.tobytes(), PixelRepresentation=0, **elements)
    return folder / "ct" / "0001.dcm"


def encapsulated(file: Path, syntax: str, frame: bytes, **elements: Any) -> Path:
    """Put an encoded frame in the place of a file's pixels, and change more elements by keyword."""
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.PixelData = encapsulate([frame])
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    data.save_as(file)
    return file


def a_slice(z: float = 0.0, **changes: Any) -> DicomHeader:
    """An axial CT slice of 5 rows and 6 columns at height z; `changes` win, APART keywords among them."""
    apart = {keyword: str(changes.pop(keyword, "")) for keyword in APART}
    plain = DicomHeader(
        file=Path(f"{z}.dcm"), transfer_syntax="1.2.840.10008.1.2.1", sop_class_uid=None,
        patient_id="P", study_uid="1.2", series_uid="1.3",
        sop_uid=None, modality="CT", description=None, image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        frame_of_reference_uid="1.4", rows=5, columns=6, frames=1, samples=1, photometric="MONOCHROME2",
        bits_allocated=16, bits_stored=16, high_bit=15, signed=False, slope=1.0, intercept=0.0, pixel_place=None,
        thickness_mm=None, pixel_spacing_mm=(3.0, 2.0), position=(-4.0, 8.0, z), orientation=(1.0, 0, 0, 0, 1.0, 0),
        has_modality_lut=False, truncated=False,
        acquisition=tuple((keyword, text) for keyword, text in apart.items() if text),
    )  # fmt: skip
    return replace(plain, **changes)


def code_of(headers: Sequence[DicomHeader]) -> str:
    with pytest.raises(MedmllmError) as refusal:
        arrange(headers)
    return refusal.value.code
