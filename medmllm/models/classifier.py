"""One classifier for every arm: one modality alone, or all that there are, fused.

    Batch -> encoders, of what is there -> learned tokens where a modality is missing -> fusion -> logits

No encoder sees a missing modality: what is stored in its place enters no batch statistics either. The arms of one
modality are this classifier with one encoder. `forward_embedded` takes the note and the table as embeddings, which is
where attributions are taken.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from medmllm.errors import ConfigError
from medmllm.model_documents import ModelSettings, Task
from medmllm.models.audio_encoder import AudioEncoder
from medmllm.models.batch_norm import share_statistics
from medmllm.models.cross_attention import CrossAttention
from medmllm.models.fusion import FUSIONS
from medmllm.models.heads import new_head, score_count
from medmllm.models.image_encoder import ImageEncoder
from medmllm.models.prefix import OCTANTS, Prefix
from medmllm.models.shared_statistics import anywhere
from medmllm.models.table_encoder import TableEncoder
from medmllm.models.text_encoder import TextEncoder
from medmllm.models.tokens import Tokens
from medmllm.records import MODALITIES, Batch


class StudyClassifier(nn.Module):
    """Logits for a batch of studies.

    Args:
        settings: Fusion, widths, dropout.
        image_encoder: None where no image is read; the others likewise.
        text_encoder: Of notes.
        audio_encoder: Of recordings.
        table_encoder: Of cells of the label table.
        task: Says how many logits a study has, and what they come from.
        intervals: Of a time to an event, in which its hazards are told.

    Raises:
        ConfigError: No encoder at all, or an unknown fusion.
    """

    def __init__(
        self,
        settings: ModelSettings,
        *,
        image_encoder: ImageEncoder | None,
        text_encoder: TextEncoder | None,
        audio_encoder: AudioEncoder | None = None,
        table_encoder: TableEncoder | None = None,
        task: Task,
        intervals: int = 0,
    ) -> None:
        super().__init__()
        if settings.fusion not in FUSIONS:
            raise ConfigError(f"[model] fusion = {settings.fusion!r} is none of {', '.join(FUSIONS)}")
        encoders = {"image": image_encoder, "text": text_encoder, "recording": audio_encoder, "table": table_encoder}
        self.modalities = tuple(name for name in MODALITIES if encoders[name] is not None)
        if not self.modalities:
            raise ConfigError("a classifier needs an encoder: of images, notes, recordings or a table")
        self.task = task
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.audio_encoder = audio_encoder
        self.table_encoder = table_encoder
        self.by_token = FUSIONS[settings.fusion] is CrossAttention
        self.encoded_widths = {
            name: encoder.token_width if self.by_token and isinstance(encoder, ImageEncoder) else encoder.width
            for name in self.modalities
            if (encoder := encoders[name]) is not None
        }
        widths = list(self.encoded_widths.values())
        self.prefix: Prefix | None = None
        if settings.fusion == "bert_prefix" and text_encoder is not None and len(self.modalities) > 1:
            before = [width for name, width in self.encoded_widths.items() if name != "text"]
            self.prefix = Prefix(before, text_encoder.embedding_width)
            widths = [text_encoder.width] * len(self.modalities)
        self.missing = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        self.fusion = FUSIONS[settings.fusion](
            widths, hidden=settings.fusion_width, outputs=score_count(task, intervals), dropout=settings.dropout
        )
        self.head = new_head(task, intervals)
        self.modality_dropout = settings.modality_dropout if len(self.modalities) > 1 else 0.0
        self.sharing: frozenset[str] = frozenset()

    def share_statistics(self, shared: bool) -> None:
        """Take batch statistics, while training, over all processes that share a batch, or over this one's part."""
        encoders = {"image": self.image_encoder, "text": self.text_encoder}
        found = {name for name, encoder in encoders.items() if share_statistics(encoder, shared)}
        self.sharing = frozenset(found if shared else ())

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, shape (batch, outputs); a missing modality's stored value does not change them."""
        embedded = None
        if self.text_encoder is not None and (batch.note_features is None or not self.reads_notes_once):
            embedded = self.text_encoder.embed(batch.token_ids)
        return self.forward_embedded(batch, batch.image, embedded)

    def forward_embedded(
        self,
        batch: Batch,
        image: Tensor,
        embedded: Tensor | None,
        *,
        recording: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> Tensor:
        """Return logits with what attributions are taken of given apart from the batch.

        Args:
            batch: Gives the masks.
            image: Shape (batch, channels, x, y, z).
            embedded: Word embeddings, shape (batch, tokens, width); None without a text encoder, or where the batch
                brings the features of its notes.
            recording: Shape (batch, recordings, mels, frames); None: that of the batch.
            cells: Embeddings of the table's cells, shape (batch, columns, width); None: those of the batch.
        """
        if cells is None and self.table_encoder is not None:
            cells = self.embed_cells(batch)
        sound = batch.recording if recording is None else recording
        inputs = {"image": image, "text": embedded, "recording": sound, "table": cells}
        own = batch.present[:, [MODALITIES.index(name) for name in self.modalities]]
        present = self._hide_some(own) if self.training else own
        features: list[Tensor | Tokens] = []
        together = {} if self.prefix is None else self._read_together(self.prefix, batch, inputs, present)
        for slot, name in enumerate(self.modalities):
            found = together[name] if together else self._encode(name, batch, inputs[name])
            here = present[:, slot]
            if self.by_token:
                # A note that no study of the batch has comes as one vector, as what has no tokens of its own does.
                pieces = name == "text" and found.ndim == 3
                tokens = Tokens(found, batch.token_mask) if pieces else Tokens.of(found)
                features.append(tokens.or_missing(here, self.missing[slot]))
            else:
                features.append(torch.where(here[:, None], found, self.missing[slot].to(found.dtype)))
        logits: Tensor = self.head(self.fusion(features).float())
        return logits

    def embed_cells(self, batch: Batch) -> Tensor:
        """Return the embeddings of the table's cells, shape (batch, columns, width)."""
        assert self.table_encoder is not None and batch.table is not None and batch.cell_present is not None
        return self.table_encoder.embed(batch.table, batch.cell_present)

    def _read_together(
        self, prefix: Prefix, batch: Batch, inputs: Mapping[str, Tensor | None], present: Tensor
    ) -> dict[str, Tensor]:
        """Return the features of each modality, shape (batch, width), from what BERT makes of all of them together.

        What is not present, also what modality dropout hides, is masked: nothing else attends to it.
        """
        embedded, here = inputs["text"], dict(zip(self.modalities, present.unbind(dim=1), strict=True))
        assert self.text_encoder is not None and embedded is not None
        before = {
            name: Tokens.of(self._encode(name, batch, inputs[name])).where(here[name])
            for name in self.modalities
            if name != "text"
        }
        words = batch.token_mask & here["text"][:, None]
        read, note = self.text_encoder.read_behind(prefix(list(before.values())), embedded, words)
        parts = read.split([tokens.real.shape[1] for tokens in before.values()])
        features = {name: part.mean() for name, part in zip(before, parts, strict=True)}
        return features | {"text": self.text_encoder.standardise(note.mean(), words)}

    def _encode(self, name: str, batch: Batch, given: Tensor | None) -> Tensor:
        """Return a modality's features, shape (batch, width), or (batch, tokens, width) where tokens are read.

        Rows that lack the modality are not read, and have zeros.
        """
        rows = batch.present[:, MODALITIES.index(name)].nonzero()[:, 0]
        # What shares its statistics is asked of no rows too, as long as another process has some.
        asked = anywhere(rows) if self.training and name in self.sharing else len(rows) > 0
        found = self._encode_rows(name, rows, batch, given) if asked else None
        if found is not None and len(rows) == len(batch.present):
            return found
        if found is None:
            return self._nothing(name, len(batch.present))
        return found.new_zeros(len(batch.present), *found.shape[1:]).index_copy(0, rows, found)

    def _encode_rows(self, name: str, rows: Tensor, batch: Batch, given: Tensor | None) -> Tensor:
        def chosen(tensor: Tensor) -> Tensor:
            return tensor if len(rows) == len(tensor) else tensor.index_select(0, rows)

        if name == "image":
            assert self.image_encoder is not None and given is not None
            features: Tensor = self._look(self.image_encoder)(chosen(given), chosen(batch.channel_present))
        elif name == "recording":
            assert self.audio_encoder is not None and given is not None and batch.recording_mask is not None
            features = self.audio_encoder(chosen(given), chosen(batch.recording_mask))
        elif name == "table":
            assert self.table_encoder is not None and given is not None
            features = self.table_encoder(chosen(given))
        else:
            features = self._encode_notes(batch, given, chosen)
        return features

    def _encode_notes(self, batch: Batch, embedded: Tensor | None, chosen: Callable[[Tensor], Tensor]) -> Tensor:
        assert self.text_encoder is not None
        if embedded is None:
            assert batch.note_features is not None
            return self.text_encoder.standardise(chosen(batch.note_features), chosen(batch.token_mask))
        read = self.text_encoder.tokens if self.by_token else self.text_encoder
        encoded: Tensor = read(chosen(embedded), chosen(batch.token_mask))
        return encoded

    def _look(self, encoder: ImageEncoder) -> Callable[[Tensor, Tensor], Tensor]:
        """Return how an image is looked at: as one vector, by every place, or by octants."""
        if self.by_token:
            return encoder.tokens
        return encoder if self.prefix is None else encoder.octants

    def _nothing(self, name: str, studies: int) -> Tensor:
        """Return zeros for a modality that no study of a batch has; before words stand as many tokens as ever."""
        tokens = (OCTANTS,) if self.prefix is not None and name == "image" else ()
        return self.missing[0].new_zeros(studies, *tokens, self.encoded_widths[name])

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
