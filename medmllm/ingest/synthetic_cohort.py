"""Write a synthetic cohort whose outcome needs both the image and the note.

    settings -> plan (who is exposed, whose lesion is upright) -> DICOM series, notes, labels, lesion masks

    outcome = 1 when the lesion is upright and the note tells of exposure, or neither; else 0

Each lesion is a bright rod, upright (along S-I) or lying (along A-P), of the same brightness and volume: either
kind must be looked for, and neither is known by the other's absence. All four combinations are equally frequent
in each folder, so neither cause alone says anything of the outcome, and every other draw (body, place and size of
the lesion, grid, headers, wording, names) is made without looking at either. The same settings give the same bytes.
Nothing here is clinical evidence.
"""

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom.uid import generate_uid

from medmllm.config import CohortSettings
from medmllm.errors import ConfigError, MisuseError
from medmllm.ingest.synthetic_dicom import Acquisition, SeriesIdentity, write_ct_series
from medmllm.ingest.synthetic_note import compose_note
from medmllm.ingest.synthetic_phantom import (
    LESION_HU,
    Body,
    Lesion,
    check_field_of_view,
    draw_affine,
    draw_body,
    draw_lesion,
    paint,
)
from medmllm.records import FloatArray, Volume

Part = Literal["training", "scoring"]

SECOND_STUDIES = 0.1  # about this fraction of the patients has two studies
_LEAST_PATIENTS = 4
_LEAST_SLICES = 5  # so that a slice lost in the middle leaves a gap between others
_PLAN, _PATIENT, _STUDY, _NOISE, _NOTE, _FOLDER = range(6)  # one stream of random numbers each
_RESCALES = ((1, -1024), (1, -1024), (1, -1024), (1, 0), (1, -1000), (2, -1024))

_README = """SYNTHETIC cohort made by `medmllm demo`. It shows no patient and has no clinical meaning.

training/studies, scoring/studies   DICOM CT series and notes, under names that say nothing
training/labels.csv                 outcome of each training study
scoring/labels.csv                  the truth of the scoring folder; scoring does not read it
lesion_masks                        where each lesion is, on the CT's grid (NIfTI, RAS+ mm), named by
                                    StudyInstanceUID: to judge explanations by, never an input

Planted causes: each study has one bright lesion in a lung (a rod of about {lesion:.0f} HU). outcome = 1 when it is
upright (along S-I) and the note's HISTORY tells of exposure, or when it lies (along A-P) and HISTORY tells of none;
else 0. Neither alone says anything, and the note's other sections say nothing of either.
Planted faults in scoring/studies: one series lacks a slice in its middle, and one file is no DICOM.
"""


@dataclass(frozen=True, slots=True)
class PlannedStudy:
    """One study to be made: whose, and with which causes."""

    patient: int  # counted through both folders, from 1
    visit: int  # 0, or 1 for a patient's second study
    upright: bool
    exposed: bool
    broken: bool = False  # a slice in the middle is left out

    @property
    def outcome(self) -> int:
        """1 when both causes are there or neither is, else 0."""
        return int(self.upright == self.exposed)

    @property
    def patient_id(self) -> str:
        """Patient ID (0010,0020)."""
        return f"SYN-{self.patient:04d}"


@dataclass(frozen=True, slots=True, eq=False)
class StudyDraw:
    """Everything about a study but its causes."""

    body: Body
    lesion: Lesion
    affine: FloatArray  # (4, 4), float64; voxel index -> RAS+ position in mm
    identity: SeriesIdentity
    frame_of_reference_uid: str
    acquisition: Acquisition
    age_decade: int
    folder: Path  # below `studies`
    series_folder: Path  # below `folder`; may be "."
    names: tuple[str, ...]  # file name per slice, feet to head


