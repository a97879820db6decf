"""Give each study the set of classes that cannot be ruled out, and count how often the set holds the truth.

    tuning part's probabilities, targets -> one threshold per class -> sets of classes -> coverage per class

Split-conformal prediction with class-conditional (Mondrian) thresholds: Vovk, Gammerman and Shafer 2005; Sadinle,
Lei and Wasserman, JASA 2019. A class is in the set when 1 - its probability is at most its threshold, the exact
finite-sample quantile of that score over the tuning studies of the class.

If tuning and test studies of a class are exchangeable, its sets hold the truth with at least the asked-for coverage.
Here the tuning part also chose the epoch and the temperature, and a patient may have several studies: the promise is
then approximate, which is why coverage is measured on the test parts and told with an interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from medmllm.errors import EvaluationError
from medmllm.evaluation.discrimination import BoolArray, IntArray
from medmllm.records import FloatArray

NEVER_RULED_OUT = 1.0
"""Threshold of a class with too few tuning studies for the coverage: no probability lies below 0."""

_ROUNDING = 1e-9  # 25 * 0.56 is a hair above 14 in binary


@dataclass(frozen=True, slots=True)
class ClassCoverage:
    """How often the sets of one class's studies hold that class; None where it has no study."""

    name: str
    n: int  # studies of the class
    covered: int
    estimate: float | None
    low: float | None  # binomial interval
    high: float | None


@dataclass(frozen=True, slots=True)
class SetEvaluation:
    """The conformal sets of a cohort."""

    asked: float  # coverage
    classes: tuple[ClassCoverage, ...]
    set_sizes: tuple[int, ...]  # studies with a set of 0, 1, ... classes
    abstained: float  # share of the studies whose set is not a single class


def class_thresholds(probabilities: FloatArray, targets: IntArray, *, coverage: float) -> tuple[float, ...]:
    """Return for each class the largest 1 - probability at which it stays in the set.

    Of the n tuning studies of a class it is the k-th smallest score, k = ceil((n + 1) * coverage). Where k exceeds n,
    no threshold can promise the coverage and the class is never ruled out: 0.9 needs 9 studies of each class.

    Args:
        probabilities: Of the tuning part, calibrated; shape (studies, classes).
        targets: Class index; shape (studies,).
        coverage: Share of each class's studies whose set shall hold the class, between 0 and 1.

    Raises:
        EvaluationError: The coverage does not lie between 0 and 1.

    >>> class_thresholds(np.array([[0.875, 0.125], [0.75, 0.25], [0.5, 0.5]]), np.array([0, 0, 1]), coverage=0.5)
    (0.25, 0.5)
    """
    if not 0 < coverage < 1:
        raise EvaluationError(f"coverage lies between 0 and 1, got {coverage:g}: set [evaluation] coverage, e.g. 0.9")
    thresholds = []
    for label in range(probabilities.shape[1]):
        scores = np.sort(1 - probabilities[targets == label, label])
        rank = int(np.ceil((scores.size + 1) * coverage - _ROUNDING))
        thresholds.append(float(scores[rank - 1]) if rank <= scores.size else NEVER_RULED_OUT)
    return tuple(thresholds)


def conformal_sets(probabilities: FloatArray, thresholds: Sequence[float]) -> BoolArray:
    """Return whether each class is in each study's set; shape (studies, classes).

    Args:
        probabilities: Calibrated as those that the thresholds come from; shape (studies, classes).
        thresholds: As of `class_thresholds`.
    """
    return 1 - probabilities <= np.asarray(thresholds)


def vote(sets: BoolArray) -> BoolArray:
    """Return the set that fold models agree on: the classes in at least half of their sets.

    Each fold's thresholds hold for its own probabilities, not for an average over folds, so the sets are combined.
    Whatever the dependence between folds, the vote misses at most twice as often as one fold's set may (Gasparin and
    Ramdas 2024): coverage 0.9 leaves a floor of 0.8. Fold models that agree keep the coverage itself.

    Args:
        sets: Of each fold's model; shape (folds, classes), or (folds, studies, classes).
    """
    return 2 * sets.sum(axis=0) >= len(sets)


def abstains(sets: BoolArray) -> BoolArray:
    """Return whether each set is not a single class, so that it decides nothing; shape (studies,).

    Args:
        sets: Shape (studies, classes).
    """
    return sets.sum(axis=1) != 1


def evaluate_sets(
    sets: BoolArray, targets: IntArray, classes: Sequence[str], *, coverage: float, confidence: float
) -> SetEvaluation:
    """Return coverage per class with its binomial interval, set sizes and the share abstained.

    The interval (Clopper and Pearson 1934) takes studies as independent: with several per patient it is too short.

    Args:
        sets: Out of fold; shape (studies, classes).
        targets: Class index; shape (studies,).
        classes: Class names.
        coverage: Asked for.
        confidence: Level of the intervals.

    Raises:
        EvaluationError: Shapes do not fit.
    """
    if not targets.size or sets.shape != (targets.size, len(classes)):
        raise EvaluationError(f"sets of shape {sets.shape} do not fit {targets.size} studies of {len(classes)} classes")
    found = []
    for label, name in enumerate(classes):
        own = sets[targets == label, label]
        n, covered = int(own.size), int(own.sum())
        low, high = binomial_interval(covered, n, confidence) if n else (None, None)
        found.append(ClassCoverage(name, n, covered, covered / n if n else None, low, high))
    sizes = np.bincount(sets.sum(axis=1), minlength=len(classes) + 1)
    return SetEvaluation(coverage, tuple(found), tuple(map(int, sizes)), float(abstains(sets).mean()))


def binomial_interval(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) interval of a share.

    Args:
        hits: How many of them.
        n: Of how many, at least 1.
        confidence: Level, between 0 and 1.
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def missed_remarks(arm: str, found: SetEvaluation) -> Iterator[str]:
    """Yield which classes the sets of an arm hold too seldom, in plain words.

    Args:
        arm: Its name.
        found: Its sets, evaluated.
    """
    for own in found.classes:
        if own.high is not None and own.high < found.asked:
            yield (
                f"Conformal sets of the {arm} arm miss class {own.name} too often: they hold it in {own.covered} of "
                f"its {own.n} studies (interval {own.low:.2f} to {own.high:.2f}), asked for was {found.asked:g}."
            )


def too_few_remarks(classes: Sequence[str], thresholds: Sequence[Sequence[float]], *, coverage: float) -> Iterator[str]:
    """Yield for which classes the tuning parts are too small; said once, since all arms share them.

    Args:
        classes: Class names.
        thresholds: Of each fold's model, of any arm.
        coverage: Asked for.
    """
    for label, name in enumerate(classes):
        small = sum(fold[label] >= NEVER_RULED_OUT for fold in thresholds)
        if small:
            yield (
                f"In {small} of {len(thresholds)} folds the tuning part holds too few studies of class {name} for a "
                f"coverage of {coverage:g}: there the class is in every conformal set."
            )
