"""The planted causes are there, each alone is worthless, and nothing else tells the outcome."""

import csv
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from sklearn.metrics import roc_auc_score

from medmllm.errors import ConfigError, MisuseError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_study_note, read_volume
from medmllm.ingest.synthetic_cohort import (
    PlannedStudy,
    count_studies,
    draw_study,
    note_of,
    paint_study,
    plan_studies,
    write_cohort,
)
from medmllm.ingest.synthetic_note import EXPOSED, NOT_EXPOSED
from medmllm.ingest.synthetic_phantom import LESION_HU
from tests.factories import small_cohort_settings

PARTS = ("training", "scoring")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "cohort"
    write_cohort(folder, small_cohort_settings())
    return folder


def series_of(cohort: Path, part: str) -> dict[str, list[pydicom.Dataset]]:
    """All slices under one folder by Study Instance UID, in the order of their file names."""
    series: dict[str, list[pydicom.Dataset]] = {}
    for file in sorted((cohort / part / "studies").rglob("*")):
        if file.is_file() and file.read_bytes()[128:132] == b"DICM":
            header = pydicom.dcmread(file)
            series.setdefault(header.StudyInstanceUID, []).append(header)
    return series


def labels_of(cohort: Path, part: str) -> dict[str, int]:
    with (cohort / part / "labels.csv").open(newline="") as stream:
        return {row["study_id"]: int(row["outcome"]) for row in csv.DictReader(stream)}


def note_beside(header: pydicom.Dataset) -> str:
    """The note in the folder of a slice, or in the one above it."""
    here = Path(header.filename).parent
    file = here / "note.txt"
    return (file if file.exists() else here.parent / "note.txt").read_text()


def ras_and_hu(header: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """RAS+ mm (pixels, 3) and HU (pixels,) of one slice, by equation C.7.6.2.1-1 of DICOM PS3.3."""
    row, column = np.meshgrid(np.arange(header.Rows), np.arange(header.Columns), indexing="ij")
    along_row = np.array(header.ImageOrientationPatient[:3], float)
    along_column = np.array(header.ImageOrientationPatient[3:], float)
    lps = (
        np.array(header.ImagePositionPatient, float)
        + column[..., None] * header.PixelSpacing[1] * along_row
        + row[..., None] * header.PixelSpacing[0] * along_column
    )
    hu = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    return lps.reshape(-1, 3) * [-1, -1, 1], hu.ravel()


def hu_under_the_mask(slices: list[pydicom.Dataset], mask_file: Path) -> np.ndarray:
    """The CT's values at the places, in mm, that a mask marks."""
    mask = nibabel.load(mask_file)
    marked = np.asarray(mask.dataobj)
    found = []
    for header in slices:
        ras, hu = ras_and_hu(header)
        index = nibabel.affines.apply_affine(np.linalg.inv(mask.affine), ras)
        assert np.abs(index - index.round()).max() < 1e-4  # voxel centres meet; NIfTI keeps affines in 32 bits
        found.append(hu[marked[tuple(index.round().astype(int).T)] == 1])
    return np.concatenate(found)


def upright(mask_file: Path) -> bool:
    """Whether a marked lesion reaches farther along S-I than along A-P, in mm."""
    mask = nibabel.load(mask_file)
    ras = nibabel.affines.apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj)))
    return bool(ras[:, 2].std() > ras[:, 1].std())


# --- the causes -----------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_the_outcome_in_the_table_follows_from_the_image_and_the_note_on_disk(cohort: Path, part: str) -> None:
    labels = labels_of(cohort, part)
    seen = {}
    for uid, slices in series_of(cohort, part).items():
        mask_file = cohort / "lesion_masks" / part / f"{uid}.nii.gz"
        assert abs(hu_under_the_mask(slices, mask_file).mean() - LESION_HU) < 25
        seen[uid] = int(upright(mask_file) == ("asbestos" in note_beside(slices[0]).lower()))
    assert seen == labels


