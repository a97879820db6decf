"""What headers tell of how a series was acquired, and what they do not."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder
from medmllm.ingest.technique import ToldTechnique, first_acquired, technique_of, technique_of_grid, told_by
from medmllm.records import Technique
from tests.factories import edit_dicom, write_dicom_study

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def indexed(root: Path) -> list[Technique]:
    """The techniques of the one study's series, by their descriptions."""
    (study,) = index_folder(root, keyring=Keyring(b"the secret of these tests")).studies
    return [series.technique for series in sorted(study.series, key=lambda series: series.description or "")]


def test_the_technique_of_a_dicom_series_reaches_the_index(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    edit_dicom(tmp_path, ConvolutionKernel="B70f", ContrastBolusAgent="Ultravist 370", SliceThickness="1.5",
               AcquisitionDate="20200102", AcquisitionTime="101500")  # fmt: skip
    scanner = {"manufacturer": "MEDMLLM"}  # the model is SYNTHETIC, as its patient is called
    assert indexed(tmp_path) == [Technique("B70f", "axial", True, 1.5, 2, 1, **scanner)]


@pytest.mark.parametrize(
    ("first", "rest", "expected"),
    [
        ({}, {}, (None, False, 4.0)),
        ({"ConvolutionKernel": ["I30f", "3"]}, {"ConvolutionKernel": ["I30f", "3"]}, ("I30f\\3", False, 4.0)),
        ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}, (None, False, 4.0)),
        ({"ContrastBolusAgent": "Omnipaque"}, {}, (None, None, 4.0)),
        ({"SliceThickness": "1.0"}, {"SliceThickness": "2.0"}, (None, False, None)),
        ({"SliceThickness": "0"}, {"SliceThickness": "0"}, (None, False, None)),
    ],
)
def test_what_slices_do_not_tell_alike_is_not_told(
    tmp_path: Path, first: dict[str, Any], rest: dict[str, Any], expected: tuple[object, ...]
) -> None:
    write_dicom_study(tmp_path, note=None)
    edit_dicom(tmp_path, only=[0], **first)
    edit_dicom(tmp_path, only=[1, 2, 3], **rest)
    (found,) = indexed(tmp_path)
    assert (found.kernel, found.contrast, found.thickness_mm) == expected


@pytest.mark.parametrize(
    ("agent", "contrast"),
    [("Ultravist 370", True), ("IV", True), ("NONE", False), (" No contrast", False), (None, False), ("", None)],
)
def test_an_agent_that_is_there_without_a_name_tells_nothing(
    tmp_path: Path, agent: str | None, contrast: object
) -> None:
    write_dicom_study(tmp_path, note=None)
    if agent is not None:
        edit_dicom(tmp_path, ContrastBolusAgent=agent)
    assert read_header(tmp_path / "0001.dcm").told.contrast is contrast


def test_a_kernel_that_does_not_look_like_one_is_not_told() -> None:
    assert told_by({"ConvolutionKernel": "MEIER^HANS"}, ()).kernel is None
    assert told_by({"ConvolutionKernel": "Br40d\\2"}, ()).kernel == "Br40d\\2"


def test_the_scanner_of_a_series_reaches_the_index_in_capitals_and_what_is_no_name_does_not(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, note=None)
    edit_dicom(tmp_path, Manufacturer="Siemens  Healthineers", ManufacturerModelName="MAGNETOM Vida",
               MagneticFieldStrength="2.89362")  # fmt: skip
    (found,) = indexed(tmp_path)
    assert (found.manufacturer, found.model, found.field_strength_t) == (
        "SIEMENS", "MAGNETOM VIDA", 2.89362
    )  # fmt: skip
    edit_dicom(tmp_path, only=[1], Manufacturer="GE", ManufacturerModelName="", MagneticFieldStrength="0")
    (found,) = indexed(tmp_path)
    assert (found.manufacturer, found.model, found.field_strength_t) == (None, None, None)
    told = told_by({"Manufacturer": "MEIER^HANS", "MagneticFieldStrength": "strong"}, ())
    assert (told.manufacturer, told.field_strength_t) == (None, None)


def test_a_scanner_that_bears_a_patients_name_is_not_told() -> None:
    scanner = {"Manufacturer": "Philips", "ManufacturerModelName": "scanner of Meier"}
    told = told_by(scanner | {"PatientName": "Meier^Philip"}, ())
    assert (told.manufacturer, told.model) == ("PHILIPS", None)


