from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import torch

from medmllm.ingest.study_folder import StudyIndex
from medmllm.records import Note, Study
from medmllm.table_rows import ProblemRow
from medmllm.training.cohort import Cohort, Member
from medmllm.training.missing_inputs import remark_missing
from medmllm.training.run import left_out
from medmllm.training_config import Arm
from tests.models.small import IMAGE, a_sample

BOTH, FIRST, NONE = (True, True), (True, False), (False, False)


def a_cohort(*channels: tuple[bool, bool], notes: int) -> Cohort:
    members = []
    for number, present in enumerate(channels):
        sample = replace(a_sample(number, image=any(present)), channel_present=present)
        members.append(Member(sample, Note("clear", ()) if number < notes else None, {}))
    return Cohort(tuple(members), ())


def test_studies_without_an_image_a_channel_or_a_note_are_counted_beside_those_that_have_it() -> None:
    said = list(remark_missing(a_cohort(BOTH, FIRST, FIRST, NONE, NONE, notes=5), IMAGE.channels, ("image", "text")))
    assert [line.partition(":")[0] for line in said] == ["2 of 5 studies are read without an image", "Channel 'pet'"]
    assert "2 of the 3 studies with an image lack it" in said[1]
    assert "medmllm select" in said[0]
    assert list(remark_missing(a_cohort(BOTH, BOTH, BOTH, notes=1), IMAGE.channels, ("image", "text"))) == [
        "2 of 3 studies are read without a note."
    ]


def test_what_studies_lack_is_said_of_the_modalities_that_an_arm_reads_and_of_no_other() -> None:
    members = [
        replace(
            member, sample=replace(member.sample, recording=(torch.zeros(2, 3),) if k else None), values={"age": 50.0}
        )
        for k, member in enumerate(a_cohort(BOTH, BOTH, BOTH, NONE, notes=2).members)
    ]
    members[2] = replace(members[2], values=None)

    def counts(*arms: Arm) -> list[str]:
        said = remark_missing(Cohort(tuple(members), ()), IMAGE.channels, arms)
        return [line.split(" read without ")[1][:11] + line[:2] for line in said]

    image, note, sound, value = "an image: n1 ", "a note.2 ", "a recording1 ", "a value in 1 "
    assert counts("image") == [image]
    assert counts("text") == [note]
    assert counts("recording", "table") == [sound, value]
    assert counts("fused") == [image, note, sound, value]


def test_one_study_is_one() -> None:
    said = list(remark_missing(a_cohort(BOTH, BOTH, FIRST, NONE, notes=3), IMAGE.channels, ("image", "text")))
    assert [line.partition(":")[0] for line in said] == [
        "1 of 4 studies is read without an image",
        "Channel 'pet'",
        "1 of 4 studies is read without a note.",
    ]
    assert "none of its series fits" in said[0]
    assert said[1].endswith("1 of the 3 studies with an image lacks it.")


def test_nothing_is_said_where_all_have_it_or_none() -> None:
    assert list(remark_missing(a_cohort(BOTH, BOTH, notes=2), IMAGE.channels, ("image", "text"))) == []
    assert list(remark_missing(a_cohort(NONE, NONE, notes=0), IMAGE.channels, ("image", "text"))) == []


def test_files_that_could_not_be_read_are_counted_by_what_is_wrong_with_them() -> None:
    def problem(kind: str, number: int, severity: str, code: str, study: str | None = None) -> ProblemRow:
        row = {"where_key": f"{kind}-{number:016x}", "study_key": study, "severity": severity, "code": code}
        return ProblemRow.model_validate(row | {"reason": "so", "retryable": False})

    problems = [
        problem("fi", 1, "refused", "recording_unreadable"),
        problem("fi", 2, "refused", "recording_unreadable"),
        problem("fi", 3, "refused", "empty_file"),
        problem("fi", 4, "ignored", "not_recognised"),
        problem("se", 5, "refused", "uneven", f"st-{5:016x}"),
    ]
    (said,) = left_out(cast(StudyIndex, SimpleNamespace(problems=problems)), (), "grade", synthetic=False)
    assert said.startswith("3 files could not be read (1 empty_file, 2 recording_unreadable): ")
    problems = [problem("st", 6, "warning", "line_without_study")]
    (said,) = left_out(cast(StudyIndex, SimpleNamespace(problems=problems)), (), "grade", synthetic=False)
    assert said == "1 study of the list has no image, note or recording, and was left out."
    problems = [problem("fi", 7, "refused", "empty_file")]
    (said,) = left_out(cast(StudyIndex, SimpleNamespace(problems=problems)), (), "grade", synthetic=False)
    assert said.startswith("1 file could not be read (1 empty_file): ")


def test_rows_and_studies_that_do_not_meet_are_counted_with_the_command_that_names_them() -> None:
    row = {"study_key": None, "severity": "warning", "code": "row_without_study", "reason": "so", "retryable": False}
    problems = [ProblemRow.model_validate(row | {"where_key": f"st-{number:016x}"}) for number in range(3)]
    studies = [Study(f"st-{k}", "pt-0", "folder", facts={"grade": ""} if k < 2 else {}) for k in range(6)]
    index = cast(StudyIndex, SimpleNamespace(problems=problems, studies=studies))
    names = "`medmllm index STUDIES --labels TABLE --out INDEX`"
    assert left_out(index, ["st-0", "st-1", "st-2", "st-3"], "grade", synthetic=False) == [
        f"3 rows of the label table fit no study of the folder: {names} names their lines (row_without_study in "
        "problems.csv).",
        "4 studies have no value for grade and were left out, 2 of them without a row in the label table: "
        f"{names} tells which (in_table in studies.csv).",
    ]
    assert left_out(index, ["st-0"], "grade", synthetic=False)[1] == "1 study has no value for grade and was left out."
    assert left_out(index, ["st-5"], "grade", synthetic=False)[1].startswith(
        "1 study has no value for grade and was left out, without a row in the label table: "
    )
