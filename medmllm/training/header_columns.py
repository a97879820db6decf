"""Read groups of studies from DICOM headers, as columns beside those of the label table.

    studies, "dicom:KEYWORD" of [evaluation.subgroups] columns or training.group_out -> the same studies, with cells

A study's value is that of the series that become its channels, or of all its series where none does; where they do not
tell it, or not alike, its cell is empty. NIfTI files have no such headers. Which may be asked for:
trust_config.HEADERS.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from medmllm.config import TrainConfig
from medmllm.errors import ConfigError
from medmllm.preprocessing.selection import select_series
from medmllm.records import Study, Technique
from medmllm.trust_config import HEADER, HEADERS

_CELLS: dict[str, Callable[[Technique], str | float | None]] = {
    "Manufacturer": lambda technique: technique.manufacturer,
    "ManufacturerModelName": lambda technique: technique.model,
    "MagneticFieldStrength": lambda technique: technique.field_strength_t,
    "ConvolutionKernel": lambda technique: technique.kernel,
    "SliceThickness": lambda technique: technique.thickness_mm,
}
assert _CELLS.keys() == HEADERS.keys()


def with_headers(studies: Sequence[Study], config: TrainConfig) -> Sequence[Study]:
    """Return studies whose facts hold what is asked for of their headers, as if the label table did.

    Args:
        studies: Of the index.
        config: Names what is asked for, and the channels.

    Raises:
        ConfigError: No study tells it.
    """
    asked = {*config.evaluation.subgroups.columns, config.training.group_out}
    columns = sorted(name for name in asked if name.startswith(HEADER))
    if not columns:
        return studies
    if any(name.startswith(HEADER) for name in config.table.columns):
        raise ConfigError(f"{HEADER}KEYWORD makes groups of studies, and is no input: take it out of [table] columns")
    cells = [_cells(study, columns, config) for study in studies]
    for column in columns:
        if not any(own[column] for own in cells):
            raise ConfigError(
                f"{column!r} is asked for ([evaluation.subgroups] columns or training.group_out), and no study's "
                f"headers tell {column.removeprefix(HEADER)}; NIfTI files never do. Add a column to the label table."
            )
    return [replace(study, facts={**study.facts, **own}) for study, own in zip(studies, cells, strict=True)]


def _cells(study: Study, columns: Sequence[str], config: TrainConfig) -> dict[str, str]:
    channels = select_series(study, config.image, reads_more=True).channels
    series = [channel.chosen for channel in channels if channel.chosen] or study.series
    found = {}
    for column in columns:
        values = {_CELLS[column.removeprefix(HEADER)](one.technique) for one in series}
        value = values.pop() if len(values) == 1 else None
        found[column] = "" if value is None else f"{value:g}" if isinstance(value, float) else value
    return found
