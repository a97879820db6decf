"""Pydantic documents of the label table as input: its settings, and how a fold of a model codes it.

[table] of train.toml -> TableSettings; table/fold_K.json of a model package <-> TableCodes

What a model reads of the table, whatever the fold, is part of its contract: `documents.TableContract`.
"""

from typing import Literal

from pydantic import Field, PositiveFloat, ValidationInfo, field_validator

from medmllm.documents import Document


class TableSettings(Document):
    """Which columns of the label table, or of a manifest, the model reads as input."""

    columns: tuple[str, ...] = Field(description="read as input; empty: the model reads no table")
    categorical: tuple[str, ...] = Field(
        description="of these, columns whose numbers are names, as a scanner's; columns of words are recognised"
    )
    open_ended: Literal["refuse", "bound"] = Field(
        description="cells such as 89+, >89 or <=18 in a column of numbers: refused, or read as the number they name"
    )
    required: bool = Field(description="refuse a study without a value in any of the columns; else it is masked")

    @field_validator("columns", "categorical")
    @classmethod
    def _is_named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a column is named twice")
        return names

    @field_validator("categorical")
    @classmethod
    def _is_among_columns(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in info.data.get("columns", names)]:
            raise ValueError(f"{unknown[0]!r} is none of the columns")
        return names


class ColumnCode(Document):
    """How one fold turns the cells of a column into what its network reads; learnt from its training part alone."""

    name: str
    mean: float | None = Field(description="of a column of numbers: taken off, then divided by deviation")
    deviation: PositiveFloat | None
    categories: tuple[str, ...] = Field(description="of a column of categories; any other is read as missing")


class TableCodes(Document):
    """table/fold_K.json of a model package: how a fold codes the columns of the label table."""

    columns: tuple[ColumnCode, ...] = Field(min_length=1, description="as in the contract")
