"""Write one Volume as a DICOM CT series, one file per slice.

    Volume, identity, acquisition -> CT Image Storage files, Explicit VR Little Endian

For synthetic data alone: each file says so in Synthetic Data (0008,001C), its patient, its study
and its comments. Module tables: DICOM PS3.3 A.3 (CT Image IOD); geometry: PS3.3 C.7.6.2.1.1.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from medmllm.errors import ConfigError, GeometryError
from medmllm.geometry import LPS_TO_RAS, slice_normal
from medmllm.records import FloatArray, Volume

_VARYING = ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation", "PixelData")


@dataclass(frozen=True, slots=True)
class SeriesIdentity:
    """Who and which; all of it made up."""

    patient_id: str
    study_uid: str
    series_uid: str
    study_date: str = "20200102"  # YYYYMMDD
    study_time: str = "101500"  # HHMMSS
    patient_name: str = "SYNTHETIC^PHANTOM"


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What scanners do differently without changing what is in the patient."""

    slope: int = 1  # Rescale Slope (0028,1053)
    intercept: int = -1024  # Rescale Intercept (0028,1052), HU
    instance_numbers: tuple[int, ...] | None = None  # one per slice, feet to head; None: 1, 2, 3 ...
    patient_position: Literal["HFS", "FFS"] = "HFS"
    kilovolts: int = 120
    thickness_mm: float | None = None  # Slice Thickness (0018,0050); None: the slice spacing
    description: str = "SYNTHETIC chest"  # Series Description (0008,103E)


