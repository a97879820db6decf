"""Training samples as batches, in a random order and slightly changed each time.

samples -> batches -> shifts, mirror images, noise
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import WeightedRandomSampler

from medmllm.documents import PreprocessingContract
from medmllm.preprocessing.sample import collate
from medmllm.records import Batch, Sample
from medmllm.training_config import TrainingSettings


def batches(
    samples: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    pad_token_id: int,
    generator: torch.Generator | None,
) -> Iterator[Batch]:
    """Yield batches, in the order of `draw_order` when a generator is given; a last one of one joins the one before."""
    order = list(range(len(samples))) if generator is None else draw_order(samples, settings, generator)
    size = settings.batch_size
    starts = list(range(0, len(order), size))
    if generator is not None and len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()  # batch normalisation needs two
    for number, start in enumerate(starts):
        stop = len(order) if number == len(starts) - 1 else start + size
        yield collate([samples[k] for k in order[start:stop]], contract, pad_token_id=pad_token_id)


def draw_order(samples: Sequence[Sample], settings: TrainingSettings, generator: torch.Generator) -> list[int]:
    """Return the indices of one epoch's samples: each once, or drawn so that each class comes as often."""
    if settings.sampling == "shuffle":
        return torch.randperm(len(samples), generator=generator).tolist()
    targets = torch.tensor([sample.target for sample in samples])
    weights = 1 / torch.bincount(targets)[targets].double()
    return list(WeightedRandomSampler(weights.tolist(), len(samples), replacement=True, generator=generator))


def augment(batch: Batch, settings: TrainingSettings, generator: torch.Generator) -> Batch:
    """Return the batch with random shifts, mirror images and noise, as the settings ask.

    What a shift pushes out is lost, and the outermost voxels are repeated on the other side: nothing comes back in
    there that lies elsewhere in the patient.
    """
    image = batch.image
    if settings.shift_voxels:
        reach = settings.shift_voxels
        moves = torch.randint(-reach, reach + 1, (len(image), 3), generator=generator).tolist()
        image = torch.stack([_shift(one, move) for one, move in zip(image, moves, strict=True)])
    if settings.flips:
        chosen = torch.rand(len(image), 3, generator=generator) < 0.5
        image = torch.stack(
            [one.flip([axis + 1 for axis in range(3) if pick[axis]]) for one, pick in zip(image, chosen, strict=True)]
        )
    if settings.noise:
        noise = torch.randn(image.shape, generator=generator) * settings.noise
        image = image + noise.to(image.device)
    return batch if image is batch.image else replace(batch, image=image)


def _shift(image: Tensor, voxels: Sequence[int]) -> Tensor:
    for axis, (size, move) in enumerate(zip(image.shape[1:], voxels, strict=True), start=1):
        image = image.index_select(axis, (torch.arange(size, device=image.device) - move).clamp(0, size - 1))
    return image
