"""Reconstructed SPECT: frames of one NM image, each at the place that vectors and signs say; films stay films."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, NuclearMedicineImageStorage

from medmllm.errors import IngestError
from medmllm.ingest.judged import load
from tests.factories import edit_dicom, write_dicom_study

FRAMES = np.random.default_rng(3).integers(0, 900, (4, 5, 6)).astype("<u2")  # (frame, row, column)
SLICES = [3, 1, 2, 4]  # frames need not come in the order of slices
OBLIQUE = [1.0, 0.0, 0.0, 0.0, 0.6, 0.8]  # row x column = (0, -0.8, 0.6)


def detector_at(*position: float, orientation: list[float] = OBLIQUE) -> Dataset:
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = list(position), orientation
    return detector


@pytest.fixture
def spect(tmp_path: Path) -> Path:
    """A folder with an image of four slices of 5 rows and 6 columns, 4.5 mm apart, the first at (-20, 10, 50)."""
    write_dicom_study(tmp_path, note=None, leave_out=[1, 2, 3])
    (file,) = tmp_path.iterdir()
    data = pydicom.dcmread(file)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(data, keyword)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = NuclearMedicineImageStorage
    data.Modality, data.ImageType = "NM", ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    data.NumberOfFrames, data.PixelSpacing, data.SpacingBetweenSlices = 4, [3.0, 2.0], 4.5
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.FrameIncrementPointer, data.NumberOfSlices, data.SliceVector = 0x00540080, 4, SLICES
    data.DetectorInformationSequence = Sequence([detector_at(-20, 10, 50)])
    data.PixelData = FRAMES.tobytes()
    data.save_as(file)
    return tmp_path


@pytest.mark.parametrize("gap", [4.5, -4.5])  # the sign is the direction of stacking (PS3.3 C.8.4.15)
def test_each_frame_lies_where_its_slice_does(spect: Path, gap: float) -> None:
    edit_dicom(spect, SpacingBetweenSlices=gap)
    ((voxels, affine),) = load(str(spect))
    for frame, number in enumerate(SLICES):
        place = np.array([-20.0, 10.0, 50.0]) + (number - 1) * gap * np.array([0.0, -0.8, 0.6])  # LPS
        index = np.linalg.inv(affine) @ [-place[0], -place[1], place[2], 1.0]
        assert index[:2] == pytest.approx([0.0, 0.0], abs=1e-6)
        assert voxels[..., round(index[2])].tolist() == FRAMES[frame].T.tolist()
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [2.0, 3.0, 4.5])


def test_time_slots_are_volumes_of_their_own(spect: Path) -> None:
    edit_dicom(
        spect, ImageType=["ORIGINAL", "PRIMARY", "RECON GATED TOMO", "EMISSION"], NumberOfSlices=2,
        SliceVector=[1, 2, 1, 2], TimeSlotVector=[2, 1, 1, 2], RRIntervalVector=[1, 1, 1, 1],
    )  # fmt: skip
    first, second = (voxels for voxels, _ in load(str(spect)))
    assert [first[..., z].tolist() for z in (0, 1)] == [FRAMES[k].T.tolist() for k in (2, 1)]
    assert [second[..., z].tolist() for z in (0, 1)] == [FRAMES[k].T.tolist() for k in (0, 3)]


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]},  # projections
        {"SOPClassUID": CTImageStorage},  # whose frames have no vectors
        {"SpacingBetweenSlices": None},  # Slice Thickness does not tell it
        {"SpacingBetweenSlices": 0},
        {"SliceVector": None},
        {"SliceVector": [1, 2, 3]},
        {"DetectorInformationSequence": Sequence()},
        {"DetectorInformationSequence": Sequence([Dataset()])},
        {"DetectorInformationSequence": Sequence([detector_at(-20, 10, 50, orientation=[1, 0, 0, 0.6, 0.8, 0])])},
        {"DetectorInformationSequence": Sequence([detector_at(-20, 10, 50), detector_at(0, 0, 0)])},
    ],
)
def test_frames_without_a_place_are_refused(spect: Path, changes: dict[str, Any]) -> None:
    edit_dicom(spect, **changes)
    with pytest.raises(IngestError) as refusal:
        load(str(spect))
    assert refusal.value.code == "multi_frame"


def test_a_number_between_two_slices_is_no_place(spect: Path) -> None:
    tag = pydicom.datadict.tag_for_keyword("SliceVector")
    assert tag is not None
    (file,) = spect.iterdir()
    data = pydicom.dcmread(file)
    data[tag] = pydicom.DataElement(tag, "DS", ["1", "1.5", "2", "3"])  # US, as the standard wants, could not hold it
    data.save_as(file)
    with pytest.raises(IngestError) as refusal:
        load(str(spect))
    assert refusal.value.code == "multi_frame"
