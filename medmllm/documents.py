"""Pydantic documents: the exact form of every file read or written. Here: how studies become what a model reads.

    a file or a table row -> Document -> a file or a table row

`data_schemas/*.schema.json` is generated from this file, `model_documents`, `result_documents`, `table_rows`,
`config` and what it is made of by `medmllm schemas`; a test fails when they differ. Documents are frozen and refuse
unknown keys.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from medmllm.errors import PackageError

Probability = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
StudyKey = Annotated[str, Field(pattern=r"^st-[0-9a-f]{16}$")]
PatientKey = Annotated[str, Field(pattern=r"^pt-[0-9a-f]{16}$")]
SeriesKey = Annotated[str, Field(pattern=r"^se-[0-9a-f]{16}$")]
FileKey = Annotated[str, Field(pattern=r"^fi-[0-9a-f]{16}$")]
Triple = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
Preference = Literal["most_slices", "thinnest", "closest_slices", "earliest", "latest"]
Setting = bool | int | float | str | tuple[float, ...]
"""What a setting that a training searches can be."""

RESEARCH_USE_ONLY = "Research use only. Not a medical device; not for diagnosis or treatment."


class Document(BaseModel):
    """Anything that is written to or read from a file: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def write(self, path: Path) -> None:
        """Write as indented JSON, whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON file of this kind.

        Raises:
            PackageError: The file is absent, not JSON, or not of this form; names the key.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise PackageError(f"cannot read {path.name}: {error.strerror}") from None
        except ValidationError as error:
            raise PackageError(f"{path.name} is not a valid {cls.__name__}: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """Return where and why a document is wrong, without the value (it may name a patient)."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {fault_in_words(fault)}{more}"


def fault_in_words(fault: ErrorDetails) -> str:
    """Return what pydantic says of a fault, without its own words: that an error is one, and tuple for list."""
    return fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")


# --- what preprocessing does: part of the settings and of the model ------------------------


class Channel(Document):
    """Which series of a study becomes one channel of the image. Ambiguous is refused, never guessed."""

    modality: str = Field(default="", description="DICOM Modality the series must have; empty: any, also unknown")
    nifti_modality: str = Field(
        default="",
        exclude_if=lambda modality: not modality,  # models of before keep their fingerprint
        description="DICOM Modality that a NIfTI file counts as which does not say its own; empty: it stays unknown",
    )
    description: str = Field(
        default="",
        description="regular expression, case ignored, found in the series description or NIfTI file name; empty: any",
    )
    kernel: str = Field(default="", description="the like, found in Convolution Kernel (0018,1210); empty: any")
    plane: Literal["", "axial", "coronal", "sagittal"] = Field(
        default="", description="of the slices, at most 30 degrees off; empty: any, also oblique and unknown"
    )
    contrast: Literal["", "yes", "no"] = Field(
        default="", description="whether a Contrast/Bolus Agent (0018,0010) is recorded; empty: any, also unknown"
    )
    required: bool = Field(default=False, description="refuse a study that lacks this channel; else it is masked")
    min_slices: PositiveInt = Field(default=2, description="slices at least; 1 lets lone slices in")
    max_slices: PositiveInt | None = Field(default=None, description="slices at most; absent: any number")
    max_spacing_mm: PositiveFloat | None = Field(default=None, description="largest distance of neighbouring voxels")
    max_thickness_mm: PositiveFloat | None = Field(default=None, description="largest Slice Thickness (0018,0050)")
    prefer: tuple[Preference, ...] = Field(
        default=(), description="what decides, in this order, where several series fit; empty: they are refused"
    )

    @field_validator("description", "kernel")
    @classmethod
    def _is_a_regular_expression(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return text


class ImageSettings(Document):
    """How a volume is brought onto the model's grid."""

    spacing_mm: Triple = Field(description="x, y, z of the model's grid: axes in the order nearest to RAS+")
    size: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        description="x, y, z voxels, cropped or padded about the centre"
    )
    intensity: Literal["window", "zscore"] = Field(
        description="window: clip and scale to 0..1; zscore: mean 0, standard deviation 1 within each volume"
    )
    window: tuple[float, float] = Field(
        description="lowest and highest value kept when intensity is 'window'; HU for CT"
    )
    regrid: Literal["never", "tilted", "uneven"] = Field(
        description="DICOM slices interpolated onto an upright, regular grid: none; those of a tilted gantry; also "
        "those at uneven gaps, or where one or two neighbouring ones are missing, which else are refused",
    )
    channels: dict[str, Channel] = Field(min_length=1, description="one table per channel, in order")

    @field_validator("window")
    @classmethod
    def _is_lowest_first(cls, window: tuple[float, float]) -> tuple[float, float]:
        if window[0] >= window[1]:
            raise ValueError("the lowest value comes first and lies below the highest")
        return window


