"""Join the label table with the studies found.

    StudyDraft, LabelTable -> the row of each study, its patient, and rows that no study claims

The table knows a study by its StudyInstanceUID, its folder (path or name) or its BIDS subject and session; a table by
patient knows it by PatientID, subject or the name of a folder around it. Where the table names a patient it is
believed before the images: exports often write one PatientID into every file.
"""

from collections import defaultdict
from collections.abc import Sequence

from medmllm.ingest.draft import FolderMap, Remark, StudyDraft, enclosing
from medmllm.ingest.tables import LabelTable, TableRow, composed


def join(studies: Sequence[StudyDraft], table: LabelTable) -> dict[str, TableRow]:
    """Give each study its row and its patient; return the rows, by original identifier, that no study claims."""
    folders = FolderMap(studies)
    if table.by_study:
        claimed = _join_by_study(studies, table, folders)
        _remark_split_patients(studies)
        return {key: row for key, row in table.by_study.items() if key not in claimed}
    claimed = set()
    for study in studies:
        around = [place for folder in sorted(study.folders) for place in enclosing(folder) if place]
        last = (place.rpartition("/")[2] for place in around)
        names = [composed(name) for name in (*study.patient_names, *around, *last)]
        key = next((name for name in names if name in table.by_patient), None)
        if key is not None:
            claimed.add(key)
            study.row = table.by_patient[key]
            study.patient = study.patient if study.layout == "bids" else key
    return {key: row for key, row in table.by_patient.items() if key not in claimed}


def _join_by_study(studies: Sequence[StudyDraft], table: LabelTable, folders: FolderMap) -> set[str]:
    """Join on study_id and return the identifiers that were claimed."""
    claims: defaultdict[str, list[tuple[bool, StudyDraft]]] = defaultdict(list)
    for study in studies:
        names = [composed(name) for name in (*study.names, *folders.own_folders(study))]
        key = next((name for name in names if name in table.by_study), None)
        if key is not None:
            claims[key].append((True, study))
            continue
        last = [name.rpartition("/")[2] for name in names]
        key = next((name for name in last if name in table.by_study), None)
        if key is not None:
            claims[key].append((False, study))  # by a folder's name alone, which may occur twice
    for key, claimants in claims.items():
        best = [study for exact, study in claimants if exact] or [study for _, study in claimants]
        if len(best) > 1:
            reason = f"line {table.by_study[key].line} of the label table fits {len(best)} studies: use longer paths"
            for study in best:
                study.remarks.append(Remark("refused", "ambiguous_label", reason))
            continue
        best[0].row = table.by_study[key]
        best[0].patient = table.patient_of.get(key, best[0].patient)
    return set(claims)


def _remark_split_patients(studies: Sequence[StudyDraft]) -> None:
    """Warn where the table gives one PatientID to several patients: they may be one person on two sides of a split."""
    patients: defaultdict[str, set[str]] = defaultdict(set)
    for study in studies:
        for patient_id in study.patient_names if study.layout == "dicom" else ():
            patients[patient_id].add(study.patient)
    for study in studies:
        if study.layout == "dicom" and any(len(patients[patient_id]) > 1 for patient_id in study.patient_names):
            reason = "the label table gives studies of one PatientID to several patients; the table was believed"
            study.remarks.append(Remark("warning", "patient_split_by_table", reason))
