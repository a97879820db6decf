"""Encode a note as one feature vector, with a BERT-family network.

    token_ids, token_mask (batch, tokens) -> contextual word pieces -> mean over real pieces (batch, width)

A note longer than the network's window is read in windows that overlap (note_windows), never cut here.

`tiny` is a 4-layer BERT made here, so it needs no download; anything else is loaded by hub name or
from a local folder, from safetensors only. Words are looked up before the network (`embed`), so that
attributions can be taken at the embeddings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PretrainedConfig
from transformers.utils.logging import set_tqdm_hook

from medmllm.documents import TextSettings
from medmllm.errors import ConfigError
from medmllm.model_documents import ModelSettings
from medmllm.models.batch_norm import LoneRowNorm
from medmllm.models.note_windows import Windows
from medmllm.models.prefix import PREFIX_TOKENS
from medmllm.models.tokens import Tokens

TINY_LAYERS = 4


def tiny_config(vocabulary: int, settings: ModelSettings, text: TextSettings) -> BertConfig:
    """Return the configuration of the `tiny` BERT for a learnt vocabulary."""
    most = max(1, settings.tiny_width // 16)
    heads = max(number for number in range(1, most + 1) if settings.tiny_width % number == 0)
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=settings.tiny_width,
        num_hidden_layers=TINY_LAYERS,
        num_attention_heads=heads,
        intermediate_size=2 * settings.tiny_width,
        max_position_embeddings=min(text.max_tokens, text.window) + before_words(settings),
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )


def before_words(settings: ModelSettings) -> int:
    """Return how many positions a network must have beyond those of a window of words."""
    return PREFIX_TOKENS if settings.fusion == "bert_prefix" else 0


@contextmanager
def _without_loading_bars() -> Iterator[None]:
    """Keep bars of loading weights, one per fold, out of our own progress; a download has its bar from elsewhere."""
    before = set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **(kwargs | {"disable": True})))
    try:
        yield
    finally:
        set_tqdm_hook(before)


def load_pretrained(encoder: str | Path, *, local_files_only: bool) -> nn.Module:
    """Return a BERT-family network with its pretrained weights.

    Args:
        encoder: Hub name, or a local folder with config.json and model.safetensors.
        local_files_only: Never ask the hub.

    Raises:
        ConfigError: It is not there, has no safetensors weights, or these leave a part of the network random.
    """
    try:
        with _without_loading_bars():
            network, report = AutoModel.from_pretrained(
                str(encoder),
                local_files_only=local_files_only,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,  # else that of the file, and half precision cannot be fine-tuned
                output_loading_info=True,
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"[text] encoder = {str(encoder)!r}: no model with safetensors weights found there "
            f"({type(error).__name__}). Give a hub name with a network, a folder saved with save_pretrained, or 'tiny'."
        ) from None
    random = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))  # which is not used
    if random:
        raise ConfigError(
            f"[text] encoder = {str(encoder)!r}: its weights lack {random[0]} and {len(random) - 1} more, "
            "which would stay random. Give a folder with the weights of the whole encoder."
        )
    pretrained: nn.Module = network
    return pretrained


def longest_window(network: nn.Module) -> int | None:
    """Return the most tokens that a network has positions for at a time; None when it does not say."""
    config: PretrainedConfig = network.config
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    # RoBERTa and its kin number positions from the padding's index on.
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    longest: int = positions - offset
    return longest


def from_config(config: PretrainedConfig) -> nn.Module:
    """Return a network of this configuration with random weights (a package's weights are loaded over them)."""
    network: nn.Module = AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)
    return network


def read_config(folder: Path) -> PretrainedConfig:
    """Return the configuration saved in a model package."""
    config: PretrainedConfig = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return config


