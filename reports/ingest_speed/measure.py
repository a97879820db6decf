"""Measure how fast studies are read and indexed, against the byte limit, the decoders and other readers.

    python -m reports.ingest_speed.measure [--from FOLDER_OF_CT_SLICES] -> reports/ingest_speed/results.json
    python -m reports.ingest_speed.measure --small                      -> the same in a minute, printed only

Every reading has a process of its own; the files are in the page cache; the readers take turns, so that whatever else
the machine does meets all of them; what counts is the median of the ratios within a round. Run it on an idle machine.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmllm.provenance import git_state, package_versions
from reports.ingest_speed import folders

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
WHOLE_SERIES = ("byte limit", "medmllm", "medmllm, index and read", "dicomsdl", "pydicom, headers first", "SimpleITK",
                "TorchIO", "dcm2niix", "highdicom", "MONAI")  # fmt: skip
WATCH = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"exit_code": code, "seconds": round(seconds, 2), "peak_mib": round(peak / 1024, 1)}))
"""
SAME_SUM = 1e-4  # of the absolute sum; float32 rounding


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    slices: int = 200
    compressed_slices: int = 40
    mixed_files: int = 3_000
    links: tuple[int, int] = (10_000, 100_000)
    rounds: int = 7
    compressed_rounds: int = 21  # a reading takes less than .1 s, about what the machine's other work adds


SMALL = Sizes(slices=12, compressed_slices=6, mixed_files=300, links=(300, 900), rounds=3, compressed_rounds=3)


