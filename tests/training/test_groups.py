"""Groups come from the label table, and a column that makes none is refused before a study is read."""

import pytest
from pydantic import ValidationError

from medmllm.errors import ConfigError
from medmllm.records import Study
from medmllm.training.groups import read_groups
from medmllm.trust_config import SubgroupSettings


def studies(column: str, cells: list[str]) -> list[Study]:
    return [
        Study(f"st-{k:016x}", f"pt-{k:016x}", "folder", facts={column: cell, "outcome": "1"})
        for k, cell in enumerate(cells)
    ]


def settings(*columns: str, **bands: tuple[float, ...]) -> SubgroupSettings:
    return SubgroupSettings(columns=columns, bands=bands, fewest_patients=2)


def test_words_are_groups_as_they_stand_and_an_empty_cell_is_none() -> None:
    found = read_groups(studies("sex", ["F", " M ", "", "n/a", "F"]), settings("sex"))
    assert list(found["sex"].values()) == ["F", "M", None, None, "F"]
    assert read_groups(studies("sex", ["F"]), settings()) == {}


def test_numbers_go_by_bands_and_an_edge_belongs_to_the_band_above() -> None:
    found = read_groups(studies("age", ["39.9", "40", "64", "65", ""]), settings("age", age=(40.0, 65.0)))
    bands = ["below 40", "40 to below 65", "40 to below 65", "65 and above", None]
    assert list(found["age"].values()) == bands


@pytest.mark.parametrize(
    ("column", "cells", "asked", "message"),
    [
        ("sex", ["F"], settings("gender"), r"no column 'gender' .* it has outcome, sex"),
        ("age", [str(age) for age in range(21)], settings("age"), r"'age' .* has 21 different values, at most 20"),
        ("age", ["41", "old", "nan"], settings("age", age=(40.0,)), r"1 values of the column 'age' are no numbers"),
        ("sex", ["F", "f", "M"], settings("sex"), r"1 values of the column 'sex' .* spelt in several ways"),
    ],
)
def test_what_makes_no_groups_is_refused(column: str, cells: list[str], asked: SubgroupSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_groups(studies(column, cells), asked)
    assert len(read_groups(studies("age", [str(k) for k in range(20)]), settings("age"))["age"]) == 20


@pytest.mark.parametrize("bands", [{"age": ()}, {"age": (65.0, 40.0)}, {"age": (40.0, 40.0)}, {"height": (1.0,)}])
def test_bands_are_ascending_and_of_a_column_that_is_asked_for(bands: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError):
        settings("age", **bands)
