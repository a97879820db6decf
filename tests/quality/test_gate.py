"""The policy decides what follows from a finding; the first one it refuses becomes the study's refusal."""

import inspect
import re

import pytest

from medmllm.config import QualityDecisions
from medmllm.quality import air, audio, duplicates, hounsfield, image, note, slice_offsets
from medmllm.quality.gate import inspect_study, judge, log_warnings, refusal_of
from medmllm.records import Note, QualityFinding
from tests.quality.phantoms import KEY, POLICY, a_scan, a_trunk

MODULES = (air, audio, duplicates, hounsfield, image, note, slice_offsets)
STUDY = "st-" + "d" * 16


def a_finding(code: str, where: str = KEY) -> QualityFinding:
    return QualityFinding(code, where, 3.0, 2.0, f"{code} is 3 (bound 2)")


def test_every_code_of_the_checks_has_a_decision_and_every_decision_a_code() -> None:
    source = "".join(inspect.getsource(module) for module in MODULES)
    codes = set(re.findall(r'QualityFinding\(\s*"(\w+)"', source))
    assert codes == set(QualityDecisions.model_fields)


def test_each_finding_gets_the_severity_of_its_code() -> None:
    decisions = POLICY.decisions.model_copy(update={"noisy": "accept", "constant": "refuse", "clipped": "warn"})
    judged = judge(map(a_finding, ("noisy", "constant", "clipped")), decisions)
    assert [(f.code, f.severity) for f in judged] == [("noisy", "accept"), ("constant", "refuse"), ("clipped", "warn")]


def test_the_first_refused_finding_becomes_the_refusal_and_names_the_way_out() -> None:
    decisions = POLICY.decisions.model_copy(update={"noisy": "warn", "constant": "refuse", "clipped": "refuse"})
    refusal = refusal_of(judge(map(a_finding, ("noisy", "constant", "clipped")), decisions))
    assert refusal is not None
    assert (refusal.stage, refusal.code, refusal.retryable) == ("quality", "constant", False)
    assert refusal.reason == (
        'constant is 3 (bound 2). Mend the study, or set quality.decisions.constant = "warn" to use it as it is. '
        f"(in series {KEY})"
    )
    of_note = refusal_of(judge([a_finding("clipped", STUDY)], decisions))
    assert of_note is not None
    assert "series" not in of_note.reason
    assert refusal_of(judge([a_finding("noisy")], decisions)) is None


def test_all_series_and_the_note_are_looked_at() -> None:
    volumes = {KEY: a_scan(a_trunk() - 1024), "se-" + "e" * 16: a_scan(a_trunk())}
    found = inspect_study(STUDY, volumes, Note("one", ()), POLICY, has_note=True)
    assert [(f.where, f.code, f.severity) for f in found] == [
        (KEY, "ct_double_rescale", "refuse"),
        (STUDY, "note_too_short", "warn"),
    ]
    assert inspect_study(STUDY, {}, None, POLICY, has_note=False) == ()
    assert [f.code for f in inspect_study(STUDY, {}, None, POLICY, has_note=True)] == ["note_empty"]


def test_warnings_are_counted_in_one_line_of_the_log_and_none_makes_no_line(caplog: pytest.LogCaptureFixture) -> None:
    log_warnings({})
    assert caplog.text == ""
    log_warnings({"noisy": 2, "few_slices": 11, "clipped": 2})
    assert [record.getMessage() for record in caplog.records] == [
        "quality.csv has warnings: 11 few_slices, 2 clipped, 2 noisy"
    ]
