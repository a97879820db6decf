"""Remark input columns that tell classes apart, or order times, without error: often they are made from the target.

cohort -> remarks

The target's own column is refused as input (`ingest.table_inputs`); what was derived from it, or is only known once the
outcome is, cannot be seen from its name.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from medmllm.evaluation.concordance import weighted_harrell
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.records import UNKNOWN, Survival
from medmllm.training.cohort import Cohort
from medmllm.training.survival_strata import times_among
from medmllm.training.survival_targets import time_of

FEWEST_STUDIES = 10  # of fewer, a column may part the classes by chance
STUDIES_PER_CATEGORY = 5


def remark_columns(cohort: Cohort, labels: Sequence[str] = ()) -> list[str]:
    """Return a remark for each column that tells the classes apart in every study that has a value in it.

    Args:
        cohort: As read.
        labels: Names of several targets, each asked for on its own; empty where there is one target.
    """
    times, parts = [time_of(member.sample.target) for member in cohort.members], "studies with and without the event"
    asked: list[tuple[str, Sequence[int]]] = [("the classes", cohort.targets)]
    if cohort.survived:
        asked = [(parts, [int(own.event) for own in cohort.survived])]
    if labels:
        among = times_among(cohort.known)
        named = [parts if k in among else f"target {name!r}" for k, name in enumerate(labels)]
        asked = [(name, [own[k] for own in cohort.labels]) for k, name in enumerate(named)]
    said = []
    for column in () if cohort.table is None else cohort.table.columns:
        values = [None if member.values is None else member.values[column.name] for member in cohort.members]
        for what, targets in asked:
            cells = [
                (value, target)
                for value, target in zip(values, targets, strict=True)
                if value is not None and target != UNKNOWN
            ]
            if len(cells) >= FEWEST_STUDIES and _tells(cells, column.kind):
                said.append(
                    f"Possible leakage: the column {column.name!r} alone tells {what} apart in all {len(cells)} "
                    "studies that have a value in it. Is it made from the target, or known only afterwards?"
                )
        if column.kind == "number" and _orders(values, times):
            said.append(
                f"Possible leakage: the column {column.name!r} alone orders the times without an error. Is it made "
                "from the target, or known only afterwards?"
            )
    return said


def _orders(values: Sequence[float | str | None], times: Sequence[Survival | None]) -> bool:
    """Say whether numbers order the times of all that can be compared, upwards or downwards."""
    each = zip(values, times, strict=True)
    known = [(value, own) for value, own in each if isinstance(value, float) and own is not None]
    if len(known) < FEWEST_STUDIES:
        return False
    followed = Followed(np.array([own.time for _, own in known]), np.array([own.event for _, own in known]))
    concordance = weighted_harrell(followed, np.array([value for value, _ in known]), np.ones((1, len(known))))[0]
    return concordance in (0.0, 1.0)


def _tells(cells: Sequence[tuple[float | str, int]], kind: str) -> bool:
    """Say whether values and classes go together without exception."""
    classes: defaultdict[int, list[float]] = defaultdict(list)
    owners: defaultdict[str, set[int]] = defaultdict(set)
    for value, target in cells:
        if isinstance(value, float):
            classes[target].append(value)
        else:
            owners[value].add(target)
    return _apart(list(classes.values())) if kind == "number" else _pure(list(owners.values()), len(cells))


def _apart(classes: list[list[float]]) -> bool:
    """Say whether the numbers of the classes do not overlap.

    >>> _apart([[3.0, 4.0], [1.0, 2.0]]), _apart([[1.0, 3.0], [2.0, 4.0]])
    (True, False)
    """
    ordered = sorted(classes, key=min)
    return len(ordered) > 1 and all(max(low) < min(high) for low, high in pairwise(ordered))


def _pure(owners: list[set[int]], studies: int) -> bool:
    """Say whether every category belongs to one class, and there are few enough of them for that to mean something."""
    seen = set().union(*owners) if owners else set()
    return len(seen) > 1 and all(len(own) == 1 for own in owners) and studies >= STUDIES_PER_CATEGORY * len(owners)
