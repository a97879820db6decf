"""Every image that pydicom brings along for its own tests: the values that pydicom decodes, or a refusal."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
from pydicom.pixels import apply_color_lut, apply_modality_lut

from medmllm.errors import MedmllmError
from medmllm.ingest.dicom_colour import read_colour
from medmllm.ingest.dicom_frames import frames_of
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_pixels import read_slice

FILES = sorted(file for file in Path(pydicom.data.__file__).parent.rglob("*") if file.suffix in (".dcm", ""))
DAMAGED = frozenset({"GDCMJ2K_TextGBR.dcm"})  # its tiles have an impossible size; GDCM, where it is installed, shrugs
NO_MEASURED_PLANES = frozenset({"multi_frame", "not_an_image", "unsupported_colour"})  # films, masks, dose


def ours(file: Path) -> np.ndarray | str:
    try:
        header = read_header(file)
        if not header.photometric.startswith("MONOCHROME"):
            return read_colour(header)
        return np.stack([read_slice(frame) for frame in frames_of(header)])
    except MedmllmError as error:
        return error.code


def theirs(file: Path) -> np.ndarray | None:
    """The first frame in colours, or all planes of grey values after Modality LUT; None where pydicom cannot."""
    try:
        data = pydicom.dcmread(file)
        values = data.pixel_array
    except Exception:  # noqa: BLE001 - of many kinds: these files are made to be bad
        return None
    several = data.get("NumberOfFrames", 1) > 1
    if data.PhotometricInterpretation.startswith("MONOCHROME"):
        return np.asarray(apply_modality_lut(values, data), dtype=np.float64).reshape(-1, *values.shape[-2:])
    if data.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, data)
    return values[0] if several else values


def test_what_pydicom_decodes_is_read_alike_or_refused_for_what_it_is() -> None:
    alike, differ, refused = 0, [], set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in FILES:
            wanted, found = theirs(file), ours(file)
            if wanted is None or file.name in DAMAGED:
                continue
            if isinstance(found, str):
                refused.add(found)
            elif found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-6, atol=1e-4):
                alike += 1
            else:
                differ.append(file.name)
    assert differ == []
    assert refused <= NO_MEASURED_PLANES
    assert alike >= 80
