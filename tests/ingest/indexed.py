"""A folder of tests as the index of its studies finds it, and questions to that index."""

from collections import Counter
from pathlib import Path

from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import StudyIndex, index_folder
from medmllm.ingest.tables import read_label_table
from medmllm.records import Study

KEYS = Keyring(b"the secret of these tests")


def index(root: Path, labels: Path | None = None) -> StudyIndex:
    return index_folder(root, keyring=KEYS, table=read_label_table(labels) if labels else None)


def codes(found: StudyIndex) -> Counter[str]:
    return Counter(problem.code for problem in found.problems)


def original(found: StudyIndex, key: str) -> str:
    return next(row.original for row in found.linkage if row.key == key)


def study_named(found: StudyIndex, name: str) -> Study:
    return next(study for study in found.studies if original(found, study.study_key) == name)
