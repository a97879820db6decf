"""Run medmllm and its peers over a folder of hard cases; judge each volume by its expected values at their places.

    python -m reports.peers.compare CASES [--tools A,B] [--cases a,b] -> reports/peers/results.json and the tables
    python -m reports.peers.compare --tables                          -> the tables again, from results.json

CASES holds <any>/<case>/data and NOTE.json (kind, hazards, the outcome that is right), expected/ and judge.py, whose
verdict is used as it is: 600 places and values of each expected volume, so any axis order will do. Every tool reads
every case in a process of its own, from a copy under a name that gives nothing away, with limits on time and memory.
Only case names and verdicts are written. What the outcomes mean stands in README.md beside this file.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from reports.peers.readers import MARK, TOOLS
from reports.peers.tables import hazard_group, tabulate, write_tables

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SECONDS = 120.0
AT_ONCE = 2


def load_judge(cases: Path) -> ModuleType:
    """Return the folder's judge.py as a module."""
    spec = importlib.util.spec_from_file_location("judge_of_cases", cases / "judge.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_cases(cases: Path, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the notes of all series and NIfTI cases, by name."""
    notes = [json.loads(file.read_text(encoding="utf-8")) for file in cases.glob("*/*/NOTE.json")]
    kept = [note for note in notes if note["kind"] in ("series", "nifti") and (not only or note["name"] in only)]
    return sorted(kept, key=lambda note: (note["kind"] != "series", note["name"]))


def classify(acceptable: bool, word: str, *, warned: bool, wants: str) -> str:
    """Return what a verdict of the judge means to whoever called the tool.

    Args:
        acceptable: Whether the judge takes it.
        word: The judge's word for it.
        warned: Whether the tool said anything that sounds like a warning.
        wants: The outcome that is right for the case.

    >>> classify(False, "MERGED", warned=False, wants="load"), classify(False, "MERGED", warned=True, wants="load")
    ('wrong', 'warned')
    """
    if word in ("CRASHED", "HANGS"):
        return {"CRASHED": "crashed", "HANGS": "hung"}[word]
    if word in ("refused", "ERROR"):
        return "refused"
    if acceptable and word in ("right", "loaded"):
        return "right"
    if warned:
        return "warned"
    # A reading by the book, of a file about which something had to be said.
    return "unsaid" if word == "SILENT" and wants == "load" else "wrong"


def judge_case(judge: ModuleType, cases: Path, case: Mapping[str, Any], tool: str) -> dict[str, Any]:
    """Return the outcome of one tool on one case."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "images", Path(scratch) / "out.npz"
        shutil.copytree(cases / case["split"] / case["name"] / "data", folder, copy_function=shutil.copyfile)
        command = [sys.executable, "-m", "reports.peers.readers", tool, case["kind"], str(folder), str(out)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=SECONDS, cwd=REPOSITORY, check=False
            )
        except subprocess.TimeoutExpired:
            return {"outcome": "hung", "acceptable": False, "word": "HANGS"}
        said = [text.partition(f"{MARK}\n")[2].replace(scratch, "") for text in (done.stderr, done.stdout)]
        if done.returncode and MARK not in done.stderr:
            raise SystemExit(
                f"{tool} cannot be loaded; is it installed (pip install '.[bench]')?\n{done.stderr[-600:]}"
            )
        text = "\n".join(said)
        if done.returncode < 0:
            acceptable, word = False, "CRASHED"
        elif done.returncode:
            lines = [line for line in said[0].splitlines() if line.strip()]
            acceptable, word, _ = judge.verdict(case, [], lines[-1] if lines else "error", text)
        else:
            acceptable, word, _ = judge.verdict(case, judge.volumes(saved(out)), None, text)
        outcome = classify(acceptable, word, warned=bool(judge.WARNS.search(text)), wants=case["outcome"])
        return {"outcome": outcome, "acceptable": bool(acceptable), "word": word}


def saved(out: Path) -> list[tuple[Any, Any]]:
    """Return the volumes that a reader's process saved."""
    with np.load(out, allow_pickle=False) as arrays:
        return [(arrays[f"v{number}"], arrays[f"a{number}"]) for number in range(len(arrays.files) // 2)]


def compare(cases: Path, tools: Sequence[str], only: Sequence[str]) -> dict[str, Any]:
    """Return what results.json holds."""
    judge, notes = load_judge(cases), load_cases(cases, only)
    found: dict[str, dict[str, Any]] = {
        note["name"]: {"kind": note["kind"], "hazard": hazard_group(note), "wants": note["outcome"], "tools": {}}
        for note in notes
    }
    jobs = [(note, tool) for tool in tools for note in notes if note["kind"] in TOOLS[tool][2]]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda job: judge_case(judge, cases, *job), jobs)
        for (note, tool), answer in zip(jobs, answers, strict=True):
            found[note["name"]]["tools"][tool] = answer
            sys.stderr.write(f"{tool:14s} {note['name']:28s} {answer['outcome']:8s} ({answer['word']})\n")
    return {
        "command": "python -m reports.peers.compare CASES",
        "python": platform.python_version(),
        "versions": {tool: importlib.metadata.version(TOOLS[tool][1]) for tool in tools},
        "limits": {"seconds": SECONDS, "tools_at_once": AT_ONCE},
        "n_cases": {kind: sum(note["kind"] == kind for note in notes) for kind in ("series", "nifti")},
        "cases": found,
        **tabulate(found, tools),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Write results.json and both tables, or the tables alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="?", type=Path, help="the folder of hard cases")
    parser.add_argument("--tools", default=",".join(TOOLS), help="comma-separated; default all")
    parser.add_argument("--cases", dest="only", default="", help="comma-separated names; default all")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    given = parser.parse_args(words)
    if given.cases is None and not given.tables:
        parser.error("which folder of cases?")
    if given.cases is not None:
        results = compare(
            given.cases.resolve(), given.tools.split(","), [name for name in given.only.split(",") if name]
        )
        given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if given.out == HERE / "results.json":
        write_tables(REPOSITORY)


if __name__ == "__main__":
    main()
