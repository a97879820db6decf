"""One classifier for every arm: image, text, or both fused.

    Batch -> encoders, of what is there -> learned tokens where a modality is missing -> fusion -> logits

No encoder sees a missing modality: what is stored in its place enters no batch statistics either. Image-only and
text-only are this classifier with one encoder. `forward_embedded` takes the note as embeddings, which is where
attributions are taken.
"""

import torch
from torch import Tensor, nn

from medmllm.documents import ModelSettings
from medmllm.errors import ConfigError
from medmllm.models.fusion import FUSIONS
from medmllm.models.image_encoder import ImageEncoder
from medmllm.models.text_encoder import TextEncoder
from medmllm.records import MODALITIES, Batch


class StudyClassifier(nn.Module):
    """Logits for a batch of studies.

    Args:
        settings: Fusion, widths, dropout.
        image_encoder: None for the text-only arm.
        text_encoder: None for the image-only arm.
        outputs: Logits per study; 1 for a binary task, else one per class.

    Raises:
        ConfigError: No encoder at all, or an unknown fusion.
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        image_encoder: ImageEncoder | None,
        text_encoder: TextEncoder | None,
        outputs: int,
    ) -> None:
        super().__init__()
        if settings.fusion not in FUSIONS:
            raise ConfigError(f"[model] fusion = {settings.fusion!r} is none of {', '.join(FUSIONS)}")
        encoders = {"image": image_encoder, "text": text_encoder}
        self.modalities = tuple(name for name in MODALITIES if encoders[name] is not None)
        if not self.modalities:
            raise ConfigError("a classifier needs an image encoder, a text encoder, or both")
        self.outputs = outputs
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        widths = [int(encoder.width) for name in self.modalities if (encoder := encoders[name]) is not None]
        self.missing = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        self.fusion = FUSIONS[settings.fusion](
            widths, hidden=settings.fusion_width, outputs=outputs, dropout=settings.dropout
        )
        self.modality_dropout = settings.modality_dropout if len(self.modalities) > 1 else 0.0

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, shape (batch, outputs); a missing modality's stored value does not change them."""
        embedded = None if self.text_encoder is None else self.text_encoder.embed(batch.token_ids)
        return self.forward_embedded(batch, batch.image, embedded)

    def forward_embedded(self, batch: Batch, image: Tensor, embedded: Tensor | None) -> Tensor:
        """Return logits with the image and the note's embeddings given apart from the batch.

        Args:
            batch: Gives the masks.
            image: Shape (batch, channels, x, y, z).
            embedded: Word embeddings, shape (batch, tokens, width); None without a text encoder.
        """
        present = self._hide_some(batch.present) if self.training else batch.present
        features = []
        for slot, name in enumerate(self.modalities):
            found = self._encode(name, batch, image, embedded)
            here = present[:, MODALITIES.index(name), None]
            features.append(torch.where(here, found, self.missing[slot].to(found.dtype)))
        logits: Tensor = self.fusion(features)
        return logits.float()

    def _encode(self, name: str, batch: Batch, image: Tensor, embedded: Tensor | None) -> Tensor:
        """Return a modality's features, shape (batch, width): zeros in the rows that lack it, which are not read."""
        rows = batch.present[:, MODALITIES.index(name)].nonzero()[:, 0]
        found = self._encode_rows(name, rows, batch, image, embedded) if len(rows) else None
        if found is not None and len(rows) == len(batch.present):
            return found
        missing = self.missing[self.modalities.index(name)]
        whole = missing.new_zeros(len(batch.present), len(missing), dtype=None if found is None else found.dtype)
        return whole if found is None else whole.index_copy(0, rows, found)

    def _encode_rows(self, name: str, rows: Tensor, batch: Batch, image: Tensor, embedded: Tensor | None) -> Tensor:
        def chosen(tensor: Tensor) -> Tensor:
            return tensor if len(rows) == len(tensor) else tensor.index_select(0, rows)

        if name == "image":
            assert self.image_encoder is not None
            features: Tensor = self.image_encoder(chosen(image), chosen(batch.channel_present))
            return features
        assert self.text_encoder is not None and embedded is not None
        encoded: Tensor = self.text_encoder(chosen(embedded), chosen(batch.token_mask))
        return encoded

    def _hide_some(self, present: Tensor) -> Tensor:
        """Hide a modality at random while training, never the only one a study has."""
        if self.modality_dropout == 0:
            return present
        hidden = torch.rand(present.shape, device=present.device) < self.modality_dropout
        kept = present & ~hidden
        return torch.where(kept.any(dim=1, keepdim=True), kept, present)


def output_count(classes: tuple[str, ...]) -> int:
    """Return the number of logits for a task: one when binary, else one per class."""
    return 1 if len(classes) == 2 else len(classes)
