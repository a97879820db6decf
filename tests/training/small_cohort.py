"""A cohort whose image and note tell the outcome, the same with other targets or content, and its cross-validation."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.calibration import PRIOR_DEVIATION
from medmllm.evaluation.cohort import OutOfFold
from medmllm.model_documents import FoldModel, Task
from medmllm.preprocessing.contract import VolumeFacts
from medmllm.records import Note, Section
from medmllm.training.arms import split_cohort
from medmllm.training.cohort import Cohort, Member
from medmllm.training.cross_validation import ArmResult, cross_validate
from medmllm.training.learnable import Learnable
from medmllm.training.tracking import NoRun
from tests.models.small import IMAGE, PARTS, a_sample, encoder_settings

TASK = Task.of("outcome", ("no", "yes"))
FACTS = VolumeFacts("CT", (4.0, 4.0, 4.0), (36.0, 32.0, 40.0), -900.0, 400.0)
TRAINING = {"folds": 2, "epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "text_learning_rate": 1e-2,
            "shift_voxels": 0, "device": "cpu", "channels_last": False, "threads": 1,
            "deterministic": False}  # fmt: skip


class ToldRun(NoRun):
    """A run that keeps the names of its children and what they were told; `kill`: the child and epoch to end in."""

    def __init__(self, name: str = "", kill: tuple[str, int] | None = None) -> None:
        self.name, self.kill = name, kill
        self.children: list[ToldRun] = []
        self.metrics: dict[str, float] = {}
        self.epochs: list[int] = []
        self.ended = False

    def child(self, name: str) -> "ToldRun":
        self.children.append(ToldRun(name, self.kill))
        return self.children[-1]

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        if self.kill == (self.name, epoch):
            raise KeyboardInterrupt
        self.epochs.append(epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        self.metrics |= metrics

    def end(self, *, failed: bool = False) -> None:
        self.ended = True


def a_config(**training: object) -> TrainConfig:
    packaged = load_config(TrainConfig, "train")
    settings = packaged.training.model_copy(update=TRAINING | training)
    packaged = packaged.model_copy(update={"evaluation": packaged.evaluation.model_copy(update={"permutations": 0})})
    return packaged.model_copy(
        update={"image": IMAGE, "text": encoder_settings("full"), "model": PARTS, "training": settings}
    )


def a_note(text: str) -> Note:
    return Note(text, (Section("history", 0, len(text)),))


def noted(member: Member, names: frozenset[str] = frozenset()) -> Member:
    """Return a member all of whose note may be learnt; `names` are what its headers tell."""
    return member if member.note is None else replace(member, learnable=Learnable(member.note.text, names))


def a_cohort(
    patients: int = 12, *, images: bool = True, notes: bool = True, planted: Mapping[int, str] | None = None
) -> Cohort:
    """Every third patient comes twice; image and note tell the outcome. `planted`: member -> its note."""
    members = []
    for patient in range(patients):
        outcome = patient % 2
        for _ in range(2 if patient % 3 == 0 else 1):
            k = len(members)
            sample = a_sample(k, image=images, note=None, target=outcome)
            sample = replace(sample, patient_key=f"pt-{patient:016x}")
            text = (planted or {}).get(k, ("clear lungs and no cough", "marked cough and nodule")[outcome])
            facts = {"ct": FACTS} if images else {}
            members.append(noted(Member(sample, a_note(text) if notes else None, facts)))
    return Cohort(tuple(members), ())


def run(cohort: Cohort, config: TrainConfig, out: Path, arms: tuple[str, ...] = ("fused",)) -> tuple[ArmResult, ...]:
    plan = split_cohort(a_cohort(), config.training)
    return cross_validate(
        arms, cohort, plan, config, TASK, out=out, tracked=NoRun(), advance=lambda more: None  # type: ignore[arg-type]
    )  # fmt: skip


def with_targets_turned(cohort: Cohort, which: np.ndarray) -> Cohort:
    members = list(cohort.members)
    for k in which:
        sample = members[k].sample
        members[k] = replace(members[k], sample=replace(sample, target=1 - int(sample.target or 0)))
    return Cohort(tuple(members), ())


def with_other_content(cohort: Cohort, which: np.ndarray) -> Cohort:
    """Other voxels and other words."""
    members = list(cohort.members)
    for k in which:
        other = replace(members[k].sample, image=a_sample(900 + int(k)).image)
        members[k] = noted(replace(members[k], sample=other, note=a_note("zebra zebra stripes stripes")))
    return Cohort(tuple(members), ())


def fold_models(results: tuple[ArmResult, ...]) -> tuple[FoldModel, ...]:
    (arm,) = results
    return arm.folds


def one_output(found: ArmResult) -> OutOfFold:
    assert isinstance(found.out_of_fold, OutOfFold)
    return found.out_of_fold


def log_odds(truth: np.ndarray) -> float:
    """Return the log-odds of a part: what training with classes of equal weight took from its logits."""
    return float(np.log(truth.sum() / (1 - truth).sum()))


def temperature_loss(logits: np.ndarray, truth: np.ndarray, offset: float) -> Callable[[float], float]:
    """Return what the log of a temperature is chosen by: the log loss of a part, and a prior that holds it near 0."""

    def loss(log_temperature: float) -> float:
        cooled = logits / np.exp(log_temperature) + offset
        prior = (log_temperature / PRIOR_DEVIATION) ** 2 / 2
        return float(np.sum(np.logaddexp(0, cooled) - truth * cooled)) + prior

    return loss


def youden(probabilities: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """Return sensitivity + specificity - 1 at a threshold."""
    called = probabilities >= threshold
    return float(called[truth == 1].mean() - called[truth == 0].mean())
