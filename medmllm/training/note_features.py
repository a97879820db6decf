"""Read each note once where its encoder is frozen, not once per epoch.

    samples, frozen fold network -> the same samples with what the encoder makes of their notes

What was read lies in memory beside the samples of the fold, never on disk. Scoring and attribution read the notes.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from medmllm.documents import PreprocessingContract
from medmllm.models.package import FoldNetwork
from medmllm.records import Sample
from medmllm.training.batches import batches
from medmllm.training.machine import Machine
from medmllm.training_config import TrainingSettings


@torch.no_grad()
def read_notes(
    member: FoldNetwork, samples: Sequence[Sample], contract: PreprocessingContract, settings: TrainingSettings
) -> list[Sample]:
    """Return the samples, with `note_features` where there is a note, which the network reads once.

    Args:
        member: The network that will be trained on them; moved to the device of the settings.
        samples: With tokens.
        contract: What the samples were prepared under.
        settings: Batch size, device, precision.
    """
    encoder, found = member.network.text_encoder, list(samples)
    if encoder is None or not member.network.reads_notes_once:
        return found
    machine = Machine.of(settings.device, settings.precision, channels_last=settings.channels_last)
    machine.place(member.network)
    lengths = {k: len(sample.token_ids) for k, sample in enumerate(samples) if sample.token_ids is not None}
    order = sorted(lengths, key=lengths.__getitem__)  # notes of one length fill their batch without padding
    text_only = contract.model_copy(update={"image": None})
    features: list[torch.Tensor] = []
    for batch in batches([samples[k] for k in order], text_only, settings, member.pad_token_id, None):
        here = machine.bring(batch)
        with machine.autocast():
            features += encoder.pool(encoder.embed(here.token_ids), here.token_mask).float().cpu()
    for k, own in zip(order, features, strict=True):
        found[k] = replace(samples[k], note_features=own)
    return found
