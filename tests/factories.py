"""Small made-up volumes, studies and cohorts for all tests; seeded, asymmetric, quick.

    a_volume -> write_dicom_study (+ edit_dicom) or write_nifti_study
    write_small_cohort: the demo's DICOM cohort, 16 studies in about a second; the outcome needs image and note
    write_nifti_cohort: one folder per study; image and note each tell the outcome, so a few epochs learn it
    write_cohort_of_columns: the same with more columns to learn or to split by

What a test needs beyond this belongs into that test.
"""

import csv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
from pydicom.uid import generate_uid

from medmllm.config import CohortSettings
from medmllm.ingest.synthetic_cohort import write_cohort
from medmllm.ingest.synthetic_dicom import Acquisition, SeriesIdentity, write_ct_series
from medmllm.records import Volume

NOTE = "HISTORY: Made-up cough.\nTECHNIQUE: None, this is made up.\n"


def a_volume(
    size: tuple[int, int, int] = (6, 5, 4),
    *,
    spacing_mm: tuple[float, float, float] = (2.0, 3.0, 4.0),
    origin_mm: tuple[float, float, float] = (11.0, -7.0, 30.0),
    turn_deg: float = 0.0,
    tilt_deg: float = 0.0,
    seed: int = 1,
    modality: str = "CT",
) -> Volume:
    """Return whole seeded HU from -1000 to 999 on a grid whose axes run left, to the back and to the head.

    Args:
        size: Columns, rows, slices.
        spacing_mm: Between columns, rows and slices.
        origin_mm: RAS+ place of the first voxel.
        turn_deg: Turned by this much about the S-I axis.
        tilt_deg: Sheared like a CT with a tilted gantry: each slice is shifted along A-P against the one below.
        seed: Of the values.
        modality: Of the record.
    """
    turn = np.deg2rad(turn_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2]])
    affine[:3, 2] += rotation @ [0, np.tan(np.deg2rad(tilt_deg)) * spacing_mm[2], 0]
    affine[:3, 3] = origin_mm
    voxels = np.random.default_rng(seed).integers(-1000, 1000, size).astype(np.float32)
    return Volume(voxels, affine, made_up_uid("frame", seed), modality)


def made_up_uid(*parts: object) -> str:
    """Return the same valid UID for the same parts."""
    return str(generate_uid(entropy_srcs=["tests", *(f"/{part}" for part in parts)]))


def write_dicom_study(
    folder: Path,
    volume: Volume | None = None,
    *,
    patient: str = "SYN-0001",
    study: object = 1,
    series: object = 1,
    note: str | None = NOTE,
    leave_out: Collection[int] = (),
    acquisition: Acquisition | None = None,
) -> str:
    """Write one CT series as DICOM (0001.dcm ... feet to head) with a note beside it; return its StudyInstanceUID.

    Call again with another `folder` or `series` but the same `patient` and `study` for a second series.
    """
    identity = SeriesIdentity(
        patient, made_up_uid(patient, study), made_up_uid(patient, study, series), "20200102", "101500"
    )
    write_ct_series(volume or a_volume(), folder, identity, acquisition or Acquisition(), leave_out=leave_out)
    if note is not None:
        (folder / "note.txt").write_text(note, encoding="utf-8")
    return identity.study_uid


def edit_dicom(folder: Path, *, only: Collection[int] | None = None, **elements: Any) -> None:
    """Change DICOM elements by keyword in the slices of a folder; None deletes one.

    Args:
        folder: Holds *.dcm as written by `write_dicom_study`.
        only: Numbers of the slices in file order, from 0; None: all.
        elements: Keyword -> value, e.g. `PixelSpacing=[1, 1]`.
    """
    files = sorted(folder.glob("*.dcm"))
    assert files, f"no *.dcm to edit in {folder.name}"
    for number, file in enumerate(files):
        if only is not None and number not in only:
            continue
        dataset = pydicom.dcmread(file)
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(file)


