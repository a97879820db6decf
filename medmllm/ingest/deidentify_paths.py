"""Find in folder and file names what may identify one patient.

    paths of all studies -> words and numbers that stand in the paths of one patient alone -> Identifiers by study

"MEIER_HANS/CT_2020" tells a name, "project_lung/cases" does not: what the paths of several patients share, what is on
the list of descriptors, and everyday words belong to nobody.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from medmllm.ingest.deidentify_descriptors import Descriptors
from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.deidentify_spelling import SHORTEST_NAME, WORD, folded
from medmllm.ingest.deidentify_words import NEVER_NAMES
from medmllm.records import Study

SHORTEST_NUMBER = 5  # digits; slices are numbered too
_SUFFIXES = re.compile(r"(?:\.(?:nii|gz|hdr|img|dcm|dicom|ima|txt|md|wav|flac))+$")
_UID = re.compile(r"[\d.]+")
_NUMBER = re.compile(r"(?<![a-z])[a-z]{0,4}-?\d[\d-]*\d")


def words_of_paths(studies: tuple[Study, ...], root: Path, descriptors: Descriptors) -> Mapping[str, Identifiers]:
    """Return for each study key what its paths may tell of its patient."""
    patients: defaultdict[str, set[str]] = defaultdict(set)
    by_study: dict[str, set[str]] = {}
    for study in studies:
        by_study[study.study_key] = words = {word for path in _paths(study, root) for word in _tokens(path)}
        for word in words:
            patients[word].add(study.patient_key)
    found = {}
    for study in studies:
        found[study.study_key] = known = Identifiers()
        for word in by_study[study.study_key]:
            if len(patients[word]) == 1 and word not in NEVER_NAMES and not descriptors.allows(word):
                if WORD.fullmatch(word):
                    known.guesses.add(word)
                else:
                    known.add_number(word)
    return found


def _paths(study: Study, root: Path) -> Iterator[Path]:
    for series in study.series:
        yield from (file.relative_to(root) for file in series.files)
    yield from (note.file.relative_to(root) for note in study.notes)
    yield from (recording.file.relative_to(root) for recording in study.recordings)


def _tokens(path: Path) -> Iterator[str]:
    *folders, file = map(folded, path.parts)  # disks differ in how they compose letters
    for part in (*folders, _SUFFIXES.sub("", file)):
        yield from (word for word in WORD.findall(part) if len(word) >= SHORTEST_NAME)
    # Behind the first dot of a file's name, and in a UID, every slice has numbers of its own.
    for part in (*(folder for folder in folders if not _UID.fullmatch(folder)), file.partition(".")[0]):
        yield from (number for number in _NUMBER.findall(part) if sum(map(str.isdigit, number)) >= SHORTEST_NUMBER)
