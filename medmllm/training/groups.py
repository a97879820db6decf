"""Which group each study is in, by the columns of the label table that [evaluation.subgroups] names.

labelled studies, columns, bands -> column -> study_key -> group, or None where the table does not tell

Looked at before a study is read: a column that is not there, numbers without bands and values spelt in two ways are
refused then, not after the training.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

from medmllm.errors import ConfigError
from medmllm.ingest.tables import MISSING
from medmllm.records import Study
from medmllm.training.sites import plain_value
from medmllm.trust_config import SubgroupSettings

MOST_GROUPS = 20
"""A column with more values is most likely of numbers, or names each patient."""

Groups = Mapping[str, Mapping[str, str | None]]
"""column -> study_key -> group."""


def read_groups(studies: Sequence[Study], settings: SubgroupSettings) -> Groups:
    """Return the group of each study in each column.

    Args:
        studies: The labelled ones.
        settings: Columns and bands.

    Raises:
        ConfigError: No such column, more than 20 values without bands, a band's column with words, or a value spelt
            in two ways.
    """
    columns = sorted({name for study in studies for name in study.facts})
    found: dict[str, Mapping[str, str | None]] = {}
    for column in settings.columns:
        if column not in columns:
            raise ConfigError(
                f"the label table has no column {column!r} ([evaluation.subgroups] columns); besides identifiers it "
                f"has {', '.join(columns) or 'none'}."
            )
        cells = {study.study_key: study.facts.get(column, "").strip() for study in studies}
        known = {key: None if cell.lower() in MISSING else cell for key, cell in cells.items()}
        if column in settings.bands:
            found[column] = _banded(known, column, settings.bands[column])
        else:
            _check_values({cell for cell in known.values() if cell is not None}, column)
            found[column] = known
    return found


def band_name(value: float, edges: Sequence[float]) -> str:
    """Return the band that a number lies in; an edge belongs to the band above it.

    >>> [band_name(age, (40, 65)) for age in (39.5, 40, 65)]
    ['below 40', '40 to below 65', '65 and above']
    """
    place = bisect_right(edges, value)
    if place == 0:
        return f"below {edges[0]:g}"
    if place == len(edges):
        return f"{edges[-1]:g} and above"
    return f"{edges[place - 1]:g} to below {edges[place]:g}"


def band_names(edges: Sequence[float]) -> list[str]:
    """Return the names of all bands, lowest first."""
    return [band_name(value, edges) for value in (-math.inf, *edges)]


def _banded(cells: Mapping[str, str | None], column: str, edges: Sequence[float]) -> dict[str, str | None]:
    numbers = {key: None if cell is None else _number(cell) for key, cell in cells.items()}
    words = sum(value is not None and math.isnan(value) for value in numbers.values())
    if words:
        raise ConfigError(
            f"{words} values of the column {column!r} are no numbers, but [evaluation.subgroups.bands] names it: clear "
            "them in the table, or leave the bands out."
        )
    return {key: None if value is None else band_name(value, edges) for key, value in numbers.items()}


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _check_values(values: set[str], column: str) -> None:
    if len(values) > MOST_GROUPS:
        raise ConfigError(
            f"the column {column!r} ([evaluation.subgroups] columns) has {len(values)} different values, at most "
            f"{MOST_GROUPS} are groups: give numbers bands, e.g. [evaluation.subgroups.bands] age = [40, 65]."
        )
    doubled = sum(count > 1 for count in Counter(map(plain_value, values)).values())
    if doubled:
        raise ConfigError(
            f"{doubled} values of the column {column!r} ([evaluation.subgroups] columns) are spelt in several ways, "
            "apart by upper and lower case, spaces or decimals alone: spell each group alike."
        )
