from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from medmllm.ingest.study_folder import StudyIndex
from medmllm.records import Note
from medmllm.table_rows import ProblemRow
from medmllm.training.cohort import Cohort, Member
from medmllm.training.missing_inputs import remark_missing
from medmllm.training.run import left_out
from tests.models.small import IMAGE, a_sample

BOTH, FIRST, NONE = (True, True), (True, False), (False, False)


def a_cohort(*channels: tuple[bool, bool], notes: int) -> Cohort:
    members = []
    for number, present in enumerate(channels):
        sample = replace(a_sample(number, image=any(present)), channel_present=present)
        members.append(Member(sample, Note("clear", ()) if number < notes else None, {}))
    return Cohort(tuple(members), ())


def test_studies_without_an_image_a_channel_or_a_note_are_counted_beside_those_that_have_it() -> None:
    said = list(remark_missing(a_cohort(BOTH, FIRST, FIRST, NONE, NONE, notes=5), IMAGE.channels))
    assert [line.partition(":")[0] for line in said] == ["2 of 5 studies are read without an image", "Channel 'pet'"]
    assert "2 of the 3 studies with an image lack it" in said[1]
    assert "medmllm select" in said[0]
    assert list(remark_missing(a_cohort(BOTH, BOTH, BOTH, notes=1), IMAGE.channels)) == [
        "2 of 3 studies are read without a note."
    ]


def test_nothing_is_said_where_all_have_it_or_none() -> None:
    assert list(remark_missing(a_cohort(BOTH, BOTH, notes=2), IMAGE.channels)) == []
    assert list(remark_missing(a_cohort(NONE, NONE, notes=0), IMAGE.channels)) == []


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
    assert said == "1 studies of the list have no image, note or recording, and were left out."
