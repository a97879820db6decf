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
from medmllm.models.cross_attention import CrossAttention
from medmllm.models.fusion import FUSIONS
from medmllm.models.image_encoder import ImageEncoder
from medmllm.models.prefix import OCTANTS, Prefix
from medmllm.models.text_encoder import TextEncoder
from medmllm.models.tokens import Tokens
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
        self.by_token = FUSIONS[settings.fusion] is CrossAttention
        widths = [
            encoder.token_width if self.by_token and isinstance(encoder, ImageEncoder) else encoder.width
            for name in self.modalities
            if (encoder := encoders[name]) is not None
        ]
        self.prefix: Prefix | None = None
        if settings.fusion == "bert_prefix" and text_encoder is not None and len(self.modalities) > 1:
            before = [width for name, width in zip(self.modalities, widths, strict=True) if name != "text"]
            self.prefix = Prefix(before, text_encoder.embedding_width)
            widths = [text_encoder.width] * len(self.modalities)
        self.missing = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        self.fusion = FUSIONS[settings.fusion](
            widths, hidden=settings.fusion_width, outputs=outputs, dropout=settings.dropout
        )
        self.modality_dropout = settings.modality_dropout if len(self.modalities) > 1 else 0.0

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, shape (batch, outputs); a missing modality's stored value does not change them."""
        embedded = None
        if self.text_encoder is not None and (batch.note_features is None or not self.reads_notes_once):
            embedded = self.text_encoder.embed(batch.token_ids)
        return self.forward_embedded(batch, batch.image, embedded)

    def forward_embedded(self, batch: Batch, image: Tensor, embedded: Tensor | None) -> Tensor:
        """Return logits with the image and the note's embeddings given apart from the batch.

        Args:
            batch: Gives the masks.
            image: Shape (batch, channels, x, y, z).
            embedded: Word embeddings, shape (batch, tokens, width); None without a text encoder, or where the batch
                brings the features of its notes.
        """
        present = self._hide_some(batch.present) if self.training else batch.present
        features: list[Tensor | Tokens] = []
        together = {} if self.prefix is None else self._read_together(self.prefix, batch, image, embedded, present)
        for slot, name in enumerate(self.modalities):
            found = together[name] if together else self._encode(name, batch, image, embedded)
            here = present[:, MODALITIES.index(name)]
            if self.by_token:
                # A note that no study of the batch has comes as one vector, as what has no tokens of its own does.
                pieces = name == "text" and found.ndim == 3
                tokens = Tokens(found, batch.token_mask) if pieces else Tokens.of(found)
                features.append(tokens.or_missing(here, self.missing[slot]))
            else:
                features.append(torch.where(here[:, None], found, self.missing[slot].to(found.dtype)))
        logits: Tensor = self.fusion(features)
        return logits.float()

    def _read_together(
        self, prefix: Prefix, batch: Batch, image: Tensor, embedded: Tensor | None, present: Tensor
    ) -> dict[str, Tensor]:
        """Return the features of each modality, shape (batch, width), from what BERT makes of all of them together.

        What is not present, also what modality dropout hides, is masked: nothing else attends to it.
        """
        assert self.text_encoder is not None and embedded is not None
        before = {}
        for name in self.modalities:
            if name != "text":
                tokens = Tokens.of(self._encode(name, batch, image, embedded))
                before[name] = tokens.where(present[:, MODALITIES.index(name)])
        words = batch.token_mask & present[:, MODALITIES.index("text"), None]
        read, note = self.text_encoder.read_behind(prefix(list(before.values())), embedded, words)
        features, start = {"text": self.text_encoder.standardise(note.mean(), words)}, 0
        for name, tokens in before.items():
            own = slice(start, start := start + tokens.real.shape[1])
            features[name] = Tokens(read.values[:, own], read.real[:, own]).mean()
        return features

    def _encode(self, name: str, batch: Batch, image: Tensor, embedded: Tensor | None) -> Tensor:
        """Return a modality's features, shape (batch, width), or (batch, tokens, width) where tokens are read.

        Rows that lack the modality are not read, and have zeros.
        """
        rows = batch.present[:, MODALITIES.index(name)].nonzero()[:, 0]
        found = self._encode_rows(name, rows, batch, image, embedded) if len(rows) else None
        if found is not None and len(rows) == len(batch.present):
            return found
        if found is None:
            return self._nothing(name, len(batch.present))
        return found.new_zeros(len(batch.present), *found.shape[1:]).index_copy(0, rows, found)

    def _encode_rows(self, name: str, rows: Tensor, batch: Batch, image: Tensor, embedded: Tensor | None) -> Tensor:
        def chosen(tensor: Tensor) -> Tensor:
            return tensor if len(rows) == len(tensor) else tensor.index_select(0, rows)

        if name == "image":
            assert self.image_encoder is not None
            look = self.image_encoder.tokens if self.by_token else self.image_encoder
            look = self.image_encoder.octants if self.prefix is not None else look
            features: Tensor = look(chosen(image), chosen(batch.channel_present))
            return features
        assert self.text_encoder is not None
        if embedded is None:
            assert batch.note_features is not None
            return self.text_encoder.standardise(chosen(batch.note_features), chosen(batch.token_mask))
        read = self.text_encoder.tokens if self.by_token else self.text_encoder
        encoded: Tensor = read(chosen(embedded), chosen(batch.token_mask))
        return encoded

    def _nothing(self, name: str, studies: int) -> Tensor:
        """Return zeros for a modality that no study of a batch has: as many tokens before the words as ever."""
        missing = self.missing[self.modalities.index(name)]
        if self.prefix is not None and name == "image" and self.image_encoder is not None:
            return missing.new_zeros(studies, OCTANTS, self.image_encoder.width)
        return missing.new_zeros(studies, len(missing))

    @property
    def reads_notes_once(self) -> bool:
        """Whether a note's features are all that is taken of it, by an encoder that learns nothing."""
        alone = not self.by_token and self.prefix is None
        return self.text_encoder is not None and self.text_encoder.frozen and alone

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
