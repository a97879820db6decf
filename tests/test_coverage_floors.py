"""The coverage floors hold what they say."""

from pathlib import Path
from typing import Any

import pytest

from tests.coverage_floors import FLOORS_PERCENT, WHOLE, broken_floors

REPOSITORY = Path(__file__).resolve().parents[1]


def report(**branches: tuple[int, int]) -> dict[str, Any]:
    """Return a coverage report with (taken, all) branches by file; the whole is at 80 %."""
    files = {
        path: {"summary": {"covered_branches": taken, "num_branches": every}}
        for path, (taken, every) in branches.items()
    }
    return {"files": files, "totals": {"percent_covered": 80.0}}


@pytest.mark.parametrize(("floor", "broken"), [(85.0, ["medmllm/a: 84.00 % covered, the floor is 85 %"]), (84.0, [])])
def test_a_folder_is_judged_by_all_its_branches_together(floor: float, broken: list[str]) -> None:
    both = report(**{"medmllm/a/x.py": (80, 80), "medmllm/a/y.py": (4, 20), "medmllm/ab.py": (0, 50)})
    assert broken_floors(both, {"medmllm/a": floor}) == broken


def test_a_place_that_was_not_measured_breaks_its_floor() -> None:
    found = broken_floors(report(), {"medmllm/geometry.py": 90.0})
    assert found == ["medmllm/geometry.py: nothing was measured there, the floor is 90 %"]


def test_a_file_without_branches_is_whole() -> None:
    assert broken_floors(report(**{"a.py": (0, 0)}), {"a.py": 100.0}) == []


@pytest.mark.parametrize(("floor", "broken"), [(80.0, 0), (80.1, 1)])
def test_the_whole_package_has_a_floor_too(floor: float, broken: int) -> None:
    assert len(broken_floors(report(), {WHOLE: floor})) == broken


def test_every_floor_lies_under_something() -> None:
    assert [place for place in FLOORS_PERCENT if place != WHOLE and not (REPOSITORY / place).exists()] == []
