"""Every image that pydicom brings along for its own tests: the values that pydicom decodes, or a refusal."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut

from medmllm.errors import MedmllmError
from medmllm.ingest.dicom_colour import read_colour
from medmllm.ingest.dicom_frames import frames_of
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_pixels import read_slice

FILES = sorted(
    file for file in Path(pydicom.data.__file__).parent.rglob("*") if file.suffix in (".dcm", "") and file.is_file()
)
DAMAGED = frozenset({"GDCMJ2K_TextGBR.dcm"})  # its tiles have an impossible size; GDCM, where it is installed, shrugs
# What pydicom leaves undecoded, and how it says so; every other file with pixels is compared.
UNDECODED: dict[str, type[Exception]] = {
    "ExplVR_BigEndNoMeta.dcm": InvalidDicomError,
    "ExplVR_LitEndNoMeta.dcm": InvalidDicomError,
    "README": InvalidDicomError,
    "no_meta.dcm": InvalidDicomError,
    "rtstruct.dcm": InvalidDicomError,
    "MR_truncated.dcm": ValueError,
    "badVR.dcm": ValueError,
    "meta_missing_tsyntax.dcm": AttributeError,
    "nested_priv_SQ.dcm": AttributeError,  # pixels of no depth
    **dict.fromkeys(  # of 12 bits, or damaged
        ("JPEG-lossy.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "JPGExtended.dcm"), RuntimeError
    ),
    **dict.fromkeys(  # only with GDCM
        ("JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_jpeg_ls_lossless.dcm",
         "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_jpeg_gdcm.dcm"), RuntimeError
    ),
}  # fmt: skip
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
NO_MEASURED_PLANES = frozenset({"multi_frame", "not_an_image", "unsupported_colour"})  # films, masks, dose


def ours(file: Path) -> np.ndarray | str:
    try:
        header = read_header(file)
        if not header.photometric.startswith("MONOCHROME"):
            return read_colour(header)
        return np.stack([read_slice(frame) for frame in frames_of(header)])
    except MedmllmError as error:
        return error.code


def theirs(file: Path) -> np.ndarray | Exception | None:
    """The first frame in colours, or all planes of grey values after Modality LUT.

    What pydicom says where it cannot; None of an object without pixels.
    """
    try:
        data = pydicom.dcmread(file)
        if not any(keyword in data for keyword in PIXELS):
            return None
        values = data.pixel_array
    except (AttributeError, InvalidDicomError, RuntimeError, ValueError) as error:
        return error
    several = data.get("NumberOfFrames", 1) > 1
    if data.PhotometricInterpretation.startswith("MONOCHROME"):
        return np.asarray(apply_modality_lut(values, data), dtype=np.float64).reshape(-1, *values.shape[-2:])
    if data.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, data)
    return values[0] if several else values


def test_what_pydicom_decodes_is_read_alike_or_refused_for_what_it_is() -> None:
    alike, differ, refused = 0, [], set()
    undecoded: dict[str, type[Exception]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in FILES:
            wanted, found = theirs(file), ours(file)
            if wanted is None or file.name in DAMAGED:
                continue
            if isinstance(wanted, Exception):
                undecoded[file.name] = type(wanted)
            elif isinstance(found, str):
                refused.add(found)
            elif found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-6, atol=1e-4):
                alike += 1
            else:
                differ.append(file.name)
    assert differ == []
    assert undecoded.items() <= UNDECODED.items()
    assert refused <= NO_MEASURED_PLANES
    assert alike >= 80
