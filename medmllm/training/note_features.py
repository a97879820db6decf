"""Read each note once where its encoder is frozen, not once per epoch.

    samples, frozen fold network -> the same samples with what the encoder makes of their notes

What was read lies in memory beside the samples of the fold, never on disk. Scoring and attribution read the notes.
Networks that begin with the same frozen encoder, as those of all folds and candidates of a search, share it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medmllm.documents import PreprocessingContract, TextSettings
from medmllm.models.package import FoldNetwork
from medmllm.records import Sample
from medmllm.training.batches import batches
from medmllm.training.machine import Machine
from medmllm.training_config import TrainingSettings


@dataclass(slots=True, eq=False)
class KnownNotes:
    """What a frozen encoder made of the notes of one cohort, as long as one encoder and batch size are asked for.

    Rounding hangs on which notes share a batch: with another batch size they are read again.
    """

    read_as: tuple[TextSettings | None, int] | None = None
    features: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def has(self, notes: Iterable[tuple[int, ...]], contract: PreprocessingContract, batch_size: int) -> bool:
        """Return whether none of the notes has to be read."""
        return self.read_as == (contract.text, batch_size) and all(note in self.features for note in notes)


@torch.no_grad()
def read_notes(
    member: FoldNetwork,
    samples: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    known: KnownNotes | None = None,
) -> list[Sample]:
    """Return the samples, with `note_features` where there is a note, which the network reads once.

    Args:
        member: The network that will be trained on them; moved to the device of the settings.
        samples: With tokens.
        contract: What the samples were prepared under.
        settings: Batch size, device, precision.
        known: What was read before of the same cohort, from the same pretrained encoder; what is read now goes there.
    """
    encoder, found = member.network.text_encoder, list(samples)
    if encoder is None or not member.network.reads_notes_once:
        return found
    notes = {k: tuple(sample.token_ids.tolist()) for k, sample in enumerate(samples) if sample.token_ids is not None}
    order = sorted(notes, key=lambda k: len(notes[k]))  # notes of one length fill their batch without padding
    known = KnownNotes() if known is None else known
    if not known.has(notes.values(), contract, settings.batch_size):
        features = _read(member, [samples[k] for k in order], contract, settings)
        known.read_as = contract.text, settings.batch_size
        known.features = {notes[k]: own for k, own in zip(order, features, strict=True)}
    for k, note in notes.items():
        found[k] = replace(samples[k], note_features=known.features[note])
    return found


def _read(
    member: FoldNetwork, samples: Sequence[Sample], contract: PreprocessingContract, settings: TrainingSettings
) -> list[Tensor]:
    encoder = member.network.text_encoder
    assert encoder is not None
    machine = Machine.of(settings.device, settings.precision, channels_last=settings.channels_last)
    machine.place(member.network)
    text_only = contract.model_copy(update={"image": None})
    # A time to an event is coded for the loss later, by the intervals of the fold.
    unlabelled = [replace(sample, target=None) for sample in samples]
    features: list[Tensor] = []
    for batch in batches(unlabelled, text_only, settings, member.pad_token_id, None):
        here = machine.bring(batch)
        with machine.autocast():
            features += encoder.pool(encoder.embed(here.token_ids), here.token_mask).float().cpu()
    return features
