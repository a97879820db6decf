"""Ask the quick walk over headers and pydicom the same question, for damaged files and whole ones.

    python -m reports.robustness.agree [--seeds FOLDER ...] -> reports/robustness/agreement.json

Two halves of `--count` inputs each: files damaged as in `mutate`, and files of which one to four bytes of the header
were changed, taken out or put in, which leaves far more of them readable. With `--whole`, every file below those
folders is asked as it is. A difference is another value of any field, or another code of refusal.
"""

import argparse
import json
import platform
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medmllm.errors import MedmllmError
from medmllm.ingest import dicom_header
from medmllm.provenance import package_versions
from reports.robustness.inputs import make_input
from reports.robustness.seeds import Seed, make_seeds

HERE = Path(__file__).resolve().parent
HEADER_BYTES = 3072
HEAVY = {"deflate_bomb", "many_items", "nest"}  # seconds each, and never plain


def headers(file: Path) -> tuple[bool, object, object]:
    """Return whether a file is a plain one, and what the walk and pydicom make of it: all fields, or a code."""
    walk = dicom_header.walk
    plain = []

    def watched(number: int, wanted: Any) -> Any:
        plain.append(walk(number, wanted))
        return plain[0]

    found = []
    for reader in (watched, lambda number, wanted: None):
        dicom_header.walk = reader
        try:
            header = dicom_header.read_header(file)
            found.append({field.name: repr(getattr(header, field.name)) for field in fields(header)})
        except MedmllmError as error:
            found.append(error.code)
        finally:
            dicom_header.walk = walk
    return any(found is not None for found in plain), found[0], found[1]


def edited(content: bytes, rng: random.Random) -> bytes:
    """Change, take out or put in a few bytes of the header."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(min(128, len(data)), min(len(data), HEADER_BYTES) + 1)
        count = rng.randint(1, 8)
        match rng.choice("ccccdi"):
            case "c":
                data[place : place + 1] = bytes([rng.randrange(256)])
            case "d":
                del data[place : place + count]
            case _:
                data[place:place] = rng.randbytes(count)
    return bytes(data)


def inputs(seeds: Mapping[str, Sequence[Seed]], run: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield how an input was made, and its bytes."""
    rng = random.Random(f"{run}/agree")
    for number in range(count):
        made = make_input(seeds, "dicom", run, number)
        if HEAVY.isdisjoint(made.damages):
            yield "damaged", made.files[0][1]
        yield "edited", edited(rng.choice(seeds["dicom"]).files[0][1], rng)


def main(words: Sequence[str] | None = None) -> int:
    """Compare all and write the counts; 1 if any differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="inputs of each half")
    parser.add_argument("--run", type=int, default=1, help="another number gives other inputs")
    parser.add_argument("--seeds", type=Path, nargs="*", default=[], help="folders of real files to start from as well")
    parser.add_argument("--whole", type=Path, nargs="*", default=[], help="folders whose files are asked as they are")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that differ")
    parser.add_argument("--out", type=Path, default=HERE / "agreement.json")
    given = parser.parse_args(words)
    seen: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "in.dcm"
        for half, content in inputs(make_seeds(given.seeds), given.run, given.count):
            file.write_bytes(content)
            differs = _count(seen, half, file)
            if differs and given.keep:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{half}_{seen[half]}.dcm").write_bytes(content)
    whole = (file for folder in given.whole for file in sorted(folder.rglob("*")) if file.is_file())
    for file in whole:
        _count(seen, "whole", file)
    given.out.write_text(json.dumps(results(given, seen), indent=1) + "\n", encoding="utf-8")
    differ = sum(seen[f"{half} differ"] for half in ("damaged", "edited", "whole"))
    sys.stdout.write(f"{differ} differ -> {given.out.name}\n")
    return 1 if differ else 0


def _count(seen: Counter[str], half: str, file: Path) -> bool:
    plain, quick, thorough = headers(file)
    seen.update({half: 1, f"{half} plain": plain, f"{half} read": isinstance(thorough, dict)})
    seen[f"{half} differ"] += quick != thorough
    return quick != thorough


def results(given: argparse.Namespace, seen: Mapping[str, int]) -> dict[str, Any]:
    """Return what agreement.json says."""
    return {
        "command": f"python -m reports.robustness.agree --run {given.run} --seeds SEEDS --whole SEEDS",
        "python": platform.python_version(),
        "versions": package_versions(),
        **{
            half: {
                "inputs": seen[half],
                "walked": seen[f"{half} plain"],
                "read_by_pydicom": seen[f"{half} read"],
                "differ": seen[f"{half} differ"],
            }
            for half in ("damaged", "edited", "whole")
        },
    }


if __name__ == "__main__":
    sys.exit(main())
