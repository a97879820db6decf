"""Ask the policy what follows from what the checks find: nothing, a warning, or the refusal of the study.

    volumes, note, recordings -> checks -> QualityFindings -> policy (TOML) -> their severity -> Refusal, or None

The policy is the site's, not the model's: whether a CT holds Hounsfield units does not depend on who looks at it. So
training and scoring each have their own [quality], `settings.json` keeps the one a model was trained under, and what a
model was trained *on* is the contract's business.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from medmllm.config import QualityDecisions, QualityPolicy
from medmllm.quality.audio import check_recording
from medmllm.quality.image import check_volume
from medmllm.quality.note import check_note
from medmllm.records import Note, QualityFinding, Recording, Refusal, Volume

Findings = tuple[QualityFinding, ...]

log = logging.getLogger(__name__)


def inspect_study(
    study_key: str,
    volumes: Mapping[str, Volume],
    note: Note | None,
    policy: QualityPolicy,
    *,
    has_note: bool,
    recordings: Iterable[Recording] = (),
) -> Findings:
    """Return what is implausible about one study, each with what the policy makes of it.

    Args:
        study_key: Of the study.
        volumes: By series_key, as read.
        note: All notes of the study as one; None when there are none, or they are empty.
        policy: Bounds, and what follows.
        has_note: Whether the study has a note file that was read.
        recordings: As read.
    """
    found = [finding for key, volume in volumes.items() for finding in check_volume(volume, key, policy.bounds)]
    if has_note:
        found += check_note(note, study_key, policy.bounds)
    for recording in recordings:
        found += check_recording(recording, study_key, policy.bounds)
    return judge(found, policy.decisions)


def judge(findings: Iterable[QualityFinding], decisions: QualityDecisions) -> Findings:
    """Return the findings with the severity that the policy gives their codes."""
    return tuple(replace(finding, severity=getattr(decisions, finding.code)) for finding in findings)


def refusal_of(findings: Iterable[QualityFinding]) -> Refusal | None:
    """Return the refusal of the study, for the first finding that the policy refuses; None when there is none."""
    for finding in findings:
        if finding.severity == "refuse":
            where = f" (in series {finding.where})" if finding.where.startswith("se-") else ""
            way_out = f'Mend the study, or set quality.decisions.{finding.code} = "warn" to use it as it is.'
            reason = finding.reason if finding.reason.endswith((".", "?")) else f"{finding.reason}."
            return Refusal("quality", finding.code, f"{reason} {way_out}{where}")
    return None


def log_warnings(counts: Mapping[str, int]) -> None:
    """Say in one line of the log how many warnings there are of each code; nothing when there are none."""
    if counts:
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        log.warning("quality.csv has warnings: %s", ", ".join(f"{number} {code}" for code, number in most))
