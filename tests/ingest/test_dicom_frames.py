"""Multi-frame objects: every frame at its own place, with its own rescale, in the volume that it belongs to."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    JPEGLSLossless,
    RLELossless,
)

from medmllm.errors import DicomError, MedmllmError
from medmllm.ingest import dicom_pixels
from medmllm.ingest.dicom import read_series
from medmllm.ingest.dicom_frames import frames_of
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_stack import refusal_of
from medmllm.ingest.judged import load
from tests.factories import write_dicom_study

SLICES = 3


def group(keyword: str, **elements: Any) -> Dataset:
    """A functional group of one item."""
    outer, item = Dataset(), Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    setattr(outer, keyword, Sequence([item]))
    return outer


def merged(*groups: Dataset) -> Dataset:
    found = Dataset()
    for one in groups:
        found.update(one)
    return found


@pytest.fixture
def enhanced(tmp_path: Path) -> Path:
    """Two echoes of three slices of 5 rows and 6 columns; frame k holds the value 10 k, times k + 1, less 1.

    Frames run from the head down, the two echoes of each place side by side.
    """
    write_dicom_study(tmp_path / "ct", note=None)
    file = tmp_path / "ct" / "0001.dcm"
    for other in (tmp_path / "ct").iterdir():
        if other != file:
            other.unlink()
    data = pydicom.dcmread(file)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
                    "RescaleIntercept", "SliceThickness"):  # fmt: skip
        if keyword in data:
            delattr(data, keyword)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    data.Modality = "MR"
    data.NumberOfFrames = 2 * SLICES
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = np.repeat(np.arange(2 * SLICES, dtype="<u2") * 10, 30).tobytes()
    data.SharedFunctionalGroupsSequence = Sequence([merged(
        group("PixelMeasuresSequence", PixelSpacing=[3.0, 2.0], SliceThickness=9.0),
        group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )])  # fmt: skip
    frames = []
    for number in range(2 * SLICES):
        place, echo = divmod(number, 2)
        frames.append(merged(
            group("PlanePositionSequence", ImagePositionPatient=[-4.0, 8.0, 40.0 - 5.0 * place]),
            group("MREchoSequence", EffectiveEchoTime=[90.0, 12.5][echo]),
            group("PixelValueTransformationSequence", RescaleSlope=number + 1, RescaleIntercept=-1),
            group("FrameContentSequence", DimensionIndexValues=[1, place + 1, echo + 1]),
        ))  # fmt: skip
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.save_as(file)
    return file


def changed(file: Path, **elements: Any) -> Path:
    data = pydicom.dcmread(file)
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.save_as(file)
    return file


def test_each_echo_is_a_volume_with_every_frame_at_its_place_and_scale(enhanced: Path) -> None:
    volumes = load(str(enhanced.parent))
    assert len(volumes) == 2
    frames_by_echo = [[5, 3, 1], [4, 2, 0]]  # from the feet up; the shorter echo first
    for (voxels, affine), frames in zip(volumes, frames_by_echo, strict=True):
        assert voxels.shape == (6, 5, 3)
        assert [voxels[..., z].tolist() for z in range(3)] == [
            np.full((6, 5), 10 * k * (k + 1) - 1).tolist() for k in frames
        ]
        np.testing.assert_allclose(affine @ [0, 0, 0, 1], [4.0, -8.0, 30.0, 1.0])
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [2.0, 3.0, 5.0])


def test_a_plain_slice_is_its_own_only_frame(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "ct", note=None)
    header = read_header(tmp_path / "ct" / "0001.dcm")
    assert frames_of(header) == (header,)


def test_dimensions_tell_volumes_apart_where_nothing_else_does(enhanced: Path) -> None:
    data = pydicom.dcmread(enhanced)
    for groups in data.PerFrameFunctionalGroupsSequence:
        del groups.MREchoSequence
    pointers = [0x00209056, 0x00209057, 0x00189073]  # Stack ID, In-Stack Position Number, and something else
    data.DimensionIndexSequence = Sequence([Dataset() for _ in pointers])
    for item, pointer in zip(data.DimensionIndexSequence, pointers, strict=True):
        item.DimensionIndexPointer = pointer
    data.save_as(enhanced)
    assert sorted(voxels[0, 0, 0] for voxels, _ in load(str(enhanced.parent))) == [199.0, 299.0]


@pytest.mark.parametrize(
    ("sequence", "keyword", "values"),
    [
        ("MRImageFrameTypeSequence", "ComplexImageComponent", ("MAGNITUDE", "PHASE")),
        ("MRVelocityEncodingSequence", "VelocityEncodingDirection", ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0])),
        ("MRArterialSpinLabelingSequence", "ASLContext", ("CONTROL", "LABEL")),
        ("FrameContentSequence", "FrameReferenceDateTime", ("20200101120000", "20200101120005")),
    ],
)
def test_frames_are_told_apart_by_what_their_groups_say_and_not_by_their_order(
    enhanced: Path, sequence: str, keyword: str, values: tuple[object, object]
) -> None:
    data = pydicom.dcmread(enhanced)
    for number, groups in enumerate(data.PerFrameFunctionalGroupsSequence):
        del groups.MREchoSequence, groups.FrameContentSequence
        # 0 1 1 0 0 1: the order within a place is another one at the second place
        groups.update(group(sequence, **{keyword: values[(number in (1, 2, 5))]}))
    data.save_as(enhanced)
    volumes = load(str(enhanced.parent))
    assert [voxels[0, 0].tolist() for voxels, _ in volumes] == [[10 * k * (k + 1) - 1 for k in frames]
                                                                for frames in ((4, 3, 0), (5, 2, 1))]  # fmt: skip


def test_frames_that_nothing_tells_apart_but_their_order_are_split_by_it_only_when_it_is_plain(enhanced: Path) -> None:
    data = pydicom.dcmread(enhanced)
    for groups in data.PerFrameFunctionalGroupsSequence:
        del groups.MREchoSequence, groups.FrameContentSequence
    data.save_as(enhanced)
    assert len(load(str(enhanced.parent))) == 2  # place by place
    first, second = data.PerFrameFunctionalGroupsSequence[0], data.PerFrameFunctionalGroupsSequence[3]
    first.PlanePositionSequence, second.PlanePositionSequence = (
        second.PlanePositionSequence,
        first.PlanePositionSequence,
    )
    data.save_as(enhanced)
    with pytest.raises(MedmllmError, match="lie where another slice lies"):
        load(str(enhanced.parent))


@pytest.mark.parametrize("groups", [None, 4])
def test_frames_without_groups_of_their_own_are_refused(enhanced: Path, groups: int | None) -> None:
    data = pydicom.dcmread(enhanced)
    kept = [] if groups is None else data.PerFrameFunctionalGroupsSequence[:groups]
    changed(enhanced, PerFrameFunctionalGroupsSequence=Sequence(kept))
    with pytest.raises(DicomError, match=f"6 frames and {groups or 0} groups") as refusal:
        frames_of(read_header(enhanced))
    assert refusal.value.code == "multi_frame"
    with pytest.raises(MedmllmError, match="no place in the patient"):
        load(str(enhanced.parent))


def test_a_film_whose_first_frame_has_a_place_is_no_volume(enhanced: Path) -> None:
    changed(enhanced, PerFrameFunctionalGroupsSequence=Sequence([]), ImagePositionPatient=[0, 0, 0],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1])  # fmt: skip
    with pytest.raises(MedmllmError, match="no place in the patient"):
        load(str(enhanced.parent))


def test_a_declared_multitude_of_frames_is_refused_before_it_is_looked_for(enhanced: Path) -> None:
    header = read_header(changed(enhanced, NumberOfFrames=2**31 - 1))
    with pytest.raises(DicomError, match="at most 65,536"):
        frames_of(header)


def test_each_frame_has_the_kernel_contrast_and_thickness_of_its_groups(enhanced: Path) -> None:
    data = pydicom.dcmread(enhanced)
    (shared,) = data.SharedFunctionalGroupsSequence
    shared.update(group("CTReconstructionSequence", ConvolutionKernel="Br40d"))
    own = data.PerFrameFunctionalGroupsSequence
    own[1].update(group("CTReconstructionSequence", ConvolutionKernel="Br64d"))
    own[2].update(group("ContrastBolusUsageSequence", ContrastBolusAgentAdministered="YES"))
    data.ConvolutionKernel = "not of a frame"
    data.save_as(enhanced)
    told = [frame.told for frame in frames_of(read_header(enhanced))]
    assert [one.kernel for one in told[:3]] == ["Br40d", "Br64d", "Br40d"]
    assert [one.contrast for one in told[:3]] == [False, False, True]
    assert {one.thickness_mm for one in told} == {9.0}


def test_an_agent_of_the_whole_object_holds_for_frames_that_do_not_deny_it(enhanced: Path) -> None:
    data = pydicom.dcmread(enhanced)
    denied = group("ContrastBolusUsageSequence", ContrastBolusAgentAdministered="NO")
    data.PerFrameFunctionalGroupsSequence[0].update(denied)
    data.ContrastBolusAgentSequence = Sequence([Dataset()])
    data.save_as(enhanced)
    assert [frame.told.contrast for frame in frames_of(read_header(enhanced))][:2] == [False, True]


@pytest.mark.parametrize(
    ("sequence", "keyword", "values", "code"),
    [
        ("PlanePositionSequence", "ImagePositionPatient", [1.0, 2.0], "no_position"),
        ("PlaneOrientationSequence", "ImageOrientationPatient", [1.0, 0.0, 0.0], "no_position"),
        ("PixelMeasuresSequence", "PixelSpacing", [3.0], "no_pixel_spacing"),
        ("PixelValueTransformationSequence", "RescaleSlope", "nan", "bad_rescale"),
        ("PixelValueTransformationSequence", "RescaleIntercept", ["1", "2"], "bad_rescale"),
    ],
)
def test_what_a_frame_tells_wrongly_is_not_taken_from_the_top(
    enhanced: Path, sequence: str, keyword: str, values: object, code: str
) -> None:
    top = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [3, 2],
           "RescaleSlope": 1, "RescaleIntercept": 0}  # fmt: skip
    data = pydicom.dcmread(changed(enhanced, **top))
    data.PerFrameFunctionalGroupsSequence[4].update(group(sequence, **{keyword: values}))
    data.save_as(enhanced)
    refusal = refusal_of(frames_of(read_header(enhanced))[4])
    assert refusal is not None
    assert refusal[0] == code


def encoded(file: Path, syntax: str) -> Path:
    """Write the object in another transfer syntax."""
    data = pydicom.dcmread(file)
    values = data.pixel_array
    assert list(data.iterall())  # decoded, so that they are encoded anew
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    if syntax == RLELossless:
        data.compress(RLELossless, values)
        data.save_as(file)
    elif syntax == JPEGLSLossless:
        data.PixelData = encapsulate([imagecodecs.jpegls_encode(frame) for frame in values])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.save_as(file)
    else:
        data.PixelData = values.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
        little = syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(file, data, implicit_vr=False, little_endian=little, force_encoding=True)
    return file


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_frames_are_the_same_in_every_encoding_and_their_file_is_read_once(
    enhanced: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    echoes = [0, 2, 4]
    wanted = read_series([enhanced] * SLICES, echoes)
    encoded(enhanced, syntax)
    reads = []
    for name in ("read_with_pixels", "encoded_frames"):
        real = getattr(dicom_pixels, name)
        monkeypatch.setattr(
            dicom_pixels, name, lambda given, real=real, **more: (reads.append(given), real(given, **more))[1]
        )
    found = read_series([enhanced] * SLICES, echoes)
    assert np.array_equal(found.voxels, wanted.voxels)
    assert found.affine == pytest.approx(wanted.affine)
    assert len(reads) == 1


def test_an_object_of_one_frame_is_placed_by_its_functional_groups(enhanced: Path) -> None:
    data = pydicom.dcmread(enhanced)
    data.NumberOfFrames = 1
    data.PixelData = data.PixelData[:60]
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:1]
    data.save_as(enhanced)
    (frame,) = frames_of(read_header(enhanced))
    assert frame.placed
    assert frame.position == (-4.0, 8.0, 40.0)
    assert frame.pixel_spacing_mm == (3.0, 2.0)
    assert read_series([enhanced]).affine[:3, 3].tolist() == [4.0, -8.0, 40.0]


def test_a_mosaic_that_the_scanner_cut_into_frames_is_read_though_it_is_still_called_one(enhanced: Path) -> None:
    changed(enhanced, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    assert read_series([enhanced] * SLICES, [0, 2, 4]).voxels.shape == (6, 5, SLICES)


def test_frames_that_are_mosaics_themselves_are_refused(enhanced: Path) -> None:
    data = pydicom.dcmread(enhanced)
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    for groups in data.PerFrameFunctionalGroupsSequence:
        groups.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
    data.save_as(enhanced)
    with pytest.raises(DicomError) as refusal:
        read_series([enhanced], [0])
    assert refusal.value.code == "mosaic"


def test_groups_count_before_what_was_left_at_the_top_of_a_single_frame_too(enhanced: Path) -> None:
    data = pydicom.dcmread(enhanced)
    length = len(data.PixelData) // len(data.PerFrameFunctionalGroupsSequence)
    data.PixelData = data.PixelData[:length]
    data.PerFrameFunctionalGroupsSequence = Sequence([data.PerFrameFunctionalGroupsSequence[0]])
    data.NumberOfFrames = 1
    data.save_as(enhanced)
    (alone,) = frames_of(read_header(enhanced))
    data.ImagePositionPatient, data.ImageOrientationPatient = [1, 2, 3], [0, 1, 0, 0, 0, -1]
    data.save_as(enhanced)
    (stale,) = frames_of(read_header(enhanced))
    assert (stale.position, stale.orientation) == (alone.position, alone.orientation)
