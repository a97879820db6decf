"""Find studies without images: folders that hold notes or recordings alone.

    notes and recordings, studies with images, label table -> a StudyDraft per folder

A folder is a study where it would be one with an image in it: when no study lies in it or below, and it does not belong
to the one study around it. What the label table lists is believed. What it does not list is remarked, and only taken
where the files can be one study's: dozens of notes in a folder are dozens of patients', and a file above several such
folders is nobody's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from medmllm.ingest.draft import FolderMap, Remark, StudyDraft, enclosing
from medmllm.ingest.recognise import Kind, Recognised
from medmllm.ingest.tables import LabelTable, composed

MOST_FILES: Mapping[Kind, int] = {Kind.NOTE: 3, Kind.RECORDING: 10}
"""In a folder without images that no table lists: with more, they are not taken for one study's."""


def studies_without_images(
    recognised: Iterable[Recognised], studies: Iterable[StudyDraft], table: LabelTable | None, *, root_name: str
) -> list[StudyDraft]:
    """Return a study for each folder of notes or recordings that is one, without the files themselves.

    Args:
        recognised: The notes and recordings.
        studies: Those that images make.
        table: Joined by study or patient, if any.
        root_name: Of the folder that all lies in: what it is called where it is itself one study.
    """
    held: dict[str, Counter[Kind]] = {}
    for item in recognised:
        held.setdefault(item.found.folder, Counter())[item.kind] += 1
    made = list(studies)
    listed = _listed(held, FolderMap(made), table)
    found = {study.original: study for study in listed}
    folders = FolderMap([*made, *listed])
    below = Counter(around for folder in held for around in enclosing(folder) if around != folder)
    for folder in sorted(held, key=lambda path: (bool(path), path.count("/"))):  # from the root downwards
        taken = folders.holds(folder) or any(around in found for around in enclosing(folder))
        few = all(held[folder][kind] <= most for kind, most in MOST_FILES.items())
        if few and below[folder] < 2 and not (taken or _belongs(folder, folders)):
            found[folder] = _draft(folder, folder or root_name)
            reason = "no image lies in this folder: its notes and recordings count as a study of their own"
            found[folder].remarks.append(Remark("warning", "no_images", reason))
    return list(found.values())


def _listed(held: Iterable[str], folders: FolderMap, table: LabelTable | None) -> list[StudyDraft]:
    """Return a study for each folder that the table lists, by its path or name, as a study or patient."""
    names = set() if table is None else table.by_study.keys() | table.by_patient.keys()
    return [
        _draft(folder, folder)
        for folder in held
        if folder and {composed(folder), composed(folder.rpartition("/")[2])} & names and not folders.holds(folder)
    ]


def _belongs(folder: str, folders: FolderMap) -> bool:
    """Say whether a folder without images is part of the one study around it.

    In the root, that of one NIfTI folder is a folder beside it: the next patient's.
    """
    near = folders.nearest(folder)
    if len(near) != 1:
        return False
    beside = not any(around in near[0].folders for around in enclosing(folder))
    return not (beside and near[0].layout == "folder" and folders.only_root_around(folder))


def _draft(folder: str, original: str) -> StudyDraft:
    return StudyDraft(original, original, "folder", {folder}, [original], [original])
