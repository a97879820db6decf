"""Encode the recordings of a study as one feature vector.

    recording (batch, recordings, mels, frames), recording_mask (batch, recordings, frames)
        -> per recording: convolutions -> mean and maximum over its frames -> mean over recordings (batch, width)

Frames that are padding are set to zero before every convolution, as is what lies beyond its edge: so what is stored in
them is never read, and a recording gives the same whatever it is batched with. No batch statistics.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from medmllm.model_documents import ModelSettings

STAGES = 3  # each halves bands and frames, and doubles the channels


class AudioEncoder(nn.Module):
    """A small convolutional network over log-mel spectrograms.

    Args:
        settings: `audio_width`, channels of the first stage, and `dropout`.
        mels: Bands of the spectrograms.
    """

    def __init__(self, settings: ModelSettings, mels: int) -> None:
        super().__init__()
        channels = [1, *(settings.audio_width * 2**stage for stage in range(STAGES))]
        bands = mels
        self.stages = nn.ModuleList()
        for before, after in pairwise(channels):
            convolution = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)
            self.stages.append(nn.ModuleDict({"convolution": convolution, "norm": nn.LayerNorm(after)}))
            bands = (bands + 1) // 2
        self.width = channels[-1]
        # Bands are kept apart until here: how high a sound is matters, when it comes does not.
        self.mix = nn.Sequential(
            nn.Linear(2 * channels[-1] * bands, self.width), nn.GELU(), nn.Dropout(settings.dropout)
        )

    def forward(self, recording: Tensor, recording_mask: Tensor) -> Tensor:
        """Return features, shape (batch, width); a study without any real frame gives zeros."""
        real = recording_mask.any(dim=2)  # (batch, recordings)
        found = self._encode(recording[real], recording_mask[real])
        each = found.new_zeros(*real.shape, self.width)
        each[real] = found
        return each.sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)

    def _encode(self, spectra: Tensor, mask: Tensor) -> Tensor:
        """Return the features of single recordings, (recordings, width), for (recordings, mels, frames)."""
        maps = torch.where(mask[:, None, :], spectra, 0.0)[:, None]
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleDict)
            maps = stage["norm"](stage["convolution"](maps).movedim(1, -1)).movedim(-1, 1)
            mask = mask[:, ::2]  # a kernel of 3 with stride 2 is centred on every other frame
            maps = nn.functional.gelu(maps).masked_fill(~mask[:, None, None, :], 0.0)
        frames = mask[:, None, None, :]
        mean = maps.sum(dim=3) / frames.sum(dim=3).clamp(min=1)
        largest = maps.masked_fill(~frames, -torch.inf).amax(dim=3)
        features: Tensor = self.mix(torch.cat([mean, largest], dim=1).flatten(1))
        return features
