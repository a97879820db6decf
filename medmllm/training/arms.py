"""What a cohort lets a cross-validation train: which arms, on which folds, and what each of them reads.

cohort, settings -> arms, remarks on those that cannot be; folds; contract of an arm; baseline of attributions
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from medmllm.config import TrainConfig
from medmllm.documents import PreprocessingContract
from medmllm.errors import ConfigError
from medmllm.evaluation.modality_use import NOUNS
from medmllm.preprocessing.stored_image import load_image
from medmllm.records import MODALITIES
from medmllm.search_config import SEARCHED
from medmllm.training.class_splits import make_splits
from medmllm.training.cohort import Cohort
from medmllm.training.cropped_images import remark_cropped
from medmllm.training.held import NUMBERED, Called
from medmllm.training.label_splits import split_labels
from medmllm.training.learnt_words import remark_learnt_words
from medmllm.training.missing_inputs import remark_missing
from medmllm.training.splits import SplitPlan
from medmllm.training.survival_strata import strata_names, stratified_labels, target_strata
from medmllm.training_config import Arm, TrainingSettings

logger = logging.getLogger(__name__)


def arm_contract(contract: PreprocessingContract, arm: str) -> PreprocessingContract:
    """Return the contract of an arm: all of it when fused, else what it says of one modality."""
    if arm == "fused":
        return contract
    left_out: dict[str, object] = {name: None for name in MODALITIES if name != arm}
    return contract.model_copy(update=left_out if arm == "image" else left_out | {"accepted": {}})


def check_arms(config: TrainConfig) -> None:
    """Refuse to read studies for arms that are all switched off.

    Raises:
        ConfigError: Says how to switch them on.
    """
    off, asked = _switched_off(config), config.training.arms
    if off.keys() >= set(asked):
        ways = " and ".join(off[arm] for arm in asked)
        raise ConfigError(
            f"[training] arms = {list(asked)}, and the settings let these read nothing: set {ways}, or name other arms"
        )


def _switched_off(config: TrainConfig) -> dict[Arm, str]:
    """Return the arms that read nothing under these settings, and what would change that."""
    off: dict[Arm, str] = {}
    if not config.recording.enabled:
        off["recording"] = "[recording] enabled = true"
    if not config.table.columns:
        off["table"] = "[table] columns"
    return off


def usable_arms(cohort: Cohort, config: TrainConfig) -> tuple[list[Arm], list[str]]:
    """Return the arms that the cohort can train, and remarks on those it cannot and on what it gives them to read.

    Raises:
        ConfigError: No arm is left.
    """
    has = {
        "image": cohort.has_images,
        "text": cohort.has_notes,
        "recording": cohort.has_recordings,
        "table": cohort.has_values,
    }
    alone = [name for name, there in has.items() if there]
    has["fused"] = len(alone) > 1
    off = _switched_off(config)
    asked = [arm for arm in config.training.arms if arm not in off]
    arms = [arm for arm in asked if has[arm]]
    left = f"; others were refused ({len(cohort.refused)}), see training_ledger.csv" if cohort.refused else ""
    whose = f"the {len(cohort.members)} studies that can be read"
    lacking = dict.fromkeys(asked, f"{whose} lack what it reads{left}")
    if alone:
        lacking["fused"] = (
            f"there is nothing to fuse, as {whose} have {NOUNS.get(alone[0], f'the {alone[0]}')} alone{left}"
        )
    said = [f"No {arm} arm: {lacking[arm]}." for arm in asked if not has[arm]]
    said += remark_missing(cohort, config.image.channels, arms)
    for cropped in remark_cropped(cohort, config.image, arms):
        logger.warning("%s", cropped)  # before hours of training, too
        said.append(cropped)
    if not arms:
        raise ConfigError("no study has what [training] arms reads: add notes or images, or name other arms")
    idle = [name for name in config.training.search if not set(SEARCHED[name]) & set(arms)]
    if idle:
        said.append(f"Not searched ([training.search]), as no arm that is trained has it: {', '.join(idle)}.")
    return arms, [*said, *remark_learnt_words(cohort, arms, config.text.encoder)]


def main_arm(arms: Sequence[Arm]) -> Arm:
    """Return the arm whose package is RUN/model: fused where there is one."""
    return "fused" if "fused" in arms else arms[0]


def split_cohort(cohort: Cohort, settings: TrainingSettings, called: Called = NUMBERED) -> SplitPlan:
    """Return the folds of a cohort, as the settings ask; `called` names several targets, where there are any."""
    patients = cohort.patients
    if called.targets:
        return split_labels(
            patients,
            stratified_labels(cohort.known, patients, settings.folds),
            strata_names(called.targets, cohort.known),
            study_keys=cohort.study_keys,
            folds=settings.folds,
            tuning_fraction=settings.tuning_fraction,
            seed=settings.seed,
            classes=called.classes,
        )
    return make_splits(
        patients,
        target_strata(cohort.known, patients, settings.folds),
        study_keys=cohort.study_keys,
        folds=settings.folds,
        tuning_fraction=settings.tuning_fraction,
        seed=settings.seed,
        called=called.alone,
    )


def mean_image(cohort: Cohort) -> Tensor:
    """Return the mean of the cohort's images, shape (channels, x, y, z): the attribution baseline.

    Each channel is averaged over the studies that have it.
    """
    total: Tensor | None = None
    count: Tensor | None = None
    for member in cohort.members:
        if member.sample.image is None:
            continue
        image = load_image(member.sample.image).double()
        here = torch.tensor(member.sample.channel_present).double()[:, None, None, None]
        total = image * here if total is None else total + image * here
        count = here if count is None else count + here
    assert total is not None and count is not None, "asked for only where the cohort has images"
    return (total / count.clamp(min=1)).float()
