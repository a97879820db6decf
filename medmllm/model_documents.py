"""The form of a model package's card, model.json: what is predicted, by which network, and how each fold decides.

    a trained model -> ModelCard -> model.json -> ModelCard -> scoring

The rules of `medmllm.documents` hold.
"""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from medmllm.documents import Document, PreprocessingContract, Probability, Sha256
from medmllm.records import Provenance

RISK_GROUPS = ("lower risk", "higher risk")
"""What a study is called below its operating point, the median risk of tuning parts, and from there on."""


class SurvivalTask(Document):
    """What is asked about the time to an event."""

    event: str = Field(description="column that says whether the event ended the time")
    model: Literal["discrete_time", "cox"]
    horizons: tuple[PositiveFloat, ...] = Field(min_length=1, description="rising, in time_unit")
    time_unit: str

    @property
    def horizon_names(self) -> tuple[str, ...]:
        """The horizons with their unit, e.g. `365 days`."""
        return tuple(f"{horizon:g} {self.time_unit}" for horizon in self.horizons)


class Task(Document):
    """What is predicted."""

    target: str = Field(description="column or expression, e.g. spiculation>=3")
    kind: Literal["binary", "multiclass", "ordinal", "multilabel", "survival"]
    classes: tuple[str, ...] = Field(
        min_length=2,
        description="binary: negative first, positive second; ordinal: lowest first; multilabel: the labels, which do "
        "not exclude each other; survival: no event by the largest horizon, the event by then",
    )
    survival: SurvivalTask | None = Field(default=None, description="survival alone")

    @classmethod
    def of(cls, target: str, classes: tuple[str, ...], *, ordered: bool = False) -> Self:
        """Return the task of telling these classes apart, or of grading by them where they are ordered."""
        kind: Literal["binary", "multiclass", "ordinal"] = "binary" if len(classes) == 2 else "multiclass"
        return cls(target=target, kind="ordinal" if ordered else kind, classes=classes)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels side by side; empty where there is one target."""
        return self.classes if self.kind == "multilabel" else ()


class ModelSettings(Document):
    """The parts of the network, by name."""

    image_encoder: str = Field(
        description="resnet10, resnet18, resnet34, resnet50, densenet121, densenet169, efficientnet_b0 or swin_unetr "
        "(MONAI, 3D), or cells: linear in the means of 8 x 8 x 8 cells"
    )
    image_width: PositiveInt = Field(
        description="channels of the first stage; the usual ResNet and DenseNet have 64, EfficientNet-B0 32 (multiples "
        "of 8), published Swin UNETRs 48 (multiples of 12)"
    )
    image_stem_kernel: Literal[3, 5, 7] = Field(
        description="edge of the ResNet's first convolution; 7 in the papers, 3 for small grids"
    )
    image_stem_stride: Literal[1, 2] = Field(
        description="stride of the first convolution; 1 keeps small things visible. swin_unetr always has 2"
    )
    image_stem_pool: bool = Field(
        description="halve the grid once more after the first convolution, as the papers do; ResNet and DenseNet"
    )
    image_weights: str = Field(
        description="file of pretrained weights that training starts from, .safetensors, .pth or .pt; empty: random. "
        "Scoring never reads it"
    )
    fusion: str = Field(description="concat, gated, low_rank, cross_attention or bert_prefix")
    fusion_width: PositiveInt = Field(description="hidden units of the fused classifier")
    dropout: float = Field(
        ge=0,
        lt=1,
        description="of the fused classifier and 'tiny'; of blocks in efficientnet_b0, swin_unetr; of inputs in cells",
    )
    modality_dropout: float = Field(
        ge=0,
        lt=1,
        description="chance that a modality is hidden from a fused model, a cell of the table from any, while training",
    )
    tiny_width: PositiveInt = Field(description="hidden size of the 'tiny' text encoder")
    audio_width: PositiveInt = Field(
        description="channels of the audio encoder's first stage; it has 4 times as many features"
    )
    table_width: PositiveInt = Field(description="features of the table encoder")
    text_batch_norm: bool = Field(
        description="standardise the notes' features over the batch, as image features are: notes that share most of "
        "their words have nearly the same features"
    )


class LabelDecision(Document):
    """What one fold's tuning part decides for one of several labels."""

    temperature: PositiveFloat = Field(description="the label's logit is divided by this")
    threshold: Probability = Field(description="operating point (Youden's J)")


