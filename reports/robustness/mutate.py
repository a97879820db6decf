"""Put damaged DICOM and NIfTI files through index and reader; anything but a value or an error of ours is a finding.

    python -m reports.robustness.mutate [--count N] [--run R] [--seeds DIR ...] [--keep DIR] -> results.json
    python -m reports.robustness.mutate --write KIND NUMBER --keep DIR [--seeds DIR ...]  -> that input, to look at

Findings: `crash` (a signal), `hang` (more than 5 s of the processor), `memory` (1 GiB more held than at the start),
`foreign` (an exception that is not ours), `leak` (a planted name, number or file name in an error, a log line or on
stderr).
Every input follows from the number of the run, its own number and the seeds; see `inputs`.
"""

import argparse
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmllm.provenance import package_versions
from reports.robustness.inputs import KINDS, described, make_input
from reports.robustness.seeds import make_seeds
from reports.robustness.worker import write_input

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SECONDS = 5.0
PATIENCE_SECONDS = 120.0
START_SECONDS = 120.0
ENDING_SECONDS = 20.0
WORKERS = 2
FINDINGS = ("crash", "hang", "memory", "foreign", "leak")


@dataclass(slots=True)
class Tally:
    """What came of the inputs of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    peak_bytes: int = 0
    slowest_s: float = 0.0

    def add(self, answer: dict[str, Any]) -> None:
        """Count one answer; one that took the processor too long is a hang, whatever came of it."""
        if answer.get("cpu_s", 0.0) > SECONDS:
            answer = answer | {"outcome": "hang", "where": f"{answer['outcome']} after {answer['cpu_s']:.1f} s"}
        self.outcomes[answer["outcome"]] += 1
        self.codes[f"{answer['outcome']} {answer['code']}"] += 1
        self.asked += answer.get("asked", False)
        self.peak_bytes = max(self.peak_bytes, answer.get("bytes", 0))
        self.slowest_s = max(self.slowest_s, answer.get("cpu_s", 0.0))
        if answer["outcome"] in FINDINGS:
            self.findings.append(answer)


class Worker:
    """A watched process that reads the inputs FIRST, FIRST + STEP ... below STOP."""

    def __init__(self, kind: str, run: int, numbers: range, folders: Sequence[Path]) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        words = [kind, run, numbers.start, numbers.step, numbers.stop, self.scratch.name, *folders]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reports.robustness.worker", *map(str, words)],
            stdout=subprocess.PIPE, bufsize=0, cwd=REPOSITORY,
        )  # fmt: skip
        self.waiting = b""

    def line(self, seconds: float) -> dict[str, Any] | None:
        """Return the next line; None when the process ended.

        Raises:
            TimeoutError: There was none in time.
        """
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self.waiting:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError
            data = self.process.stdout.read(65536)
            if not data:
                return None
            self.waiting += data
        text, _, self.waiting = self.waiting.partition(b"\n")
        found: dict[str, Any] = json.loads(text)
        return found

    def answer(self) -> dict[str, Any] | None:
        """Return what came of an input; None when the process ended. A machine that is busy elsewhere is no hang.

        Raises:
            TimeoutError: It took the processor twice its seconds (an input may be read twice), or all patience.
        """
        began, used = time.monotonic(), self.cpu_seconds()
        while True:
            try:
                return self.line(SECONDS)
            except TimeoutError:
                busy, waited = self.cpu_seconds() - used, time.monotonic() - began
                if busy > 2 * SECONDS or waited > PATIENCE_SECONDS:
                    raise

    def cpu_seconds(self) -> float:
        """Return how much of the processor the process has used; 0 once it is gone."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self) -> str:
        """Return the end of what the process printed."""
        return (Path(self.scratch.name) / "stderr").read_text(errors="replace")[-2000:]

    def end(self, *, kill: bool = False) -> int:
        """Remove what the process wrote and return how it ended; it is killed unless it is already ending."""
        if kill:
            self.process.kill()
        try:
            code = self.process.wait(timeout=ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.scratch.cleanup()
        return code


def read_all(kind: str, run: int, numbers: range, folders: Sequence[Path], tally: Tally) -> None:
    """Read every input, with a new worker behind each that crashed or hung."""
    while numbers:
        worker, at = Worker(kind, run, numbers, folders), None
        try:
            if worker.line(START_SECONDS) is None:
                raise SystemExit(f"the worker did not start: exit code {worker.end()}")
            while (line := worker.line(START_SECONDS)) is not None:
                at = line["started"]
                answer = worker.answer()
                if answer is None:
                    break
                tally.add(answer)
                at = None
            said, code = worker.said(), worker.end()
        except TimeoutError:
            worker.end(kill=True)
            if at is None:
                raise
            tally.add({"outcome": "hang", "code": "no answer", "number": at})
        else:
            if at is None and code:
                raise SystemExit(f"the worker itself failed, exit {code}: {said}")
            if at is not None:
                tally.add({"outcome": "crash", "code": f"exit {code}", "number": at})
        numbers = range(0) if at is None else range(at + numbers.step, numbers.stop, numbers.step)


def run_kind(kind: str, run: int, count: int, folders: Sequence[Path]) -> Tally:
    """Return the tally of `count` inputs of one kind."""
    tallies = [Tally() for _ in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        jobs = [
            pool.submit(read_all, kind, run, range(number, count, WORKERS), folders, tally)
            for number, tally in enumerate(tallies)
        ]
        for job in jobs:
            job.result()
    whole = Tally()
    for tally in tallies:
        whole.outcomes += tally.outcomes
        whole.codes += tally.codes
        whole.findings += tally.findings
        whole.asked += tally.asked
        whole.peak_bytes = max(whole.peak_bytes, tally.peak_bytes)
        whole.slowest_s = max(whole.slowest_s, tally.slowest_s)
    whole.findings.sort(key=lambda answer: answer["number"])
    return whole


def summary(tally: Tally, seeds: int, seconds: float) -> dict[str, Any]:
    """Return what results.json says of one kind."""
    return {
        "inputs": sum(tally.outcomes.values()),
        "seeds": seeds,
        "findings": len(tally.findings),
        "outcomes": {name: tally.outcomes[name] for name in ("value", "refused", *FINDINGS)},
        "codes": dict(sorted(tally.codes.items())),
        "seconds": round(seconds, 1),
        "slowest_s": round(tally.slowest_s, 2),
        "asked_for_a_gib_but_did_not_use_it": tally.asked,
        "peak_mib": round(tally.peak_bytes / 2**20, 1),
        "found": [
            {name: answer.get(name) for name in ("number", "outcome", "code", "where")} for answer in tally.findings
        ],
    }


def keep(folder: Path, kind: str, run: int, number: int, folders: Sequence[Path]) -> Path:
    """Write one input again, with how it was made beside it; return its folder."""
    made, place = make_input(make_seeds(folders), kind, run, number), folder / f"{kind}_{run}_{number:05d}"
    write_input(place / "files", made.files)
    (place / "made.json").write_text(described(made, kind, run, number) + "\n", encoding="utf-8")
    return place


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="inputs of each kind")
    parser.add_argument("--run", type=int, default=1, help="another number gives other inputs")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", type=Path, nargs="*", default=[], help="folders of real files to start from as well")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that are findings")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--write", nargs=2, metavar=("KIND", "NUMBER"), help="only write this input into --keep")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run all kinds and write the results; 1 if there was a finding."""
    given = parsed(words)
    folders = [folder.resolve() for folder in given.seeds]
    if given.write:
        sys.stdout.write(f"{keep(given.keep, given.write[0], given.run, int(given.write[1]), folders)}\n")
        return 0
    seeds = make_seeds(folders)
    results: dict[str, Any] = {
        "command": f"python -m reports.robustness.mutate --count {given.count} --run {given.run} --seeds SEEDS ...",
        "python": platform.python_version(),
        "versions": package_versions(),
        "limits": {"seconds": SECONDS, "patience_seconds": PATIENCE_SECONDS, "extra_memory_mib": 1024},
    }
    for kind in given.kinds.split(","):
        began = time.monotonic()
        tally = run_kind(kind, given.run, given.count, folders)
        results[kind] = summary(tally, len(seeds[kind]), time.monotonic() - began)
        for answer in tally.findings if given.keep else ():
            place = keep(given.keep, kind, given.run, answer["number"], folders)
            sys.stdout.write(f"{answer} {place}\n")
    given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    found = sum(results[kind]["findings"] for kind in given.kinds.split(","))
    sys.stdout.write(f"{found} findings -> {given.out.name}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
