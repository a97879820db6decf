"""Settings of training: [text], [task], [training], [evaluation] and [tracking] of train.toml.

train.toml -> TextEncoderSettings, TaskSettings, TrainingSettings, EvaluationSettings, TrackingSettings
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from medmllm.documents import Document, TextSettings, fault_in_words
from medmllm.model_documents import ModelSettings
from medmllm.search_config import MOST_CANDIDATES, Grid, combinations, settle_grid
from medmllm.survival_config import SurvivalSettings
from medmllm.trust_config import SubgroupSettings, check_header

Arm = Literal["image", "text", "recording", "table", "fused"]
OnLeakage = Literal["refuse", "warn"]
ClassWeights = Annotated[
    Annotated[Literal["none", "balanced", "effective_number"], Tag("by_name")]
    | Annotated[tuple[PositiveFloat, ...], Tag("by_class")],
    Discriminator(lambda given: "by_name" if isinstance(given, str) else "by_class"),
]


class TextEncoderSettings(TextSettings):
    """[text] of train.toml: how a note becomes tokens, and how much of the encoder learns from them."""

    fine_tuning: Literal["full", "frozen", "lora"] = Field(
        description="full: every weight of a pretrained encoder learns on; frozen: none; lora: low-rank adapters on "
        "its linear layers do, and are merged into the weights at the end"
    )
    lora_rank: PositiveInt = Field(description="rank of each adapter")
    lora_alpha: PositiveInt = Field(description="what an adapter adds is scaled by lora_alpha / lora_rank")
    lora_dropout: float = Field(ge=0, lt=1, description="on what goes into an adapter, while training")

    @field_validator("fine_tuning")
    @classmethod
    def _keeps_pretrained_weights_alone(cls, fine_tuning: str, info: ValidationInfo) -> str:
        if fine_tuning != "full" and info.data.get("encoder") == "tiny":
            raise ValueError("'tiny' starts at random and has to learn as a whole: use 'full', or a pretrained encoder")
        return fine_tuning

    @property
    def reading(self) -> TextSettings:
        """What of this a model's contract holds: how a note is read, not how that was learnt."""
        return TextSettings.model_validate(self.model_dump(include=set(TextSettings.model_fields)))


TargetKind = Literal["classes", "ordinal", "survival"]


