"""Read damaged inputs one after the other and say of each what came of it, one JSON line at a time.

    python -m reports.robustness.worker KIND RUN FIRST STEP STOP SCRATCH [SEEDS ...]

The process has 1 GiB of address space more than it starts with. What it prints on stderr, logs at any level and puts
into its errors is searched for the planted identifiers. It is watched, and ended where it hangs, by `mutate`.
"""

import io
import json
import logging
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from medmllm.errors import MedmllmError
from medmllm.ingest.judged import load
from reports.robustness.inputs import make_input
from reports.robustness.seeds import PLANTED, make_seeds

MORE_MEMORY_BYTES = 2**30
WITHOUT_LIMIT_BYTES = 5 * 2**30
NO_SERIES = "error"  # the code of a folder in which no series was found


class Remarks(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.records.append(record)


def read_folder(folder: Path, remarks: Remarks) -> dict[str, Any]:
    """Index one folder and read every volume in it; return {"outcome", "code", "asked"}.

    The outcome is `value`, `refused`, or a finding: `foreign` (then also `where`) or `leak`. `asked`: whether memory
    was asked for and refused.
    """
    remarks.records.clear()
    texts = []
    try:
        volumes = load(str(folder))
        answer = {"outcome": "value", "code": f"{min(len(volumes), 2)} or more" if len(volumes) > 1 else "1 volume"}
    except MedmllmError as error:
        texts = [error.reason, str(error)]
        answer = {"outcome": "refused", "code": error.code}
        coded = [record.args for record in remarks.records if isinstance(record.args, tuple) and len(record.args) > 1]
        if error.code == NO_SERIES and coded:
            answer["code"] = str(coded[0][1])
    except Exception as error:  # noqa: BLE001 - whatever else comes out is the finding
        place = [frame for frame in traceback.extract_tb(error.__traceback__) if "medmllm" in frame.filename]
        where = f"{Path(place[-1].filename).name}:{place[-1].lineno} {place[-1].name}" if place else "?"
        answer = {"outcome": "foreign", "code": type(error).__name__, "where": where}
    texts += [record.getMessage() + (record.exc_text or "") for record in remarks.records]
    answer["asked"] = any("(MemoryError)" in text for text in texts) or answer["code"] == "MemoryError"
    if leaks("\n".join(texts)):
        answer = {"outcome": "leak", "code": answer["code"], "where": "error or log"}
    return answer


def read_within(folder: Path, remarks: Remarks, limit: int, held: int) -> dict[str, Any]:
    """Return the answer of `read_folder` with the most bytes held; a gigabyte or more of them is a finding.

    What asks for more than the limit is read once more with the limit far away: a library may ask for what a header
    declares without ever touching it.
    """
    for most in (limit, limit + WITHOUT_LIMIT_BYTES):
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        reset_peak()
        began = time.process_time()
        answer = read_folder(folder, remarks)
        answer["cpu_s"] = time.process_time() - began
        answer["bytes"] = max(0, memory_bytes("VmHWM") - held)
        if most == limit and not answer["asked"]:
            break
        answer["asked"] = True
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if answer["bytes"] >= MORE_MEMORY_BYTES:
        answer |= {"outcome": "memory", "where": f"held {answer['bytes'] / 2**20:.0f} MiB"}
    return answer


def leaks(text: str) -> bool:
    """Return whether a text holds a planted identifier."""
    plain = text.lower()
    return any(token in plain for token in PLANTED)


def memory_bytes(field: str) -> int:
    """Return a field of /proc/self/status, e.g. VmHWM, the most memory held since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def reset_peak() -> None:
    """Let VmHWM count from now."""
    Path("/proc/self/clear_refs").write_text("5")


def write_input(folder: Path, files: tuple[tuple[str, bytes], ...]) -> None:
    """Write the files of one input into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files:
        (folder / name).write_bytes(content)


def main(kind: str, run: int, numbers: range, scratch: Path, folders: list[Path]) -> None:
    """Work through the inputs; one line before each and one after."""
    answers = io.TextIOWrapper(os.fdopen(os.dup(1), "wb"), line_buffering=True)
    said = (scratch / "stderr").open("w+b", buffering=0)
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    warnings.simplefilter("always")
    remarks = Remarks()
    logging.basicConfig(level=logging.DEBUG, handlers=[remarks])
    seeds = make_seeds(folders)
    write_input(scratch / "zyxfilename", seeds[kind][0].files)
    read_folder(scratch / "zyxfilename", remarks)  # loads what is loaded on first use
    most = memory_bytes("VmSize") + MORE_MEMORY_BYTES
    held = memory_bytes("VmRSS")
    answers.write('{"ready": true}\n')
    for number in numbers:
        write_input(scratch / "zyxfilename", make_input(seeds, kind, run, number).files)
        answers.write(json.dumps({"started": number}) + "\n")
        before = said.seek(0, os.SEEK_END)
        answer = read_within(scratch / "zyxfilename", remarks, most, held)
        said.seek(before)
        if leaks(said.read().decode(errors="replace")):
            answer |= {"outcome": "leak", "where": "printed"}
        answers.write(json.dumps(answer | {"number": number}) + "\n")
        said.truncate(0)


if __name__ == "__main__":
    kind, run, first, step, stop, scratch, *folders = sys.argv[1:]
    main(kind, int(run), range(int(first), int(stop), int(step)), Path(scratch), [Path(folder) for folder in folders])