class TextSettings(Document):
    """How a note becomes tokens."""

    encoder: str = Field(description="'tiny', a Hugging Face hub name, or a local folder")
    max_tokens: PositiveInt = Field(
        description="tokens kept, special tokens included; what is cut is counted in the log"
    )
    window: PositiveInt = Field(
        description="tokens that the network reads at a time; a longer note is read in windows that overlap"
    )
    overlap: int = Field(ge=0, description="tokens that neighbouring windows share; half a window at most")
    sections: tuple[str, ...] = Field(
        description="sections read, lower case; empty: all. Keep out those that give the answer away"
    )
    required: bool = Field(description="refuse a study without a note; else a learned token stands for it")
    tiny_vocabulary: PositiveInt = Field(
        description="word pieces learnt from the training notes when encoder is 'tiny'"
    )
    local_files_only: bool = Field(description="never ask the hub")

    @field_validator("overlap")
    @classmethod
    def _is_half_a_window_at_most(cls, overlap: int, info: ValidationInfo) -> int:
        window = info.data.get("window", 2 * overlap)  # absent when it is itself wrong
        if 2 * overlap > window:
            raise ValueError(f"neighbouring windows share half a window at most, here {window // 2} tokens")
        return overlap


class AcceptedRange(Document):
    """The range of one property over the training cohort, widened by a stated margin."""

    low: float
    high: float


class ChannelAcceptance(Document):
    """What the training cohort's series of one channel were like: a study far outside is refused."""

    modalities: tuple[str | None, ...]
    extent_mm: tuple[AcceptedRange, AcceptedRange, AcceptedRange] = Field(description="along R-L, A-P, S-I")
    spacing_mm: tuple[AcceptedRange, AcceptedRange, AcceptedRange]
    intensity: AcceptedRange = Field(description="range that the volume's 1st and 99th percentiles must lie in")


class RecordingSettings(Document):
    """How a recording becomes a log-mel spectrogram."""

    enabled: bool = Field(description="read the recordings of the studies")
    sample_rate_hz: int = Field(ge=1000, description="resampled to this; a recording with a lower rate is refused")
    duration_s: PositiveFloat = Field(description="read from the start of each recording; what lies beyond is cut")
    mels: PositiveInt = Field(description="bands from 0 to half the sample rate, evenly spaced on the mel scale")
    window_s: PositiveFloat = Field(description="length of the Hann window")
    hop_s: float = Field(ge=0.001, description="from one window to the next; one sample of the lowest rate at least")
    required: bool = Field(description="refuse a study without a recording; else it is masked")

    @field_validator("hop_s")
    @classmethod
    def _leaves_nothing_out(cls, hop_s: float, info: ValidationInfo) -> float:
        window_s = info.data.get("window_s", hop_s)  # absent when it is itself wrong
        if hop_s > window_s:
            raise ValueError(f"a longer step than the window, {window_s:g} s, leaves sound out")
        return hop_s


class Column(Document):
    """One column of the label table that the model reads."""

    name: str
    kind: Literal["number", "category"]
    accepted: AcceptedRange | None = Field(description="of numbers: a study outside is refused; None: not known yet")


class TableContract(Document):
    """What the model reads of the label table; how each fold codes it stands in the package's table/fold_K.json."""

    columns: tuple[Column, ...] = Field(min_length=1, description="in the order of the model's input")
    open_ended: Literal["refuse", "bound"]
    required: bool


class PreprocessingContract(Document):
    """Everything that turns a study into what the model saw in training; scoring refuses what does not fit."""

    version: Literal[1] = Field(description="version of the preprocessing code's behaviour")
    orientation: Literal["RAS"] = Field(description="axes swapped and reversed into the order nearest to it")
    image: ImageSettings | None = Field(description="None: the model reads no image")
    accepted: dict[str, ChannelAcceptance] = Field(description="by channel name")
    text: TextSettings | None = Field(description="None: the model reads no note")
    # Left out where absent, so that models which read neither keep their fingerprint.
    recording: RecordingSettings | None = Field(None, exclude_if=lambda r: r is None, description="absent: no sound")
    table: TableContract | None = Field(None, exclude_if=lambda t: t is None, description="absent: no table")

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON of this contract and of the order of its channels."""
        ordered = [self.model_dump(mode="json"), list(self.image.channels) if self.image else []]
        canonical = json.dumps(ordered, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