class TextEncoder(nn.Module):
    """A BERT-family network with mean pooling over the real word pieces.

    Args:
        network: A Hugging Face encoder that takes `inputs_embeds`.
        batch_norm: Standardise the features over the batch's notes. Contextual embeddings share a large common part
            (Ethayarajh, EMNLP 2019), which hides what tells one note from another.
        windows: How a note longer than a window is read; None: every note in one piece.
    """

    def __init__(self, network: nn.Module, *, batch_norm: bool = False, windows: Windows | None = None) -> None:
        super().__init__()
        self.windows = windows
        self.network = network
        if hasattr(network, "pooler"):
            network.pooler = None  # type: ignore[assignment]  # the mean of the pieces is used; an unused layer would get no gradient
        self.width = int(self.config.hidden_size)
        self.norm = LoneRowNorm(self.width) if batch_norm else None
        self.frozen = False

    def freeze(self) -> None:
        """Let the network learn nothing from now on, and read without dropout in training too."""
        self.frozen = True
        self.network.requires_grad_(False)
        self.network.eval()

    def train(self, mode: bool = True) -> "TextEncoder":
        """Set training mode, but leave a frozen network in evaluation."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    @property
    def config(self) -> PretrainedConfig:
        """The Hugging Face configuration, saved with the package."""
        config: PretrainedConfig = self.network.config
        return config

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return the word embeddings, shape (batch, tokens, width), before position is added."""
        look_up: nn.Module = self.network.get_input_embeddings()  # type: ignore[operator]
        embedded: Tensor = look_up(token_ids)
        return embedded

    @property
    def embedding_width(self) -> int:
        """The width of word embeddings, which some networks have smaller than their states."""
        return int(self.network.get_input_embeddings().embedding_dim)  # type: ignore[operator]

    def hidden(self, embedded: Tensor, token_mask: Tensor, *, prefix: int = 0) -> Tensor:
        """Return the contextual state of every piece of the whole note, shape (batch, tokens, width).

        Args:
            embedded: Word embeddings, shape (batch, tokens, width).
            token_mask: Shape (batch, tokens); what is not real comes last, changes nothing and gives zeros.
            prefix: How many tokens at the start are no words and stand before every window; of these any may be real.
        """
        if not len(embedded):
            return embedded.new_zeros(*token_mask.shape, self.width)
        states = (
            self._read(embedded, token_mask)
            if self.windows is None
            else self.windows.read(self._read, embedded, token_mask, prefix=prefix)
        )
        return states.masked_fill(~token_mask[:, :, None], 0.0)

    def _read(self, embedded: Tensor, token_mask: Tensor) -> Tensor:
        safe = token_mask.clone()
        safe[:, 0] |= ~token_mask.any(dim=1)  # attention over nothing is NaN; the row is replaced later
        states: Tensor = self.network(inputs_embeds=embedded, attention_mask=safe.long()).last_hidden_state
        return states

    def read_behind(self, prefix: Tokens, embedded: Tensor, token_mask: Tensor) -> tuple[Tokens, Tokens]:
        """Return the contextual states of a prefix, as in the first window, and of the note behind it.

        Args:
            prefix: As wide as the word embeddings.
            embedded: Word embeddings, shape (batch, tokens, width).
            token_mask: Shape (batch, tokens); a study without a note has none that is real, and its prefix is read.
        """
        length = prefix.real.shape[1]
        together = torch.cat([prefix.values.to(embedded.dtype), embedded], dim=1)
        states = self.hidden(together, torch.cat([prefix.real, token_mask], dim=1), prefix=length)
        return Tokens(states[:, :length], prefix.real), Tokens(states[:, length:], token_mask)

    def tokens(self, embedded: Tensor, token_mask: Tensor) -> Tensor:
        """Return the contextual states, shape (batch, tokens, width), whose mean over real pieces is `forward`'s.

        Where that is standardised, all pieces of a note move alike.
        """
        hidden = self.hidden(embedded, token_mask)
        pooled = Tokens(hidden, token_mask).mean()
        moved = hidden + (self.standardise(pooled, token_mask) - pooled)[:, None]
        return moved.masked_fill(~token_mask[:, :, None], 0.0)

    def pool(self, embedded: Tensor, token_mask: Tensor) -> Tensor:
        """Return the mean state of each note, shape (batch, width); a row without any real piece gives zeros."""
        return Tokens(self.hidden(embedded, token_mask), token_mask).mean()

    def forward(self, embedded: Tensor, token_mask: Tensor) -> Tensor:
        """Return features, shape (batch, width); a row without any real piece gives zeros."""
        return self.standardise(self.pool(embedded, token_mask), token_mask)

    def standardise(self, pooled: Tensor, token_mask: Tensor) -> Tensor:
        """Return what `pool` gave, standardised over the batch if asked."""
        return pooled if self.norm is None else self._standardise(self.norm, pooled, token_mask.any(dim=1))

    def _standardise(self, norm: LoneRowNorm, pooled: Tensor, real: Tensor) -> Tensor:
        """Batch normalisation over the rows that hold a note; a lone note is measured by the running statistics."""
        standardised = pooled.clone()
        standardised[real] = norm(pooled[real])
        return standardised
