from dataclasses import replace

from medmllm.records import Note
from medmllm.training.cohort import Cohort, Member
from medmllm.training.missing_inputs import remark_missing
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
