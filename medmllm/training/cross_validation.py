"""Cross-validate models of each modality alone, and of all fused, on the same folds.

    cohort, splits -> per arm and fold: fit one network, or one per inner fold; calibration, threshold and conformal
    thresholds on their tuning parts
    (their settings, where asked for, chosen there as well: see search)
    -> out-of-fold predictions, also with each modality taken away, and of smaller trainings for a learning curve

Each network is written to its arm's folder as soon as it is trained, so memory stays flat. A run that was killed
goes on where it was: see resuming.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medmllm.config import TrainConfig
from medmllm.documents import PreprocessingContract
from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.modality_use import Deprived
from medmllm.evaluation.several import SeveralOutOfFold, out_of_fold
from medmllm.evaluation.survival import SurvivalOutOfFold
from medmllm.model_documents import FoldModel, Task, fold_name
from medmllm.training.arms import arm_contract, main_arm
from medmllm.training.checkpoint import FOLDER as CHECKPOINTS
from medmllm.training.cohort import Cohort, draft_contract, final_contract
from medmllm.training.course import Course
from medmllm.training.epoch_count import EpochCount
from medmllm.training.fold import FoldPrediction, decide_fold, train_network
from medmllm.training.followers import followers_stay
from medmllm.training.machine import set_determinism
from medmllm.training.modality_test import assemble
from medmllm.training.resuming import Kept, origin_of, trained_folders
from medmllm.training.search import Choice, search
from medmllm.training.splits import FoldSplit, IntArray, SplitPlan, digest_of, outer_folds
from medmllm.training.subsets import nested_subsets
from medmllm.training.survival_strata import subset_classes
from medmllm.training.tracking import Run
from medmllm.training_config import Arm


@dataclass(frozen=True, slots=True, eq=False)
class SmallerTraining:
    """An arm trained on a part of each fold's training patients; its networks are not kept."""

    fraction: float
    folds: tuple[FoldSplit, ...]
    out_of_fold: OutOfFold | SeveralOutOfFold | SurvivalOutOfFold


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What one arm said in one repeat of the cross-validation."""

    out_of_fold: OutOfFold | SeveralOutOfFold | SurvivalOutOfFold
    deprived: tuple[Deprived, ...] = ()  # out of fold, with each modality taken away
    smaller: tuple[SmallerTraining, ...] = ()  # of the main arm, where a learning curve is asked for


@dataclass(frozen=True, slots=True, eq=False)
class ArmResult:
    """One arm, cross-validated."""

    arm: Arm
    contract: PreprocessingContract  # the cohort's, less what the arm does not read
    out_of_fold: OutOfFold | SeveralOutOfFold | SurvivalOutOfFold
    folds: tuple[FoldModel, ...]  # one per network, those of a fold side by side
    folder: Path  # holds the networks' weights and tokenizers
    deprived: tuple[Deprived, ...] = ()  # out of fold, with each modality taken away
    smaller: tuple[SmallerTraining, ...] = ()  # of the main arm, where a learning curve is asked for
    repeated: tuple[Draw, ...] = ()  # further repeats; their networks are not packaged
    choices: tuple[Choice, ...] = ()  # of each fold, also of further repeats, where settings are searched

    @property
    def draws(self) -> tuple[Draw, ...]:
        """All repeats, that of the package first."""
        return (Draw(self.out_of_fold, self.deprived, self.smaller), *self.repeated)


def cross_validate(
    arms: Sequence[Arm],
    cohort: Cohort,
    plan: SplitPlan,
    config: TrainConfig,
    task: Task,
    *,
    out: Path,
    tracked: Run,
    advance: Callable[[int], None],
    resume: bool = False,
) -> tuple[ArmResult, ...]:
    """Train every arm on the same folds, each network in a child run of its own.

    Packages go to OUT/model (the main arm) and OUT/model_ARM; a network's weights are written as soon as it is trained.
    What is reached is kept in OUT/checkpoints; with `resume`, training goes on from there. `advance` is told of every
    epoch, and of those that a network did not need when it is done.
    """
    set_determinism(config.training)
    text = config.text.reading if cohort.has_notes else None
    table = cohort.table if cohort.has_values else None
    recording = config.recording if cohort.has_recordings else None
    draft = draft_contract(config.image if cohort.has_images else None, text, recording, table)
    contract = final_contract(cohort, draft, margin=config.acceptance_margin)
    # When overwriting, also what is left of arms that are not trained now.
    for earlier in [] if resume else trained_folders(out):
        shutil.rmtree(earlier, ignore_errors=True)
    course = Course(cohort, config, task, out, origin_of(config, plan.digest, cohort), tracked, advance)
    results = {}
    with followers_stay():
        for arm in arms:
            folder = out / ("model" if arm == main_arm(arms) else f"model_{arm}")
            results[arm] = _train_arm(course, arm, arm_contract(contract, arm), plan.folds, folder, name=arm)
        main = main_arm(arms)
        results[main] = replace(results[main], smaller=_train_on_less(course, results[main], plan.folds))
        return tuple(_train_again(course, arm, plan, less=arm.arm == main) for arm in results.values())


def _train_arm(
    course: Course, arm: Arm, contract: PreprocessingContract, folds: Sequence[FoldSplit], folder: Path, *, name: str
) -> ArmResult:
    """Train one arm on all folds; under `name` its runs are tracked and its checkpoints kept."""
    found, choices = [], []
    for splits in outer_folds(folds):
        kept = [
            Kept(course.out, folder, course.origin, name.replace(" ", "_"), split.fold, split.inner) for split in splits
        ]
        choice = search(course, arm, contract, splits, kept)
        found.append(_train_fold(course, contract, splits, kept, choice, name=name))
        choices += [choice] if len(choice.tried) > 1 else []
    tests = [splits[0].test for splits in outer_folds(folds)]
    return replace(_assemble(arm, contract, tests, found, folder, course.task), choices=tuple(choices))


def _train_fold(
    course: Course,
    contract: PreprocessingContract,
    splits: Sequence[FoldSplit],
    kept: Sequence[Kept],
    choice: Choice,
    *,
    name: str,
) -> FoldPrediction:
    """Train a fold's networks with the settings that were chosen for it, and decide on their tuning parts."""
    config, children, trained = choice.best.config, [], []
    for split, own in zip(splits, kept, strict=True):
        child = course.tracked.child(f"{name} fold {fold_name(split.fold, split.inner)}")
        done = own.finished()
        count = EpochCount(child, course.advance, config.training.epochs)
        if done is None:
            done = train_network(split, course, contract, config, own, count)
        children.append(child)
        trained.append(done)
        count.finish()
    said = decide_fold(splits, trained, course.cohort, course.task, config, kept[0].folder, choice.best.settings)
    for child, model in zip(children, said.models, strict=True):
        child.log_params({f"chosen.{key}": value for key, value in choice.best.settings.items()})
        child.log_metrics(_decided(model) | _tuning_metric(choice, course.config))
        child.end()
    return said


