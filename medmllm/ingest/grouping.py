"""Group recognised files into studies.

where images lie -> StudyDraft: which studies there are, without their series
the files of one study -> its series: DICOM by SeriesInstanceUID, wherever the files lie; NIfTI by file
notes and recordings -> the study of the nearest folder that holds exactly one
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from medmllm.errors import MedmllmError
from medmllm.geometry import UNEVEN_GAPS
from medmllm.ingest import nifti
from medmllm.ingest.bare_studies import MOST_FILES
from medmllm.ingest.bvalues import bvalues_beside
from medmllm.ingest.copies import without_renamed_copies
from medmllm.ingest.damaged import Damage
from medmllm.ingest.dicom_header import DicomHeader
from medmllm.ingest.dicom_parts import Part, split
from medmllm.ingest.dicom_stack import FEWEST, Stack, arrange
from medmllm.ingest.draft import FolderMap, Remark, SeriesDraft, StudyDraft
from medmllm.ingest.layouts import Layouts, Place, looks_like_bids
from medmllm.ingest.recognise import Kind, Recognised
from medmllm.ingest.technique import first_acquired, technique_of, technique_of_grid
from medmllm.ingest.walk import FileProblem
from medmllm.records import Refusal, Technique

# --- which studies there are ---------------------------------------------------------------


def draft_studies(places: Iterable[tuple[Place, bytes]]) -> list[StudyDraft]:
    """Return a study for each one that images lie in, sorted by original identifier; its series are not looked at.

    Args:
        places: Where images lie, and what the store knows the study by; any order, doubled or not.
    """
    drafts: dict[bytes, StudyDraft] = {}
    for place, stored in places:
        if stored not in drafts:
            drafts[stored] = StudyDraft(place.original, "", place.layout, set(), [place.original], [], stored=stored)
        drafts[stored].folders.add(place.folder)
        if place.patient and place.patient not in drafts[stored].patient_names:
            drafts[stored].patient_names.append(place.patient)
    for draft in drafts.values():
        draft.patient_names.sort()
        draft.patient = draft.patient_names[0] if draft.patient_names else f"study {draft.original}"
        if draft.layout == "folder" and any(map(looks_like_bids, draft.folders)):
            reason = ("the folders are those of BIDS, but files are not called by its rules (sub-X_ses-Y_..., of "
                      "letters and digits): each folder counts as a study")  # fmt: skip
            draft.remarks.append(Remark("warning", "bids_name", reason))
        if draft.layout == "bids":
            _name_bids(draft)
        elif not draft.patient_names:
            reason = "no PatientID: the study counts as a patient of its own unless the label table names one"
            draft.remarks.append(Remark("warning", "no_patient_id", reason))
    return sorted(drafts.values(), key=lambda draft: (draft.original, draft.layout))


def _name_bids(draft: StudyDraft) -> None:
    """Add the names by which a table may know a BIDS subject and session."""
    subject = draft.patient.rpartition("/")[2]
    session = draft.original.rpartition("/")[2]
    draft.names += [draft.original[len(draft.patient) - len(subject) :].replace("/", "_"), session]
    draft.patient_names += [subject, subject.removeprefix("sub-")]


# --- the series of one study ---------------------------------------------------------------


def add_series(study: StudyDraft, items: Sequence[Recognised], layouts: Layouts, damage: Damage) -> None:
    """Add the series that the files of a study make.

    Args:
        study: Gets them, and remarks.
        items: Its files, without copies, in order of their paths.
        layouts: May give a series its name.
        damage: What cannot be read: slices may be missing at a series' ends.
    """
    _add_dicom_series(study, [item for item in items if item.dicom], damage)
    for item in items:
        if item.kind is Kind.NIFTI:
            study.series += _nifti_series(item, layouts)


def _add_dicom_series(study: StudyDraft, items: Sequence[Recognised], damage: Damage) -> None:
    headers = [header for item in items for header in item.dicom]
    if any(not (header.study_uid and header.series_uid) for header in headers):
        reason = "StudyInstanceUID or SeriesInstanceUID is empty: the files of a folder were taken as one"
        study.remarks.append(Remark("warning", "no_uid", reason))
    by_series: defaultdict[str, list[DicomHeader]] = defaultdict(list)
    folders: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        for header in item.dicom:
            uid = header.series_uid or f"folder {item.found.folder or '.'}"
            by_series[uid].append(header)
            folders[uid].add(item.found.folder)
    patients = {header.patient_id for header in headers if header.patient_id}
    study.spelt = sorted({header.patient_name for header in headers if header.patient_name})
    lone: list[tuple[DicomHeader, SeriesDraft]] = []
    for series_uid, slices in by_series.items():
        named = damage.lost_of(series_uid, [header.sop_uid for header in slices])
        beside = sum(damage.beside.get(folder, 0) for folder in folders[series_uid])
        parts = split(slices)
        for part in parts:
            series = _dicom_series(f"{study.original}/{series_uid}", part, len(parts))
            if named or beside:
                _tell_damaged(series, named, beside)
            if len(patients) > 1:
                reason = f"files of {len(patients)} different PatientIDs share this study"
                series.refusal = Refusal("index", "mixed_patients", reason)
            study.series.append(series)
            lone += [(slices[0], series)] if len(slices) == 1 else []
    _remark_torn_series(lone)


def _tell_damaged(series: SeriesDraft, named: int, beside: int) -> None:
    """Say that files of a series, or beside it, cannot be read: slices that it lacks may be these.

    Args:
        series: Gets the remark.
        named: Files that name the series.
        beside: Files in its folder that name none.
    """
    series.damaged_beside = count = named + beside
    many = "1 file" if count == 1 else f"{count} files"
    where = "of this series" if not beside else "of this series or in its folder" if named else "in its folder"
    reason = f"{many} {where} cannot be read: slices may be missing at its ends. Copy the refused files again"
    series.remarks.append(Remark("warning", "damaged_beside", reason))
    if series.refusal and series.refusal.code in UNEVEN_GAPS:
        first = f"{many} {where} cannot be read and may be what is missing: copy that again first"
        series.refusal = replace(series.refusal, reason=f"{series.refusal.reason}. {first}")


def _remark_torn_series(lone: Sequence[tuple[DicomHeader, SeriesDraft]]) -> None:
    """Remark series of one slice each that make one stack together: every slice has a SeriesInstanceUID of its own."""
    drafts = {id(header): series for header, series in lone}
    for part in split([header for header, _ in lone]):
        if len(part.headers) < FEWEST:
            continue
        try:
            arrange(part.headers)
        except MedmllmError:
            continue
        reason = (f"{len(part.headers)} series of one slice each make one stack together: an anonymiser may have given "
                  "every slice a SeriesInstanceUID of its own; export them as one series")  # fmt: skip
        for header in part.headers:
            drafts[id(header)].remarks.append(Remark("warning", "torn_series", reason))


def _arranged(part: Part) -> tuple[Part, Stack]:
    """Return the grid of a part, and the part without slices that are there twice, where these alone forbid a grid."""
    try:
        return part, arrange(part.headers)
    except MedmllmError as error:
        kept = without_renamed_copies(part.headers) if error.code == "doubled_slice" else None
        if kept is None:
            raise
    reason = (f"{len(part.headers) - len(kept)} of {len(part.headers)} slices repeat another one at its place, pixel "
              "by pixel, under another SOPInstanceUID: they were left out")  # fmt: skip
    return replace(part, headers=kept, remarks=(*part.remarks, ("duplicate_slices", reason))), arrange(kept)


def _dicom_series(original: str, part: Part, parts: int) -> SeriesDraft:
    first, told = part.headers[0], [header.told for header in part.headers]
    series = SeriesDraft(
        original=f"{original}#{part.label}" if part.label else original,
        kind="dicom",
        modality=first.modality,
        description=" ".join(filter(None, (first.description, part.label, part.apart))) or None,
        files=tuple(header.file for header in part.headers),
        frames=tuple(header.frame for header in part.headers),
        technique=replace(technique_of(told, first.orientation), apart=part.apart or None),
        acquired=first_acquired(told),
    )
    try:
        part, stack = _arranged(part)
        series.files = tuple(header.file for header in part.headers)
        series.frames = tuple(header.frame for header in part.headers)
        series.shape, series.spacing_mm = stack.shape, stack.spacing_mm
        series.remarks += [Remark("warning", code, reason) for code, reason in (*stack.warnings, *part.remarks)]
    except MedmllmError as error:
        series.refusal = Refusal.of(error, "index")
    if parts > 1:
        reason = f"the series was split into {parts} by what its headers record: this is {part.label}"
        reason += f" ({part.apart})" if part.apart else ""
        series.remarks.append(Remark("warning", "split_series", reason))
    return series


def _nifti_series(item: Recognised, layouts: Layouts) -> list[SeriesDraft]:
    """Return one series per volume of a file: a 4D image has several."""
    found, header = item.found, item.nifti
    files = (found.path, nifti.image_beside(found.path)) if ".hdr" in found.name.lower() else (found.path,)
    volumes, spacing_mm = (header.volumes, header.spacing_mm) if header else (1, None)
    channel, modality = layouts.channel(found)
    name = " ".join(filter(None, (channel, found.name.partition(".")[0])))
    labels = [f"volume {number + 1} of {volumes}" if volumes > 1 else "" for number in range(volumes)]
    apart, unused = bvalues_beside(found.path, volumes)
    warnings = [*(header.warnings if header else ()), *([("bvalues_unused", unused)] if unused else [])]
    technique = technique_of_grid(header.affine, spacing_mm) if header and spacing_mm else Technique()
    return [
        SeriesDraft(
            original=f"{found.relative}#{label}" if label else found.relative,
            kind="nifti",
            modality=modality or nifti.modality_of(found.path),
            description=" ".join(filter(None, (name, label, told))),
            files=files,
            frames=(number,) * len(files),
            shape=header.shape if header else None,
            spacing_mm=spacing_mm,
            refusal=item.refusal,
            remarks=[Remark("warning", code, reason) for code, reason in warnings],
            technique=replace(technique, apart=told or None),
        )
        for number, (label, told) in enumerate(zip(labels, apart, strict=True))
    ]


# --- notes and recordings ------------------------------------------------------------------


def home_of(item: Recognised, folders: FolderMap) -> StudyDraft | FileProblem:
    """Return the study that a note or recording belongs to: that of the nearest folder that holds exactly one."""
    near = folders.nearest(item.found.folder)
    if len(near) == 1:
        return near[0]
    word = item.kind.value
    reason = (
        f"the {word} lies beside {len(near)} studies: put it into the folder of one"
        if near
        else f"no study lies in the folder of the {word} or around it"
    )
    if not folders.holds(item.found.folder):
        bounds = " or ".join(f"{most} {kind.value}s" for kind, most in MOST_FILES.items())
        reason += f"; a folder without images is a study itself with at most {bounds}, or where a label table lists it"
    return FileProblem(item.found.relative, "ignored", f"orphan_{word}", reason)