def in_turn(names: Sequence[str], folder: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Return what each reader said in each round; a reader that fails says {"failed": ...} and is left out after."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else list(reversed(names)):
            if any("failed" in answer for answer in found[name]):
                continue
            command = [sys.executable, "-m", "reports.ingest_speed.readers", name, str(folder)]
            done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
            answer = json.loads(done.stdout) if done.returncode == 0 else {"failed": f"exit code {done.returncode}"}
            found[name].append(answer)
            sys.stderr.write(f"{turn + 1}/{rounds} {name:24s} {answer.get('seconds', 'failed')}\n")
    return found


def against(found: dict[str, list[dict[str, Any]]], base: str, volume_bytes: int | None = None) -> dict[str, Any]:
    """Return, for each reader, the median of its ratios to `base` within a round, its times and its memory.

    >>> said = {name: [{"seconds": seconds, "peak_bytes": 8, "sum": 5.0}] for name, seconds in (("a", 2.0), ("b", 3.0))}
    >>> against(said, "a", volume_bytes=8)["b"]["ratio"]
    1.5
    """
    if any("failed" in answer for answer in found[base]):
        raise SystemExit(f"{base} failed: there is nothing to compare with")
    results = {}
    for name, answers in found.items():
        if any("failed" in answer for answer in answers):
            results[name] = {"failed": answers[-1]["failed"]}
            continue
        pairs = list(zip(answers, found[base], strict=True))
        ratios = [answer["seconds"] / limit["seconds"] for answer, limit in pairs]
        results[name] = {
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "median_s": round(statistics.median(answer["seconds"] for answer in answers), 4),
            "peak_mib": round(statistics.median(answer["peak_bytes"] for answer in answers) / 2**20, 1),
            "same_voxels": all(
                abs(answer["sum"] - limit["sum"]) <= SAME_SUM * max(abs(limit["sum"]), 1.0) for answer, limit in pairs
            ),
        }
        if volume_bytes:
            memory = statistics.median(answer["peak_bytes"] for answer in answers) / volume_bytes
            results[name]["peak_over_volume"] = round(memory, 3)
    return results


def series_speed(root: Path, sizes: Sizes, source: Path | None) -> dict[str, Any]:
    """Measure one uncompressed series and its compressed copies."""
    files = folders.write_series(root / "series", sizes.slices, source)
    folders.read_once(root / "series")
    volume_bytes = 4 * folders.SIDE**2 * sizes.slices
    found = {"slices": sizes.slices, "volume_mib": volume_bytes / 2**20}
    found |= {"readers": against(in_turn(WHOLE_SERIES, root / "series", sizes.rounds), "byte limit", volume_bytes)}
    compressed = compressed_speed(root, files, sizes)
    folders.remove(root / "series")
    return {"series": found, "compressed": compressed}


def compressed_speed(root: Path, files: Sequence[Path], sizes: Sizes) -> dict[str, Any]:
    """Measure compressed copies of slices against their decoders alone."""
    compressed: dict[str, Any] = {"slices": sizes.compressed_slices, "rounds": sizes.compressed_rounds}
    for codec in folders.CODECS:
        folder = root / folders.CODECS[codec][0]
        folders.compress_series(files, folder, codec, sizes.compressed_slices)
        folders.read_once(folder)
        base, scaled = f"decoder alone, {codec}", f"decoder and scaling, {codec}"
        answers = in_turn((base, scaled, "medmllm"), folder, sizes.compressed_rounds)
        results = against(answers, base, 4 * folders.SIDE**2 * sizes.compressed_slices)
        results["medmllm"].pop("same_voxels", None)  # HU against stored values
        to_scaled = against({name: answers[name] for name in (scaled, "medmllm")}, scaled)["medmllm"]
        compressed[codec] = results["medmllm"] | {
            "decoder_alone_s": results[base]["median_s"],
            "ratio_to_decoder_and_scaling": to_scaled["ratio"],
            "same_voxels": to_scaled["same_voxels"],
        }
    return compressed


def index_speed(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Measure the index of a mixed folder against a loop of pydicom."""
    counts = folders.write_mixed(root / "mixed", sizes.mixed_files)
    folders.read_once(root / "mixed")
    names = ("medmllm index", "pydicom index", "medmllm headers", "pydicom headers")
    found = in_turn(names, root / "mixed", sizes.rounds)
    results = {}
    for what in ("index", "headers"):
        pair = {name: found[name] for name in (f"medmllm {what}", f"pydicom {what}")}
        results |= against(pair, f"medmllm {what}")
    unread = against({name: found[name] for name in (names[0], names[3])}, names[0])[names[3]]
    for answer in results.values():
        answer.pop("same_voxels")
    return {
        "files": sum(counts.values()),
        "kinds": counts,
        "times_faster_than_pydicom": results["pydicom index"]["ratio"],
        "headers_times_faster_than_pydicom": results["pydicom headers"]["ratio"],
        "times_faster_than_pydicom_without_values": unread["ratio"],
        **results,
    }


def index_memory(root: Path, sizes: Sizes) -> dict[str, Any]:
    """Measure the `index` command on many hard links: peak memory, time, and the time of a second run."""
    folders.write_mixed(root / "originals", 300)
    found: dict[str, Any] = {}
    for files in sizes.links:
        folders.write_links(root / f"links{files}", root / "originals", files)
        studies, out = root / f"links{files}", root / f"out{files}"
        first, second = (run_index(studies, out, again=again) for again in (False, True))
        found[str(files)] = {"first": first, "second": second}
        folders.remove(root / f"links{files}")
    small, large = (found[str(files)]["first"]["peak_mib"] for files in sizes.links)
    return found | {"peak_grows_by_mib": round(large - small, 1)}


def run_index(studies: Path, out: Path, *, again: bool) -> dict[str, Any]:
    """Run `medmllm index` once, from a small process: a child's peak counts from what its parent held.

    A second run writes over the first one's tables. The peak is that of the largest process.
    """
    command = [str(Path(sys.executable).with_name("medmllm")), "index", str(studies), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", WATCH, *command, *(["--overwrite"] if again else [])],
                          capture_output=True, text=True, check=True)  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure(sizes: Sizes, source: Path | None) -> dict[str, Any]:
    """Return what results.json holds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        found = series_speed(root / "a", sizes, source)
        found["index"] = index_speed(root / "b", sizes)
        found["index_of_links"] = index_memory(root / "c", sizes)
    return {
        "command": "python -m reports.ingest_speed.measure" + (" --from FOLDER" if source else ""),
        "pixels": "a real CT slice" if source else "pydicom's CT_small, repeated",
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()},
        "versions": package_versions(),
        "rounds": sizes.rounds,
        **found,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


def measure_index(sizes: Sizes) -> dict[str, Any]:
    """Return what results.json holds of the index, measured by itself."""
    with tempfile.TemporaryDirectory() as scratch:
        found = {"index": index_speed(Path(scratch) / "b", sizes), "index_of_links": index_memory(Path(scratch), sizes)}
    found["index"] |= _measured_alone()
    return found


def measure_compressed(sizes: Sizes, source: Path | None) -> dict[str, Any]:
    """Return what results.json holds of compressed series, measured by itself."""
    with tempfile.TemporaryDirectory() as scratch:
        files = folders.write_series(Path(scratch) / "series", sizes.compressed_slices, source)
        found = compressed_speed(Path(scratch), files, sizes)
    return {"compressed": found | _measured_alone()}


def _measured_alone() -> dict[str, Any]:
    commit, dirty = git_state()
    return {"measured_alone_at": commit, "dirty": dirty, "load": os.getloadavg()}


def main(words: Sequence[str] | None = None) -> None:
    """Measure; write results.json, or print them for a small trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="source", type=Path, help="a folder of CT slices whose pixels to use")
    parser.add_argument("--small", action="store_true", help="a trial of a minute; writes nothing")
    parser.add_argument("--only-index", action="store_true", help="the index alone; the rest of results.json stays")
    parser.add_argument("--only-compressed", action="store_true", help="compressed series alone; the rest stays")
    given = parser.parse_args(words)
    sizes = SMALL if given.small else Sizes()
    if given.only_index or given.only_compressed:
        known = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
        results = known | (measure_index(sizes) if given.only_index else measure_compressed(sizes, given.source))
    else:
        results = measure(sizes, given.source)
    text = json.dumps(results, indent=1) + "\n"
    if given.small:
        sys.stdout.write(text)
    else:
        (HERE / "results.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
