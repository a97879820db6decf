"""How much of a pretrained text encoder learns: all of it, nothing, or low-rank adapters alone.

    network, [text] fine_tuning -> full: as it is | frozen: fixed, no dropout | lora: fixed, with adapters beside it
    trained network -> the same answers with the adapters merged into plain weights

LoRA is Hu et al., ICLR 2022 (arXiv:2106.09685), by peft, on every linear layer of the encoder: on fewer of them it
falls short of full fine-tuning (Dettmers et al., NeurIPS 2023, arXiv:2305.14314). Merged, an encoder has the names and
shapes it started with, so that a model package needs no peft.
"""

import warnings
from importlib.util import find_spec

from medmllm.errors import ConfigError
from medmllm.models.classifier import StudyClassifier
from medmllm.models.text_encoder import TextEncoder
from medmllm.training_config import TextEncoderSettings


def check_extra(text: TextEncoderSettings) -> None:
    """Refuse LoRA where peft is not installed.

    Raises:
        ConfigError: Says how to install it.
    """
    if text.fine_tuning == "lora" and find_spec("peft") is None:
        raise ConfigError(
            '[text] fine_tuning = "lora" needs peft, which is not installed: pip install "medmllm[lora]", or set '
            'fine_tuning = "full" or "frozen".'
        )


def limit_training(network: StudyClassifier, text: TextEncoderSettings) -> None:
    """Fix what is not to learn of a fresh network's text encoder; one that reads no text stays as it is.

    Raises:
        ConfigError: LoRA without peft.
    """
    if network.text_encoder is None:
        return
    if text.fine_tuning == "frozen":
        network.text_encoder.freeze()
    elif text.fine_tuning == "lora":
        _add_adapters(network.text_encoder, text)


def _add_adapters(encoder: TextEncoder, text: TextEncoderSettings) -> None:
    check_extra(text)
    from peft import LoraConfig, get_peft_model  # an extra, and slow to import

    settings = LoraConfig(
        r=text.lora_rank,
        lora_alpha=text.lora_alpha,
        lora_dropout=text.lora_dropout,
        target_modules="all-linear",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5 for a flag by its old name
        encoder.network = get_peft_model(encoder.network, settings)


def merge_adapters(network: StudyClassifier) -> None:
    """Put plain weights that answer alike in the place of an encoder with adapters; others stay as they are."""
    encoder = network.text_encoder
    if encoder is not None and hasattr(encoder.network, "merge_and_unload"):
        encoder.network = encoder.network.merge_and_unload(safe_merge=True)  # type: ignore[operator]
