"""Records: frozen, checked where they are born, and silent about whatever may name a patient."""

import dataclasses
import inspect
from pathlib import Path

import numpy as np
import pytest

from medmllm import records
from medmllm.errors import DicomError, GeometryError
from medmllm.records import (
    Explanation,
    Note,
    NoteReference,
    Recording,
    RecordingReference,
    Refusal,
    SeriesReference,
    Study,
    Volume,
)

OBLIQUE = np.array(  # 30 degrees about z; voxels of 2 x 3 x 5 mm, by hand
    [
        [2 * np.sqrt(3) / 2, -3 * 0.5, 0, 10],
        [2 * 0.5, 3 * np.sqrt(3) / 2, 0, -4],
        [0, 0, 5, 7],
        [0, 0, 0, 1.0],
    ]
)


def volume(**changes: object) -> Volume:
    fields: dict[str, object] = {
        "voxels": np.zeros((2, 3, 4), np.float32),
        "affine": OBLIQUE,
        "frame_of_reference_uid": "1.2.3",
        "modality": "CT",
    }
    return Volume(**(fields | changes))  # type: ignore[arg-type]


def explanation(logit: float, baseline_logit: float, delta: float) -> Explanation:
    return Explanation(
        study_key="st-0123456789abcdef", explained_class=1, channels=(), words=(), modality_shares={}, modality_sums={},
        method="", baseline="", steps=8, logit=logit, baseline_logit=baseline_logit, convergence_delta=delta,
    )  # fmt: skip


RECORDS = [member for _, member in inspect.getmembers(records, dataclasses.is_dataclass)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_is_frozen_and_takes_no_other_fields(record: type) -> None:
    assert record.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(record)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        volume().modality = "MR"  # type: ignore[misc]


def test_spacing_is_the_length_of_each_column_of_an_oblique_affine() -> None:
    assert volume().spacing_mm == pytest.approx((2, 3, 5))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_a_volume_has_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match=r"a volume has 3 axes, got shape \(2, 3"):
        volume(voxels=np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(3, 3), (3, 4), (4, 4, 1)])
def test_an_affine_is_four_by_four(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match=r"an affine is \(4, 4\), got shape"):
        volume(affine=np.zeros(shape))


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 0.0, 2.0, 1.0]),  # flat
        np.diag([1.0, np.nan, 2.0, 1.0]),
        np.array([[1.0, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1.0, 2, 0, 0], [2, 4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),  # two axes along one line
    ],
    ids=["flat", "nan", "inf", "parallel"],
)
def test_an_affine_that_gives_voxels_no_place_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(GeometryError, match="singular or not finite"):
        volume(affine=affine)


def test_fine_voxels_are_not_taken_for_singular() -> None:
    microscope = volume(affine=np.diag([0.01, 0.02, 0.05, 1.0]))
    assert microscope.spacing_mm == pytest.approx((0.01, 0.02, 0.05))


def test_what_may_name_a_patient_stays_out_of_every_repr() -> None:
    name = "MUSTERMANN"
    held = [
        SeriesReference("se-1", "dicom", "CT", None, None, description=f"{name} chest", files=(Path(name),)),
        NoteReference(Path(f"/in/{name}/note.txt")),
        RecordingReference(Path(f"/in/{name}/heart.wav")),
        Study("st-1", "pt-1", "dicom", facts={"patient": name}, notes=(NoteReference(Path(name)),)),
        Note(f"{name}, 63 years", sections=(), authored=name),
        Recording(np.zeros((1, 3), np.float32), 8000.0),
        volume(frame_of_reference_uid=name),
    ]
    assert [record for record in held if name in repr(record)] == []
    assert "8000.0" in repr(held[5])
    assert "array" not in repr(held[5])


def test_a_refusal_carries_what_the_error_said() -> None:
    error = DicomError("two slices are missing", code="slice_missing", retryable=True)
    error.add_note("in series se-0123456789abcdef")
    assert Refusal.of(error, "read") == Refusal(
        stage="read",
        code="slice_missing",
        reason="two slices are missing in series se-0123456789abcdef",
        retryable=True,
    )


def test_completeness_error_is_relative_to_the_logit_difference_whatever_the_signs() -> None:
    assert explanation(1.5, -0.5, 0.02).completeness_error == pytest.approx(0.01)
    assert explanation(-0.5, 1.5, -0.02).completeness_error == pytest.approx(0.01)


def test_an_explanation_of_no_difference_is_complete_only_when_nothing_is_left_over() -> None:
    assert explanation(0.7, 0.7, 0.0).completeness_error == 0
    assert explanation(0.7, 0.7, 0.01).completeness_error == float("inf")
