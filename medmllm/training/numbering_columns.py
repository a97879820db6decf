"""Remark input columns of numbers that may number patients or studies: identifiers in disguise.

cohort -> remarks

Of words such a column is refused (`ingest.table_inputs`). Of numbers it may as well be a measurement, a volume in cubic
millimetres say, so it is asked about.
"""

import math
from collections import defaultdict

from medmllm.ingest.table_inputs import FEWEST_PATIENTS, LEAST_SHARED
from medmllm.training.cohort import Cohort

LARGEST_COUNT = 1000.0  # numbers that reach further are seldom alike, whatever they are of
SURPRISING = 0.01


def remark_numbering(cohort: Cohort) -> list[str]:
    """Return a remark for each column of whole numbers that hardly two patients share."""
    said = []
    for column in () if cohort.table is None else cohort.table.columns:
        owners: defaultdict[float, set[str]] = defaultdict(set)
        for member in cohort.members:
            value = None if member.values is None else member.values[column.name]
            if isinstance(value, float):
                owners[value].add(member.sample.patient_key)
        patients = set().union(*owners.values())
        shared = set().union(*(own for own in owners.values() if len(own) > 1))
        few = len(shared) < LEAST_SHARED * len(patients)
        if len(patients) >= FEWEST_PATIENTS and few and _numbers_something(list(owners)):
            said.append(
                f"Possible identifier: the column {column.name!r} holds whole numbers, and of {len(patients)} patients "
                f"{len(shared)} share theirs with another. Does it number patients or studies? Then take it out of "
                "[table] columns: at best it tells in which order they came."
            )
    return said


def _numbers_something(distinct: list[float]) -> bool:
    """Say whether whole numbers reach further than counts and ages do, or differ too well to have been measured.

    Where n numbers are drawn alike from r, all differ with a chance of some exp(-n (n - 1) / 2r): the birthday problem.

    >>> ages = [31.0, 40.0, 44.0, 58.0, 62.0, 63.0, 71.0, 80.0]
    >>> _numbers_something([float(k) for k in range(1, 31)]), _numbers_something(ages)
    (True, False)
    >>> _numbers_something([7134.0, 20815.0, 48210.0]), _numbers_something([7134.5, 20815.0, 48210.0])
    (True, False)
    """
    if not all(number.is_integer() for number in distinct):
        return False
    reach, count = max(distinct) - min(distinct) + 1, len(distinct)
    return reach > LARGEST_COUNT or math.exp(-count * (count - 1) / (2 * reach)) < SURPRISING