def write_cohort(
    folder: Path, settings: CohortSettings, *, advance: Callable[[int], None] = lambda studies: None
) -> None:
    """Write both folders of the cohort, their labels and the lesion masks; see the README.txt it writes.

    Args:
        folder: Absent or empty.
        settings: Numbers of patients, grid and seed.
        advance: Called with 1 after each study; `count_studies` gives the total.

    Raises:
        ConfigError: Fewer than 4 patients, fewer than 5 slices, or a grid that cannot hold a lesion.
        MisuseError: The folder holds something already.
    """
    _check(settings)
    if folder.exists() and any(folder.iterdir()):
        raise MisuseError("the folder for the synthetic cohort is not empty: choose another, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    text = _README.format(lesion=LESION_HU)
    (folder / "README.txt").write_text(text, encoding="utf-8")
    for part in ("training", "scoring"):
        masks = folder / "lesion_masks" / part
        masks.mkdir(parents=True)
        plan = plan_studies(part, settings)
        for study in plan:
            _write_study(folder / part / "studies", masks, study, settings)
            advance(1)
        _write_labels(folder / part / "labels.csv", plan, settings)
    junk = _generator(settings, _FOLDER).bytes(700)
    (folder / "scoring" / "studies" / "5d" / "b1f00e.dcm").parent.mkdir(exist_ok=True)
    (folder / "scoring" / "studies" / "5d" / "b1f00e.dcm").write_bytes(junk)


def count_studies(settings: CohortSettings) -> int:
    """Return how many studies `write_cohort` writes."""
    both = settings.training_patients, settings.scoring_patients
    return sum(patients + _second_studies(patients) for patients in both)


def plan_studies(part: Part, settings: CohortSettings) -> tuple[PlannedStudy, ...]:
    """Return the studies of one folder by patient; the four combinations of causes are equally frequent.

    Exposure belongs to the patient, the lesion to the study. One study of the scoring folder is broken.
    """
    scoring = part == "scoring"
    patients = settings.scoring_patients if scoring else settings.training_patients
    first = settings.training_patients + 1 if scoring else 1
    rng = _generator(settings, _PLAN, first)
    order = rng.permutation(patients)
    second = _second_studies(patients)
    twice, once = order[:second], order[second:]
    exposed_twice = (second + int(rng.integers(2))) // 2
    exposed_once = (patients + second) // 2 - 2 * exposed_twice
    exposed = {int(p) for p in (*twice[:exposed_twice], *once[:exposed_once])}
    visits = [(p, visit) for p in range(patients) for visit in range(2 if p in set(twice) else 1)]
    upright: set[int] = set()
    for group in (True, False):
        members = [row for row, (p, _) in enumerate(visits) if (p in exposed) == group]
        upright |= {int(row) for row in rng.permutation(members)[: len(members) // 2]}
    broken = int(rng.integers(len(visits))) if scoring else None
    return tuple(
        PlannedStudy(first + p, visit, row in upright, p in exposed, row == broken)
        for row, (p, visit) in enumerate(visits)
    )


def draw_study(study: PlannedStudy, settings: CohortSettings) -> StudyDraw:
    """Return everything about a study but its causes, which it does not look at."""
    body_rng = _generator(settings, _PATIENT, study.patient)
    body = draw_body(body_rng, _extent_mm(settings))
    rng = _generator(settings, _STUDY, study.patient, study.visit)
    uids = [_uid(settings, kind, study) for kind in ("study", "series", "frame")]
    acquisition = _draw_acquisition(rng, settings)
    folder, series_folder, names = _draw_names(rng, settings.size[2], uids[1])
    date = f"{rng.integers(2018, 2024)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    time = f"{rng.integers(7, 19):02d}{rng.integers(60):02d}{rng.integers(60):02d}"
    return StudyDraw(
        body=body,
        lesion=draw_lesion(rng, body),
        affine=draw_affine(rng, body.centre_mm, settings.size, settings.spacing_mm),
        identity=SeriesIdentity(study.patient_id, uids[0], uids[1], date, time),
        frame_of_reference_uid=uids[2],
        acquisition=acquisition,
        age_decade=int(body_rng.integers(4, 9)) * 10,
        folder=folder,
        series_folder=series_folder,
        names=names,
    )


def paint_study(study: PlannedStudy, draw: StudyDraw, settings: CohortSettings) -> tuple[Volume, npt.NDArray[np.uint8]]:
    """Return a study's CT in HU and the mask of its lesion on the same grid."""
    return paint(
        draw.body,
        draw.lesion,
        upright=study.upright,
        affine=draw.affine,
        size=settings.size,
        frame_of_reference_uid=draw.frame_of_reference_uid,
        rng=_generator(settings, _NOISE, study.patient, study.visit),
    )


def note_of(study: PlannedStudy, draw: StudyDraw, settings: CohortSettings) -> str:
    """Return a study's note."""
    rng = _generator(settings, _NOTE, study.patient, study.visit)
    return compose_note(exposed=study.exposed, age_decade=draw.age_decade, rng=rng)


def _write_study(studies: Path, masks: Path, study: PlannedStudy, settings: CohortSettings) -> None:
    draw = draw_study(study, settings)
    volume, mask = paint_study(study, draw, settings)
    folder = studies / draw.folder
    folder.mkdir(parents=True)
    write_ct_series(
        volume,
        folder / draw.series_folder,
        draw.identity,
        draw.acquisition,
        names=draw.names,
        leave_out=(settings.size[2] // 2,) if study.broken else (),
    )
    (folder / "note.txt").write_text(note_of(study, draw, settings), encoding="utf-8")
    image = nibabel.Nifti1Image(mask, volume.affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, masks / f"{draw.identity.study_uid}.nii.gz")


def _write_labels(path: Path, plan: Sequence[PlannedStudy], settings: CohortSettings) -> None:
    rows = sorted((study.patient_id, _uid(settings, "study", study), study.outcome) for study in plan)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["patient_id", "study_id", "outcome"])
        writer.writerows(rows)


def _draw_acquisition(rng: np.random.Generator, settings: CohortSettings) -> Acquisition:
    slices = settings.size[2]
    slope, intercept = _RESCALES[int(rng.integers(len(_RESCALES)))]
    feet_first, shuffled = rng.random(2) < 0.25
    upwards = range(1, slices + 1)
    numbers = rng.permutation(upwards) if shuffled else upwards if feet_first else upwards[::-1]
    return Acquisition(
        slope=slope,
        intercept=intercept,
        instance_numbers=tuple(int(number) for number in numbers),
        patient_position="FFS" if feet_first else "HFS",
        kilovolts=int(rng.choice([100, 120])),
        # Slice Thickness is not slice spacing: some slices overlap, some leave a gap.
        thickness_mm=settings.spacing_mm[2] * float(rng.choice([0.75, 1.0, 1.0, 1.25])),
    )


def _draw_names(rng: np.random.Generator, slices: int, series_uid: str) -> tuple[Path, Path, tuple[str, ...]]:
    """Return where a study lies and what its files are called: hashes, in no order that means anything."""
    suffix = ".dcm" if rng.random() < 0.5 else ""
    nested = rng.random() < 0.4
    study, *files = (hashlib.sha256(f"{series_uid} file {number}".encode()).hexdigest() for number in range(slices + 1))
    series_folder = Path(study[16:20]) if nested else Path()
    return Path(study[0], study[1:9]), series_folder, tuple(f"{name[:12]}{suffix}" for name in files)


def _check(settings: CohortSettings) -> None:
    fewest = min(settings.training_patients, settings.scoring_patients)
    if fewest < _LEAST_PATIENTS:
        raise ConfigError(
            f"[cohort] each folder needs at least {_LEAST_PATIENTS} patients, one per combination of causes; "
            f"got {fewest}"
        )
    if settings.size[2] < _LEAST_SLICES:
        raise ConfigError(f"[cohort] size: at least {_LEAST_SLICES} slices are needed, got {settings.size[2]}")
    check_field_of_view(settings.size, settings.spacing_mm)


def _second_studies(patients: int) -> int:
    """Return how many patients get a second study: about a tenth, so that studies are a multiple of four."""
    wished = round(SECOND_STUDIES * patients)
    return wished + -(patients + wished) % 4


def _extent_mm(settings: CohortSettings) -> tuple[float, float, float]:
    x, y, z = (n * s for n, s in zip(settings.size, settings.spacing_mm, strict=True))
    return x, y, z


def _uid(settings: CohortSettings, kind: str, study: PlannedStudy) -> str:
    return str(generate_uid(entropy_srcs=[f"medmllm {settings.seed} {kind} {study.patient} {study.visit}"]))


def _generator(settings: CohortSettings, *stream: int) -> np.random.Generator:
    """Return random numbers of their own for one stream, whatever was drawn elsewhere."""
    return np.random.default_rng([settings.seed, *stream])