class TaskSettings(SurvivalSettings):
    """What kind of thing the target is, or each of several."""

    kind: TargetKind = Field(
        description="classes: two or more without an order; ordinal: three or more in an order, such as grades; "
        "survival: the time to an event, not seen to come in all"
    )
    order: tuple[str, ...] = Field(description="classes of an ordinal target, lowest first; empty: they are numbers")
    kinds: dict[str, TargetKind] = Field(description="of several targets: target -> its kind, where it is not `kind`")
    orders: dict[str, tuple[str, ...]] = Field(
        description="of several targets: ordinal target -> its classes, lowest first, where they are not `order`"
    )

    @field_validator("kind")
    @classmethod
    def _names_the_event(cls, kind: str, info: ValidationInfo) -> str:
        if kind == "survival" and not info.data.get("event", "event"):  # absent when it is itself wrong
            raise ValueError("survival wants event, the column that says whether the event ended the time")
        return kind

    @field_validator("kinds")
    @classmethod
    def _name_the_event(cls, kinds: dict[str, TargetKind], info: ValidationInfo) -> dict[str, TargetKind]:
        if "survival" in kinds.values() and not info.data.get("event", "event"):  # absent when it is itself wrong
            raise ValueError("survival wants [task] event, the column that says whether the event ended the time")
        return kinds

    @field_validator("order")
    @classmethod
    def _is_of_an_ordinal_target(cls, order: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if order and info.data.get("kind", "ordinal") != "ordinal":  # absent when it is itself wrong
            raise ValueError("only an ordinal target has an order: kind 'ordinal', or an empty order")
        return order

    @field_validator("orders")
    @classmethod
    def _are_of_ordinal_targets(
        cls, orders: dict[str, tuple[str, ...]], info: ValidationInfo
    ) -> dict[str, tuple[str, ...]]:
        kinds, kind = info.data.get("kinds", dict.fromkeys(orders, "ordinal")), info.data.get("kind", "ordinal")
        for name in orders:
            if kinds.get(name, kind) != "ordinal":
                raise ValueError(f"{name!r} has an order and is not ordinal: say so under kinds")
        return orders

    def ordered(self, target: str) -> bool:
        """Return whether a target's classes have an order."""
        return self.kinds.get(target, self.kind) == "ordinal"

    def order_of(self, target: str) -> tuple[str, ...]:
        """Return the classes of an ordinal target, lowest first; empty: they are numbers."""
        return self.orders.get(target, self.order)

    def timed(self, target: str) -> bool:
        """Return whether a target is the time to an event."""
        return self.kinds.get(target, self.kind) == "survival"


class TrainingSettings(Document):
    """Cross-validation and the training loop."""

    folds: int = Field(ge=2, description="outer test folds, patient-grouped and stratified")
    group_out: Annotated[str, AfterValidator(check_header)] = Field(
        description="column of the label table, or a DICOM header as dicom:Manufacturer; each of its values is a test "
        "fold, and folds is not used; empty: off"
    )
    tuning_fraction: float = Field(
        gt=0,
        lt=0.5,
        description="part of each training fold kept for early stopping, temperature and threshold; not used with "
        "inner folds",
    )
    inner_folds: PositiveInt = Field(
        description="networks of each fold, each tuned on another part of its training studies, which decide together; "
        "1: one network, tuned on tuning_fraction"
    )
    repeats: PositiveInt = Field(
        description="draws of the folds, by seed, seed + 1, ...; all arms are trained on each, and metrics are means "
        "over them. The package holds the first draw's networks"
    )
    same_pixels: OnLeakage = Field(
        description="studies of different patients with the same voxels, in two parts of a fold"
    )
    copied_notes: OnLeakage = Field(
        description="studies of different patients with much the same note (quality.bounds), in two parts of a fold"
    )
    arms: tuple[Arm, ...] = Field(min_length=1, description="trained on the same folds, compared out of fold")
    learning_curve: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        description="parts of each fold's training patients, smallest first, that the packaged arm is also trained on, "
        "to see what more patients are worth; empty: off"
    )
    seed: NonNegativeInt
    epochs: PositiveInt = Field(description="at most")
    patience: PositiveInt = Field(description="epochs without a better tuning loss before stopping")
    batch_size: PositiveInt
    accumulate: PositiveInt = Field(description="batches whose gradients are added up for one step")
    learning_rate: PositiveFloat = Field(description="all but the text encoder")
    text_learning_rate: PositiveFloat
    weight_decay: float = Field(ge=0)
    warmup_epochs: float = Field(ge=0, description="linear warm-up, then cosine to zero")
    gradient_clip: PositiveFloat = Field(description="largest gradient norm")
    loss: Literal["cross_entropy", "focal"]
    focal_gamma: float = Field(ge=0, description="how much focal loss spares studies that are already told; 0: nothing")
    class_weights: ClassWeights = Field(
        description="of the loss: alike; by inverse frequency; by the effective number of studies; or one weight per "
        "class, in the order of the classes. Of a time to an event nothing is weighted"
    )
    target_weights: dict[str, PositiveFloat] = Field(
        description="of several targets: target -> what its loss counts in the mean over the targets; others count 1"
    )
    sampling: Literal["shuffle", "balanced"] = Field(
        description="shuffle: each study once an epoch; balanced: drawn with replacement, each class as often"
    )
    flips: bool = Field(description="random mirror images while training; not where left and right matter")
    noise: float = Field(ge=0, description="standard deviation of Gaussian noise added while training, model units")
    shift_voxels: NonNegativeInt = Field(description="largest random shift while training, voxels")
    device: str = Field(description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(description="auto: bf16-mixed on CUDA, 32-true on CPU")
    channels_last: bool = Field(description="channels_last_3d memory layout for the image encoder")
    processes: PositiveInt = Field(
        description="that share every batch: on GPUs one each; on the CPU they share the threads. 1: this one alone"
    )
    sync_batch_norm: bool = Field(
        description="batch normalisation over the batch of all processes, as one would; false: over each one's part"
    )
    cache: str = Field(
        description="folder where prepared images are kept for other runs; empty: in RUN, and deleted once it is whole"
    )
    threads: NonNegativeInt = Field(description="CPU threads; 0: all")
    deterministic: bool = Field(description="only arithmetic that gives the same bits each time; slower on CUDA")
    search_score: Literal["log_loss", "auroc"] = Field(
        description="what candidates of the search are judged by on tuning parts; log loss: after temperature scaling"
    )
    search: Grid = Field(
        description="setting of [training] or [model] -> values: in each fold and arm every combination is trained on "
        f"the training part and judged on the tuning part alone, at most {MOST_CANDIDATES}; empty: nothing is searched"
    )

    @field_validator("repeats")
    @classmethod
    def _draws_folds_by_chance(cls, repeats: int, info: ValidationInfo) -> int:
        if repeats > 1 and info.data.get("group_out"):
            raise ValueError("sites are left out in one way only: repeats 1, or an empty group_out")
        return repeats

    @field_validator("learning_curve")
    @classmethod
    def _increases(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if any(second <= first for first, second in pairwise(fractions)):
            raise ValueError(f"each fraction must be larger than the one before it, got {list(fractions)}")
        return fractions

    @field_validator("processes")
    @classmethod
    def _each_has_two_studies(cls, processes: int, info: ValidationInfo) -> int:
        size = info.data.get("batch_size", 2 * processes)
        if processes > 1 and size < 2 * processes:
            raise ValueError(f"each process takes two studies of a batch or more: batch_size {size} is too small")
        return processes

    @field_validator("sampling")
    @classmethod
    def _mends_imbalance_once(cls, sampling: str, info: ValidationInfo) -> str:
        weights = info.data.get("class_weights", "none")  # absent when it is itself wrong
        if sampling == "balanced" and weights != "none":
            raise ValueError(
                "classes drawn alike and weighted as well mend their imbalance twice: class_weights 'none'"
            )
        return sampling

    @field_validator("search")
    @classmethod
    def _holds_candidates_that_can_be(cls, search: Grid, info: ValidationInfo) -> Grid:
        found = settle_grid(search, {**ModelSettings.model_fields, **cls.model_fields})
        if len(info.data) < len(cls.model_fields) - 1:  # others are themselves wrong
            return found
        for candidate in combinations(found, "fused") if found else ():
            try:
                cls.model_validate(info.data | {k: v for k, v in candidate.items() if k in info.data} | {"search": {}})
            except ValidationError as error:
                fault = error.errors(include_url=False)[0]
                raise ValueError(
                    f"{candidate} cannot be: {'.'.join(map(str, fault['loc']))}: {fault_in_words(fault)}"
                ) from None
        return found


class EvaluationSettings(Document):
    """Intervals, conformal sets, and the test of which modalities a model uses."""

    bootstrap_samples: int = Field(ge=100)
    confidence: float = Field(gt=0, lt=1, description="level of the intervals, e.g. 0.95")
    coverage: float = Field(
        gt=0, lt=1, description="share of each class's studies whose conformal set shall hold the class, e.g. 0.9"
    )
    calibration: Literal["temperature", "isotonic"] = Field(
        description="fitted on each fold's tuning part; isotonic: then a rising curve, which ties studies and wants "
        "hundreds of tuning studies"
    )
    permutations: NonNegativeInt = Field(
        description="how often each modality is permuted between the patients of a test part, to see what an arm takes "
        "from it; 0: not tested"
    )
    ignored_below: PositiveFloat = Field(
        description="AUROC: a modality whose permutation surely costs less is called ignored"
    )
    subgroups: SubgroupSettings


class TrackingSettings(Document):
    """MLflow."""

    enabled: bool
    experiment: str = Field(min_length=1)
    uri: str = Field(description="empty: MLFLOW_TRACKING_URI, else sqlite:///RUN/mlflow.db")
    register_as: str = Field(
        pattern=r"^[\w .-]*$", description="name in MLflow's model registry; empty: not registered"
    )
