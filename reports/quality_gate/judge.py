"""Judge the quality gate on real series: what it says of them, and of a CT whose values were spoilt on purpose.

python reports/quality_gate/judge.py FOLDER ... -> reports/quality_gate/results.json

Each FOLDER is read as `medmllm quality` does. A CT is spoilt in memory: rescaled once more, or not at all, or only in
part; and what the newer checks measure is told of the CTs as they are.
"""

import json
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from nibabel.affines import obliquity

from medmllm.config import QualityConfig, load_config
from medmllm.errors import MedmllmError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_study_note, read_volume
from medmllm.provenance import stamp
from medmllm.quality.air import BRIGHT_AIR, level_below_air, share_between, steepness
from medmllm.quality.duplicates import NoteRegister
from medmllm.quality.gate import judge
from medmllm.quality.image import check_volume, sample
from medmllm.quality.note import check_note
from medmllm.quality.slice_offsets import offsets_between
from medmllm.records import FloatArray, Note, Volume

HERE = Path(__file__).resolve().parent
POLICY = load_config(QualityConfig, "quality").quality
KEYRING = Keyring(secrets.token_bytes(32))
Spoiling = Callable[[FloatArray], FloatArray]
SPOILT: dict[str, Spoiling] = {  # what -> HU to spoilt values; of "never", what undoes an intercept of -1024
    "twice": lambda hu: hu - 1024,
    "twice_slope_2": lambda hu: 2 * hu - 1024,
    "twice_slope_half": lambda hu: hu / 2 - 1024,
    "twice_intercept_1000": lambda hu: hu - 1000,
    "twice_cut_off_at_-1024": lambda hu: np.maximum(hu - 1024, -1024),
    "never": lambda hu: hu + 1024,
    "times_2": lambda hu: 2 * hu,
    "times_10": lambda hu: 10 * hu,
    "inverted": lambda hu: -hu,
}
OF_SLICES: dict[str, Spoiling] = {  # the same of series of several slices
    "half_of_the_slices_never": lambda hu: with_offset(hu, slice(hu.shape[2] // 2, None), 1024),
    "half_of_the_slices_twice": lambda hu: with_offset(hu, slice(hu.shape[2] // 2, None), -1024),
    "one_slice_never": lambda hu: with_offset(hu, slice(hu.shape[2] // 2, hu.shape[2] // 2 + 1), 1024),
}


def with_offset(hu: FloatArray, where: slice, offset: float) -> FloatArray:
    """Return HU with an offset on some slices."""
    changed = hu.copy()
    changed[:, :, where] += np.float32(offset)
    return changed


def measures(volume: Volume) -> dict[str, float]:
    """Return what the checks of levels and slices measure on one CT."""
    values = sample(volume.voxels)
    steps = [abs(step) for _, step in offsets_between(volume.voxels, 0.0)]
    return {
        "largest_constant_step_between_slices_hu": max(steps, default=0.0),
        "share_at_one_level_below_air": level_below_air(values, volume.padding)[0],
        "share_near_plus_1000": share_between(values, *BRIGHT_AIR),
        "times_denser_near_plus_1000": steepness(values),
    }


def of_all(found: list[float]) -> dict[str, float]:
    """Return the middle and the end of a measure over all series."""
    return {"median": statistics.median(found), "largest": max(found)}


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
    spoilt: dict[str, int] = dict.fromkeys((*SPOILT, *OF_SLICES), 0)
    measured: dict[str, list[float]] = {}
    oblique: dict[str, list[float]] = {}
    stacks = 0
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
        oblique.setdefault(kind, []).append(float(np.degrees(obliquity(item.affine)).max()))
        if item.modality != "CT":
            continue
        for what, value in measures(item).items():
            measured.setdefault(what, []).append(value)
        several = item.voxels.shape[2] > 1
        stacks += several
        for what, spoil in (SPOILT | (OF_SLICES if several else {})).items():
            spoilt[what] += refused(Volume(spoil(item.voxels).astype(np.float32), item.affine, None, "CT"))
    return {
        "series_read": dict(series),
        "ct_refused_as_they_are": sum(n for code, n in findings.get("CT", {}).items() if "refuse" in code),
        "series_with_finding": {kind: dict(counts.most_common()) for kind, counts in findings.items()},
        "ct_of_several_slices": stacks,
        "spoilt_ct_refused": spoilt,
        "ct_as_they_are": {what: of_all(found) for what, found in measured.items()},
        "obliquity_deg": {kind: of_all(found) for kind, found in oblique.items()},
        "notes": dict(notes),
        "milliseconds_512x512x150": milliseconds(),
        "provenance": stamp("python reports/quality_gate/judge.py FOLDER ...", inputs={"quality": POLICY.digest}),
    }


if __name__ == "__main__":
    results = main([Path(argument) for argument in sys.argv[1:]])
    provenance = results["provenance"]
    results["provenance"] = {name: getattr(provenance, name) for name in provenance.__slots__}
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
