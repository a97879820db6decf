"""Make classes of times to an event, for folds that are alike in them.

    Survival of each study -> censored, or event; where there are many, early, middle and late events

Every part of every fold should hold events, and as many early ones as the others; the classes are for splitting alone.
"""

from collections.abc import Sequence

import numpy as np

from medmllm.errors import SplitError
from medmllm.records import Survival, Target

MOST_BANDS = 3  # of times of events
PATIENTS_PER_FOLD = 2  # of each class: one may go to the tuning part
FEWEST_FOLDS = 2  # to test on unseen patients


def coarse_stratum(target: Target) -> int:
    """Return what given folds are checked and carved by: the class, or whether the event came.

    Several targets are looked at on their own, by `coarse_labels`.
    """
    if isinstance(target, Survival):
        return int(target.event)
    return target if isinstance(target, int) else 0


def target_strata(targets: Sequence[Target], patients: Sequence[str], folds: int) -> list[int]:
    """Return what a fold is stratified by: class indices as they are, classes made of times to an event.

    Args:
        targets: Of each study; of several labels each study gets 0, as they are split on their own.
        patients: Patient of each study.
        folds: Number of test folds.

    Raises:
        SplitError: Fewer patients with an event than two per fold.
    """
    survived = [target for target in targets if isinstance(target, Survival)]
    if survived:
        return survival_strata(survived, patients, folds)
    return [target if isinstance(target, int) else 0 for target in targets]


def coarse_labels(target: Target) -> tuple[int, ...]:
    """Return the class of each of several targets, or UNKNOWN; of a time 1 where the event came, else 0.

    >>> coarse_labels((2, -1, Survival(4.0, event=True)))
    (2, -1, 1)
    """
    each = target if isinstance(target, tuple) else ()
    return tuple(int(own.event) if isinstance(own, Survival) else own for own in each)


def times_among(targets: Sequence[Target]) -> list[int]:
    """Return which of several targets are times to an event, as places among them."""
    several = [target for target in targets if isinstance(target, tuple)]
    return sorted({k for target in several for k, own in enumerate(target) if isinstance(own, Survival)})


def subset_classes(targets: Sequence[Target]) -> tuple[list[int] | list[tuple[int, ...]], list[int]]:
    """Return what smaller trainings are drawn by, and which of the targets are times, 0 where there is one.

    >>> subset_classes([Survival(4.0, event=True), Survival(2.0, event=False)])
    ([1, 0], [0])
    """
    if any(isinstance(target, tuple) for target in targets):
        return list(map(coarse_labels, targets)), times_among(targets)
    alone = [0] if any(isinstance(target, Survival) for target in targets) else []
    return list(map(coarse_stratum, targets)), alone


def strata_names(names: Sequence[str], targets: Sequence[Target]) -> tuple[str, ...]:
    """Return what several targets are called where their strata are: those of a time are of the split's making."""
    times = times_among(targets)
    return tuple(f"{name} (by event and time)" if k in times else name for k, name in enumerate(names))


def stratified_labels(targets: Sequence[Target], patients: Sequence[str], folds: int) -> list[tuple[int, ...]]:
    """Return what folds of several targets are stratified by: classes as they are, and those made of a time.

    Args:
        targets: Of each study, one of each target.
        patients: Patient of each study.
        folds: Number of test folds.

    Raises:
        SplitError: As of `survival_strata`.
    """
    labels = np.array([coarse_labels(target) for target in targets])
    for number in times_among(targets):
        column = [target[number] if isinstance(target, tuple) else None for target in targets]
        known = {k: own for k, own in enumerate(column) if isinstance(own, Survival)}
        strata = survival_strata(list(known.values()), [patients[k] for k in known], folds)
        labels[list(known), number] = np.array(strata) - min(strata)
    return [tuple(own) for own in labels.tolist()]


def survival_strata(survived: Sequence[Survival], patients: Sequence[str], folds: int) -> list[int]:
    """Return the class of each study: 0 censored, then the events by time.

    Where few are censored these have no class of their own, as a part can do without: they count by their time.

    Args:
        survived: Of each study.
        patients: Patient of each study.
        folds: Number of test folds.

    Raises:
        SplitError: Fewer patients with an event than two per fold.
    """
    owners = np.array(patients)
    time, event = np.array([one.time for one in survived]), np.array([one.event for one in survived])
    wanted = PATIENTS_PER_FOLD * folds
    with_event, censored = (len(set(owners[chosen])) for chosen in (event, ~event))
    if with_event < wanted:
        have = "1 patient has" if with_event == 1 else f"{with_event} patients have"
        raise SplitError(
            f"{have} the event, too few for {folds} folds: {PATIENTS_PER_FOLD} per fold are the least. "
            f"{_fewer_folds(with_event // PATIENTS_PER_FOLD)} patients who were followed until it came."
        )
    apart = censored >= wanted
    bands = min(MOST_BANDS, max(with_event // wanted, 1 if apart else 2))
    cuts = np.quantile(time[event], np.arange(1, bands) / bands)
    band = 1 + np.searchsorted(cuts, time)
    return [int(own) for own in (np.where(event, band, 0) if apart else band)]


def _fewer_folds(most: int) -> str:
    """Return which folds so few events allow, where there are any, before what else can be done.

    >>> _fewer_folds(4), _fewer_folds(1)
    ('Set training.folds to at most 4, or add', 'Add')
    """
    if most < FEWEST_FOLDS:
        return "Add"
    return f"Set training.folds to {'at most ' if most > FEWEST_FOLDS else ''}{most}, or add"
