"""Group recognised files into studies.

DICOM headers -> by StudyInstanceUID and SeriesInstanceUID, wherever the files lie
NIfTI files   -> by folder; in a BIDS tree by sub-*/ses-*
notes and recordings -> the study of the nearest folder that holds exactly one
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from medmllm.errors import MedmllmError
from medmllm.ingest import nifti
from medmllm.ingest.dicom_header import DicomHeader
from medmllm.ingest.dicom_stack import Part, arrange, split
from medmllm.ingest.draft import FolderMap, Remark, SeriesDraft, StudyDraft
from medmllm.ingest.opening import open_regular
from medmllm.ingest.recognise import Kind, Recognised
from medmllm.ingest.technique import first_acquired, technique_of, technique_of_grid
from medmllm.ingest.walk import FileProblem, FoundFile
from medmllm.records import Refusal, Technique

PIECE_BYTES = 2**20
_BIDS_FILE = re.compile(r"^(?P<subject>sub-[A-Za-z0-9]+)_(?:(?P<session>ses-[A-Za-z0-9]+)_)?")
_BIDS_TREE = re.compile(r"^((?:.*/)?)sub-[A-Za-z0-9]+/")
NOT_RAW = frozenset({"derivatives", "sourcedata", "code"})  # beside sub-* in a BIDS tree: not the raw images


# --- DICOM ---------------------------------------------------------------------------------


def group_dicom(recognised: Sequence[Recognised]) -> tuple[list[StudyDraft], list[FileProblem]]:
    """Return DICOM studies, and the copies of files that were left out."""
    by_study: defaultdict[str, list[Recognised]] = defaultdict(list)
    for item in recognised:
        if item.dicom:
            by_study[item.dicom[0].study_uid or f"folder {item.found.folder or '.'}"].append(item)
    studies, copies = [], []
    for original, items in by_study.items():
        kept, left_out = _without_copies(items)
        studies.append(_dicom_study(original, kept))
        copies += left_out
    return studies, copies


def _dicom_study(original: str, items: Sequence[Recognised]) -> StudyDraft:
    headers = [header for item in items for header in item.dicom]
    patients = sorted({header.patient_id for header in headers if header.patient_id})
    study = StudyDraft(
        original=original,
        patient=patients[0] if patients else f"study {original}",
        layout="dicom",
        folders={item.found.folder for item in items},
        names=[original],
        patient_names=list(patients),
    )
    if not patients:
        reason = "no PatientID: the study counts as a patient of its own unless the label table names one"
        study.remarks.append(Remark("warning", "no_patient_id", reason))
    if any(not (header.study_uid and header.series_uid) for header in headers):
        reason = "StudyInstanceUID or SeriesInstanceUID is empty: the files of a folder were taken as one"
        study.remarks.append(Remark("warning", "no_uid", reason))
    by_series: defaultdict[str, list[DicomHeader]] = defaultdict(list)
    for item in items:
        for header in item.dicom:
            by_series[header.series_uid or f"folder {item.found.folder or '.'}"].append(header)
    for series_uid, slices in by_series.items():
        parts = split(slices)
        study.series += [_dicom_series(f"{original}/{series_uid}", part, len(parts)) for part in parts]
    if len(patients) > 1:
        reason = f"files of {len(patients)} different PatientIDs share this study"
        for series in study.series:
            series.refusal = Refusal("index", "mixed_patients", reason)
    return study


def _dicom_series(original: str, part: Part, parts: int) -> SeriesDraft:
    first, told = part.headers[0], [header.told for header in part.headers]
    series = SeriesDraft(
        original=f"{original}#{part.label}" if part.label else original,
        kind="dicom",
        modality=first.modality,
        description=" ".join(filter(None, (first.description, part.label))) or None,
        files=tuple(header.file for header in part.headers),
        frames=tuple(header.frame for header in part.headers),
        technique=technique_of(told, first.orientation),
        acquired=first_acquired(told),
    )
    try:
        stack = arrange(part.headers)
        series.shape, series.spacing_mm = stack.shape, stack.spacing_mm
        series.remarks += [Remark("warning", code, reason) for code, reason in stack.warnings]
    except MedmllmError as error:
        series.refusal = Refusal.of(error, "index")
    if parts > 1:
        reason = f"the series was split into {parts} by what its headers record: this is {part.label}"
        series.remarks.append(Remark("warning", "split_series", reason))
    return series


def _without_copies(items: Sequence[Recognised]) -> tuple[list[Recognised], list[FileProblem]]:
    """Leave out files that are byte for byte the same as another one of the study.

    Only files of the same size, SOPInstanceUID and position are compared: exporters have written one SOPInstanceUID
    into every slice.
    """
    alike: defaultdict[object, list[Recognised]] = defaultdict(list)
    for item in items:
        alike[item.found.size, item.dicom[0].sop_uid, item.dicom[0].position].append(item)
    copies: dict[str, FileProblem] = {}
    for same in alike.values():
        seen: set[str] = set()
        for item in same if len(same) > 1 else ():
            digest = _digest(item.found)
            if digest in seen:
                reason = "the file is byte for byte the same as another one of its study"
                copies[item.found.relative] = FileProblem(item.found.relative, "ignored", "duplicate_file", reason)
            seen.add(digest)
    return [item for item in items if item.found.relative not in copies], list(copies.values())


def _digest(found: FoundFile) -> str:
    digest = hashlib.sha256()
    with open_regular(found.path) as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


# --- NIfTI ---------------------------------------------------------------------------------


def group_nifti(recognised: Sequence[Recognised], root_name: str) -> list[StudyDraft]:
    """Return one study per folder of NIfTI files, and one per subject and session of BIDS trees."""
    images = [item for item in recognised if item.kind is Kind.NIFTI]
    placed = sorted(((_place(item.found, root_name), item) for item in images), key=lambda pair: pair[0])
    studies = []
    for (layout, original, patient), pairs in groupby(placed, key=lambda pair: pair[0]):
        items = [item for _, item in pairs]
        name = original.rpartition("/")[2]
        study = StudyDraft(
            original=original,
            patient=patient,
            layout="bids" if layout == "bids" else "folder",
            folders={item.found.folder for item in items},
            names=[original],
            patient_names=[patient],
        )
        if layout == "bids":
            subject = patient.rpartition("/")[2]
            study.names += [original[len(patient) - len(subject) :].replace("/", "_"), name]
            study.patient_names += [subject, subject.removeprefix("sub-")]
        study.series = [series for item in items for series in _nifti_series(item)]
        studies.append(study)
    return studies


def _place(found: FoundFile, root_name: str) -> tuple[str, str, str]:
    """Return (layout, original study, original patient) of a NIfTI file.

    A root that is itself one study goes by its own name, so that a study has the same key whether it was indexed
    alone or among others.
    """
    folders = found.folder.split("/") if found.folder else []
    bids = _BIDS_FILE.match(found.name)
    if bids and bids["subject"] in (root_name, *folders):
        subject, session = bids["subject"], bids["session"]
        patient = "/".join(folders[: folders.index(subject) + 1]) if subject in folders else subject
        return "bids", f"{patient}/{session}" if session else patient, patient
    folder = found.folder or root_name
    return "folder", folder, folder


def _nifti_series(item: Recognised) -> list[SeriesDraft]:
    """Return one series per volume of a file: a 4D image has several."""
    found, header = item.found, item.nifti
    files = (found.path, nifti.image_beside(found.path)) if ".hdr" in found.name.lower() else (found.path,)
    volumes = header.volumes if header else 1
    labels = [f"volume {number + 1} of {volumes}" if volumes > 1 else "" for number in range(volumes)]
    return [
        SeriesDraft(
            original=f"{found.relative}#{label}" if label else found.relative,
            kind="nifti",
            modality=nifti.modality_of(found.path),
            description=" ".join(filter(None, (found.name.partition(".")[0], label))),
            files=files,
            frames=(number,) * len(files),
            shape=header.shape if header else None,
            spacing_mm=header.spacing_mm if header else None,
            refusal=item.refusal,
            remarks=[Remark("warning", code, reason) for code, reason in header.warnings] if header else [],
            technique=technique_of_grid(header.affine, header.spacing_mm) if header else Technique(),
        )
        for number, label in enumerate(labels)
    ]


def not_raw(files: Iterable[FoundFile]) -> set[str]:
    """Return the relative paths under derivatives/, sourcedata/ and code/ of BIDS trees.

    Their subjects are those of the raw images: indexed as studies of their own, one patient would count as two.
    """
    paths = [found.relative for found in files]
    trees = {match[1] for path in paths if (match := _BIDS_TREE.match(path))}
    beside = tuple(f"{tree}{folder}/" for tree in trees for folder in NOT_RAW)
    return {path for path in paths if path.startswith(beside)}


# --- notes and recordings ------------------------------------------------------------------


def attach(recognised: Sequence[Recognised], folders: FolderMap) -> list[FileProblem]:
    """Give each note and recording to the study of the nearest folder that holds one; return the orphans."""
    orphans = []
    for item in recognised:
        if item.kind not in (Kind.NOTE, Kind.RECORDING):
            continue
        near = folders.nearest(item.found.folder)
        if len(near) == 1:
            (near[0].notes if item.kind is Kind.NOTE else near[0].recordings).append(item.found)
            continue
        word = item.kind.value
        reason = (
            f"the {word} lies beside {len(near)} studies: put it into the folder of one"
            if near
            else f"no study lies in the folder of the {word} or around it"
        )
        orphans.append(FileProblem(item.found.relative, "ignored", f"orphan_{word}", reason))
    return orphans
