"""Notes of which nothing is read are refused before anything is trained."""

import numpy as np
import pytest

from medmllm.errors import ConfigError, SplitError
from medmllm.records import Note, Section
from medmllm.training.cohort import Cohort, Member
from medmllm.training.read_notes import check_training_notes, remark_unread
from medmllm.training.splits import FoldSplit, SplitPlan
from tests.models.small import a_sample
from tests.training.small_cohort import a_config

TEXT = a_config().text
HISTORY, FINDINGS = (Note("cough", (Section(name, 0, 5),)) for name in ("history", "findings"))


def a_cohort(*notes: Note | None) -> Cohort:
    return Cohort(tuple(Member(a_sample(k), note, {}) for k, note in enumerate(notes)), ())


def test_sections_that_no_note_has_are_refused_with_those_that_they_have() -> None:
    cohort, wanted = a_cohort(HISTORY, None, FINDINGS), TEXT.model_copy(update={"sections": ("finding",)})
    with pytest.raises(
        ConfigError, match=r"\['finding'\]: none of the 2 notes .* those that they have \(findings, history"
    ):
        list(remark_unread(cohort, wanted, ["image", "text"]))
    assert list(remark_unread(cohort, wanted, ["image"])) == []  # reads no note
    assert list(remark_unread(cohort, TEXT.model_copy(update={"sections": ()}), ["text"])) == []


def test_notes_without_a_section_that_is_read_are_counted() -> None:
    wanted = TEXT.model_copy(update={"sections": ("history",)})
    assert list(remark_unread(a_cohort(HISTORY, None, FINDINGS), wanted, ["fused"])) == [
        "1 of 2 notes has none of [text] sections: not read."
    ]
    assert list(remark_unread(a_cohort(HISTORY, None), wanted, ["fused"])) == []


def test_a_fold_that_leaves_tiny_without_a_note_is_refused_and_named() -> None:
    cohort = a_cohort(HISTORY, HISTORY, None, None, None, None)
    one, other = (
        FoldSplit(number, np.array(train), np.array(tune), np.array(test))
        for number, (train, tune, test) in enumerate([([0, 4], [5], [1, 2, 3]), ([2, 3], [1], [0, 4, 5])])
    )
    check_training_notes(cohort, SplitPlan((one,), ""), TEXT, ["text"])
    for plan in (SplitPlan((one, other), ""), SplitPlan((one,), "", more=((other,),))):
        with pytest.raises(SplitError, match=r"2 of 6 studies have a note that is read, and .* fold 1 has none"):
            check_training_notes(cohort, plan, TEXT, ["text"])
        check_training_notes(cohort, plan, TEXT, ["image"])
        check_training_notes(cohort, plan, TEXT.model_copy(update={"encoder": "a/bert"}), ["text"])
        check_training_notes(a_cohort(*[None] * 6), plan, TEXT, ["fused"])  # of other modalities
    unread = TEXT.model_copy(update={"sections": ("findings",)})
    half = a_cohort(HISTORY, HISTORY, FINDINGS, FINDINGS, None, None)
    with pytest.raises(SplitError, match=r"2 of 6 .* fold 0 has none"):
        check_training_notes(half, SplitPlan((one, other), ""), unread, ["text"])
