"""Make classes of times to an event, for folds that are alike in them.

    Survival of each study -> censored, or event; where there are many, early, middle and late events

Every part of every fold should hold events, and as many early ones as the others; the classes are for splitting alone.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medmllm.errors import SplitError
from medmllm.records import FloatArray, Survival, Target
from medmllm.training.held import least_patients
from medmllm.training.splits import IntArray

StrArray = npt.NDArray[np.str_]

MOST_BANDS = 3  # of times of events
PATIENTS_PER_FOLD = 2  # of each class: one may go to the tuning part


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
        have, most = "patient has" if with_event == 1 else "patients have", with_event // PATIENTS_PER_FOLD
        fewer = f"Set training.folds to at most {most}, or add" if most >= 2 else "Add"
        raise SplitError(
            f"{with_event} {have} the event, too few for {folds} folds: {PATIENTS_PER_FOLD} per fold are the least. "
            f"{fewer} patients who were followed until it came."
        )
    apart = censored >= wanted
    bands = min(MOST_BANDS, max(with_event // wanted, 1 if apart else 2))
    cuts = np.quantile(time[event], np.arange(1, bands) / bands)
    band = 1 + np.searchsorted(cuts, time)
    strata = _join_small(np.where(event, band, 0) if apart else band, owners, least_patients(folds))
    if not apart and strata.max() == strata.min():  # times in whole years, say: a quantile is the latest of them
        strata = _halve(time, owners, folds)
    return [int(own) for own in strata]


def _join_small(strata: IntArray, owners: StrArray, least: int) -> IntArray:
    """Return strata in which bands of fewer patients are one with a neighbour, numbered from 1; 0 stays 0.

    Equal times lie in one band, so that few may be left for another, or none.
    """
    while True:
        bands = np.unique(strata[strata > 0])
        counts = [np.unique(owners[strata == own]).size for own in bands]
        small = int(np.argmin(counts))
        if bands.size == 1 or counts[small] >= least:
            return np.where(strata > 0, 1 + np.searchsorted(bands, strata), 0)
        strata = np.where(strata == bands[small], bands[small - 1 if small else 1], strata)


def _halve(time: FloatArray, owners: StrArray, folds: int) -> IntArray:
    """Return 1 up to one of the times and 2 beyond it, with as many patients on either side as can be.

    Raises:
        SplitError: All but a few have the same time.
    """
    least = least_patients(folds)
    smaller = {
        at: min(np.unique(owners[time <= at]).size, np.unique(owners[time > at]).size) for at in np.unique(time)[:-1]
    }
    best = max(smaller, key=lambda at: smaller[at], default=0.0)
    if smaller.get(best, 0) < least:
        raise SplitError(
            f"the times of {len(time)} studies are nearly all the same: {least} patients or more have to lie on either "
            f"side of one for {folds} folds. Give times in a finer unit, or add patients."
        )
    return 1 + (time > best)
