"""A modality of several studies as sequences of tokens, for fusions that read more than one vector of each.

Tokens are the places of an image's feature map, the word pieces of a note, or one token for a whole modality. Those
that are not real, padding, change nothing. A study that lacks the modality has one real token, learned in training:
"there is none" is something else than a blank image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Sequences side by side."""

    values: Tensor  # (batch, tokens, width); anything finite where not real
    real: Tensor  # (batch, tokens), bool

    @classmethod
    def of(cls, features: Tensor) -> "Tokens":
        """Return sequences that are real throughout; features (batch, width) are one token each."""
        values = features if features.ndim == 3 else features[:, None]
        return cls(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def where(self, here: Tensor) -> "Tokens":
        """Return the sequences, with nothing real in those that are not there; here (batch,), bool."""
        return Tokens(self.values, self.real & here[:, None])

    def split(self, lengths: list[int]) -> "list[Tokens]":
        """Return the sequences cut into parts that stand one behind the other."""
        parts = zip(self.values.split(lengths, dim=1), self.real.split(lengths, dim=1), strict=True)
        return [Tokens(values, real) for values, real in parts]

    def mean(self) -> Tensor:
        """Return the mean of what is real, (batch, width); zeros where nothing is."""
        weights = self.real.to(self.values.dtype)[:, :, None]
        return (self.values * weights).sum(1) / weights.sum(1).clamp(min=1)

    def or_missing(self, here: Tensor, missing: Tensor) -> "Tokens":
        """Return the sequences, with the learned token alone in place of those that are not there or hold nothing.

        Args:
            here: Shape (batch,), bool.
            missing: The learned token, shape (width,).
        """
        kept = (here & self.real.any(dim=1))[:, None]
        alone = torch.zeros_like(self.real)
        alone[:, 0] = True
        values = torch.where(kept[:, :, None], self.values, missing.to(self.values.dtype))
        return Tokens(values, torch.where(kept, self.real, alone))
