"""Folders that are hard to index: many character sets, a DICOMDIR file-set, a mess of everything."""

import json
from collections import Counter
from pathlib import Path

import pytest

from medmllm.errors import MedmllmError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.recognise import recognise
from medmllm.ingest.study_folder import StudyIndex, index_folder, read_volume
from medmllm.ingest.walk import FoundFile, walk

KEYS = Keyring(b"the secret of these tests")


def index(shared: Path, case: str) -> StudyIndex:
    return index_folder(shared / "torture" / "open" / case / "data", keyring=KEYS)


def test_names_in_many_character_sets_are_decoded_for_the_linkage_table(shared: Path) -> None:
    case = shared / "torture" / "open" / "dir_charsets_open"
    expected = json.loads((case / "NOTE.json").read_text())["expect_names"]
    found = {}
    for file in walk(case / "data"):
        if isinstance(file, FoundFile) and (headers := recognise(file).dicom):
            found[file.name] = headers[0].patient_name
    assert len(found) == 7
    assert found == {name: expected[name] for name in found}
    spelt = {row.description for row in index(shared, case.name).linkage if row.kind == "patient"}
    assert spelt == {name or "" for name in found.values()}


def test_a_dicomdir_file_set_gives_its_series_and_no_dicomdir_is_an_image(shared: Path) -> None:
    found = index(shared, "dir_dicomdir_fileset")
    series = [series for study in found.studies for series in study.series]
    assert len({study.patient_key for study in found.studies}) == 2
    assert {one.modality for one in series} == {"CT", "MR", "CR"}
    assert sum(len(set(one.files)) for one in series) == 31
    assert Counter(problem.code for problem in found.problems)["dicomdir"] == 7
    for one in series:
        if one.refusal is None:
            assert read_volume(one).voxels.shape == one.shape


def test_a_mess_holds_three_series_and_every_other_file_has_a_reason(shared: Path) -> None:
    found = index(shared, "dir_mess_open")
    assert len(found.studies) == 3
    # One of the two MR series has two volumes.
    modalities = Counter(series.modality for study in found.studies for series in study.series)
    assert modalities == {"MR": 3, "CT": 1}
    for study in found.studies:
        for series in study.series:
            assert read_volume(series).voxels.shape == series.shape
    files = [
        file for file in walk(shared / "torture" / "open" / "dir_mess_open" / "data") if isinstance(file, FoundFile)
    ]
    used = {path for study in found.studies for series in study.series for path in series.files}
    problems = {problem.where_key: problem for problem in found.problems}
    for file in files:
        if file.path not in used:
            assert len(problems[KEYS.file(file.relative)].reason) > 10


@pytest.mark.parametrize("case", ["dir_charsets_open", "dir_mess_open", "dir_dicomdir_fileset"])
def test_reading_what_the_headers_let_through_ends_in_values_or_in_one_of_our_errors(shared: Path, case: str) -> None:
    outcomes = Counter[str]()
    for study in index(shared, case).studies:
        for series in study.series:
            try:
                outcomes[str(read_volume(series).voxels.dtype)] += 1
            except MedmllmError as error:
                outcomes[error.code] += 1
    assert sum(outcomes.values()) > 3
