"""Three processes that share batches and their statistics learn as one does, also where a batch holds two studies."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medmllm.training.loop import fit
from tests.models.small import a_member, contract_of
from tests.training.small import Told, cohort, settings


def fitted(processes: int) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Losses and weights; of 14 studies, some without an image or a note, two are left for the last batch."""
    told = Told()
    train = [
        replace(
            sample,
            image=None if k % 5 == 0 else sample.image,
            token_ids=None if k % 4 == 1 else torch.randperm(20, generator=torch.Generator().manual_seed(k))[:7] + 5,
        )
        for k, sample in enumerate(cohort(14))
    ]
    # Adam makes whole steps of the rounding in gradients that are 0, as that of a shift before a norm is: short steps.
    asked = settings(
        processes=processes, sync_batch_norm=True, batch_size=6, learning_rate=3e-4, text_learning_rate=1e-5
    )
    member = a_member("fused", text_batch_norm=True)
    fit(member, train, cohort(6, first=100), contract_of("fused"), asked, seed=7, tracker=told)
    return told.metrics, member.network.state_dict()


@pytest.mark.slow
def test_three_processes_learn_what_one_does_though_the_last_batch_has_no_study_for_one_of_them() -> None:
    (alone, expected), (three, found) = fitted(1), fitted(3)
    assert len(three) == len(alone) == 3
    for one, other in zip(alone, three, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert alone[0]["train_loss"] != pytest.approx(alone[-1]["train_loss"], rel=1e-2), "something was learnt"
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
