"""A frozen encoder reads each note once; that changes no result, and nothing else is answered from what was read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medmllm.models.note_windows import Windows
from medmllm.models.package import FoldNetwork
from medmllm.models.text_encoder import TextEncoder
from medmllm.preprocessing.sample import collate
from medmllm.records import UNKNOWN, Sample, Survival, Target
from medmllm.training.arms import split_cohort
from medmllm.training.cross_validation import cross_validate
from medmllm.training.loop import fit, predict_logits
from medmllm.training.machine import Machine
from medmllm.training.note_features import KnownNotes, read_notes
from medmllm.training.tracking import NoRun
from tests.models.small import CONTRACT, NOTES, a_limited_member, a_sample, a_task, encoder_settings, save_bert
from tests.training.small import Told, cohort, settings
from tests.training.small_cohort import a_cohort, a_config

CLOSE = 1e-5  # what other padding and other batches change of a sum


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "bert")


@pytest.fixture
def notes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of notes in each call of an encoder's network, filled in as they are read."""
    seen: list[int] = []
    read = TextEncoder._read

    def spy(self, embedded, token_mask):  # type: ignore[no-untyped-def]
        seen.append(len(embedded))
        return read(self, embedded, token_mask)

    monkeypatch.setattr(TextEncoder, "_read", spy)
    return seen


def some_samples() -> list[Sample]:
    """Notes of several lengths, in no order, and one study without."""
    return [a_sample(k, note=note, target=k % 2) for k, note in enumerate((*NOTES, None, *NOTES[:3]))]


def logits(member: FoldNetwork, samples: list[Sample], **changes: object) -> np.ndarray:
    asked = settings(**changes)
    machine = Machine.of("cpu", asked.precision, channels_last=asked.channels_last)
    return predict_logits(member, samples, CONTRACT, asked, machine)


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_predictions_from_notes_read_before_are_those_of_notes_read_now(
    bert_folder: Path, notes_read: list[int], standardised: bool, channels_last: bool
) -> None:
    member = a_limited_member(bert_folder, "frozen", text_batch_norm=standardised)
    samples = some_samples()
    known = read_notes(member, samples, CONTRACT, settings(channels_last=channels_last))
    assert sum(notes_read) == 7
    assert [sample.study_key for sample in known] == [sample.study_key for sample in samples]
    assert [sample.note_features is None for sample in known] == [sample.token_ids is None for sample in samples]
    notes_read.clear()
    found = logits(member, known, channels_last=channels_last)
    assert notes_read == []
    expected = logits(member, samples, channels_last=channels_last)
    assert sum(notes_read) == 7
    assert np.abs(expected - logits(member, samples[::-1])).max() > 100 * CLOSE  # the studies differ by far more
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def test_a_note_of_several_windows_is_kept_whole(bert_folder: Path) -> None:
    member = a_limited_member(bert_folder, "frozen")
    member.network.text_encoder.windows = Windows(6, 2)  # type: ignore[union-attr]
    samples = [a_sample(k, note=" ".join(NOTES[k:])) for k in range(3)]
    assert all(len(sample.token_ids) > 10 for sample in samples[:2])  # type: ignore[arg-type]
    known = read_notes(member, samples, CONTRACT, settings())
    np.testing.assert_allclose(logits(member, known), logits(member, samples), rtol=0, atol=CLOSE)


def test_training_on_notes_read_before_ends_where_reading_them_in_every_epoch_does(
    bert_folder: Path, notes_read: list[int]
) -> None:
    ends, held_out = [], cohort(8, first=200)
    for ahead in (True, False):
        member = a_limited_member(bert_folder, "frozen", dropout=0.2, modality_dropout=0.3, text_batch_norm=True)
        parts = [cohort(9), cohort(6, first=100)]
        if ahead:
            parts = [read_notes(member, part, CONTRACT, settings()) for part in parts]
            notes_read.clear()
        told = Told()
        fit(member, *parts, CONTRACT, settings(epochs=3), seed=7, tracker=told)
        assert bool(notes_read) != ahead
        ends.append((told.tuning, logits(member, held_out)))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=0, atol=1e-4)  # rounding grows with each step
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=0, atol=1e-4)


