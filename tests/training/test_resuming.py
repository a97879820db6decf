"""What checkpoints of a training belong to: its settings, its folds, and all that its networks read."""

from dataclasses import replace

import pytest
import torch

from medmllm.config import TrainConfig
from medmllm.records import Survival
from medmllm.training.cohort import Cohort, Member
from medmllm.training.resuming import origin_of
from tests.training.small_cohort import a_cohort, a_config, a_note


def whole_cohort() -> Cohort:
    """Two patients of whom everything that can be read is there."""
    members = [
        replace(
            member,
            sample=replace(member.sample, recording=(torch.zeros(2, 3), torch.ones(2, 4))),
            values={"age": 50.0, "sex": "f"},
        )
        for member in a_cohort(2).members
    ]
    return Cohort(tuple(members), ())


def changed(member: Member, what: str) -> Member:
    sample = member.sample
    assert isinstance(sample.image, torch.Tensor)
    voxels = sample.image.clone()
    voxels.view(-1)[7] += 1e-3
    of_sample: dict[str, object] = {
        "study_key": "st-other", "patient_key": "pt-other", "image": voxels, "target": Survival(3.0, event=False),
        "channel_present": tuple(not own for own in sample.channel_present),
        "recording": (torch.zeros(2, 3), torch.zeros(2, 4)),
    }  # fmt: skip
    if what in of_sample:
        return replace(member, sample=replace(sample, **{what: of_sample[what]}))  # type: ignore[arg-type]
    return (
        replace(member, note=a_note("another")) if what == "note" else replace(member, values={"age": 51.0, "sex": "f"})
    )


@pytest.mark.parametrize(
    "what", ["study_key", "patient_key", "image", "target", "channel_present", "recording", "note", "values"]
)
def test_whatever_a_network_reads_of_a_study_is_another_cohort_when_it_changes(what: str) -> None:
    first, *rest = whole_cohort().members
    before = origin_of(a_config(), "split", whole_cohort())
    assert origin_of(a_config(), "split", whole_cohort()) == before
    after = origin_of(a_config(), "split", Cohort((changed(first, what), *rest), ()))
    assert after.cohort != before.cohort
    assert (after.settings, after.split) == (before.settings, before.split)


def test_the_order_of_the_studies_counts_as_batches_are_drawn_by_it() -> None:
    members = a_cohort(2).members
    one, other = (origin_of(a_config(), "split", Cohort(own, ())) for own in (members, members[::-1]))
    assert one.cohort != other.cohort


def test_only_settings_that_a_network_depends_on_are_other_settings() -> None:
    def of(config: TrainConfig) -> str:
        return origin_of(config, "split", a_cohort(2)).settings

    plain = a_config()
    free = plain.model_copy(update={"evaluation": plain.evaluation.model_copy(update={"coverage": 0.5})})
    assert of(free) == of(plain)
    assert len({of(plain), of(a_config(epochs=5)), of(a_config(threads=2)), of(a_config(device="auto"))}) == 4
