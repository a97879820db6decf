"""Any non-empty subset of the modalities trains and predicts, and what is missing has no say in it."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from medmllm.models.fusion import FUSIONS
from medmllm.preprocessing.sample import collate
from medmllm.records import MODALITIES, Batch, Sample
from tests.models.small import NOTES, WHOLE, a_sample, a_whole_member

SUBSETS = [subset for size in range(1, len(MODALITIES) + 1) for subset in combinations(MODALITIES, size)]


def a_study(number: int, subset: tuple[str, ...]) -> Sample:
    return a_sample(
        number,
        image="image" in subset,
        note=NOTES[number % 3] if "text" in subset else None,
        recordings=tuple(range(4, 5 + number % 3)) if "recording" in subset else (),
        cells=(float(number), number % 2) if "table" in subset else (None, None),
        target=number % 2,
    )


def garbled(batch: Batch) -> Batch:
    """The same studies, with other values wherever something is missing or padded."""
    image, ids = batch.image.clone(), batch.token_ids.clone()
    image[~batch.present[:, MODALITIES.index("image")]] = float("nan")
    ids[~batch.token_mask] = 7
    assert batch.recording is not None
    assert batch.recording_mask is not None
    assert batch.table is not None
    assert batch.cell_present is not None
    return replace(
        batch,
        image=image,
        token_ids=ids,
        recording=torch.where(batch.recording_mask[:, :, None], batch.recording, torch.nan),
        table=torch.where(batch.cell_present, batch.table, torch.nan),
    )


def test_four_modalities_have_fifteen_subsets() -> None:
    assert len(SUBSETS) == 15


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_a_batch_of_any_subset_trains_one_step_and_predicts(subset: tuple[str, ...], fusion: str) -> None:
    network = a_whole_member(fusion=fusion, dropout=0.1, modality_dropout=0.3, text_batch_norm=True).network.train()
    batch = collate([a_study(number, subset) for number in range(3)], WHOLE)
    assert batch.target is not None
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], batch.target.float())
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    assert any(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    with torch.no_grad():
        assert network.eval()(batch).isfinite().all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_stored_for_missing_and_padded_things_changes_no_bit_of_a_logit(fusion: str) -> None:
    network = a_whole_member(fusion=fusion).network.eval()
    batch = collate([a_study(number, subset) for number, subset in enumerate(SUBSETS)], WHOLE)
    other = garbled(batch)
    assert not torch.equal(batch.image, other.image)
    with torch.no_grad():
        assert torch.equal(network(batch), network(other))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_modality_that_is_there_changes_the_logit(fusion: str) -> None:
    network = a_whole_member(fusion=fusion).network.eval()
    whole = a_study(1, MODALITIES)
    without = [a_study(1, tuple(name for name in MODALITIES if name != left_out)) for left_out in MODALITIES]
    with torch.no_grad():
        logits = network(collate([whole, *without], WHOLE))[:, 0]
    assert len({round(float(logit), 6) for logit in logits}) == len(logits)


def test_an_empty_cell_is_not_a_zero() -> None:
    network = a_whole_member().network.eval()
    known, empty = a_sample(1, cells=(0.0, 1.0)), a_sample(1, cells=(None, 1.0))
    with torch.no_grad():
        first, second = network(collate([known, empty], WHOLE))[:, 0]
    assert torch.equal(collate([known, empty], WHOLE).table, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert first != second
