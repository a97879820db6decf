"""Encode an image by numbers that are read off it by rule: learnt is only how they are weighed.

    image (batch, channels, x, y, z) -> readings, such as means of cells -> standardised over the cohort
                                     -> some hidden while training -> width numbers, linear in them

For cohorts of some hundred studies, where a network that has to find out what to look at sees too few of them. What
is read is said by `Reading`s: cells.py knows where things are, measures.py how large they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medmllm.models.batch_norm import EarlyNorm


@dataclass(frozen=True, slots=True)
class Reading:
    """Numbers that can be read off an image, channel by channel."""

    numbers: int  # per channel
    read: Callable[[Tensor], Tensor]  # (batch, channels, x, y, z) -> (batch, channels, numbers), any shape of these


class LinearReader(nn.Module):
    """A map of one place, (batch, width, 1, 1, 1), linear in the standardised readings.

    Args:
        readings: What is read, side by side.
        channels: Image channels.
        width: Numbers that come out.
        dropout: Chance that a number is hidden while training, which is what keeps some hundred weights in check.
    """

    def __init__(self, *readings: Reading, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.readings = readings
        features = channels * sum(reading.numbers for reading in readings)
        self.normalise = EarlyNorm(features, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(features, width)

    def forward(self, image: Tensor) -> Tensor:
        """Return the map for an image (batch, channels, x, y, z)."""
        read = torch.cat([reading.read(image).flatten(1) for reading in self.readings], dim=1)
        standard = self.normalise(read[:, :, None, None, None]).flatten(1)
        # What was the same for all in training has the weights that it started with, and is divided by next to nothing:
        # the first study in which it differs would get any logit.
        assert self.normalise.running_var is not None
        standard = torch.where(self.normalise.running_var > self.normalise.eps / 10, standard, 0)
        found: Tensor = self.out(self.dropout(standard))
        return found[:, :, None, None, None]
