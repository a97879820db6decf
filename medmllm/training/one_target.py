"""Look at each of several targets as if it were the only one of its run, on the studies where it is known.

Trained of several targets -> a Trained of each: its studies, folds, predictions and decisions alone

All that is told of one target is then told of each of several, by the same code. Nothing is trained or decided anew.
"""

from dataclasses import replace

import numpy as np

from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.discrimination import BoolArray
from medmllm.evaluation.modality_use import Deprived
from medmllm.evaluation.several import SeveralOutOfFold, of_studies
from medmllm.evaluation.survival import SurvivalOutOfFold
from medmllm.model_documents import FoldModel, Place
from medmllm.records import UNKNOWN
from medmllm.training.cross_validation import ArmResult, Draw, SmallerTraining
from medmllm.training.run import Trained
from medmllm.training.splits import FoldSplit, IntArray


def one_by_one(trained: Trained) -> tuple[Trained, ...]:
    """Return each target of a run as a run of its own; of a run of one target, the run itself."""
    if not trained.task.several:
        return (trained,)
    return tuple(_one(trained, number, place) for number, place in enumerate(trained.task.places))


def _one(trained: Trained, number: int, place: Place) -> Trained:
    truth = [target[number] for target in trained.cohort.known if isinstance(target, tuple)]
    inside = np.array([own != UNKNOWN for own in truth])
    members = tuple(
        replace(member, sample=replace(member.sample, target=own))
        for member, own in zip(trained.cohort.members, truth, strict=True)
        if own != UNKNOWN
    )
    return replace(
        trained,
        task=place.task,
        cohort=replace(trained.cohort, members=members),
        plan=replace(
            trained.plan,
            folds=_folds(trained.plan.folds, inside),
            more=tuple(_folds(own, inside) for own in trained.plan.more),
        ),
        arms=tuple(_arm(arm, number, place, inside) for arm in trained.arms),
    )


def _arm(arm: ArmResult, number: int, place: Place, inside: BoolArray) -> ArmResult:
    return replace(
        arm,
        out_of_fold=_said(arm.out_of_fold, number, inside),
        folds=tuple(_decided(fold, place.task.target) for fold in arm.folds),
        deprived=_deprived(arm.deprived, place, inside),
        smaller=_smaller(arm.smaller, number, inside),
        repeated=tuple(
            Draw(
                _said(own.out_of_fold, number, inside),
                _deprived(own.deprived, place, inside),
                _smaller(own.smaller, number, inside),
            )
            for own in arm.repeated
        ),
    )


def _smaller(found: tuple[SmallerTraining, ...], number: int, inside: BoolArray) -> tuple[SmallerTraining, ...]:
    return tuple(
        SmallerTraining(own.fraction, _folds(own.folds, inside), _said(own.out_of_fold, number, inside))
        for own in found
    )


def _deprived(found: tuple[Deprived, ...], place: Place, inside: BoolArray) -> tuple[Deprived, ...]:
    return tuple(
        Deprived(own.modality, own.permuted[:, inside, place.classes], own.absent[inside, place.classes])
        for own in found
    )


def _said(
    found: OutOfFold | SeveralOutOfFold | SurvivalOutOfFold, number: int, inside: BoolArray
) -> OutOfFold | SurvivalOutOfFold:
    assert isinstance(found, SeveralOutOfFold)  # of a run of several targets
    return of_studies(found.targets[number], inside)


def _decided(fold: FoldModel, target: str) -> FoldModel:
    return fold.model_copy(update={**dict(fold.targets[target]), "targets": {}})


def _folds(folds: tuple[FoldSplit, ...], inside: BoolArray) -> tuple[FoldSplit, ...]:
    """Return the folds of the studies inside, as places among these."""
    place = np.cumsum(inside, dtype=np.int64) - 1

    def kept(part: IntArray) -> IntArray:
        own: IntArray = place[part[inside[part]]]
        return own

    return tuple(replace(own, train=kept(own.train), tune=kept(own.tune), test=kept(own.test)) for own in folds)