def test_the_mask_marks_the_whole_lesion_and_nothing_else(cohort: Path) -> None:
    for uid, slices in series_of(cohort, "training").items():
        mask_file = cohort / "lesion_masks" / "training" / f"{uid}.nii.gz"
        under = hu_under_the_mask(slices, mask_file)
        # Spine is 300 HU, noise 20 HU: all that is brighter than 600 HU is the lesion.
        everywhere = np.concatenate([ras_and_hu(header)[1] for header in slices])
        assert (everywhere > 600).sum() == len(under) == np.asarray(nibabel.load(mask_file).dataobj).sum()


@pytest.mark.parametrize("patients", [4, 5, 6, 7, 8, 13, 24, 160])
@pytest.mark.parametrize("part", PARTS)
def test_all_four_combinations_of_causes_are_equally_frequent(part: Any, patients: int) -> None:
    plan = plan_studies(part, small_cohort_settings(training_patients=patients, scoring_patients=patients))
    cells = Counter((study.upright, study.exposed) for study in plan)
    assert len({study.patient for study in plan}) == patients
    assert set(cells.values()) == {len(plan) / 4}
    assert len(cells) == 4


def test_the_outcome_is_one_when_both_causes_are_there_or_neither() -> None:
    outcomes = {
        (upright, exposed): PlannedStudy(1, 0, upright, exposed).outcome
        for upright in (True, False)
        for exposed in (True, False)
    }
    assert outcomes == {(True, True): 1, (False, False): 1, (True, False): 0, (False, True): 0}


def test_a_tenth_of_the_patients_has_two_studies_with_the_same_exposure() -> None:
    plan = plan_studies("training", small_cohort_settings(training_patients=160))
    by_patient: dict[int, list[PlannedStudy]] = {}
    for study in plan:
        by_patient.setdefault(study.patient, []).append(study)
    twice = [studies for studies in by_patient.values() if len(studies) == 2]
    assert len(plan) == 176
    assert len(twice) == 16
    assert all(first.exposed == second.exposed for first, second in twice)
    assert {first.upright == second.upright for first, second in twice} == {True, False}


# --- no other way to the answer ----------------------------------------------------------------


def test_turning_the_causes_round_turns_the_lesion_and_changes_one_sentence_only() -> None:
    settings = small_cohort_settings()
    study = plan_studies("training", settings)[2]
    turned = replace(study, upright=not study.upright, exposed=not study.exposed)
    draw, other = draw_study(study, settings), draw_study(turned, settings)
    for field in fields(draw):
        assert np.all(getattr(draw, field.name) == getattr(other, field.name)), field.name

    (volume, mask), (volume_turned, mask_turned) = (
        paint_study(study, draw, settings),
        paint_study(turned, other, settings),
    )
    assert ((volume.voxels != volume_turned.voxels) == (mask != mask_turned)).all()
    inside = [np.count_nonzero(one) for one in (mask, mask_turned)]
    assert inside[0] == pytest.approx(inside[1], rel=0.15)  # equal volumes, on a coarse grid

    note, note_turned = note_of(study, draw, settings), note_of(turned, other, settings)
    pairs = list(zip(EXPOSED, NOT_EXPOSED, strict=True))
    sentence, instead = next(pair if study.exposed else pair[::-1] for pair in pairs if set(pair) & said(note))
    assert note.replace(sentence, instead) == note_turned


def said(note: str) -> set[str]:
    return {sentence for sentence in (*EXPOSED, *NOT_EXPOSED) if sentence in note}


