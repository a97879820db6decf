"""The form of a model package's card, model.json: what is predicted, and by which networks.

    a trained model -> ModelCard -> model.json -> ModelCard -> scoring

The rules of `medmllm.documents` hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from medmllm.documents import Document, PreprocessingContract, Probability, Setting, Sha256
from medmllm.records import Provenance
from medmllm.tuning_documents import FoldSurvival, TuningDecisions

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
    kind: Literal["binary", "multiclass", "ordinal", "multilabel", "several", "survival"]
    classes: tuple[str, ...] = Field(
        min_length=2,
        description="binary: negative first, positive second; ordinal: lowest first; multilabel and several: those of "
        "each target in turn; survival: no event by the largest horizon, the event by then",
    )
    survival: SurvivalTask | None = Field(default=None, description="of kind survival; else null")
    parts: tuple["Task", ...] = Field(
        default=(),
        validate_default=True,
        description="multilabel: each target on its own, all binary; several: each on its own, of any other kind, and "
        "of survival one at most",
    )

    @field_validator("parts")
    @classmethod
    def _make_up_the_task(cls, parts: tuple["Task", ...], info: ValidationInfo) -> tuple["Task", ...]:
        kind, classes = info.data.get("kind"), info.data.get("classes")  # absent when they are themselves wrong
        if kind is not None and (kind in ("multilabel", "several")) != bool(parts):
            raise ValueError("targets side by side are what multilabel and several are made of, and no other kind is")
        if parts and classes is not None and classes != tuple(name for part in parts for name in part.classes):
            raise ValueError("the classes of a task are those of each target in turn")
        if sum(part.survival is not None for part in parts) > 1:
            raise ValueError("of targets side by side one may be a time to an event")
        return parts

    @classmethod
    def of(cls, target: str, classes: tuple[str, ...], *, ordered: bool = False) -> Self:
        """Return the task of telling these classes apart, or of grading by them where they are ordered."""
        kind: Literal["binary", "multiclass", "ordinal"] = "binary" if len(classes) == 2 else "multiclass"
        return cls(target=target, kind="ordinal" if ordered else kind, classes=classes)

    @classmethod
    def of_several(cls, parts: tuple[Self, ...]) -> Self:
        """Return the task of learning several targets side by side."""
        classes = tuple(name for part in parts for name in part.classes)
        kind: Literal["multilabel", "several"] = "several"
        if all(part.kind == "binary" for part in parts):
            kind = "multilabel"
        return cls(target=", ".join(part.target for part in parts), kind=kind, classes=classes, parts=parts)

    @property
    def several(self) -> bool:
        """Whether several targets are learnt side by side."""
        return bool(self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The targets side by side; empty where there is one."""
        return tuple(part.target for part in self.parts)

    @property
    def ordered(self) -> bool:
        """Whether the classes have an order."""
        return self.kind == "ordinal"

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns that a table has for each of its fields that hold something by class, or by target."""
        timed, of_classes = self.timed, [part for part in self.parts if part.survival is None]
        told = tuple(name for part in of_classes for name in part.classes) if self.several else self.classes
        shown = tuple(name for place in self.places for name in place.task.classes[-place.task.outputs :])
        return {
            "probabilities": self.classes,
            "conformal_set": told,
            **dict.fromkeys(("predicted", "predictions"), self.names),
            **dict.fromkeys(("target", "abstained", "undecided"), tuple(part.target for part in of_classes)),
            **dict.fromkeys(("time", "event", "median_time"), () if timed is None else (timed.target,)),
            "event_free": () if timed is None or timed.survival is None else timed.survival.horizon_names,
            "logits": shown if self.several else self.classes,
        }

    @property
    def timed(self) -> "Task | None":
        """The target that is a time to an event, alone or beside others; None where there is none."""
        return next((part for part in self.parts or (self,) if part.survival is not None), None)

    @property
    def outputs(self) -> int:
        """Logits per study: one of a binary target, else one per class; of several targets those of each in turn.

        Of a time to an event, one that is explained; how many its network gives is a matter of each fold.
        """
        if self.parts:
            return sum(part.outputs for part in self.parts)
        return 1 if self.kind in ("binary", "survival") else len(self.classes)

    @property
    def places(self) -> tuple["Place", ...]:
        """Where each target stands among the outputs and the classes; one place where there is one target."""
        return self.places_in(self.outputs)

    def places_in(self, width: int) -> tuple["Place", ...]:
        """Return where each target stands among so many columns; a time to an event has those that others leave.

        A network gives it a column per interval of its fold, or a log-risk, and once calibrated it has one per time.

        >>> asked = SurvivalTask(event="death", model="cox", horizons=(9.0,), time_unit="days")
        >>> days = Task(target="days", kind="survival", classes=("no death", "death"), survival=asked)
        >>> Task.of_several((days, Task.of("nodule", ("no", "yes")))).places_in(12)[0].outputs
        slice(0, 11, None)
        """
        found, output, label = [], 0, 0
        for part in self.parts or (self,):
            own = part.outputs if part is not self.timed else width - self.outputs + 1
            found.append(Place(part, slice(output, output + own), slice(label, label + len(part.classes))))
            output, label = output + own, label + len(part.classes)
        return tuple(found)

    def place_of(self, label: int) -> "Place":
        """Return the place of the target that a class is of; `label` is the index of the class."""
        return next(place for place in self.places if label < place.classes.stop)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target stands among the outputs of a network, and among the classes of its task."""

    task: Task  # of this target alone
    outputs: slice
    classes: slice

    def output_of(self, label: int) -> tuple[int, float]:
        """Return the output that a class goes by, and its sign: of a binary target both classes have one logit.

        >>> Task.of("nodule", ("no", "yes")).places[0].output_of(0)
        (0, -1.0)
        """
        own = label - self.classes.start
        if self.task.outputs == 1:
            return self.outputs.start, 1.0 if own else -1.0
        return self.outputs.start + own, 1.0


