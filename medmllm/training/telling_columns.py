"""Remark input columns that tell the classes apart without error: such a column is often made from the target.

cohort -> remarks

The target's own column is refused as input (`ingest.table_inputs`); what was derived from it, or is only known once the
outcome is, cannot be seen from its name.
"""

from collections import defaultdict
from itertools import pairwise

from medmllm.training.cohort import Cohort

FEWEST_STUDIES = 10  # of fewer, a column may part the classes by chance
STUDIES_PER_CATEGORY = 5


def remark_columns(cohort: Cohort) -> list[str]:
    """Return a remark for each column that tells the classes apart in every study that has a value in it."""
    said = []
    for column in () if cohort.table is None else cohort.table.columns:
        cells = [
            (member.values[column.name], member.sample.target)
            for member in cohort.members
            if member.values is not None and member.values[column.name] is not None
        ]
        classes: defaultdict[int, list[float]] = defaultdict(list)
        owners: defaultdict[str, set[int]] = defaultdict(set)
        for value, target in cells:
            if isinstance(value, float):
                classes[target or 0].append(value)
            else:
                owners[str(value)].add(target or 0)
        told = _apart(list(classes.values())) if column.kind == "number" else _pure(list(owners.values()), len(cells))
        if told and len(cells) >= FEWEST_STUDIES:
            said.append(
                f"Possible leakage: the column {column.name!r} alone tells the classes apart in all {len(cells)} "
                "studies that have a value in it. Is it made from the target, or known only afterwards?"
            )
    return said


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