@pytest.fixture(scope="module")
def nuisances() -> tuple[dict[str, list[float]], list[int]]:
    """Every number that could tell the outcome by accident, over a cohort of 660 studies, and the outcomes."""
    settings = small_cohort_settings(training_patients=600, seed=11)
    plan = plan_studies("training", settings)
    columns: dict[str, list[float]] = {}
    for row, study in enumerate(plan):
        draw = draw_study(study, settings)
        note = note_of(study, draw, settings)
        numbers = draw.acquisition.instance_numbers or ()
        values = {
            "row": row,
            "across": draw.lesion.short_mm,
            "along": draw.lesion.long_mm,
            **{f"lesion {axis}": draw.lesion.centre_mm[axis] for axis in range(3)},
            "lesion from the middle": draw.lesion.centre_mm[0] - draw.body.centre_mm[0],
            "trunk": draw.body.trunk_mm[0] * draw.body.trunk_mm[1],
            "turn": draw.affine[0, 1],
            "origin": draw.affine[2, 3],
            "characters": len(note),
            "words": len(note.split()),
            "lines": len(note.splitlines()),
            "study uid": float(draw.identity.study_uid.rsplit(".", 1)[1][:9]),
            "series uid": float(draw.identity.series_uid.rsplit(".", 1)[1][:9]),
            "folder": int(str(draw.folder).replace("/", ""), 16),
            "first file": int(draw.names[0].split(".")[0], 16),
            "suffix": len(draw.names[0]),
            "nested": len(draw.series_folder.parts),
            "date": float(draw.identity.study_date + draw.identity.study_time),
            "age": draw.age_decade,
            "slope": draw.acquisition.slope,
            "intercept": draw.acquisition.intercept,
            "kilovolts": draw.acquisition.kilovolts,
            "thickness": draw.acquisition.thickness_mm or 0.0,
            "first number": numbers[0],
            "visit": study.visit,
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return columns, [study.outcome for study in plan]


def test_nothing_but_the_causes_tells_the_outcome(nuisances: tuple[dict[str, list[float]], list[int]]) -> None:
    columns, outcomes = nuisances
    assert len(outcomes) == 660
    # The standard deviation of a worthless AUROC at 330 against 330 is .023; four of them for 24 columns.
    telling = {name: roc_auc_score(outcomes, column) for name, column in columns.items()}
    assert {name: auroc for name, auroc in telling.items() if abs(auroc - 0.5) > 0.09} == {}


def test_file_and_folder_names_hold_neither_patient_nor_outcome_nor_place(cohort: Path) -> None:
    for slices in series_of(cohort, "training").values():
        heights = np.array([header.ImagePositionPatient[2] for header in slices])  # by file name
        steps = np.sign(np.diff(heights))
        assert {-1.0, 1.0} <= set(steps)
        assert all("SYN" not in header.filename for header in slices)


# --- how it lies on disk --------------------------------------------------------------------


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(cohort: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "again", small_cohort_settings())
    write_cohort(tmp_path / "other", small_cohort_settings(seed=4))
    once, again, other = (contents(folder) for folder in (cohort, tmp_path / "again", tmp_path / "other"))
    assert once == again
    common = [name for name in once.keys() & other.keys() if once[name] == other[name]]
    assert common == ["README.txt"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_two_folders_share_no_patient_and_no_study(cohort: Path) -> None:
    patients, studies = [], []
    for part in PARTS:
        slices = [header for series in series_of(cohort, part).values() for header in series]
        patients.append({header.PatientID for header in slices})
        studies.append({header.StudyInstanceUID for header in slices})
    assert [len(group) for group in patients] == [8, 4]
    assert not patients[0] & patients[1]
    assert not studies[0] & studies[1]


def test_one_scoring_series_lacks_a_middle_slice_and_all_others_are_whole(cohort: Path) -> None:
    gaps = {}
    for part in PARTS:
        for uid, slices in series_of(cohort, part).items():
            heights = sorted(float(header.ImagePositionPatient[2]) for header in slices)
            gaps[part, uid] = tuple(np.diff(heights).round(6))
    whole, holed = (12.0,) * 11, (12.0,) * 5 + (24.0,) + (12.0,) * 4
    assert Counter(gaps.values()) == {whole: len(gaps) - 1, holed: 1}
    assert next(part for (part, _), gap in gaps.items() if gap == holed) == "scoring"


def test_scanners_differ_in_all_the_ways_planned(cohort: Path) -> None:
    first = [slices[0] for part in PARTS for slices in series_of(cohort, part).values()]
    assert {int(header.RescaleIntercept) for header in first} >= {-1024, 0}
    assert {int(header.RescaleSlope) for header in first} == {1, 2}
    assert {header.PatientPosition for header in first} == {"HFS", "FFS"}
    assert {abs(header.ImageOrientationPatient[0]) == 1 for header in first} == {True, False}
    assert {Path(header.filename).suffix for header in first} == {"", ".dcm"}
    orders = set()
    for part in PARTS:
        for slices in series_of(cohort, part).values():
            upwards = sorted(slices, key=lambda header: header.ImagePositionPatient[2])
            steps = np.sign(np.diff([header.InstanceNumber for header in upwards]))
            orders.add("mixed" if len(set(steps)) == 2 else "up" if steps[0] > 0 else "down")
    assert orders == {"up", "down", "mixed"}


def test_everything_says_that_it_is_synthetic(cohort: Path) -> None:
    assert (cohort / "README.txt").read_text().startswith("SYNTHETIC")
    for part in PARTS:
        for slices in series_of(cohort, part).values():
            assert note_beside(slices[0]).endswith("\nSYNTHETIC NOTE\n")
            for header in slices:
                assert header.SyntheticData == "YES"
                assert header.PatientID.startswith("SYN-")
                assert str(header.PatientName) == "SYNTHETIC^PHANTOM"
                assert header.StudyDescription == "SYNTHETIC phantom"
                assert "SYNTHETIC" in header.ImageComments


def test_each_written_study_is_reported_and_the_total_known_before(tmp_path: Path) -> None:
    steps: list[int] = []
    write_cohort(tmp_path / "cohort", small_cohort_settings(), advance=steps.append)
    assert steps == [1] * count_studies(small_cohort_settings())
    assert len(steps) == 12 + 4  # 8 patients of whom 4 come twice, so that 12 is a multiple of 4; 4 patients


def test_the_folder_is_read_back_by_the_reader_that_scores_it(cohort: Path) -> None:
    keyring = Keyring(b"a secret of thirty-two bytes ....")
    found = index_folder(cohort / "scoring" / "studies", keyring=keyring)
    assert len(found.studies) == 4
    assert len({study.patient_key for study in found.studies}) == 4
    refused = [study for study in found.studies if study.series[0].refusal is not None]
    assert [study.series[0].refusal.code for study in refused if study.series[0].refusal] == ["missing_slice"]
    truth = {keyring.study(uid): (uid, outcome) for uid, outcome in labels_of(cohort, "scoring").items()}
    for study in found.studies:
        if study in refused:
            continue
        uid, outcome = truth[study.study_key]
        volume = read_volume(study.series[0])
        mask = nibabel.load(cohort / "lesion_masks" / "scoring" / f"{uid}.nii.gz")
        np.testing.assert_allclose(volume.affine, mask.affine, atol=1e-6)
        np.testing.assert_allclose(volume.voxels[np.asarray(mask.dataobj) == 1].mean(), LESION_HU, atol=25)
        note = read_study_note(study)
        assert note is not None
        assert {section.name for section in note.sections} >= {"indication", "history", "technique", "comparison"}
        history = next(note.text[s.start : s.end] for s in note.sections if s.name == "history")
        lying_or_upright = upright(cohort / "lesion_masks" / "scoring" / f"{uid}.nii.gz")
        assert int(lying_or_upright == ("asbestos" in history.lower())) == outcome
        assert history.removeprefix("HISTORY:").strip() in (*EXPOSED, *NOT_EXPOSED)  # nothing else to learn by heart


# --- what is refused ------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(MisuseError, match="not empty"):
        write_cohort(tmp_path, small_cohort_settings())
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scoring_patients": 3}, "at least 4 patients"),
        ({"size": (24, 20, 4), "spacing_mm": (9.0, 8.0, 30.0)}, "at least 5 slices"),
        ({"size": (14, 20, 12)}, "126 x 180 x 144 mm"),
        ({"size": (24, 20, 12), "spacing_mm": (21.0, 21.0, 21.0)}, "between voxels"),
    ],
)
def test_settings_that_cannot_hold_the_causes_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_cohort(tmp_path / "cohort", small_cohort_settings(**changes))
    assert not (tmp_path / "cohort").exists()