def write_ct_series(
    volume: Volume,
    folder: Path,
    identity: SeriesIdentity,
    acquisition: Acquisition = Acquisition(),
    *,
    names: Sequence[str] | None = None,
    leave_out: Collection[int] = (),
) -> None:
    """Write a volume slice by slice.

    Args:
        volume: HU; slice k is voxels[:, :, k] and x counts its columns. The stack may be oblique or sheared.
        folder: Made if absent.
        identity: Goes into every header.
        acquisition: Goes into every header.
        names: File name of each slice, feet to head; None: 0001.dcm and so on.
        leave_out: Slices that are not written, as if lost on the way.

    Raises:
        GeometryError: Row and column are not at right angles, or the axes are left-handed.
        ConfigError: A voxel does not fit 16 bits under this slope and intercept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = LPS_TO_RAS @ volume.affine  # its own inverse
    stored = _stored_values(volume.voxels, acquisition)
    names = names or [f"{slice_ + 1:04d}.dcm" for slice_ in range(stored.shape[2])]
    numbers = acquisition.instance_numbers or range(1, stored.shape[2] + 1)
    normal = _normal(volume, lps)
    dataset = _shared_header(volume, lps, identity, acquisition)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    fixed: list[bytes] = []
    for slice_, (name, number) in enumerate(zip(names, numbers, strict=True)):
        position = lps[:3, 3] + slice_ * lps[:3, 2]
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[identity.series_uid, "slice", str(slice_)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = _decimals(position)
        dataset.SliceLocation = _decimals([float(position @ normal)])[0]
        pixels = np.ascontiguousarray(stored[:, :, slice_].T)  # rows, then columns
        dataset.add_new("PixelData", "OW", pixels.tobytes())
        fixed = fixed or _between_varying(dataset)
        if slice_ not in leave_out:
            (folder / name).write_bytes(_whole(dataset, fixed))


def _varying(dataset: Dataset) -> list[bytes]:
    """Return what differs from slice to slice, encoded, in the order of the file."""
    elements = [dataset.file_meta["MediaStorageSOPInstanceUID"], *(dataset[keyword] for keyword in _VARYING)]
    encoded = []
    for element in elements:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element)
        encoded.append(buffer.getvalue())
    return encoded


def _between_varying(dataset: Dataset) -> list[bytes]:
    """Encode one whole slice and return what all slices share: the bytes around the varying elements.

    A series is encoded once and not slice by slice, which would take most of the cohort's time.
    """
    file = DicomBytesIO()
    dataset.save_as(file, enforce_file_format=True)
    rest, parts = file.getvalue(), []
    for element in _varying(dataset):
        before, _, rest = rest.partition(element)
        parts.append(before)
    return [*parts, rest]


def _whole(dataset: Dataset, fixed: list[bytes]) -> bytes:
    return b"".join(part for pair in zip(fixed, [*_varying(dataset), b""], strict=True) for part in pair)


def _orientation(volume: Volume, lps: FloatArray) -> FloatArray:
    """Return Image Orientation (Patient): unit vectors along a row and along a column; shape (6,), LPS."""
    return np.concatenate([lps[:3, axis] / volume.spacing_mm[axis] for axis in (0, 1)])


def _normal(volume: Volume, lps: FloatArray) -> FloatArray:
    normal = slice_normal(_orientation(volume, lps))
    if lps[:3, 2] @ normal <= 0:
        raise GeometryError(
            "the slices run against row x column: no stack of CT slices has left-handed axes (LPS). Flip one axis."
        )
    return normal


def _stored_values(voxels: FloatArray, acquisition: Acquisition) -> npt.NDArray[np.int16]:
    values = np.rint((voxels - acquisition.intercept) / acquisition.slope)
    bounds = np.iinfo(np.int16)
    if values.min() < bounds.min or values.max() > bounds.max:
        raise ConfigError(
            f"stored values {values.min():.0f} to {values.max():.0f} under slope {acquisition.slope} and intercept "
            f"{acquisition.intercept} do not fit {bounds.min} to {bounds.max}: choose another rescale"
        )
    return values.astype("<i2")


def _shared_header(volume: Volume, lps: FloatArray, identity: SeriesIdentity, acquisition: Acquisition) -> Dataset:
    """Return what all slices of the series have in common."""
    dataset = Dataset()
    _add_identity(dataset, identity)
    dataset.Modality = "CT"
    dataset.SeriesNumber = 1
    dataset.BodyPartExamined = "CHEST"
    dataset.SeriesDescription = acquisition.description
    dataset.FrameOfReferenceUID = volume.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.PatientPosition = acquisition.patient_position
    dataset.Manufacturer = "medmllm"
    dataset.ManufacturerModelName = "SYNTHETIC"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.AcquisitionNumber = 1
    dataset.KVP = acquisition.kilovolts
    dataset.RescaleSlope = acquisition.slope
    dataset.RescaleIntercept = acquisition.intercept
    dataset.RescaleType = "HU"
    _add_plane(dataset, volume, lps, acquisition)
    return dataset


def _add_identity(dataset: Dataset, identity: SeriesIdentity) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SyntheticData = "YES"
    dataset.SOPClassUID = CTImageStorage
    dataset.PatientName = identity.patient_name
    dataset.PatientID = identity.patient_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.StudyInstanceUID = identity.study_uid
    dataset.SeriesInstanceUID = identity.series_uid
    dataset.StudyDate = identity.study_date
    dataset.StudyTime = identity.study_time
    dataset.StudyID = "1"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "SYNTHETIC phantom"
    dataset.ImageComments = "SYNTHETIC phantom; shows no patient"


def _add_plane(dataset: Dataset, volume: Volume, lps: FloatArray, acquisition: Acquisition) -> None:
    columns, rows, _ = volume.voxels.shape
    across_columns, across_rows, across_slices = volume.spacing_mm
    dataset.Rows, dataset.Columns = rows, columns
    dataset.PixelSpacing = _decimals([across_rows, across_columns])  # between rows, then between columns
    dataset.ImageOrientationPatient = _decimals(_orientation(volume, lps))
    dataset.SliceThickness = _decimals([acquisition.thickness_mm or across_slices])[0]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    dataset.WindowCenter, dataset.WindowWidth = -100, 1600


def _decimals(values: Sequence[float] | FloatArray) -> list[str]:
    """Return Decimal Strings of at most 16 characters, the most a DICOM DS holds."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]  # + 0.0: no "-0.0"