# --- when ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "acquired"),
    [
        ({"AcquisitionDateTime": "20200102101530.25+0100"}, "20200102101530.250000"),
        ({"AcquisitionDateTime": "2020010210", "AcquisitionDate": "19991231"}, "20200102100000.000000"),
        ({"AcquisitionDate": "20200102", "AcquisitionTime": "1015"}, "20200102101500.000000"),
        ({"AcquisitionDate": "20200102\\20200103", "AcquisitionTime": "1015\\1016"}, "20200102101500.000000"),
        ({"AcquisitionDate": "20200102", "SeriesDate": "20200103", "SeriesTime": "07"}, "20200103070000.000000"),
        ({"AcquisitionTime": "101500"}, None),
        ({"SeriesDate": "20200103"}, None),
        ({"SeriesDate": "2020.01.03", "SeriesTime": "07:00"}, None),
        ({}, None),
    ],
)
def test_a_series_was_acquired_when_the_plainest_full_time_says(values: dict[str, str], acquired: str | None) -> None:
    told = told_by(values, ())
    assert told.acquired == acquired
    assert "2020" not in repr(told), "a date may not reach a log"


def test_a_series_counts_from_its_first_image() -> None:
    told = [ToldTechnique(acquired=time) for time in ("20200102101530.000000", None, "20200102101529.500000")]
    assert first_acquired(told) == "20200102101529.500000"
    assert first_acquired([ToldTechnique()]) is None


def test_series_of_a_study_are_numbered_in_time_with_ties_and_without_dates(tmp_path: Path) -> None:
    times = {"a": "110000", "b": "101500", "c": "110000", "d": None, "e": "1016"}
    for name, time in times.items():
        write_dicom_study(tmp_path / name, series=name, note=None)
        change = {"AcquisitionDate": None if time is None else "20200102", "AcquisitionTime": time}
        edit_dicom(tmp_path / name, SeriesDescription=name, SeriesDate="", SeriesTime="",
                   **{keyword: value for keyword, value in change.items() if value})  # fmt: skip
    assert [technique.time_order for technique in indexed(tmp_path)] == [3, 1, 3, None, 2]


# --- in which plane ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        (AXIAL, "axial"),
        ((1.0, 0.0, 0.0, 0.0, 0.0, -1.0), "coronal"),
        ((0.0, 1.0, 0.0, 0.0, 0.0, -1.0), "sagittal"),
        ((1.0, 0.0, 0.0, 0.0, 0.6, -0.8), "oblique"),  # 3-4-5: 53 degrees from axial, 37 from coronal
        ((1.0, 0.0, 0.0, 0.0, 0.28, -0.96), "coronal"),  # 7-24-25: 16 degrees off
        ((1.0, 0.0, 0.0, 1.0, 0.0, 0.0), None),  # row and column run alike: no orientation at all
        (None, None),
    ],
)
def test_the_plane_of_slices_is_that_of_their_normal(orientation: tuple[float, ...] | None, plane: str | None) -> None:
    assert technique_of([ToldTechnique()], orientation) == Technique(plane=plane, slice_axis=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spacing", "axes", "plane", "axis"),
    [
        ((0.9, 0.9, 5.0), "RAS", "axial", 2),
        ((0.9, 0.9, 5.0), "LSP", "coronal", 2),
        ((5.0, 0.9, 0.9), "RAS", "sagittal", 0),
        ((0.9, 5.0, 0.9), "SPL", "coronal", 1),
        ((1.0, 1.0, 1.0), "RAS", None, None),
        ((1.0, 1.005, 1.0), "RAS", None, None),
        ((1.0, 2.0, 3.0), "RAS", None, None),
    ],
)
def test_the_slices_of_a_nifti_grid_lie_across_the_axis_that_is_spaced_otherwise(
    spacing: tuple[float, float, float], axes: str, plane: str | None, axis: int | None
) -> None:
    towards = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1)}
    affine = np.eye(4)
    affine[:3, :3] = np.array([towards[axis] for axis in axes]).T * spacing
    assert "".join(nibabel.aff2axcodes(affine)) == axes
    assert technique_of_grid(affine, spacing) == Technique(plane=plane, slice_axis=axis)  # type: ignore[arg-type]


def test_a_sheared_nifti_grid_is_in_the_plane_of_its_slices() -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = (
        4.0  # each slice shifted by 4 mm while going up by 3: the column is 53 degrees off, the slices are not
    )
    assert technique_of_grid(affine, (1.0, 1.0, 5.0)).plane == "axial"
