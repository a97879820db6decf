"""Judge the quality gate on real series: what it says of them, and of a CT whose values were spoilt on purpose.

python reports/quality_gate/judge.py FOLDER ... -> reports/quality_gate/results.json

Each FOLDER is read as `medmllm quality` does. A CT is spoilt in memory: rescaled once more, or not at all.
"""

import json
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medmllm.config import QualityConfig, load_config
from medmllm.errors import MedmllmError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_study_note, read_volume
from medmllm.provenance import stamp
from medmllm.quality.duplicates import NoteRegister
from medmllm.quality.gate import judge
from medmllm.quality.image import check_volume
from medmllm.quality.note import check_note
from medmllm.records import Note, Volume

HERE = Path(__file__).resolve().parent
POLICY = load_config(QualityConfig, "quality").quality
KEYRING = Keyring(secrets.token_bytes(32))
SPOILT = {  # what -> slope and intercept applied to HU; of "never", what undoes an intercept of -1024
    "twice": (1.0, -1024.0),
    "twice_slope_2": (2.0, -1024.0),
    "twice_slope_half": (0.5, -1024.0),
    "twice_intercept_1000": (1.0, -1000.0),
    "never": (1.0, 1024.0),
}


def volumes_and_notes(folder: Path) -> Iterator[Volume | tuple[str, Note | None]]:
    """Yield what can be read under a folder, one study after the other."""
    try:
        studies = index_folder(folder, keyring=KEYRING).studies
    except MedmllmError:
        return
    for study in studies:
        for series in study.series:
            try:
                yield read_volume(series)
            except MedmllmError:
                continue
        if study.notes:
            yield study.study_key, read_study_note(study)


def decisions(volume: Volume) -> set[tuple[str, str]]:
    """Return (code, decision) of what the packaged policy makes of a volume."""
    found = judge(check_volume(volume, "se-" + "0" * 16, POLICY.bounds), POLICY.decisions)
    return {(finding.code, str(finding.severity)) for finding in found}


def refused(volume: Volume) -> bool:
    """Say whether the packaged policy refuses a volume."""
    return any(decision == "refuse" for _, decision in decisions(volume))


def milliseconds() -> float:
    """Return the median processor time of checking a made-up CT of 512 x 512 x 150."""
    voxels = np.random.default_rng(0).normal(0, 20, (150, 512, 512)).astype(np.float32)
    voxels[:, :100] -= 1000
    volume = Volume(voxels.transpose(2, 1, 0), np.diag([0.7, 0.7, 2.0, 1.0]), None, "CT")
    taken = []
    for _ in range(7):
        start = time.process_time()
        decisions(volume)
        taken.append(time.process_time() - start)
    return 1000 * statistics.median(taken)


def main(folders: list[Path]) -> dict[str, object]:
    """Return what results.json holds."""
    series: Counter[str] = Counter()
    findings: dict[str, Counter[str]] = {}
    spoilt: dict[str, int] = dict.fromkeys(SPOILT, 0)
    notes: Counter[str] = Counter()
    register = NoteRegister(POLICY.bounds)
    for item in (item for folder in folders for item in volumes_and_notes(folder)):
        if isinstance(item, tuple):
            key, note = item
            notes["read"] += 1
            notes.update(finding.code for finding in check_note(note, key, POLICY.bounds))
            notes["note_duplicate"] += register.check(key, note) is not None
            continue
        kind = item.modality or "unknown"
        series[kind] += 1
        of_kind = findings.setdefault(kind, Counter())
        of_kind.update(f"{code} ({decision})" for code, decision in decisions(item))
        if item.modality == "CT":
            for what, (slope, intercept) in SPOILT.items():
                values = (item.voxels * np.float32(slope) + np.float32(intercept)).astype(np.float32)
                spoilt[what] += refused(Volume(values, item.affine, None, "CT"))
    return {
        "series_read": dict(series),
        "ct_refused_as_they_are": sum(n for code, n in findings.get("CT", {}).items() if "refuse" in code),
        "series_with_finding": {kind: dict(counts.most_common()) for kind, counts in findings.items()},
        "spoilt_ct_refused": spoilt,
        "notes": dict(notes),
        "milliseconds_512x512x150": milliseconds(),
        "provenance": stamp("python reports/quality_gate/judge.py FOLDER ...", inputs={"quality": POLICY.digest}),
    }


if __name__ == "__main__":
    results = main([Path(argument) for argument in sys.argv[1:]])
    provenance = results["provenance"]
    results["provenance"] = {name: getattr(provenance, name) for name in provenance.__slots__}
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