def write_nifti(file: Path, volume: Volume) -> None:
    """Write a volume as float32 NIfTI; .nii or .nii.gz by the name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.voxels.astype(np.float32), volume.affine), file)


def write_nifti_study(folder: Path, volumes: Mapping[str, Volume] | None = None, *, note: str | None = NOTE) -> None:
    """Write one study folder: NAME.nii.gz per volume (None: one called image; {}: none) and note.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, volume in ({"image": a_volume()} if volumes is None else volumes).items():
        write_nifti(folder / f"{name}.nii.gz", volume)
    if note is not None:
        (folder / "note.txt").write_text(note, encoding="utf-8")


def write_nifti_cohort(
    folder: Path,
    *,
    patients: int = 12,
    classes: int = 2,
    size: tuple[int, int, int] = (12, 10, 8),
    seed: int = 5,
    without_image: Collection[int] = (),
    without_note: Collection[int] = (),
) -> Path:
    """Write FOLDER/studies/<study_id>/{image.nii.gz, note.txt} and return FOLDER/labels.csv.

    Every third patient has a second study. labels.csv has patient_id, study_id, outcome (class 0, 1 ...), and
    grade (1 to 5 when there are two classes: >= 3 exactly where the outcome is 1). The image holds a cube that is
    the brighter the higher the class; the note names the class in a word of its own. Every patient has one class.

    Args:
        folder: Made if absent.
        patients: Taking the classes in turn.
        classes: 2 to 5.
        size: Voxels of 4 mm.
        seed: Of noise and cube places.
        without_image: Studies, counted from 0, that have a note only.
        without_note: Studies that have an image only.
    """
    rng = np.random.default_rng(seed)
    words = ("clear", "marked", "severe", "diffuse", "focal")[:classes]
    rows: list[dict[str, object]] = []
    for patient in range(patients):
        outcome = patient % classes
        for visit in range(2 if patient % 3 == 0 else 1):
            name = f"case-{patient:03d}-{visit}"
            volumes = {} if len(rows) in without_image else {"image": _cube(rng, size, outcome)}
            note = None if len(rows) in without_note else f"HISTORY: Made up, {words[outcome]} signs. Cough.\n"
            write_nifti_study(folder / "studies" / name, volumes, note=note)
            grade = int(rng.integers(3, 6)) if outcome else int(rng.integers(1, 3))
            rows.append({"patient_id": f"P{patient:03d}", "study_id": name, "outcome": outcome, "grade": grade})
    labels = folder / "labels.csv"
    with labels.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return labels


def _cube(rng: np.random.Generator, size: tuple[int, int, int], outcome: int) -> Volume:
    voxels = rng.normal(0.0, 10.0, size)
    x, y, z = (int(rng.integers(1, n - 4)) for n in size)
    voxels[x : x + 4, y : y + 4, z : z + 4] += 50.0 + 200.0 * outcome
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -2.0 * np.array(size)
    return Volume(voxels.astype(np.float32), affine, None, None)


def write_cohort_of_columns(folder: Path, *, patients: int = 24) -> Path:
    """Write a NIfTI cohort whose label table has more to ask: effusion (0, 1), stage (1 to 3) and site (A, B)."""
    labels = write_nifti_cohort(folder, patients=patients)
    table = pd.read_csv(labels, dtype=str)
    number = table["patient_id"].str[1:].astype(int)
    table["site"] = np.where(number < patients // 2, "A", "B")
    table["effusion"] = (number // 2 % 2).astype(str)
    table["stage"] = (1 + number % 3).astype(str)
    table.to_csv(labels, index=False)
    return labels


def small_cohort_settings(**changes: Any) -> CohortSettings:
    """Return settings of the demo's cohort with 12 + 4 small studies; `changes` win."""
    small: dict[str, Any] = {
        "training_patients": 8,
        "scoring_patients": 4,
        "seed": 3,
        "size": (24, 20, 12),
        "spacing_mm": (9.0, 9.0, 12.0),
    }
    return CohortSettings(**(small | changes))


def write_small_cohort(folder: Path, **changes: Any) -> Path:
    """Write the demo's cohort, small, into an absent or empty folder; return the folder.

    Of its four scoring studies one lacks a slice; see `medmllm.ingest.synthetic_cohort`.
    """
    write_cohort(folder, small_cohort_settings(**changes))
    return folder