def test_a_run_reads_every_note_once_however_many_networks_it_trains(
    bert_folder: Path, tmp_path: Path, notes_read: list[int]
) -> None:
    config = a_config(epochs=3, patience=3).model_copy(update={"text": encoder_settings("frozen", bert_folder)})
    studies = a_cohort()
    plan = split_cohort(studies, config.training)
    cross_validate(
        ["text", "fused"], studies, plan, config, a_task(), out=tmp_path / "run", tracked=NoRun(),
        advance=lambda more: None,
    )  # fmt: skip
    assert sum(notes_read) == len(studies.members)


def test_notes_are_read_again_for_another_batch_size_and_where_one_is_new(
    bert_folder: Path, notes_read: list[int]
) -> None:
    member, samples, known = a_limited_member(bert_folder, "frozen"), some_samples(), KnownNotes()
    first = read_notes(member, samples, CONTRACT, settings(), known)
    notes_read.clear()
    again = read_notes(member, samples, CONTRACT, settings(), known)
    assert not notes_read
    pairs = [(a.note_features, b.note_features) for a, b in zip(first, again, strict=True)]
    assert all(a is b is None or torch.equal(a, b) for a, b in pairs)  # type: ignore[arg-type]
    read_notes(member, samples, CONTRACT, settings(batch_size=settings().batch_size + 1), known)
    assert sum(notes_read) == 7
    read_notes(member, [*samples, a_sample(99, note="a word more")], CONTRACT, settings(), known)
    assert sum(notes_read) == 7 + 8


@pytest.mark.parametrize("target", [Survival(4.0, event=True), (1, Survival(2.5, event=False)), (0, UNKNOWN)])
def test_what_is_known_of_a_study_changes_nothing_that_is_read_of_its_note(bert_folder: Path, target: Target) -> None:
    member, samples = a_limited_member(bert_folder, "frozen"), some_samples()
    told = [replace(sample, target=target) for sample in samples]
    found = read_notes(member, told, CONTRACT, settings())
    assert [sample.target for sample in found] == [target] * len(samples)
    for one, other in zip(found, read_notes(member, samples, CONTRACT, settings()), strict=True):
        assert one.note_features is other.note_features is None or torch.equal(one.note_features, other.note_features)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "fusion"),
    [("full", "concat"), ("lora", "concat"), ("frozen", "cross_attention"), ("frozen", "bert_prefix")],
)
def test_an_encoder_that_learns_or_whose_every_piece_is_fused_reads_the_notes_itself(
    bert_folder: Path, kind: str, fusion: str
) -> None:
    member = a_limited_member(bert_folder, kind, fusion=fusion)
    samples = some_samples()
    assert all(sample.note_features is None for sample in read_notes(member, samples, CONTRACT, settings()))
    stale = [replace(sample, note_features=torch.full((12,), 9.0)) for sample in samples]
    np.testing.assert_array_equal(logits(member, stale), logits(member, samples))


def test_a_batch_is_read_whole_unless_all_its_notes_were_read_before(bert_folder: Path) -> None:
    member = a_limited_member(bert_folder, "frozen")
    samples = some_samples()
    known = read_notes(member, samples, CONTRACT, settings())
    half = collate([known[0], samples[1]], CONTRACT)
    assert half.note_features is None
    without = collate([known[4]], CONTRACT)
    assert without.note_features is None
    mixed = collate([known[0], known[4]], CONTRACT).note_features
    assert mixed is not None
    assert torch.equal(mixed[0], known[0].note_features)  # type: ignore[arg-type]


def test_embeddings_that_are_given_count_and_not_what_was_read_before(bert_folder: Path) -> None:
    member = a_limited_member(bert_folder, "frozen")  # attribution gives them, at points between two notes
    network = member.network.eval()
    batch = collate(read_notes(member, some_samples(), CONTRACT, settings()), CONTRACT)
    assert network.text_encoder is not None
    embedded = network.text_encoder.embed(batch.token_ids).detach().requires_grad_()
    found = network.forward_embedded(batch, batch.image, embedded)
    found.sum().backward()
    assert embedded.grad is not None
    assert embedded.grad.abs().sum() > 0