class IsotonicMap(Document):
    """A rising curve from probability to calibrated probability: straight between its knots, flat outside them."""

    given: tuple[Probability, ...] = Field(min_length=1, description="strictly rising")
    calibrated: tuple[Probability, ...] = Field(description="one per `given`, never falling")

    @field_validator("calibrated")
    @classmethod
    def _rises_with_given(cls, calibrated: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        given = info.data.get("given", calibrated)  # absent when it is itself wrong
        if len(calibrated) != len(given):
            raise ValueError(f"{len(given)} knots want as many values")
        falls = any(high < low for low, high in pairwise(calibrated))
        if falls or any(high <= low for low, high in pairwise(given)):
            raise ValueError("the knots of a curve rise")
        return calibrated


class FoldSurvival(Document):
    """The intervals of one fold, whose networks give a logit of the hazard in each."""

    bounds: tuple[PositiveFloat, ...] = Field(
        min_length=1, description="upper bounds of the intervals, the first of which starts at 0; rising"
    )
    everybody: tuple[float, ...] = Field(
        description="logit of the hazard of all studies outside the test part, one per interval: what the temperature "
        "draws a study's logits towards"
    )

    @field_validator("everybody")
    @classmethod
    def _fits_rising_bounds(cls, everybody: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        bounds = info.data.get("bounds", everybody)  # absent when it is itself wrong
        if len(everybody) != len(bounds):
            raise ValueError(f"{len(bounds)} intervals want as many logits")
        if any(second <= first for first, second in pairwise(info.data.get("bounds", ()))):
            raise ValueError("the bounds of intervals rise")
        return everybody


class FoldModel(Document):
    """One fold's model within the package."""

    fold: int = Field(ge=0)
    weights: str = Field(description="file name of the safetensors")
    weights_sha256: Sha256
    temperature: PositiveFloat = Field(description="logits are divided by this; fitted on the fold's tuning part")
    isotonic: tuple[IsotonicMap, ...] | None = Field(
        default=None,
        description="then followed by the probability of the positive class, or of each class, which are scaled to sum "
        "to 1; null: temperature alone",
    )
    best_epoch: PositiveInt
    threshold: Probability = Field(
        description="operating point (Youden's J) on the fold's tuning part; 0.5 when not binary; survival: the tuning "
        "part's median risk"
    )
    conformal_thresholds: tuple[Probability, ...] | None = Field(
        default=None,
        description="per class, largest 1 - probability at which it stays in the set; from the fold's tuning part",
    )
    labels: tuple[LabelDecision, ...] | None = Field(
        default=None, description="multilabel: temperature and threshold of each label, in place of the fold's own"
    )
    survival: FoldSurvival | None = Field(
        default=None, description="survival alone; temperature then divides the distance from everybody's logits"
    )

    def temperature_of(self, output: int) -> float:
        """Return what the logit of an output is divided by."""
        return self.temperature if self.labels is None else self.labels[output].temperature


class ModelCard(Document):
    """model.json: everything scoring must know."""

    format: Literal["medmllm-model"] = "medmllm-model"
    format_version: Literal[1] = 1
    task: Task
    arm: Literal["fused", "image", "text", "recording", "table"]
    contract: PreprocessingContract
    contract_fingerprint: Sha256
    model: ModelSettings
    folds: tuple[FoldModel, ...] = Field(min_length=1)
    files: dict[str, Sha256] = Field(description="every other file of the package -> sha256")
    operating_point: Probability = Field(description="mean of the folds' thresholds")
    operating_points: dict[str, Probability] | None = Field(
        default=None, description="multilabel: mean of the folds' thresholds of each label"
    )
    calibration: str = Field(description="how probabilities were calibrated, in words")
    conformal_coverage: Probability | None = Field(
        default=None,
        description="per class, that each fold's thresholds aim at; a study's set holds the classes in at least half "
        "of the folds' sets",
    )
    intended_use: str
    training_patients: tuple[Sha256, ...] = Field(description="sha256 of each training patient_key, sorted")
    training_studies: tuple[Sha256, ...] = Field(description="sha256 of each training study_key, sorted")
    split_digest: Sha256
    synthetic: bool = Field(description="trained on synthetic data: no clinical meaning at all")
    provenance: Provenance
