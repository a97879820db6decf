"""Arms are those that the cohort can feed, and each reads its own modality alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medmllm.errors import ConfigError
from medmllm.records import Refusal, Study
from medmllm.training.arms import arm_contract, check_arms, main_arm, mean_image, usable_arms
from medmllm.training.cohort import Cohort, Member, draft_contract
from medmllm.training.fold_inputs import fold_tokenizer, tokenize_cohort
from medmllm.training.splits import FoldSplit
from tests.models.small import IMAGE, SIZE, TABLE, TEXT, a_sample
from tests.training.small_cohort import a_cohort, a_config, a_note


@pytest.mark.parametrize(
    ("images", "notes", "arms"),
    [(True, True, ["image", "text", "fused"]), (True, False, ["image"]), (False, True, ["text"])],
)
def test_the_arms_are_those_that_the_cohort_can_feed(images: bool, notes: bool, arms: list[str]) -> None:
    found, said = usable_arms(a_cohort(4, images=images, notes=notes), a_config())
    assert found == arms
    refused = [remark.split()[1] for remark in said if remark.startswith("No ")]
    assert refused == [a for a in ("image", "text", "fused") if a not in arms]


def test_a_table_has_an_arm_and_makes_a_fused_one_with_any_other_modality() -> None:
    rows = a_cohort(4, images=False, notes=False)
    members = tuple(replace(m, sample=replace(m.sample, image=None), values={"age": 1.0}) for m in rows.members)
    packaged = a_config()
    config = packaged.model_copy(update={"table": packaged.table.model_copy(update={"columns": ("age",)})})
    alone, said = usable_arms(Cohort(members, ()), config)
    assert alone == ["table"]
    assert [remark.split()[1] for remark in said] == ["image", "text", "fused"]
    noted = (replace(members[0], note=a_note("clear")), *members[1:])
    assert usable_arms(Cohort(noted, ()), config)[0] == ["text", "table", "fused"]
    contract = arm_contract(draft_contract(IMAGE, TEXT, table=TABLE), "table")
    assert (contract.image, contract.text, contract.table) == (None, None, TABLE)


def test_an_arm_that_is_not_there_is_not_blamed_on_studies_that_were_refused() -> None:
    there = a_cohort(4, notes=False)
    refused = (Study("st-9", "pt-9", "folder"), Refusal("read", "note_unreadable", "no text", retryable=False))
    _, said = usable_arms(Cohort(there.members, (refused,)), a_config())
    read = f"the {len(there.members)} studies that can be read"
    refused_too = "; others were refused (1), see training_ledger.csv."
    assert said[:2] == [
        f"No text arm: {read} lack what it reads{refused_too}",
        f"No fused arm: there is nothing to fuse, as {read} have the image alone{refused_too}",
    ]


def test_a_cohort_that_feeds_no_arm_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="arms"):
        usable_arms(a_cohort(4, notes=False), a_config(arms=("text", "fused")))


def test_what_would_be_searched_in_arms_that_cannot_be_trained_alone_is_remarked() -> None:
    search = {"image_width": (4, 8), "weight_decay": (0.1, 1.0), "flips": (True, False)}
    _, said = usable_arms(a_cohort(4), a_config(search=search))
    assert not [remark for remark in said if "searched" in remark]
    _, said = usable_arms(a_cohort(4, images=False), a_config(search=search))
    assert "Not searched ([training.search]), as no arm that is trained has it: image_width, flips." in said


def test_arms_that_are_all_switched_off_are_refused_before_a_study_is_read() -> None:
    with pytest.raises(
        ConfigError, match=r"set \[recording\] enabled = true and \[table\] columns, or name other arms"
    ):
        check_arms(a_config(arms=("recording", "table")))
    check_arms(a_config(arms=("recording", "image")))


def test_the_main_arm_is_the_fused_one_where_there_is_one() -> None:
    assert [main_arm(arms) for arms in (["image", "fused"], ["text", "image"], ["image"])] == ["fused", "text", "image"]


def test_the_contract_of_an_arm_leaves_out_what_it_does_not_read() -> None:
    contract = draft_contract(IMAGE, TEXT)
    assert arm_contract(contract, "image").text is None
    assert arm_contract(contract, "text").image is None
    assert arm_contract(contract, "fused") == contract


def test_an_arm_that_reads_no_image_gets_none() -> None:
    cohort = a_cohort(4)
    contract = arm_contract(draft_contract(IMAGE, TEXT), "text")
    split = FoldSplit(0, np.arange(5), np.array([], dtype=int), np.array([], dtype=int))
    samples = tokenize_cohort(cohort, contract, fold_tokenizer(cohort, split, contract))
    assert all(sample.image is None and sample.token_ids is not None for sample in samples)
    images = tokenize_cohort(cohort, arm_contract(draft_contract(IMAGE, TEXT), "image"), None)
    assert all(sample.image is not None and sample.token_ids is None for sample in images)


def test_the_mean_image_averages_each_channel_over_the_studies_that_have_it() -> None:
    def member(k: int, value: float, channels: tuple[bool, bool]) -> Member:
        sample = replace(a_sample(k, channels=channels), image=torch.full((2, *SIZE), value))
        return Member(sample, None, {})

    cohort = Cohort((member(0, 1.0, (True, True)), member(1, 5.0, (True, False)), member(2, 4.0, (False, True))), ())
    cohort = Cohort((*cohort.members, Member(a_sample(3, image=False), None, {})), ())
    mean = mean_image(cohort)
    assert mean.shape == (2, *SIZE)
    assert mean[0].unique().tolist() == [3.0]  # (1 + 5) / 2
    assert mean[1].unique().tolist() == [2.5]  # (1 + 4) / 2
