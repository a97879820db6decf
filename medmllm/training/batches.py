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
from medmllm.training.processes import ALONE, Crew
from medmllm.training_config import TrainingSettings


def batches(
    samples: Sequence[Sample],
    contract: PreprocessingContract,
    settings: TrainingSettings,
    pad_token_id: int,
    generator: torch.Generator | None,
    *,
    pin_memory: bool = False,
    crew: Crew = ALONE,
) -> Iterator[Batch]:
    """Yield batches, in the order of `draw_order` when a generator is given; a last one of one joins the one before.

    Of batches that several processes share, each gets its part; where that is none, one study of which nothing is
    there, and which does not count (`smallest_batch` says when a last one joins instead).
    """
    order = list(range(len(samples))) if generator is None else draw_order(samples, settings, generator)
    size = settings.batch_size
    if generator is None:
        starts = list(range(0, len(order), size))
    else:
        starts = training_starts(len(order), size, smallest_batch(settings, crew.size))
    for number, start in enumerate(starts):
        stop = len(order) if number == len(starts) - 1 else start + size
        own = crew.part(order[start:stop])
        chosen = [samples[k] for k in own or order[start : start + 1]]
        batch = collate(chosen, contract, pad_token_id=pad_token_id, pin_memory=pin_memory)
        yield batch if own else replace(batch, study_keys=(), present=torch.zeros_like(batch.present))


def training_starts(studies: int, batch_size: int, smallest: int) -> list[int]:
    """Return where each batch of one epoch begins; the last one reaches to the end.

    >>> training_starts(9, 4, 2), training_starts(10, 4, 2)
    ([0, 4], [0, 4, 8])
    """
    starts = list(range(0, studies, batch_size))
    if len(starts) > 1 and studies - starts[-1] < smallest:
        starts.pop()
    return starts


def smallest_batch(settings: TrainingSettings, processes: int) -> int:
    """Return how many studies a batch needs: two for each batch normalisation.

    Where all processes normalise together, they have the batches that one alone has.
    """
    return 2 if settings.sync_batch_norm else 2 * processes


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
    image, studies = batch.image, len(batch.image)
    moves, flipped = None, None
    if settings.shift_voxels:
        reach = settings.shift_voxels
        moves = torch.randint(-reach, reach + 1, (studies, 3), generator=generator)
    if settings.flips:
        flipped = torch.rand(studies, 3, generator=generator) < 0.5
    image = _moved(image, moves, flipped)
    if settings.noise:
        image = image + _noise(image, generator) * settings.noise
    return batch if image is batch.image else replace(batch, image=image)


def _moved(image: Tensor, moves: Tensor | None, flipped: Tensor | None) -> Tensor:
    """Return each image shifted along x, y and z by its moves, then mirrored where `flipped`; both (batch, 3)."""
    if moves is None and flipped is None:
        return image
    # Without waiting: a plain copy would let the processor wait for all that the GPU was told before.
    moves, flipped = (None if t is None else t.to(image.device, non_blocking=True) for t in (moves, flipped))
    for axis in range(3):
        size = image.shape[axis + 2]
        source = torch.arange(size, device=image.device).expand(len(image), size)
        if flipped is not None:
            source = torch.where(flipped[:, axis, None], size - 1 - source, source)
        if moves is not None:
            source = (source - moves[:, axis, None]).clamp(0, size - 1)
        shape = [len(image), 1, 1, 1, 1]
        shape[axis + 2] = size
        image = image.gather(axis + 2, source.view(shape).expand_as(image))
    return image


def _noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise; on CUDA drawn there, from a seed that the generator gives."""
    if image.device.type == "cpu":
        return torch.randn(image.shape, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    there = torch.Generator(image.device).manual_seed(seed)
    return torch.randn(image.shape, generator=there, device=image.device)
