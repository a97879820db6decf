"""Where and how the arithmetic of training and scoring runs.

device and precision of the settings -> Machine -> networks, batches and forward passes in their place
"""

import os
from dataclasses import dataclass, replace

import torch

from medmllm.errors import ConfigError
from medmllm.models.classifier import StudyClassifier
from medmllm.preprocessing.sample import to_device
from medmllm.records import Batch
from medmllm.training_config import TrainingSettings


def set_determinism(settings: TrainingSettings) -> None:
    """Make this process compute the same bits each time, or let it be as fast as it can."""
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS sums in any order
    torch.use_deterministic_algorithms(settings.deterministic)
    torch.backends.cudnn.deterministic = settings.deterministic
    # Grids never change their size, so the fastest convolution of the first batch stays the fastest.
    torch.backends.cudnn.benchmark = not settings.deterministic


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how the arithmetic runs."""

    device: torch.device
    bf16: bool
    channels_last: bool

    @classmethod
    def of(cls, device: str, precision: str = "auto", *, channels_last: bool = False) -> "Machine":
        """Resolve `auto`, `cpu`, `cuda` or `cuda:N`.

        Raises:
            ConfigError: The device is unknown or absent.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            found = torch.device(device)
        except RuntimeError:
            found = None
        if found is None or found.type not in ("cpu", "cuda"):
            raise ConfigError(f"device = {device!r} is none of auto, cpu, cuda, cuda:N")
        usable = torch.cuda.device_count() if found.type == "cuda" and torch.cuda.is_available() else 0
        if found.type == "cuda" and (found.index or 0) >= usable:
            raise ConfigError(
                f"device = {device!r}: {usable or 'no'} CUDA devices are usable here; use device = 'cpu' or 'auto'"
            )
        bf16 = precision == "bf16-mixed" or (precision == "auto" and found.type == "cuda")
        return cls(found, bf16, channels_last)

    def place(self, network: StudyClassifier) -> None:
        """Move a network here, in the memory layout asked for."""
        network.to(self.device)
        if self.channels_last and network.image_encoder is not None:
            network.image_encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def bring(self, batch: Batch) -> Batch:
        """Move a batch here, in the memory layout asked for."""
        return self.lay_out(self.move(batch))

    @property
    def pin_memory(self) -> bool:
        """Whether batches are copied faster from pinned memory."""
        return self.device.type == "cuda"

    def move(self, batch: Batch) -> Batch:
        """Move a batch here, in the layout it has."""
        return to_device(batch, self.device)

    def lay_out(self, batch: Batch) -> Batch:
        """Give a batch the memory layout asked for."""
        if not self.channels_last:
            return batch
        return replace(batch, image=batch.image.contiguous(memory_format=torch.channels_last_3d))

    def autocast(self) -> torch.autocast:
        """Return the context for forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