def _train_on_less(
    course: Course, main: ArmResult, folds: Sequence[FoldSplit], repeat: str = ""
) -> tuple[SmallerTraining, ...]:
    """Train the main arm on each part of the training patients that the learning curve asks for.

    The networks lie among the checkpoints, and go with them when the run is whole. `repeat` is that of the folds, in
    words, but for the first.
    """
    config, cohort = course.config, course.cohort
    fractions = config.training.learning_curve
    if not fractions:
        return ()
    truth, times = subset_classes(cohort.known)
    parts = nested_subsets(folds, cohort.patients, truth, fractions, seed=config.training.seed, times=times)
    less = course.untested()
    found = []
    for fraction, own in zip(fractions, parts, strict=True):
        name = f"{main.arm}{repeat} at {fraction}"
        folder = course.out / CHECKPOINTS / name.replace(" ", "_")
        # Of several targets a part depends on the other fractions, which may change before a run goes on.
        origin = replace(course.origin, split=digest_of(own, cohort.study_keys))
        done = _train_arm(replace(less, origin=origin), main.arm, main.contract, own, folder, name=name)
        found.append(SmallerTraining(fraction, own, done.out_of_fold))
    return tuple(found)


def _train_again(course: Course, arm: ArmResult, plan: SplitPlan, *, less: bool) -> ArmResult:
    """Train an arm on each further draw of the folds; the networks lie among the checkpoints, as of smaller trainings.

    Args:
        course: Of the run.
        arm: As of the first draw.
        plan: With all draws.
        less: Also on the parts that the learning curve asks for.

    Returns:
        The arm, with what it said in each draw, and what was chosen there.
    """
    found, choices = [], list(arm.choices)
    for number, folds in enumerate(plan.more, start=1):
        own, repeat = course.seeded(number), f" repeat {number}"
        name = arm.arm + repeat
        folder = course.out / CHECKPOINTS / name.replace(" ", "_")
        done = _train_arm(own, arm.arm, arm.contract, folds, folder, name=name)
        smaller = _train_on_less(own, arm, folds, repeat) if less else ()
        found.append(Draw(done.out_of_fold, done.deprived, smaller))
        choices += done.choices
    return replace(arm, repeated=tuple(found), choices=tuple(choices))


def _tuning_metric(choice: Choice, config: TrainConfig) -> dict[str, float]:
    """Return the score that a fold's settings were chosen by, for tracking; nothing where there was no choice."""
    score = choice.scores[choice.chosen]
    return {} if score is None else {f"tuning_{config.training.search_score}": score}


def _decided(model: FoldModel) -> dict[str, float]:
    """Return temperature and threshold, of several targets by `temperature_TARGET`, for tracking."""
    each = {f"_{name}": own for name, own in model.targets.items()} or {"": model}
    return {f"{what}{end}": getattr(own, what) for end, own in each.items() for what in ("temperature", "threshold")}


def _assemble(
    arm: Arm,
    contract: PreprocessingContract,
    tests: Sequence[IntArray],
    folds: Sequence[FoldPrediction],
    folder: Path,
    task: Task,
) -> ArmResult:
    """Lay the folds' test parts together, in the order of the cohort."""
    order = np.concatenate(tests).argsort()
    logits = np.concatenate([found.logits for found in folds])[order]
    predicted = np.concatenate([found.predicted for found in folds])[order]
    kept = [found.sets for found in folds if found.sets is not None]
    sets = np.concatenate(kept)[order] if kept else None
    deprived = assemble([(test, found.deprived) for test, found in zip(tests, folds, strict=True)], len(order))
    said = out_of_fold(arm, logits, predicted, sets, task)
    models = tuple(model for found in folds for model in found.models)
    return ArmResult(arm, contract, said, models, folder, deprived)
