"""Draw the folds of a cross-validation several times: how much of a result hangs on which patients fell together?

    cohort, seed, seed + 1, ... -> a plan of each draw -> one SplitPlan with all of them
    arms of the first draw and of the others, folds -> what `evaluate_arms` averages

Each draw tests every study once. All arms are trained on all draws, and every metric is the mean over them, which hangs
less on the luck of one draw (Burman, Biometrika 1989; Kim, Comput Stat Data Anal 2009). The patients stay the same
ones: more draws are never more patients, and the intervals resample patients, each with what all draws said of it.
The first draw's networks are the package; those of the others serve the estimate alone and are not kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from medmllm.errors import SplitError
from medmllm.model_documents import Task
from medmllm.training.splits import FoldSplit, IntArray, SplitPlan, digest_of, fold_of_each, outer_folds


def draw_repeats(draw: Callable[[int], SplitPlan], repeats: int, *, seed: int, study_keys: Sequence[str]) -> SplitPlan:
    """Return one plan of several draws.

    Args:
        draw: Seed -> a plan.
        repeats: How many draws, at least 1.
        seed: Of the first; the others take the numbers after it.
        study_keys: Key of each study; they go into the digest.

    Raises:
        SplitError: A draw cannot be made, or is one of the draws before it.
    """
    return join_repeats([draw(seed + number).folds for number in range(repeats)], study_keys)


def join_repeats(draws: Sequence[Sequence[FoldSplit]], study_keys: Sequence[str]) -> SplitPlan:
    """Return one plan of the folds of each draw, in order.

    Raises:
        SplitError: Two draws are the same.
    """
    numbered = [tuple(replace(part, repeat=number) for part in own) for number, own in enumerate(draws)]
    tests = [frozenset(tuple(sorted(part.test.tolist())) for part in own) for own in numbered]
    if len(set(tests)) < len(tests):
        raise SplitError(
            f"of {len(tests)} draws of the folds two test the same studies together: the cohort has too few patients "
            "to be split in so many ways. Set training.repeats lower (1: one draw), or add patients."
        )
    first, *more = numbered
    return SplitPlan(first, digest_of([part for own in numbered for part in own], study_keys), tuple(more))


def repeats_of(plan: SplitPlan) -> tuple[tuple[FoldSplit, ...], ...]:
    """Return the folds of each draw; one alone where nothing is repeated."""
    return (plan.folds, *plan.more)


def repeat_remarks(plan: SplitPlan, task: Task, *, learning: bool) -> tuple[str, ...]:
    """Return in plain words what of a result is a mean over several draws, and what is of the first.

    Args:
        plan: With all draws.
        task: Of classes, a time to an event, or several targets.
        learning: A learning curve was asked for.
    """
    if not plan.more:
        return ()
    alone = task.survival is not None
    means = ["Metrics", "differences", *([] if alone else ["figures"]), *(["learning curves"] if learning else [])]
    means += ["groups of patients", "use of modalities"]
    first = [] if alone else ["conformal sets", "DeLong's test"]
    first += [] if task.timed is None else ["calibration by quarters", "the curves of the risk groups"]
    said = _listed(first)
    return (
        f"{_listed(means)} are means over {len(repeats_of(plan))} repeats of the cross-validation, each with other "
        "folds of the same patients; their intervals are of the patients, and lowest and highest tell how far the "
        f"repeats lie apart. {said[0].upper()}{said[1:]} are of the first repeat, whose networks are packaged.",
    )


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def folds_by_draw(plan: SplitPlan) -> tuple[IntArray, ...]:
    """Return for each draw the fold in which each study is tested; shape (studies,) each."""
    return tuple(fold_of_each(outer_folds(own)) for own in repeats_of(plan))