class ModelSettings(Document):
    """The parts of the network, by name."""

    image_encoder: str = Field(
        description="resnet10, resnet18, resnet34, resnet50, densenet121, densenet169, efficientnet_b0 or swin_unetr "
        "(MONAI, 3D); linear in what is read off: cells in means of 8 x 8 x 8 cells, cells_tones also in logarithms of "
        "voxels per tone, measures in those of volumes and surfaces above thresholds, cells_measures in both"
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
        description="of the fused classifier, 'tiny'; blocks of efficientnet_b0, swin_unetr; inputs of cells, measures",
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


def fold_name(fold: int, inner: int | None) -> str:
    """Return how people write a fold, or an inner fold of it.

    >>> fold_name(0, None), fold_name(0, 1)
    ('0', '0.1')
    """
    return f"{fold}" if inner is None else f"{fold}.{inner}"


class FoldModel(TuningDecisions):
    """One network within the package: a fold's, or that of one of its inner folds."""

    fold: int = Field(ge=0)
    inner: int | None = Field(
        default=None,
        ge=0,
        description="inner fold; the fold's model is then the mean of its networks' calibrated logits, and all that is "
        "decided but best_epoch was decided on all their tuning parts together; null: the fold has one network",
    )
    weights: str = Field(description="file name of the safetensors")
    weights_sha256: Sha256
    best_epoch: PositiveInt
    targets: dict[str, TuningDecisions] = Field(default={}, description="several targets: what is decided for each")
    searched: dict[str, Setting] = Field(default={}, description="setting -> what the search chose for this fold")

    def decisions(self, task: Task) -> tuple[TuningDecisions, ...]:
        """Return what is decided for each target, in the order of `Task.places`."""
        return tuple(self.targets[name] for name in task.names) or (self,)

    @property
    def timeline(self) -> FoldSurvival | None:
        """The intervals of a time to an event, alone or beside others; None where there is none."""
        return next((own.survival for own in (self, *self.targets.values()) if own.survival is not None), None)

    @property
    def name(self) -> str:
        """The fold as people write it: 0, or 0.1 for an inner fold."""
        return fold_name(self.fold, self.inner)

    @property
    def decided(self) -> dict[str, object]:
        """What the networks of one fold have in common."""
        return self.model_dump(exclude={"inner", "weights", "weights_sha256", "best_epoch"})


class ModelCard(Document):
    """model.json: everything scoring must know."""

    format: Literal["medmllm-model"] = "medmllm-model"
    format_version: Literal[1] = 1
    task: Task
    arm: Literal["fused", "image", "text", "recording", "table"]
    contract: PreprocessingContract
    contract_fingerprint: Sha256
    model: ModelSettings = Field(description="parts of every network, but for what a search chose (`folds`)")
    folds: tuple[FoldModel, ...] = Field(min_length=1, description="networks; those of a fold stand side by side")
    files: dict[str, Sha256] = Field(description="every other file of the package -> sha256")
    operating_point: Probability = Field(description="mean of the folds' thresholds")
    operating_points: dict[str, Probability] | None = Field(
        default=None, description="several targets: mean of the folds' thresholds of each; 0.5 when not binary"
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

    @field_validator("folds")
    @classmethod
    def _decide_for_every_target(cls, folds: tuple[FoldModel, ...], info: ValidationInfo) -> tuple[FoldModel, ...]:
        task = info.data.get("task")  # absent when it is itself wrong
        if task is None:
            return folds
        if any(tuple(one.targets) != task.names for one in folds):
            raise ValueError("each network decides for every target of the task, in its order, and for no other")
        for own in folds:
            for place, decided in zip(task.places, own.decisions(task), strict=True):
                if decided.offsets is not None and len(decided.offsets) != place.task.outputs:
                    raise ValueError(f"{place.task.outputs} logits want as many offsets, got {len(decided.offsets)}")
        return folds

    @field_validator("folds")
    @classmethod
    def _networks_of_a_fold_agree(cls, folds: tuple[FoldModel, ...]) -> tuple[FoldModel, ...]:
        outer = group_folds(folds)
        if len(outer) != len({own[0].fold for own in outer}) or len({len(own) for own in outer}) > 1:
            raise ValueError("the networks of a fold stand side by side, and each fold has as many")
        for own in outer:
            numbers = [one.inner for one in own]
            if numbers != (list(range(len(own))) if len(own) > 1 else [None]):
                raise ValueError("inner folds are numbered from 0; a single network is no inner fold")
            if any(one.decided != own[0].decided for one in own):
                raise ValueError("the networks of a fold share its calibration and thresholds")
        return folds

    @property
    def outer_folds(self) -> tuple[tuple[FoldModel, ...], ...]:
        """The networks of each fold; one alone where there are no inner folds."""
        return group_folds(self.folds)


def group_folds(folds: Sequence[FoldModel]) -> tuple[tuple[FoldModel, ...], ...]:
    """Return networks by fold."""
    return tuple(tuple(own) for _, own in groupby(folds, key=lambda one: one.fold))
