"""Hold branch coverage above its floors, by area.

    coverage.json (`coverage json`) -> one line per floor -> exit code 1 when one is broken

The floors are high where a quiet mistake would look like a result: reading studies, geometry, splitting patients,
computing metrics.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WHOLE = "the whole package"
FLOORS_PERCENT = {
    WHOLE: 85.0,  # lines and branches together
    "medmllm/ingest": 90.0,  # from here on: branches alone
    "medmllm/geometry.py": 90.0,
    "medmllm/quality": 90.0,
    "medmllm/training/splits.py": 90.0,
    "medmllm/training/class_splits.py": 90.0,
    "medmllm/training/held.py": 90.0,
    "medmllm/evaluation": 90.0,
}


def percent_of_branches(files: Mapping[str, Any], place: str) -> float | None:
    """Return how many of a file's or folder's branches were taken, in percent; None if nothing there was measured."""
    here = [file["summary"] for path, file in files.items() if path == place or path.startswith(f"{place}/")]
    branches = sum(summary["num_branches"] for summary in here)
    taken = sum(summary["covered_branches"] for summary in here)
    if not here:
        return None
    return 100.0 * taken / branches if branches else 100.0


def broken_floors(report: Mapping[str, Any], floors: Mapping[str, float]) -> list[str]:
    """Return one sentence for each floor that the report stays under, or about which it says nothing."""
    broken = []
    for place, floor in floors.items():
        whole: float = report["totals"]["percent_covered"]
        percent = whole if place == WHOLE else percent_of_branches(report["files"], place)
        if percent is None:
            broken.append(f"{place}: nothing was measured there, the floor is {floor:.0f} %")
        elif percent < floor:
            broken.append(f"{place}: {percent:.2f} % covered, the floor is {floor:.0f} %")
    return broken


def main(file: str) -> int:
    """Print the broken floors of a coverage report; return the exit code."""
    broken = broken_floors(json.loads(Path(file).read_text()), FLOORS_PERCENT)
    print("\n".join(broken) or f"coverage: all {len(FLOORS_PERCENT)} floors hold")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
