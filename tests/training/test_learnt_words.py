"""Whoever trains on notes with `tiny` is told that the package holds words of them."""

from collections.abc import Sequence

import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.records import Note
from medmllm.training.arms import usable_arms
from medmllm.training.cohort import Cohort, Member
from tests.models.small import a_sample

PIECES = "hold word pieces of the training notes"


def remarked(*, notes: bool, encoder: str, arms: Sequence[str]) -> list[str]:
    settings = ["table.columns=['age']", f"text.encoder='{encoder}'", f"training.arms={list(arms)}"]
    note = Note("clear lungs", ()) if notes else None
    cohort = Cohort(tuple(Member(a_sample(number), note, {}, values={"age": 1.0}) for number in range(3)), ())
    _, said = usable_arms(cohort, load_config(TrainConfig, "train", overrides=settings))
    return [line for line in said if PIECES in line]


@pytest.mark.parametrize("arms", [["text"], ["image", "fused"]])
def test_a_vocabulary_learnt_from_notes_is_remarked_with_what_to_do_about_it(arms: list[str]) -> None:
    (said,) = remarked(notes=True, encoder="tiny", arms=arms)
    assert all(words in said for words in ("MLflow", "tokenizer.json", "pretrained"))


def test_nothing_is_remarked_where_no_vocabulary_is_learnt() -> None:
    assert remarked(notes=True, encoder="emilyalsentzer/Bio_ClinicalBERT", arms=["text", "fused"]) == []
    assert remarked(notes=True, encoder="tiny", arms=["image"]) == []
    assert remarked(notes=False, encoder="tiny", arms=["image", "fused"]) == []  # of image and table
