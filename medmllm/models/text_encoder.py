"""Encode a note as one feature vector, with a BERT-family network.

    token_ids, token_mask (batch, tokens) -> contextual word pieces -> mean over real pieces (batch, width)

`tiny` is a 4-layer BERT made here, so it needs no download; anything else is loaded by hub name or
from a local folder, from safetensors only. Words are looked up before the network (`embed`), so that
attributions can be taken at the embeddings.
"""

from pathlib import Path

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PretrainedConfig

from medmllm.documents import ModelSettings, TextSettings
from medmllm.errors import ConfigError

TINY_LAYERS = 4


def tiny_config(vocabulary: int, settings: ModelSettings, text: TextSettings) -> BertConfig:
    """Return the configuration of the `tiny` BERT for a learnt vocabulary."""
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=settings.tiny_width,
        num_hidden_layers=TINY_LAYERS,
        num_attention_heads=max(1, settings.tiny_width // 16),
        intermediate_size=2 * settings.tiny_width,
        max_position_embeddings=text.max_tokens,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )


def load_pretrained(encoder: str | Path, *, local_files_only: bool) -> nn.Module:
    """Return a BERT-family network with its pretrained weights.

    Args:
        encoder: Hub name, or a local folder with config.json and model.safetensors.
        local_files_only: Never ask the hub.

    Raises:
        ConfigError: It is not there, or has no safetensors weights.
    """
    try:
        network: nn.Module = AutoModel.from_pretrained(
            str(encoder), local_files_only=local_files_only, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"[text] encoder = {str(encoder)!r}: no model with safetensors weights found there ({type(error).__name__}). "
            "Give a hub name with a network, a folder saved with save_pretrained, or 'tiny'."
        ) from None
    return network


def from_config(config: PretrainedConfig) -> nn.Module:
    """Return a network of this configuration with random weights (a package's weights are loaded over them)."""
    network: nn.Module = AutoModel.from_config(config, trust_remote_code=False)
    return network


def read_config(folder: Path) -> PretrainedConfig:
    """Return the configuration saved in a model package."""
    config: PretrainedConfig = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return config


class TextEncoder(nn.Module):
    """A BERT-family network with mean pooling over the real word pieces.

    Args:
        network: A Hugging Face encoder that takes `inputs_embeds`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        if isinstance(network, BertModel):
            network.pooler = None  # the mean of the pieces is used; an unused layer would get no gradient
        self.width = int(network.config.hidden_size)

    @property
    def config(self) -> PretrainedConfig:
        """The Hugging Face configuration, saved with the package."""
        config: PretrainedConfig = self.network.config
        return config

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return the word embeddings, shape (batch, tokens, width), before position is added."""
        embedded: Tensor = self.network.get_input_embeddings()(token_ids)
        return embedded

    def forward(self, embedded: Tensor, token_mask: Tensor) -> Tensor:
        """Return features, shape (batch, width); a row without any real piece gives zeros."""
        safe = token_mask.clone()
        safe[:, 0] |= ~token_mask.any(dim=1)  # attention over nothing is NaN; the row is replaced later
        hidden = self.network(inputs_embeds=embedded, attention_mask=safe.long()).last_hidden_state
        weights = token_mask.to(hidden.dtype)[:, :, None]
        pooled: Tensor = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return pooled
